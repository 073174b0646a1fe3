"""A member of an ensemble is what it would be alone: no seed knows of another, unless an objective couples them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reseed.activations.store import Activations
from reseed.params import Convergence, SaeTraining, Variant
from reseed.saes.rows import Feed
from reseed.saes.run import TrainedSae
from reseed.saes.train import architecture_of, start, train_saes
from tests.conftest import train_of
from tests.saes.builders import CASES, CPU, case, pulled, shortened
from tests.saes.conftest import Source

STEPS = 80
COUPLED = {
    f"topk-{partner}": {**pulled(partner), "k": 2} for partner in ("nearest", "assigned")
} | {"batchtopk-assigned": {**pulled("assigned"), "k": 2, "archetypal": {"points": 32, "delta": 0.5}}}  # fmt: skip


def brief(training: SaeTraining, **change: Any) -> SaeTraining:
    """Long enough for dead latents; tanh, resampling and AuxK have something to do."""
    return shortened(training, STEPS, check_every=40, dead_after_steps=15, **change)


def assert_same(one: TrainedSae, other: TrainedSae) -> None:
    assert (one.seed, one.k, one.steps) == (other.seed, other.k, other.steps)
    assert one.weights.keys() == other.weights.keys()
    for name, tensor in one.weights.items():
        # rounding of batched products, which 80 steps of Adam enlarge
        torch.testing.assert_close(tensor, other.weights[name], rtol=1e-3, atol=2e-4, msg=lambda t, n=name: f"{n}: {t}")
    for mine, theirs in zip(one.curve, other.curve, strict=True):
        for name in mine.keys() | theirs.keys():
            if name.startswith(("loss/", "learning_rate", "l0", "unexplained")):
                # a term is logged from the first step at which a member of the stack has it
                assert mine.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize(
    ("name", "decoder_norm"),
    # decoders per layer take no free norms (check_objectives), archetypal ones have none
    [(name, "unit") for name in CASES]
    + [(name, "free") for name in CASES if "per_layer" not in name and "archetypal" not in name],
)
def test_a_member_is_what_it_would_be_alone(
    name: str, decoder_norm: str, source: Source, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    variant, training = case(name), brief(sae_training, decoder_norm=decoder_norm)
    together = train_saes(variant, training, train_of((0, 1, 2), tolerance), source(variant), CPU)
    alone = train_saes(variant, training, train_of((2,), tolerance), source(variant), CPU)
    assert_same(together[2], alone[0])
    assert not together[0].weights["W_enc"].allclose(alone[0].weights["W_enc"], atol=0.05)


@pytest.mark.parametrize("name", COUPLED)
def test_a_group_is_what_it_would_be_alone(
    name: str, source: Source, sae_training: SaeTraining, tolerance: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"architecture": name.split("-")[0], "d_sae": 24} | COUPLED[name]
    variant = case("topk", **fields)
    training, rows = brief(sae_training), source(variant)
    together = train_saes(variant, training, train_of((4, 5, 0, 1, 2, 3), tolerance), rows, CPU)
    monkeypatch.setattr("reseed.saes.train.check_objectives", lambda *_: None)  # it wants three groups
    alone = train_saes(variant, training, train_of((2, 3), tolerance), rows, CPU)
    assert [sae.seed for sae in together] == [4, 5, 0, 1, 2, 3]
    for one, other in zip(together[4:], alone, strict=True):
        assert_same(one, other)
    pulled_apart = train_saes(variant, training, train_of((2, 7), tolerance), rows, CPU)[0]
    assert not pulled_apart.weights["W_dec"].allclose(alone[0].weights["W_dec"], atol=0.01)  # its partner does matter


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "transcoder"])
def test_several_k_in_one_stack_are_separate_runs(
    name: str, source: Source, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    variant, training = case(name), brief(sae_training)
    rows = source(variant)
    train = train_of((0, 1), tolerance)
    together = train_saes(variant, training, train, rows, CPU, ks=(2, 3))
    assert [(sae.k, sae.seed) for sae in together] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    for i, k in ((0, 2), (2, 3)):
        for one, other in zip(
            together[i : i + 2], train_saes(case(name, k=k), training, train, rows, CPU), strict=True
        ):
            assert_same(one, other)


def test_resampling_and_aux_k_of_a_member_do_not_look_at_the_others(
    source: Source, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    variant = case("batchtopk", d_sae=200, k=1)
    for change in ({"aux_k": 0, "resample_every": 25}, {"aux_k": 8}):
        training = brief(sae_training, **change).model_copy(update={"dead_after_steps": 4})
        together = train_saes(variant, training, train_of((0, 1, 2), tolerance), source(variant), CPU)
        assert_same(together[2], train_saes(variant, training, train_of((2,), tolerance), source(variant), CPU)[0])
        assert any(row["alive_fraction"] < 1 for sae in together for row in sae.curve)


@pytest.mark.parametrize("vary", ["init", "order", "both"])
def test_what_a_seed_varies(vary: str, source: Source, sae_training: SaeTraining, tolerance: Convergence) -> None:
    variant: Variant = case("topk")
    training = shortened(sae_training, 20)
    saes = train_saes(variant, training, train_of((3, 8), tolerance, vary=vary), source(variant), CPU)
    one, other = (sae.snapshots[0] for sae in saes)
    same_init = vary == "order"
    assert one[0].equal(other[0]) == one[1].equal(other[1]) == same_init
    assert not saes[0].weights["W_dec"].allclose(saes[1].weights["W_dec"], atol=1e-3)
    seen = _orders(vary, sae_training, tolerance, source(variant))
    assert seen[0].equal(seen[1]) == (vary == "init")
    # a seed of its own kind of variation is the same whatever the other does
    both = train_saes(variant, training, train_of((3, 8), tolerance, vary="both"), source(variant), CPU)
    assert both[0].snapshots[0][0].equal(one[0]) == (vary != "order")


def _orders(vary: str, training: SaeTraining, tolerance: Convergence, activations: Activations) -> list[torch.Tensor]:
    """The first batch of each seed, as the trainer asks its orders for them."""
    variant = case("topk")
    feed = Feed(activations, "mean", CPU)
    run = start(architecture_of(variant, training, feed), training, train_of((3, 8), tolerance, vary=vary), feed, (2,))
    return [member.order.next_batch() for member in run.members]
