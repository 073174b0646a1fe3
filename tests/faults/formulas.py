"""Faults of formulas, whose results look like any other: of what trains, and of what measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

import reseed.saes.architectures as architectures
import reseed.saes.step as step_room
import reseed.stability.checks as checks_room
import reseed.stability.instruments as instruments_room
import reseed.stability.statistics as statistics_room
from reseed.activations.store import Activations
from reseed.assignment import Matching
from reseed.matching import Array, assign
from reseed.params import RANDOM_MODEL, SaeTraining, Variant
from reseed.saes.architectures import RouteSaeArchitecture, Stack
from reseed.stability.jackknife import Estimate
from tests.faults import bases
from tests.faults.attempts import SUBJECT, check_seeds, run, tried
from tests.faults.museum import Exhibit, Fault

STABILITY = run("stability", SUBJECT, "wide", RANDOM_MODEL, RANDOM_MODEL)


def _without_signs(exhibit: Exhibit) -> None:
    def match(a: Array, b: Array) -> Matching:
        similarity = np.abs(a @ b.T)
        rows, columns = assign(similarity)
        return Matching(rows, columns, similarity[rows, columns], 0.0)

    exhibit.replace(statistics_room, "match", match)


def _uncentred(exhibit: Exhibit) -> None:
    exhibit.replace(instruments_room, "standardised", lambda acts: acts / np.linalg.norm(acts, axis=0))


def _over_n(exhibit: Exhibit) -> None:
    def error(self: Estimate) -> float:
        n = len(self.deleted)
        return float((n - 1) * np.std(self.deleted) / np.sqrt(n))

    exhibit.replace(Estimate, "error", property(error))


def _divided_by_a_sum(exhibit: Exhibit) -> None:
    real = instruments_room.evaluate

    def evaluate(lens: Any, seen: Activations) -> dict[str, Any]:
        found = real(lens, seen)
        return found | {"explained_variance": 1 - (1 - found["explained_variance"]) / seen.d_in}

    exhibit.replace(instruments_room, "evaluate", evaluate)


def _left_out(exhibit: Exhibit) -> None:
    exhibit.replace(step_room, "_add_aux_k", lambda *_: None)


def _turned(exhibit: Exhibit) -> None:
    real = instruments_room.gradients_of

    def gradients_of(architecture: Any, training: SaeTraining, *others: Any) -> Any:
        return real(architecture, training.model_copy(update={"aux_coefficient": -training.aux_coefficient}), *others)

    exhibit.replace(instruments_room, "gradients_of", gradients_of)


def _mean_cosine(exhibit: Exhibit) -> None:
    def decorrelation(rows: Tensor) -> Tensor:
        n = rows.shape[1]
        return ((rows @ rows.transpose(1, 2)).sum((1, 2)) - n) / (n * (n - 1))

    exhibit.replace(instruments_room, "decorrelation", decorrelation)


def _threshold_of_a_median(exhibit: Exhibit) -> None:
    def calibrate(self: Any, stack: Stack, x: Tensor) -> None:
        last = self.pre_activations(stack, x.unsqueeze(0))[0].topk(stack.k[0], dim=1).values[:, -1]
        stack.buffers["threshold"] = last[last > 0].median()[None]

    exhibit.replace(architectures._Batched, "calibrate", calibrate)


def _router_without_gradient(exhibit: Exhibit) -> None:
    real = RouteSaeArchitecture.route

    def route(self: Any, stack: Stack, x: Tensor) -> Any:
        return tuple(found.detach() for found in real(self, stack, x))

    exhibit.replace(RouteSaeArchitecture, "route", route)


def _scaled_again(exhibit: Exhibit) -> None:
    real = checks_room.seen_by

    def seen_by(variant: Variant, activations: Activations) -> Activations:
        seen = real(variant, activations)
        spread = seen.rows("train").whole()[:100].std()
        shards = {
            split: [shard | {"activations": shard["activations"] / spread} for shard in files]
            for split, files in seen.shards.items()
        }
        return replace(seen, shards=shards)

    exhibit.replace(checks_room, "seen_by", seen_by)


FAULTS = (
    Fault(
        "signs_ignored", "HUSAI 1.5.16", "Agreement of latents that point away from each other",
        "Every metric of a pair took |cos|, so that a latent and its negative were the same feature; nothing in a "
        "table of such figures says so.",
        "the code that matches latents takes the absolute value of their cosines.",
        bases.modular, _without_signs, STABILITY,
        r"pw_mcc of half of the latents with their sign turned: found 1, allowed: #, which is known; its code is wrong",
    ),
    Fault(
        "uncentred_correlation", "HUSAI 1.4", "A metric of activations that is wrong",
        "An agreement of activations of 0.047 at layer 0 was withdrawn as a mistake in the metric.",
        "the code that standardises activations does not centre them.",
        bases.modular, _uncentred, STABILITY,
        r"activation_correlation of latents that have a rising line in common: found #, allowed: 1, which is known",
    ),
    Fault(
        "deviation_over_n", "HUSAI 1.4", "A standard deviation over n",
        "Spreads were those of numpy's default, over n and not n - 1: of five seeds an interval is a tenth too narrow.",
        "the code of the interval divides by n.",
        bases.modular, _over_n, STABILITY,
        r"the low end of an interval over 5 seeds: found #, allowed: #, which is known; its code is wrong",
    ),
    Fault(
        "explained_variance_by_a_sum", "HUSAI 1.5.7", "Explained variance whose code is wrong",
        "A mean over elements was divided by a sum over dimensions in the code itself, so that the figure was the same "
        "whenever it was computed again.",
        "the code that evaluates an SAE divides what is not explained by d_in.",
        bases.modular, _divided_by_a_sum, STABILITY,
        r"explained_variance of an SAE that gives nine tenths of every row: found #, allowed: #, which is known",
    ),
    Fault(
        "auxiliary_loss_left_out", "HUSAI 1.4", "An auxiliary loss that is not in the loss",
        "The auxiliary loss of the TopK SAE was computed and never added to what was minimised.",
        "the code that adds the gradients of AuxK adds none.",
        bases.modular, _left_out, STABILITY,
        r"aux_k of latents that do not fire: found 0, allowed: #, which is known; its code is wrong",
    ),
    Fault(
        "auxiliary_loss_turned", "HUSAI 1.5.4", "An auxiliary loss of the wrong sign",
        "The auxiliary loss drove latents that were not selected towards zero, where it should revive them; the SAEs "
        "that had it were worse than those without.",
        "the code that takes a step takes AuxK times minus its coefficient.",
        bases.modular, _turned, STABILITY,
        r"gradient of aux_k along its own direction: found -1, allowed: 1, which is known",
    ),
    Fault(
        "decorrelation_of_any_sign", "RL-Decoder 2.3", "A decorrelation that is negative",
        "The scripts had a decorrelation of their own, a mean of cosines in the place of their squares, which training "
        "made negative.",
        "the code of the objective takes the mean cosine of the decoder rows.",
        bases.modular, _mean_cosine, tried("decorrelated"),
        r"decoder_decorrelation of random rows: found -?#, allowed: #, which is known; its code is wrong",
    ),
    Fault(
        "threshold_of_a_median", "HUSAI 1.5.11", "A threshold that does not keep k",
        "BatchTopK was trained without a threshold and given, at the end, the median of the k-th values of its rows: "
        "an L0 of 32 in training was 81 when it was evaluated.",
        "the code that calibrates a threshold takes the median of the rows' k-th pre-activations.",
        bases.modular, _threshold_of_a_median, tried("nested"),
        r"L0 at the threshold of matryoshka: found #, allowed: 4, which is known; its code is wrong",
    ),
    Fault(
        "router_without_gradient", "HUSAI 1.5.12", "A router that learns nothing",
        "The router chose by a hard argmax, through which no error reached it, and a bonus for entropy drove it to "
        "uniform, to six digits.",
        "the code that routes cuts the gradient of its weights.",
        bases.modular, _router_without_gradient, tried("routed"),
        r"gradient of the loss by W_router \(routesae\): share that is there: found 0, allowed: 1, which is known",
    ),
    Fault(
        "scales_taken_again", "RL-Decoder 2.4.10", "Another scale when it is read",
        "The scale of the activations was not kept with the SAE and was estimated again, from whatever training files "
        "there were.",
        "the code that reads rows for a trained SAE divides them by the spread of a hundred of them.",
        bases.modular, _scaled_again, check_seeds("wide"),
        r"seed_0: the SAE as loaded has explained_variance # on the test rows, its metrics\.json says #",
    ),
)  # fmt: skip
