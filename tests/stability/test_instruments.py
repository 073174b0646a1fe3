"""The known cases hold for every architecture, and each mistake that earlier systems made in a formula is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reseed.saes.architectures as architectures
import reseed.saes.objectives as objectives
import reseed.saes.step as step
import reseed.stability.instruments as instruments
import reseed.stability.statistics as statistics
from reseed import ReseedError
from reseed.assignment import Matching
from reseed.matching import assign
from reseed.params import SaeTraining
from reseed.stability.instruments import check_instruments
from reseed.stability.jackknife import Estimate
from tests.conftest import variant_of

AUX = {"aux_k": 8, "aux_coefficient": 1 / 32}
SHAPES: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk", "k": 4},
    "batchtopk": {"architecture": "batchtopk", "k": 4},
    "matryoshka": {"architecture": "matryoshka", "k": 4, "widths": [12, 48]},
    "hierarchical_topk": {"architecture": "hierarchical_topk", "k": 4, "budgets": [2, 4]},
    "routesae": {"architecture": "routesae", "k": 4},
    "routesae-hard": {"architecture": "routesae", "k": 4, "routing": "hard", "decoder": "per_layer"},
    "transcoder": {"architecture": "transcoder", "k": 4},
    "skip_transcoder": {"architecture": "skip_transcoder", "k": 4},
    "standard": {"architecture": "standard", "objectives": {"sparsity": {"penalty": "l1", "coefficient": 0.1}}},
    "gated": {"architecture": "gated", "objectives": {"sparsity": {"penalty": "l1", "coefficient": 0.1}}},
    "jumprelu": {"architecture": "jumprelu", "objectives": {"sparsity": {"penalty": "l0", "coefficient": 0.1}}},
    "archetypal": {"architecture": "topk", "k": 4, "archetypal": {"points": 24, "delta": 1.0}},
    "decorrelated": {"architecture": "topk", "k": 4, "objectives": {"decoder_decorrelation": 0.01}},
}


def tried(name: str, training: SaeTraining, **options: Any) -> None:
    check_instruments(variant_of(d_sae=48, **SHAPES[name]), training.model_copy(update=AUX | options))


@pytest.mark.parametrize("norm", ["unit", "free"])
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_known_holds(name: str, norm: str, sae_training: SaeTraining) -> None:
    if name != "routesae-hard" or norm == "unit":  # decoders per layer are of unit norm
        tried(name, sae_training, decoder_norm=norm)


def ignoring_the_sign(_: Any) -> Any:
    def match(a: Any, b: Any) -> Matching:
        similarity = np.abs(a @ b.T)
        rows, columns = assign(similarity)
        return Matching(rows, columns, similarity[rows, columns], 0.0)

    return match


def over_n(self: Estimate) -> float:
    """With the seeds' spread over n instead of n - 1."""
    n = len(self.deleted)
    return float(np.std(self.deleted) * (n - 1) / np.sqrt(n))


def uncentred(acts: Any) -> Any:
    return acts / np.linalg.norm(acts, axis=0)


def suppresses(pre: Tensor, residual: Tensor, dead: Tensor, W_dec: Tensor, k: int) -> Tensor:
    """What HUSAI added: the error, weighted by the size of what was not selected."""
    del W_dec, k
    return (residual.square().sum(-1, keepdim=True) * (pre * dead.unsqueeze(1)).abs()).mean((1, 2))


def of_cosines(rows: Tensor) -> Tensor:
    """A mean cosine, which can be negative, in the place of the mean squared one."""
    n = rows.shape[1]
    return ((rows @ rows.transpose(1, 2)).sum((1, 2)) - n) / (n * (n - 1))


def of_a_median(self: Any, stack: Any, x: Tensor) -> None:
    pre = self.pre_activations(stack, x.unsqueeze(0))[0]
    stack.buffers["threshold"] = pre.topk(stack.k[0], dim=1).values[:, -1].median()[None]


def detached(found: Any) -> Any:
    def route(self: Any, stack: Any, x: Tensor) -> Any:
        return tuple(one.detach() for one in found(self, stack, x))

    return route


def elementwise(found: Any) -> Any:
    def evaluate(sae: Any, seen: Any) -> Any:
        figures = found(sae, seen)
        return figures | {"explained_variance": 1 - (1 - figures["explained_variance"]) / seen.d_in}

    return evaluate


def one_partner_for_all(found: Any) -> Any:
    def maxima(a: Any, b: Any) -> Any:
        rows, columns = found(a, b)
        return rows.max() + 0 * rows, columns

    return maxima


Fault = tuple[str, Any, str, Callable[[Any], Any], str]
FAULTS: list[Fault] = [
    ("topk", statistics, "match", ignoring_the_sign, r"pw_mcc of half of .* turned: found 1"),
    ("topk", statistics, "row_and_column_maxima", one_partner_for_all, r"mean_max_cos of half .*found 0\.75"),
    ("topk", instruments, "standardised", lambda _: uncentred, r"activation_correlation .* a rising"),
    ("topk", Estimate, "error", lambda _: property(over_n), r"the low end of an interval"),
    ("topk", instruments, "evaluate", elementwise, r"explained_variance of an SAE that"),
    ("topk", step, "_add_aux_k", lambda _: lambda *_: None, r"aux_k of latents that do not fire: found 0"),
    ("hierarchical_topk", objectives, "aux_k", lambda _: suppresses, r"aux_k of latents that do not fire"),
    ("decorrelated", instruments, "decorrelation", lambda _: of_cosines, r"decoder_decorrelation of random rows"),
    ("decorrelated", instruments, "weight_terms", lambda _: lambda *_: {}, r"terms of decoder_dec.* found 0"),
    ("batchtopk", architectures._Batched, "calibrate", lambda _: of_a_median, r"L0 at the threshold"),
    ("routesae", architectures.RouteSaeArchitecture, "route", detached, r"gradient .* W_router .*found 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "where", "what", "wrong", "refusal"), FAULTS, ids=[one[4][:40] for one in FAULTS])
def test_a_wrong_formula_is_found(
    name: str,
    where: Any,
    what: str,
    wrong: Callable[[Any], Any],
    refusal: str,
    sae_training: SaeTraining,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(where, what, wrong(getattr(where, what)))
    with pytest.raises(ReseedError, match=refusal):
        tried(name, sae_training)


def test_an_auxiliary_loss_of_the_wrong_sign_is_found(
    sae_training: SaeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step.gradients_of

    def turned(architecture: Any, training: SaeTraining, *others: Any) -> Any:
        return real(architecture, training.model_copy(update={"aux_coefficient": -training.aux_coefficient}), *others)

    monkeypatch.setattr(instruments, "gradients_of", turned)
    with pytest.raises(ReseedError, match=r"gradient of aux_k along its own direction: found"):
        tried("topk", sae_training)
    assert torch.is_grad_enabled()
