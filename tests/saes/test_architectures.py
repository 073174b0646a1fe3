"""The written-out gradients against autograd, the selections against SAELens and a plain sort."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Literal

import pytest
import torch
from sae_lens.saes.topk_sae import TopK
from torch import Tensor

from reseed.params import SaeTraining, Variant
from reseed.saes.architectures import Stack, activate, aux_gradients, calibrate_threshold, infer
from reseed.saes.train import gradients_of
from tests.conftest import unit

D_IN, D_SAE, ROWS, SEEDS = 6, 10, 32, (0, 5, 9)
CPU = torch.device("cpu")


def variant(architecture: Literal["topk", "batchtopk"] = "topk", k: int = 3) -> Variant:
    return Variant(architecture=architecture, d_sae=D_SAE, k=k)


def stack() -> Stack:
    """Not the initialisation but a point where every parameter matters."""
    made = Stack.initialise(SEEDS, D_IN, D_SAE, CPU)
    random = torch.Generator().manual_seed(1)
    for name in ("W_enc", "b_enc", "b_dec"):
        value = getattr(made, name)
        value += 0.3 * torch.randn(value.shape, generator=random)
    return made


def rows() -> Tensor:
    return torch.randn(len(SEEDS), ROWS, D_IN, generator=torch.Generator().manual_seed(2))


def reference_loss(made: Stack, x: Tensor, chosen: Variant, training: SaeTraining, idle: Tensor) -> Tensor:
    """The loss of Gao et al. 2024 from their text, one member and one row at a time, by a full sort."""
    total = x.new_zeros(())
    for s in range(len(x)):
        pre = (x[s] - made.b_dec[s]) @ made.W_enc[s] + made.b_enc[s]
        if chosen.architecture == "topk":
            bound = pre.sort(dim=1, descending=True).values[:, chosen.k - 1 : chosen.k]
        else:
            bound = pre.flatten().sort(descending=True).values[chosen.k * len(pre) - 1]
        acts = torch.where(pre >= bound.detach(), pre.relu(), 0.0)
        error = x[s] - (acts @ made.W_dec[s] + made.b_dec[s])
        total = total + error.square().sum(1).mean() / D_IN
        dead = idle[s] & ~(acts > 0).any(0)
        if dead.any():
            columns = dead.nonzero()[:, 0]
            chosen_pre = pre[:, columns]
            k = min(training.aux_k, len(columns))
            bound = chosen_pre.sort(dim=1, descending=True).values[:, k - 1 : k]
            aux = torch.where(chosen_pre >= bound.detach(), chosen_pre.relu(), 0.0) @ made.W_dec[s][columns]
            left = error.detach()
            total = total + training.aux_coefficient * (left - aux).square().sum() / left.square().sum()
    return total


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
@pytest.mark.parametrize("some_dead", [False, True])
def test_the_gradients_are_those_of_autograd(
    architecture: Literal["topk", "batchtopk"], some_dead: bool, sae_training: SaeTraining
) -> None:
    training = sae_training.model_copy(update={"aux_k": 2, "aux_coefficient": 0.5})
    made, x, chosen = stack(), rows(), variant(architecture, k=2)
    idle = torch.zeros(len(SEEDS), D_SAE, dtype=torch.bool)
    if some_dead:  # latents that never win although half of their pre-activations are positive
        idle[:] = True
        for member, columns in ((0, [1, 4, 7]), (1, [2])):
            made.b_enc[member] += 8.0
            made.b_enc[member, 0, columns] = 0.0
            made.W_enc[member][:, columns] *= 0.3
    found, fired = gradients_of(chosen, training, made, idle, x)
    leaves = Stack(*(tensor.clone().requires_grad_(True) for tensor in made.tensors()))
    loss = reference_loss(leaves, x, chosen, training, idle)
    expected = torch.autograd.grad(loss, leaves.tensors())
    if some_dead:
        assert not fired[0, [1, 4, 7]].any()
        assert not fired[1, 2]
        assert expected[0][1][:, 2].abs().max() > 1e-3  # AuxK teaches the encoder of a dead latent
    for field, mine, theirs in zip(fields(Stack), found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=field.name)


def test_aux_gradients_of_a_member_without_dead_latents_are_zero() -> None:
    made, x = stack(), rows()
    pre = made.pre_activations(x)
    dead = torch.zeros(len(SEEDS), D_SAE, dtype=torch.bool)
    dead[0, [1, 3]] = True
    column, of_pre, of_dec = aux_gradients(pre, x, dead, made.W_dec, aux_k=4)
    assert column[0].tolist() == [1, 3]
    assert of_pre[1:].abs().max() == 0
    assert of_dec[1:].abs().max() == 0
    assert of_pre[0].abs().max() > 0


def test_topk_selects_as_saelens_does() -> None:
    pre = torch.randn(2, 50, D_SAE, generator=torch.Generator().manual_seed(0))
    assert activate(variant(k=3), pre).equal(TopK(3)(pre))
    assert (activate(variant(k=3), pre - 10) == 0).all()  # ReLU after the selection: nothing negative fires


def test_batchtopk_spends_its_budget_over_the_batch_of_each_member_alone() -> None:
    pre = torch.randn(2, 50, D_SAE, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 1.0]).view(2, 1, 1)
    acts = activate(variant("batchtopk", k=2), pre)
    assert (acts > 0).sum((1, 2)).tolist() == [100, 100]
    for member in range(2):
        assert acts[member][acts[member] > 0].min() == pre[member].flatten().sort(descending=True).values[99]


def test_the_threshold_gives_the_mean_l0_that_was_trained_for() -> None:
    made = stack()
    x = rows()[0]
    threshold = calibrate_threshold(made, x, k=2)
    for member in range(len(SEEDS)):
        one = made.select([member])
        acts = infer(variant("batchtopk", k=2), one, threshold[member : member + 1], x.unsqueeze(0))
        assert (acts > 0).sum() == 2 * ROWS
    made.b_enc -= 100  # nothing is positive
    assert calibrate_threshold(made, x, k=2).tolist() == [0, 0, 0]


def test_each_member_starts_from_its_own_seed_alone() -> None:
    both = Stack.initialise((3, 4), D_IN, D_SAE, CPU)
    alone = Stack.initialise((4,), D_IN, D_SAE, CPU)
    assert both.W_dec[1].equal(alone.W_dec[0])
    assert not both.W_dec[0].equal(both.W_dec[1])
    assert both.W_enc.equal(both.W_dec.transpose(1, 2))
    assert both.W_dec.norm(dim=-1).sub(1).abs().max() < 1e-6
    # isotropic: the mean cosine of independent unit rows is 0 with standard deviation 1 / sqrt(d)
    many = Stack.initialise((0, 1), 64, 2000, CPU).W_dec
    cosine = (many[0] * many[1]).sum(-1)
    assert abs(cosine.mean().item()) < 4 / math.sqrt(64 * 2000)
    assert abs(cosine.std().item() * 8 - 1) < 0.1


def test_select_copies() -> None:
    made = stack()
    one = made.select([1])
    one.W_dec += 1
    assert made.W_dec[1].equal(stack().W_dec[1])
    assert unit(3, 4).shape == (3, 4)
