"""The harness around the peers' trainers: they learn, and from the weights that they are given."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.conftest import planted_rows, unit
from tests.saes.peers import PeerRun, dictionary_learning_run, saelens_run

D_IN, D_SAE, K, ROWS, STEPS = 16, 24, 2, 64, 100
BASE = {"d_in": D_IN, "d_sae": D_SAE}
SAELENS: dict[str, dict[str, Any]] = {
    "standard": BASE | {"l1_coefficient": 0.1, "l1_warm_up_steps": 10},
    "gated": BASE | {"l1_coefficient": 0.1},
    "topk": BASE | {"k": K},
    "jumprelu": BASE | {"l0_coefficient": 0.01, "pre_act_loss_coefficient": 1e-3},
    "batchtopk": BASE | {"k": K},
    "matryoshka_batchtopk": BASE | {"k": K, "matryoshka_widths": [8, D_SAE]},
}
TERMS = {
    "standard": {"l1_loss"},
    "gated": {"l1_loss", "auxiliary_reconstruction_loss"},
    "topk": {"auxiliary_reconstruction_loss"},
    "jumprelu": {"l0_loss", "pre_act_loss"},
    "batchtopk": {"auxiliary_reconstruction_loss"},
    "matryoshka_batchtopk": {"auxiliary_reconstruction_loss", "inner_mse_loss_8"},
}
DICTIONARY_LEARNING: tuple[Literal["topk", "batchtopk"], ...] = ("topk", "batchtopk")


@pytest.fixture(autouse=True)
def _one_thread(_deterministic: None) -> None:
    """Tensors this small gain nothing from a second thread, and wait for it where cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def batches(features: Tensor) -> list[Tensor]:
    return list(planted_rows(STEPS * ROWS, features, K, seed=1).split(ROWS))


def start(architecture: str) -> dict[str, Tensor]:
    rows = unit(D_SAE, D_IN, seed=3)
    weights = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_dec": torch.full((D_IN,), 0.1)}
    if architecture == "gated":
        weights |= {name: torch.full((D_SAE,), value) for name, value in (("b_gate", 0.1), ("b_mag", 0.2))}
        return weights | {"r_mag": torch.full((D_SAE,), 0.05)}
    if architecture == "jumprelu":
        weights["threshold"] = torch.full((D_SAE,), 0.03)
    return weights | {"b_enc": torch.full((D_SAE,), 0.02)}


def assert_learns(run: PeerRun, reconstruction: str) -> None:
    assert len(run.losses) == STEPS
    first, last = (sum(terms[reconstruction] for terms in part) for part in (run.losses[:5], run.losses[-5:]))
    assert last < 0.7 * first


@pytest.mark.parametrize("architecture", SAELENS)
def test_saelens_learns(architecture: str, batches: list[Tensor]) -> None:
    run = saelens_run(architecture, SAELENS[architecture], start(architecture), batches, lr=0.01, warm_up_steps=5)
    assert_learns(run, "mse_loss")
    for terms in run.losses:
        assert set(terms) == TERMS[architecture] | {"mse_loss", "total"}
        assert terms["total"] == pytest.approx(sum(value for name, value in terms.items() if name != "total"))


@pytest.mark.parametrize("architecture", SAELENS)
def test_saelens_starts_from_the_given_weights(architecture: str, batches: list[Tensor]) -> None:
    weights = start(architecture)
    run = saelens_run(architecture, SAELENS[architecture], weights, batches[:5], lr=0.0)
    assert set(run.weights) - set(weights) <= {"topk_threshold"}
    for name, weight in weights.items():
        assert run.weights[name].equal(weight), name
        assert run.weights[name].data_ptr() != weight.data_ptr()


def test_saelens_brings_in_dead_latents_after_the_window(batches: list[Tensor]) -> None:
    weights = start("topk")
    weights["b_enc"][:4] = -100
    run = saelens_run("topk", SAELENS["topk"], weights, batches[:8], lr=0.0, dead_feature_window=3)
    aux = [terms["auxiliary_reconstruction_loss"] for terms in run.losses]
    assert aux[:4] == [0.0] * 4
    assert min(aux[4:]) > 0


@pytest.mark.parametrize("architecture", DICTIONARY_LEARNING)
def test_dictionary_learning_learns(architecture: Literal["topk", "batchtopk"], batches: list[Tensor]) -> None:
    weights = start(architecture)
    run = dictionary_learning_run(architecture, K, weights, batches, lr=0.01, threshold_start_step=50)
    assert_learns(run, "l2_loss")
    assert all(terms["total"] == terms["l2_loss"] and terms["auxk_loss"] == 0 for terms in run.losses)
    torch.testing.assert_close(run.weights["W_dec"].norm(dim=1), torch.ones(D_SAE))
    assert run.weights["topk_threshold"] > 0
    assert "nnsight" not in sys.modules


@pytest.mark.parametrize("architecture", DICTIONARY_LEARNING)
def test_dictionary_learning_starts_from_the_given_weights(
    architecture: Literal["topk", "batchtopk"], batches: list[Tensor]
) -> None:
    weights = start(architecture)
    run = dictionary_learning_run(architecture, K, weights, batches[:5], lr=0.0)
    for name, weight in weights.items():
        # it divides the decoder by its norm all the same
        torch.testing.assert_close(run.weights[name], weight, rtol=0, atol=1e-6 if name == "W_dec" else 0)
    assert run.weights["topk_threshold"] == -1
    median = dictionary_learning_run(architecture, K, weights, batches[:5], lr=0.0, median_bias=True)
    assert not median.weights["b_dec"].equal(weights["b_dec"])


@pytest.mark.parametrize("architecture", DICTIONARY_LEARNING)
def test_dictionary_learning_brings_in_dead_latents_after_the_rows(
    architecture: Literal["topk", "batchtopk"], batches: list[Tensor]
) -> None:
    weights = start(architecture)
    weights["b_enc"][:4] = -100
    run = dictionary_learning_run(
        architecture, K, weights, batches[:8], lr=0.0, aux_coefficient=0.5, dead_after_rows=3 * ROWS
    )
    aux = [terms["auxk_loss"] for terms in run.losses]
    assert aux[:2] == [0.0] * 2
    assert min(aux[2:]) > 0
    for terms, value in zip(run.losses, aux, strict=True):
        assert terms["total"] == pytest.approx(terms["l2_loss"] + 0.5 * value)


def test_a_parameter_that_is_not_given_is_an_error(batches: list[Tensor]) -> None:
    weights = start("topk")
    del weights["b_enc"]
    with pytest.raises(ValueError, match="b_enc"):
        saelens_run("topk", SAELENS["topk"], weights, batches, lr=0.01)
    with pytest.raises(ValueError, match="b_enc"):
        dictionary_learning_run("topk", K, weights, batches, lr=0.01)


@pytest.mark.parametrize("name", ["saelens_stepper", "dictionary_learning_stepper"])
def test_steppers_of_the_benchmark_train_every_seed(name: str, batches: list[Tensor]) -> None:
    # by name, because benches is a folder of scripts and not a package
    step = getattr(importlib.import_module("benches.peers"), name)((0, 1, 2), D_IN, D_SAE, K)
    losses = [step(batch) for batch in batches]
    assert all(len(of_step) == 3 for of_step in losses)
    for first, last in zip(losses[0], losses[-1], strict=True):
        assert last < first
    assert len(set(losses[-1])) == 3
