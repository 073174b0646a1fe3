"""The trainer on activations with a known dictionary: it finds it, every seed by itself, and says when it did not."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.matching import assign, cosines
from reseed.params import Convergence, SaeTraining, Variant
from reseed.saes.checks import check_trainable
from reseed.saes.train import TrainedSae, train_saes
from tests.conftest import train_of, variant_of

CPU = torch.device("cpu")


def variant(architecture: Literal["topk", "batchtopk"] = "topk", **change: Any) -> Variant:
    return variant_of(**{"architecture": architecture, "d_sae": 24, "k": 2} | change)


def recovery(sae: TrainedSae, features: Tensor) -> float:
    similarity = cosines(sae.weights["W_dec"].double().numpy(), features.double().numpy())
    rows, columns = assign(similarity)
    return float(similarity[rows, columns].mean())


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_every_seed_finds_the_planted_dictionary(
    architecture: Literal["topk", "batchtopk"],
    activations: Activations,
    features: Tensor,
    sae_training: SaeTraining,
    tolerance: Convergence,
) -> None:
    saes = train_saes(variant(architecture), sae_training, train_of((4, 0, 9), tolerance), activations, CPU)
    assert [sae.seed for sae in saes] == [4, 0, 9]
    x = activations.splits["test"]
    for sae in saes:
        assert sae.converged
        assert recovery(sae, features) > 0.85  # independent unit rows of this shape match at 0.55
        assert sae.cosine_to_init < 0.8
        assert sae.weights["W_dec"].norm(dim=1).sub(1).abs().max() < 1e-5
        pre = (x - sae.weights["b_dec"]) @ sae.weights["W_enc"] + sae.weights["b_enc"]
        if "threshold" not in sae.weights:
            values, indices = pre.topk(2, dim=1)
            acts = torch.zeros_like(pre).scatter(1, indices, values.relu())
        else:
            acts = pre.relu() * (pre > sae.weights["threshold"])
            assert (acts > 0).double().sum(1).mean().item() == pytest.approx(2, abs=0.15)
        residual = x - acts @ sae.weights["W_dec"] - sae.weights["b_dec"]
        assert 1 - residual.square().sum() / (x - x.mean(0)).square().sum() > 0.9
    assert not saes[0].weights["W_dec"].equal(saes[1].weights["W_dec"])


def test_a_member_of_the_stack_gets_what_it_would_get_alone(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    short = sae_training.model_copy(update={"max_steps": 100, "min_steps": 100})
    together = train_saes(variant(), short, train_of((0, 1, 2), tolerance), activations, CPU)
    alone = train_saes(variant(), short, train_of((2,), tolerance), activations, CPU)[0]
    torch.testing.assert_close(together[2].weights["W_dec"], alone.weights["W_dec"], rtol=1e-3, atol=1e-4)
    again = train_saes(variant(), short, train_of((0, 1, 2), tolerance), activations, CPU)
    for one, two in zip(together, again, strict=True):
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            assert one.weights[name].equal(two.weights[name]), name
        assert one.curve == two.curve


def test_the_other_seeds_do_not_matter(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    short = sae_training.model_copy(update={"max_steps": 100, "min_steps": 100})
    first = train_saes(variant(), short, train_of((5, 1, 2), tolerance), activations, CPU)[0]
    second = train_saes(variant(), short, train_of((5, 7, 8), tolerance), activations, CPU)[0]
    assert first.weights["W_dec"].equal(second.weights["W_dec"])


def test_a_seed_that_ran_out_of_steps_is_not_converged(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    hasty = sae_training.model_copy(update={"max_steps": 100, "min_steps": 50})
    for sae in train_saes(variant(), hasty, train_of((0, 1, 2), tolerance), activations, CPU):
        assert not sae.converged
        assert sae.steps == 100
        assert sae.constant_steps + 25 <= 100  # the decay ends within the ceiling


def test_the_learning_rate_decays_to_zero_before_a_seed_ends(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    for sae in train_saes(variant(), sae_training, train_of((0, 1, 2), tolerance), activations, CPU):
        rates = [row["learning_rate"] for row in sae.curve]
        assert rates[0] == pytest.approx(sae_training.lr)
        assert rates[-1] == 0
        assert sae.curve[-1]["step"] == sae.steps
        assert sorted(sae.snapshots) == list(sae.snapshots)
        assert {0, sae.constant_steps, sae.steps} <= set(sae.snapshots)


def test_firing_counts_are_those_of_one_pass_over_the_training_rows(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    short = sae_training.model_copy(update={"max_steps": 200, "min_steps": 100})
    sae = train_saes(variant(), short, train_of((0, 1, 2), tolerance), activations, CPU)[0]
    x = activations.splits["train"]
    pre = (x - sae.weights["b_dec"]) @ sae.weights["W_enc"] + sae.weights["b_enc"]
    values, indices = pre.topk(2, dim=1)
    fires = torch.zeros_like(pre).scatter(1, indices, values.relu()) > 0
    assert (sae.firing_counts - fires.sum(0)).abs().max() <= 2  # a tie within rounding may fall on either side
    assert sae.firing_counts.sum() <= 2 * len(x)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": 16}, r"k: found 16, allowed: less than d_in \(16\)"),
        ({"d_sae": 5000}, "d_sae: found 5000, allowed: at most the 4096 training rows"),
    ],
)
def test_a_variant_that_cannot_be_trained_here(
    change: dict[str, int], sentence: str, activations: Activations, sae_training: SaeTraining
) -> None:
    with pytest.raises(ReseedError, match=sentence):
        check_trainable(variant(**change), sae_training, activations)
    with pytest.raises(ReseedError, match=r"sae\.batch_size: found 9999"):
        check_trainable(variant(), sae_training.model_copy(update={"batch_size": 9999}), activations)
