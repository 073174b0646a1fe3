"""Every architecture's forward pass, terms and gradients against the same written out row by row."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sae_lens.saes import jumprelu_sae
from sae_lens.saes.topk_sae import TopK
from torch import Tensor

from reseed.saes.architectures import (
    REGISTRY,
    Batch,
    BatchTopKArchitecture,
    JumpReLUArchitecture,
    RouteSaeArchitecture,
    TopKArchitecture,
    keep_largest,
)
from tests.conftest import unit
from tests.saes.builders import ARCHITECTURES, CASES, D_IN, D_OUT, D_SAE, LAYERS, architecture_of, case, stirred

ROWS, SEEDS = 12, (0, 5, 9)


def random_rows(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_batch(architecture: Any, rows: int = ROWS) -> Batch:
    if architecture.n_layers > 1:
        x = random_rows(len(SEEDS), rows, LAYERS, architecture.d_in)
        return Batch(x, x)
    x = random_rows(len(SEEDS), rows, architecture.d_in)
    other = random_rows(len(SEEDS), rows, architecture.d_out, seed=3)
    return Batch(x, other if architecture.d_out != architecture.d_in else x)


def largest(values: Tensor, k: int) -> Tensor:
    """ReLU of the k largest of values [n], by a full sort."""
    kept = torch.zeros_like(values)
    for i in sorted(range(len(values)), key=lambda i: -values[i].item())[:k]:
        kept[i] = values[i].relu()
    return kept


def plain(variant: Any, p: dict[str, Tensor], x: Tensor, target: Tensor, free: bool) -> tuple[Tensor, Tensor, Any]:
    """One member's activations, reconstruction and weighted loss terms, from the papers' text, a row at a time."""
    kind, W = variant.architecture, p["W_dec"]
    selects = hasattr(variant, "k")
    length = W.norm(dim=-1) if free and selects else torch.ones(len(W), dtype=W.dtype)
    W, b_dec, chosen = W / length[:, None], p["b_dec"][0], [0] * len(x)
    if kind == "routesae":
        routed = []
        for i, row in enumerate(x):
            r = (row.sum(0) @ p["W_router"]).softmax(0)
            chosen[i] = int(r.argmax())
            soft = variant.routing == "soft"
            routed.append(sum(r[j] * row[j] for j in range(LAYERS)) if soft else r[chosen[i]] * row[chosen[i]])
        x = target = torch.stack(routed)
    centre = torch.zeros_like(b_dec) if "transcoder" in kind else b_dec
    pre = torch.stack([p["W_enc_T"] @ (row if "transcoder" in kind else row - centre) for row in x]) + p["b_enc"]
    pre = pre * length[:D_SAE]
    if kind in ("topk", "hierarchical_topk", "routesae"):
        acts = torch.stack([largest(row, variant.k) for row in pre])
    elif selects:
        acts = largest(pre.flatten(), variant.k * len(pre)).view_as(pre)
    elif kind == "standard":
        acts = pre.relu()
    elif kind == "jumprelu":
        acts = pre * (pre > p["threshold"])
    else:
        magnitude = torch.stack([(p["W_enc_T"] @ (row - b_dec)) * p["r_mag"][0].exp() + p["b_mag"][0] for row in x])
        acts = torch.where(pre > 0, magnitude.relu(), 0.0)
    per_layer = W.view(-1, D_SAE, W.shape[1])
    out = torch.stack(
        [a @ per_layer[i if len(per_layer) > 1 else 0] + b_dec for a, i in zip(acts, chosen, strict=True)]
    )
    if kind == "skip_transcoder":
        out = out + x @ p["W_skip"]

    def error(made: Tensor) -> Tensor:
        return torch.stack([(m - t).square().sum() for m, t in zip(made, target, strict=True)]).mean()

    terms = {"reconstruction": error(out)}
    if kind == "matryoshka":
        terms |= {f"prefix_{w}": error(acts[:, :w] @ W[:w] + b_dec) for w in variant.widths[:-1]}
    if kind == "hierarchical_topk":
        by = {j: error(torch.stack([largest(row, j) for row in pre]) @ W + b_dec) for j in variant.budgets}
        terms = {"reconstruction": by.pop(variant.k) / 3} | {f"budget_{j}": value / 3 for j, value in by.items()}
    if kind == "gated":
        terms["gate"] = error(pre.relu() @ W + b_dec)
    if kind == "routesae":
        each = [(o - t).square().sum() / t.square().sum() for o, t in zip(out, target, strict=True)]
        terms["reconstruction"] = torch.stack(each).mean() * D_IN
    return acts, out, terms


PLAIN = [name for name in CASES if "tanh" not in name and "archetypal" not in name]


@pytest.mark.parametrize(
    ("name", "unit_norm"),
    # decoders per layer take no free norms (check_objectives)
    [(name, True) for name in PLAIN] + [(name, False) for name in PLAIN if "per_layer" not in name],
)
def test_forward_terms_and_gradients_are_those_of_the_plain_formula(name: str, unit_norm: bool) -> None:
    variant = case(name)
    architecture = architecture_of(variant, unit_norm)
    stack, batch = stirred(architecture, SEEDS), a_batch(architecture)
    leaves = {key: tensor.clone().requires_grad_(True) for key, tensor in stack.parameters.items()}
    stack.parameters = leaves
    forward = architecture.forward(stack, batch)
    terms = architecture.own_terms(stack, batch, forward)
    found = torch.autograd.grad(
        sum((coefficient * value).sum() for coefficient, value in terms.values()), leaves.values(), allow_unused=True
    )
    copies = {key: tensor.detach().clone().requires_grad_(True) for key, tensor in leaves.items()}
    total = torch.zeros((), dtype=torch.float64)
    for s in range(len(SEEDS)):
        member = {key: tensor[s] for key, tensor in copies.items()}
        acts, out, expected = plain(variant, member, batch.x[s], batch.target[s], not unit_norm)
        torch.testing.assert_close(forward.acts[s], acts)
        torch.testing.assert_close(forward.out[s], out)
        assert terms.keys() == expected.keys()
        for term, value in expected.items():
            torch.testing.assert_close(terms[term][0] * terms[term][1][s], value, msg=term)
        total = total + sum(expected.values())
    assert (forward.acts > 0).any()
    wanted = torch.autograd.grad(total, copies.values(), allow_unused=True)
    for key, mine, theirs in zip(leaves, found, wanted, strict=True):
        if key == "threshold":  # a jump has no gradient there; its estimator is compared with SAELens' below
            assert theirs is None
            continue
        torch.testing.assert_close(mine, theirs, msg=lambda text, key=key: f"{key}: {text}")


def test_topk_selects_as_saelens_does() -> None:
    pre = torch.randn(2, 50, D_SAE, generator=torch.Generator().manual_seed(0))
    assert keep_largest(pre, (3, 3)).equal(TopK(3)(pre))
    assert (keep_largest(pre - 10, (3, 3)) == 0).all()  # ReLU after the selection: nothing negative fires
    each = keep_largest(pre, (3, 5))
    assert each[0].equal(TopK(3)(pre)[0])
    assert each[1].equal(TopK(5)(pre)[1])


def test_batchtopk_spends_each_members_own_budget_over_its_batch() -> None:
    architecture = architecture_of(case("batchtopk"))
    stack = stirred(architecture, (0, 1, 2), k=(1, 2, 3))
    pre = random_rows(3, 50, D_SAE) + torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    acts = architecture.activate(stack, pre)
    assert (acts > 0).sum((1, 2)).tolist() == [50, 100, 150]
    for member, k in enumerate((1, 2, 3)):
        assert acts[member][acts[member] > 0].min() == pre[member].flatten().sort(descending=True).values[50 * k - 1]
        assert (acts[member] > 0).sum(1).unique().numel() > 1  # rows differ in how many they get


@pytest.mark.parametrize("unit_norm", [True, False], ids=["unit", "free"])
@pytest.mark.parametrize("name", ["batchtopk", "matryoshka", "transcoder", "skip_transcoder"])
def test_the_threshold_gives_the_mean_l0_that_was_trained_for(
    name: str, unit_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reseed.saes.architectures.BLOCK_ROWS", 7)  # as with more rows than a block
    architecture = architecture_of(case(name), unit_norm)
    stack = stirred(architecture, SEEDS, k=(1, 2, 3))
    x = random_rows(100, D_IN)
    architecture.calibrate(stack, x)
    acts = architecture.infer(stack, x.expand(3, -1, -1))
    # exactly, though another block size rounds otherwise: no pre-activation lies at the threshold
    assert (acts > 0).sum((1, 2)).tolist() == [100, 200, 300]
    stack.parameters["b_enc"] -= 1000  # nothing is positive
    architecture.calibrate(stack, x)
    assert stack.buffers["threshold"].tolist() == [0, 0, 0]


def test_inference_does_not_look_at_the_other_rows() -> None:
    for name in CASES:
        architecture = architecture_of(case(name))
        stack, batch = stirred(architecture, SEEDS), a_batch(architecture)
        if architecture.has_threshold:
            stack.buffers["threshold"] = torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64)
        whole = architecture.infer(stack, batch.x)
        torch.testing.assert_close(architecture.infer(stack, batch.x[:, 3:5]), whole[:, 3:5], msg=name)


@pytest.mark.parametrize("name", CASES)
def test_each_member_starts_from_its_own_seed_alone(name: str) -> None:
    architecture = architecture_of(case(name))
    x = torch.randn(256, architecture.d_out, generator=torch.Generator().manual_seed(4))
    k = getattr(architecture.variant, "k", 0)
    both, alone = architecture.initialise((3, 4), (k, k), x), architecture.initialise((4,), (k,), x)
    assert both.parameters.keys() == alone.parameters.keys()
    for key, tensor in (alone.parameters | alone.buffers).items():
        assert (both.parameters | both.buffers)[key][1].equal(tensor[0]), key
    rows = architecture.raw_decoder(both)
    assert rows.norm(dim=-1).sub(1).abs().max() < 1e-6
    assert (rows[0] * rows[1]).sum(-1).abs().mean() < 0.5  # seeds start apart; equal rows would give 1
    assert both.parameters["W_enc_T"].norm(dim=-1).sub(1).abs().max() < 1e-6
    if "transcoder" not in name and "per_layer" not in name:
        assert both.parameters["W_enc_T"].equal(rows)
    assert both.parameters["b_dec"].abs().max() == both.parameters["b_enc"].abs().max() == 0


def test_initial_rows_are_isotropic() -> None:
    architecture = REGISTRY["topk"](case("topk", d_sae=2000), 64, 64, 1, True)
    rows = architecture.initialise((0, 1), (2, 2), torch.zeros(1, 64)).parameters["W_dec"]
    cosine = (rows[0] * rows[1]).sum(-1)  # of independent unit rows: mean 0, standard deviation 1 / sqrt(d)
    assert abs(cosine.mean().item()) < 4 / math.sqrt(64 * 2000)
    assert abs(cosine.std().item() * 8 - 1) < 0.1


@pytest.mark.parametrize("function", ["Step", "JumpReLU"])
def test_jumprelu_has_the_straight_through_gradients_of_saelens(function: str) -> None:
    variant = case("jumprelu", bandwidth=0.7)
    architecture = architecture_of(variant)
    assert isinstance(architecture, JumpReLUArchitecture)
    stack = stirred(architecture, SEEDS)
    stack.parameters["threshold"] = stack.parameters["threshold"].abs().requires_grad_(True)
    pre = random_rows(len(SEEDS), ROWS, D_SAE).requires_grad_(True)
    weight = random_rows(len(SEEDS), ROWS, D_SAE, seed=3)
    if function == "Step":
        mine = (architecture.count(stack, pre) * weight[:, :, 0]).sum()
        weight = weight[:, :, :1].expand_as(weight)
    else:
        mine = (architecture.activate(stack, pre) * weight).sum()
    of_pre, of_threshold = torch.autograd.grad(mine, [pre, stack.parameters["threshold"]], materialize_grads=True)
    theirs = getattr(jumprelu_sae, function)
    for s in range(len(SEEDS)):
        x = pre[s].detach().clone().requires_grad_(True)
        threshold = stack.parameters["threshold"][s, 0].detach().clone().requires_grad_(True)
        value = (theirs.apply(x, threshold, 0.7, False) * weight[s]).sum()
        expected = torch.autograd.grad(value, [x, threshold], materialize_grads=True)
        torch.testing.assert_close(of_pre[s], expected[0])
        torch.testing.assert_close(of_threshold[s, 0], expected[1])
        assert expected[1].abs().max() > 0


def test_a_threshold_stays_at_zero_or_above() -> None:
    architecture = architecture_of(case("jumprelu"))
    stack = stirred(architecture, SEEDS)
    stack.parameters["threshold"][0, 0, :3] = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64)
    architecture.project(stack)
    assert stack.parameters["threshold"][0, 0, :3].tolist() == [0.0, 0.0, 0.5]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "routesae"])
def test_free_norms_change_nothing_that_folding_could_not_undo(name: str) -> None:
    """Encoder and biases times the norm, decoder over it: the same SAE; a selection must not notice."""
    free, one = architecture_of(case(name), unit_norm=False), architecture_of(case(name), unit_norm=True)
    stack, batch = stirred(free), a_batch(free)
    folded = stack.select(range(len(stack)))
    p, length = folded.parameters, stack.parameters["W_dec"].norm(dim=-1)
    for key in ("b_enc", "threshold", "b_mag"):
        if key in p:
            p[key] *= length.unsqueeze(1)
    p["W_enc_T"] *= length.unsqueeze(2)
    p["W_dec"] /= length.unsqueeze(2)
    theirs, mine = one.forward(folded, batch), free.forward(stack, batch)
    torch.testing.assert_close(mine.out, theirs.out)
    torch.testing.assert_close(free.in_output_units(stack, mine.acts), theirs.acts)
    torch.testing.assert_close(free.penalised(stack, mine), one.penalised(folded, theirs))


def test_a_soft_frozen_row_goes_to_the_nearest_one_of_its_cone_and_keeps_its_length() -> None:
    architecture = architecture_of(case("topk").model_copy(update={"soft_frozen": 0.8}))
    stack = architecture.initialise(SEEDS, [2] * len(SEEDS), torch.zeros(4, architecture.d_out))
    start = stack.parameters["W_dec"].clone()
    # turned by an angle within the plane of the start and another direction: beyond acos 0.8 it comes back to that
    other = random_rows(*start.shape).to(start.dtype)
    other = torch.nn.functional.normalize(other - (other * start).sum(-1, keepdim=True) * start, dim=-1)
    angles = torch.linspace(0, 3, start.shape[1]).view(1, -1, 1)
    length = torch.linspace(0.5, 2, start.shape[1]).view(1, -1, 1)
    stack.parameters["W_dec"].copy_(length * (angles.cos() * start + angles.sin() * other))
    architecture.project(stack)
    kept = angles.clamp(max=math.acos(0.8))
    expected = length * (kept.cos() * start + kept.sin() * other)
    torch.testing.assert_close(stack.parameters["W_dec"], expected, rtol=1e-5, atol=1e-6)


def test_archetypal_rows_are_bounded_deviations_from_convex_combinations_of_data() -> None:
    architecture = architecture_of(case("topk-archetypal"))
    x = torch.randn(256, D_IN, generator=torch.Generator().manual_seed(4)) + 3
    stack = architecture.initialise((0, 1), (2, 2), x)
    points = stack.buffers["points"]
    assert points.norm(dim=-1).sub(1).abs().max() < 1e-6
    assert not points[0].equal(points[1])
    # centroids of rows around 3 point there: isotropic points would have a mean cosine of 0 to it
    assert (points @ torch.full((D_IN,), D_IN**-0.5)).min() > 0.8
    mix, deviation = stack.parameters["mix"], stack.parameters["deviation"]
    random = torch.Generator().manual_seed(5)
    mix += torch.randn(mix.shape, generator=random)
    deviation += torch.randn(deviation.shape, generator=random) * torch.rand(2, D_SAE, 1, generator=random)
    before = deviation.clone()
    architecture.project(stack)
    assert mix.min() >= 0
    torch.testing.assert_close(mix.sum(-1), torch.ones(2, D_SAE))
    length = before.norm(dim=-1)
    torch.testing.assert_close(deviation.norm(dim=-1), length.clamp(max=0.5))
    torch.testing.assert_close(torch.cosine_similarity(deviation, before, dim=-1), torch.ones(2, D_SAE))
    assert (length < 0.5).any()
    expected = torch.stack([mix[s] @ points[s] + deviation[s] for s in range(2)])
    torch.testing.assert_close(architecture.decoder(stack), expected / expected.norm(dim=-1, keepdim=True))


def test_the_archetypes_of_a_transcoder_are_of_what_it_writes() -> None:
    architecture = architecture_of(case("transcoder-archetypal"))
    stack = architecture.initialise((0,), (2,), torch.randn(128, D_OUT))
    assert architecture.decoder(stack).shape == (1, D_SAE, D_OUT)
    assert stack.parameters["W_enc_T"].shape == (1, D_SAE, D_IN)


def test_a_hard_router_sends_a_row_where_its_weight_is_largest() -> None:
    architecture = architecture_of(case("routesae"))
    assert isinstance(architecture, RouteSaeArchitecture)
    stack = stirred(architecture)
    x = random_rows(3, ROWS, LAYERS, D_IN)
    y, weights = architecture.route(stack, x)
    assert (weights > 0).sum(-1).eq(1).all()
    layer = weights.argmax(-1)
    assert layer.unique().tolist() == [0, 1, 2]
    for s, row in ((0, 1), (1, 3), (2, 5)):
        torch.testing.assert_close(y[s, row], weights[s, row].sum() * x[s, row, layer[s, row]])
    stack.parameters["W_router"].zero_()  # a tie goes to the first
    assert architecture.route(stack, x)[1][..., 0].eq(1 / 3).all()


def test_the_loss_of_a_router_does_not_reward_small_rows() -> None:
    architecture = architecture_of(case("routesae"))
    stack = stirred(architecture)
    for key in ("b_enc", "b_dec", "W_router"):
        stack.parameters[key].zero_()
    batch = a_batch(architecture)
    small = Batch(batch.x * 0.01, batch.x * 0.01)
    one, other = (architecture.own_terms(stack, b, architecture.forward(stack, b)) for b in (batch, small))
    torch.testing.assert_close(one["reconstruction"][1], other["reconstruction"][1])


def test_select_copies() -> None:
    architecture = architecture_of(case("batchtopk"))
    stack = stirred(architecture, SEEDS, k=(1, 2, 3))
    stack.buffers["threshold"] = torch.tensor([1.0, 2.0, 3.0])
    two = stack.select([2, 0])
    assert (two.k, two.buffers["threshold"].tolist()) == ((3, 1), [3.0, 1.0])
    two.parameters["W_dec"] += 1
    two.buffers["threshold"] += 1
    assert stack.parameters["W_dec"].equal(stirred(architecture, SEEDS).parameters["W_dec"])
    assert stack.buffers["threshold"].tolist() == [1.0, 2.0, 3.0]


def test_every_architecture_that_params_knows_is_registered() -> None:
    assert set(REGISTRY) == set(ARCHITECTURES)
    assert issubclass(REGISTRY["topk"], TopKArchitecture)
    assert not REGISTRY["topk"].has_threshold
    assert issubclass(REGISTRY["batchtopk"], BatchTopKArchitecture)
    assert unit(3, 4).shape == (3, 4)
