"""Recovery of known features: what agreement between seeds cannot tell, whether that on which they agree is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sae_lens.synthetic import ClassificationMetricsCalculator, feature_uniqueness

from reseed import ReseedError
from reseed.artifacts import derive_seed
from reseed.matching import Array, assign, cosines
from reseed.params import Correctness, Stability
from reseed.stability.arms import MIN_ROOM, Activity, StatisticReport, alive_masks
from reseed.stability.dictionaries import SeedSet
from reseed.stability.jackknife import Estimate, Groups, leave_one_out, mean_over_seeds
from reseed.stability.nulls import CovarianceNull, isotropic

RECOVERED_COSINE = 0.8
WITH_KAPPA = ("gt_mcc", "recall")
UNDECIDED = "undecided"

Figures = dict[str, list[float]]


@dataclass(frozen=True)
class RecoveryReport:
    """What one arm recovers with its alive latents: figures that are means over seeds, beside their nulls.

    gt_mcc, recall, uniqueness: nulls `isotropic`, `covariance` and `untrained`. precision, f1, of the activations,
    which a random dictionary has not: `untrained`, and `permuted`, the trained latents with exchanged decoder rows.
    Only those of WITH_KAPPA have a kappa.
    steps: gt_mcc and recall at every snapshot before the learning rate decayed, beside the covariance null.
    """

    figures: dict[str, StatisticReport]
    steps: list[dict[str, float | str]]


def recovery(decoder: Array, directions: Array) -> dict[str, float]:
    """How well unit decoder rows [n, d] recover unit features [m, d].

    gt_mcc: the mean signed cosine over the Hungarian assignment of min(n, m) pairs (SAELens'
    mean_correlation_coefficient, there of |cos|); with n < m it says nothing of the features that are left over.
    recall: the share of the m features whose best latent has a cosine above 0.8 (Korznikov et al. 2026, arXiv
    2602.14111). uniqueness: the number of features that are the best match, by |cos|, of some latent, over n (SAELens).
    Raises ValueError if d differs.
    """
    similarity = cosines(decoder, directions)
    return {
        "gt_mcc": float(similarity[assign(similarity)].mean()),
        "recall": float((similarity.max(axis=0) > RECOVERED_COSINE).mean()),
        "uniqueness": float(feature_uniqueness(torch.from_numpy(decoder), torch.from_numpy(directions))),
    }


def classification(decoder: Array, directions: Array, activations: Array, codes: Array) -> dict[str, float]:
    """Latents as detectors of the features that their decoder rows [n, d] are closest to, by |cos|: means over latents.

    activations [rows, n] and codes [rows, m] of the same rows; precision and f1 are those of SAELens'
    ClassificationMetricsCalculator, 0 for a latent that never fires.
    """
    calculator = ClassificationMetricsCalculator(torch.from_numpy(decoder), torch.from_numpy(directions))
    calculator.add_batch(torch.from_numpy(activations), torch.from_numpy(codes))
    found = calculator.compute()
    return {"precision": float(found.precision), "f1": float(found.f1_score)}


def recover(
    seed_set: SeedSet,
    directions: Array,
    options: Stability,
    key: str,
    activity: Activity | None = None,
    codes: Array | None = None,
) -> RecoveryReport:
    """Judge what the alive latents of an arm recover of known features [m, d_out]; `key` names the arm.

    With the activity of its seeds, and the codes [rows, m] of the same held-out rows, precision and f1 as well.
    Raises ReseedError if a seed has no alive latent, or if codes and activity are of different numbers of rows.
    """
    masks = alive_masks(seed_set, options, key)
    alive = [dictionary.select(mask) for dictionary, mask in zip(seed_set.final(), masks, strict=True)]
    initial = [dictionary.select(mask) for dictionary, mask in zip(seed_set.initial(), masks, strict=True)]
    gaussian = CovarianceNull.of(alive)
    found: dict[str, Figures] = {}
    for seed, trained, untrained in zip(seed_set.seeds, alive, initial, strict=True):
        n, d_out = trained.decoder.shape
        random = np.random.default_rng(derive_seed("recovery", key, seed))
        draws = range(options.null_draws)
        isotropics = [recovery(isotropic(n, d_out, random).decoder, directions) for _ in draws]
        covariances = [recovery(gaussian.draw(n, random).decoder, directions) for _ in draws]
        _add(found, "value", recovery(trained.decoder, directions))
        _add(found, "untrained", recovery(untrained.decoder, directions))
        _add(found, "isotropic", _mean(isotropics))
        _add(found, "covariance", _mean(covariances))
    if activity is not None and codes is not None:
        for place, (mask, trained, untrained) in enumerate(zip(masks, alive, initial, strict=True)):
            acts, before = activity.trained[place][:, mask], activity.untrained[place][:, mask]
            if len(codes) != len(acts):
                raise ReseedError(
                    f"{key}: found codes of {len(codes)} rows and activations of {len(acts)}, allowed: the same rows"
                )
            random = np.random.default_rng(derive_seed("recovery", key, seed_set.seeds[place], "permuted"))
            exchanged = [random.permutation(trained.decoder) for _ in range(options.null_draws)]
            _add(found, "value", classification(trained.decoder, directions, acts, codes))
            _add(found, "untrained", classification(untrained.decoder, directions, before, codes))
            _add(found, "permuted", _mean([classification(rows, directions, acts, codes) for rows in exchanged]))
    figures = {
        figure: _recovered(
            figure, values, {null: found[null][figure] for null in found if figure in found[null] and null != "value"},
            seed_set.groups,
        )
        for figure, values in found["value"].items()
    }  # fmt: skip
    return RecoveryReport(figures, _over_steps(seed_set, directions, options, key))


def correctness_verdict(pw_mcc_kappa: Estimate, gt_mcc: Estimate, options: Correctness, confidence: float) -> str:
    """One of "stable and correct", "stable and wrong", "unstable and correct", "unstable and wrong", "undecided".

    Stable: the interval of the kappa of pw_mcc lies above `stable_kappa`; correct: that of gt_mcc above
    `correct_gt_mcc`. An interval that holds its bound decides nothing.
    """
    stable = _side(pw_mcc_kappa.interval(confidence), options.stable_kappa, "stable", "unstable")
    correct = _side(gt_mcc.interval(confidence), options.correct_gt_mcc, "correct", "wrong")
    return UNDECIDED if UNDECIDED in (stable, correct) else f"{stable} and {correct}"


def _side(interval: tuple[float, float], bound: float, above: str, below: str) -> str:
    low, high = interval
    return above if low > bound else below if high < bound else UNDECIDED


def _add(found: dict[str, Figures], name: str, figures: dict[str, float]) -> None:
    for figure, value in figures.items():
        found.setdefault(name, {}).setdefault(figure, []).append(value)


def _mean(draws: list[dict[str, float]]) -> dict[str, float]:
    return {figure: float(np.mean([draw[figure] for draw in draws])) for figure in draws[0]}


def _recovered(figure: str, values: list[float], nulls: Figures, groups: Groups) -> StatisticReport:
    def kappa(left: Sequence[int]) -> float | None:
        seeds = groups.members(left)
        null = max(float(np.mean([of_seeds[i] for i in seeds])) for of_seeds in nulls.values())
        if 1 - null < MIN_ROOM:
            return None
        return (float(np.mean([values[i] for i in seeds])) - null) / (1 - null)

    return StatisticReport(
        value=mean_over_seeds(values, groups),
        nulls={name: float(np.mean(of_seeds)) for name, of_seeds in nulls.items()},
        kappa=leave_one_out(kappa, len(groups)) if figure in WITH_KAPPA else None,
    )


def _over_steps(seed_set: SeedSet, directions: Array, options: Stability, key: str) -> list[dict[str, float | str]]:
    """Rows of the shape that the agreement's own have: the mean over seeds of the latents alive at that step."""
    rows: list[dict[str, float | str]] = []
    for step in seed_set.constant_steps:
        taken = seed_set.at_constant_rate(step)
        alive = [dictionary.select(dictionary.alive(options.alive_min_count)) for dictionary in taken]
        if not all(len(dictionary.decoder) for dictionary in alive):
            continue
        gaussian = CovarianceNull.of(alive)
        random = np.random.default_rng(derive_seed("recovery", key, "step", step))
        values = _mean([recovery(dictionary.decoder, directions) for dictionary in alive])
        nulls = _mean([recovery(gaussian.draw(len(one.decoder), random).decoder, directions) for one in alive])
        rows += [
            {"step": step, "statistic": figure, "value": values[figure], "null": nulls[figure]} for figure in WITH_KAPPA
        ]
    return rows
