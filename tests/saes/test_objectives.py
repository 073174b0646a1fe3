"""Every term against its formula written out, every refusal, and who gets a gradient from whom."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.matching import assign, cosines
from reseed.params import SaeTraining, Train
from reseed.saes.architectures import Batch, RouteSaeArchitecture
from reseed.saes.objectives import (
    CONTROL_RATE,
    activation_terms,
    add_objectives,
    aux_k,
    check_objectives,
    control_sparsity,
    decorrelation,
    refresh_partners,
    weight_terms,
)
from reseed.saes.rows import Feed
from reseed.saes.step import dense_gradients
from tests.conftest import unit, variant_of
from tests.saes.builders import CPU, D_IN, D_SAE, LAYERS, SEQUENCE, architecture_of, case, pulled, stirred

ROWS, SEEDS = 12, (0, 5, 9)


def random_rows(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wanting(name: str = "topk", **objectives: Any) -> Any:
    return architecture_of(case(name, objectives=objectives))


def terms_of(
    architecture: Any, stack: Any, batch: Batch, training: SaeTraining, step: int = 1, dead: Any = None
) -> Any:
    forward = architecture.forward(stack, batch)
    none = torch.zeros(len(stack), D_SAE, dtype=torch.bool)
    return activation_terms(
        architecture, training, stack, batch, forward, none if dead is None else dead, step
    ), forward


def test_decorrelation_is_the_mean_squared_cosine_of_different_rows() -> None:
    rows = torch.stack([unit(24, 16, seed=s).double() for s in range(3)])
    for s in range(3):
        cosine = rows[s] @ rows[s].T
        expected = (cosine.square().sum() - 24) / (24 * 23)
        torch.testing.assert_close(decorrelation(rows)[s], expected)
    alike = rows[:, :1].expand(-1, 24, -1)
    torch.testing.assert_close(decorrelation(alike), torch.ones(3, dtype=torch.float64))
    orthogonal = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0].unsqueeze(0)
    assert 0 <= decorrelation(orthogonal).item() < 1e-6
    assert decorrelation(rows[:, :1]).abs().max() < 1e-12  # one latent has no other


def test_aux_k_is_how_badly_the_dead_reconstruct_what_is_left() -> None:
    pre, residual = random_rows(3, ROWS, D_SAE), random_rows(3, ROWS, D_IN, seed=5)
    W_dec = random_rows(3, D_SAE, D_IN, seed=6)
    dead = torch.zeros(3, D_SAE, dtype=torch.bool)
    dead[0, [1, 4, 7, 20]] = True
    dead[1, 3] = True
    found = aux_k(pre, residual, dead, W_dec, 2)
    for s in range(3):
        columns = dead[s].nonzero()[:, 0].tolist()
        error = 0.0
        for row in range(ROWS):
            largest = sorted(columns, key=lambda i, s=s, row=row: -pre[s, row, i].item())[:2]
            made = sum((pre[s, row, i].relu() * W_dec[s, i] for i in largest), torch.zeros(D_IN, dtype=torch.float64))
            error += (made - residual[s, row]).square().sum().item()
        expected = D_IN * error / residual[s].square().sum().item() if columns else 0.0
        assert found[s].item() == pytest.approx(expected)


def test_aux_k_teaches_the_dead_alone(sae_training: SaeTraining) -> None:
    architecture = wanting()
    stack = stirred(architecture, SEEDS)
    dead = torch.zeros(3, D_SAE, dtype=torch.bool)
    dead[0, [1, 4, 7]] = True
    dead[1, 2] = True
    for member, columns in ((0, [1, 4, 7]), (1, [2])):
        stack.parameters["b_enc"][member] += 8
        stack.parameters["b_enc"][member, 0, columns] = 0
        stack.parameters["W_enc_T"][member, columns] *= 0.3
    x = random_rows(3, ROWS, D_IN)
    on = sae_training.model_copy(update={"aux_k": 2, "aux_coefficient": 0.5})
    with_it = dense_gradients(architecture, on, stack, Batch(x, x), dead, 1)
    without = dense_gradients(architecture, sae_training.model_copy(update={"aux_k": 0}), stack, Batch(x, x), dead, 1)
    assert not with_it.fired[0, [1, 4, 7]].any()
    for name in ("W_enc_T", "b_enc", "W_dec"):
        change = (with_it.by[name] - without.by[name]).abs()
        change = change.sum(-1) if name != "b_enc" else change[:, 0]
        assert (change[dead] > 1e-6).all(), name
        assert change[~dead].max() < 1e-12, name
    assert with_it.terms["aux_k"][2] == 0


def test_aux_k_of_a_per_layer_router_looks_at_the_decoder_of_the_rows_own_layer(sae_training: SaeTraining) -> None:
    architecture = architecture_of(case("routesae-per_layer"))
    assert isinstance(architecture, RouteSaeArchitecture)
    stack = stirred(architecture, SEEDS)
    stack.parameters["b_enc"] += 4
    stack.parameters["b_enc"][:, 0, :3] = 0
    x = random_rows(3, ROWS, LAYERS, D_IN)
    dead = torch.zeros(3, D_SAE, dtype=torch.bool)
    dead[:, :3] = True
    training = sae_training.model_copy(update={"aux_k": 3})
    terms, forward = terms_of(architecture, stack, Batch(x, x), training, dead=dead)
    layer = architecture.route(stack, x)[1].argmax(-1)
    W_dec = stack.parameters["W_dec"].view(3, LAYERS, D_SAE, D_IN)
    for s in range(3):
        residual = forward.target[s] - forward.out[s]
        made = [forward.pre[s, i, :3].relu() @ W_dec[s, layer[s, i], :3] for i in range(ROWS)]
        expected = D_IN * (torch.stack(made) - residual).square().sum() / residual.square().sum()
        torch.testing.assert_close(terms["aux_k"][1][s], expected)


def test_aux_k_with_free_norms_reconstructs_as_the_decoder_does(sae_training: SaeTraining) -> None:
    for name in ("topk", "standard"):
        architecture = architecture_of(case(name), unit_norm=False)
        stack = stirred(architecture, SEEDS)
        if name == "standard":
            stack.buffers["log_sparsity"] = torch.zeros(3)
        stack.parameters["b_enc"] += 4
        stack.parameters["b_enc"][:, 0, :3] = 0
        dead = torch.zeros(3, D_SAE, dtype=torch.bool)
        dead[:, :3] = True
        x = random_rows(3, ROWS, D_IN)
        training = sae_training.model_copy(update={"aux_k": 3})
        terms, forward = terms_of(architecture, stack, Batch(x, x), training, dead=dead)
        acts = torch.where(dead.unsqueeze(1), forward.pre.relu(), 0.0)
        made, residual = acts @ architecture.decoder(stack), forward.target - forward.out
        expected = D_IN * (made - residual).square().sum((1, 2)) / residual.square().sum((1, 2))
        torch.testing.assert_close(terms["aux_k"][1], expected)


@pytest.mark.parametrize("penalty", ["l1", "tanh", "l0"])
@pytest.mark.parametrize("unit_norm", [True, False], ids=["unit", "free"])
def test_sparsity_penalties(penalty: str, unit_norm: bool, sae_training: SaeTraining) -> None:
    name = "jumprelu" if penalty == "l0" else "standard"
    sparsity = {"penalty": penalty, "coefficient": 0.7, "warm_up_steps": 4, "tanh_scale": 2.0}
    architecture = architecture_of(case(name, objectives={"sparsity": sparsity}), unit_norm)
    stack, x = stirred(architecture, SEEDS), random_rows(3, ROWS, D_IN)
    for step, share in ((1, 0), (2, 0.25), (4, 0.75), (5, 1), (99, 1)):
        terms, forward = terms_of(architecture, stack, Batch(x, x), sae_training, step)
        assert terms["sparsity"][0] == pytest.approx(0.7 * share)
    length = stack.parameters["W_dec"].norm(dim=-1)
    for s in range(3):
        total = 0.0
        for row in range(ROWS):
            for latent in range(D_SAE):
                value = forward.acts[s, row, latent].item() * length[s, latent].item()
                total += {"l1": value, "tanh": math.tanh(2 * value), "l0": float(value > 0)}[penalty]
        assert terms["sparsity"][1][s].item() == pytest.approx(total / ROWS)


def test_a_gated_sae_is_penalised_on_its_gate(sae_training: SaeTraining) -> None:
    architecture = architecture_of(case("gated", objectives={"sparsity": {"penalty": "l1", "coefficient": 1.0}}))
    stack, x = stirred(architecture, SEEDS), random_rows(3, ROWS, D_IN)
    terms, forward = terms_of(architecture, stack, Batch(x, x), sae_training)
    torch.testing.assert_close(terms["sparsity"][1], forward.pre.relu().sum(-1).mean(-1))


def test_the_controller_moves_each_coefficient_towards_the_target(sae_training: SaeTraining) -> None:
    variant = case("standard")
    architecture = architecture_of(variant)
    stack, x = stirred(architecture, SEEDS), random_rows(3, ROWS, D_IN)
    add_objectives(variant, stack, None)  # type: ignore[arg-type]  # only a probe looks at the rows
    terms, _ = terms_of(architecture, stack, Batch(x, x), sae_training)
    torch.testing.assert_close(terms["sparsity"][0], torch.full((3,), 0.1, dtype=torch.float64))
    control_sparsity(variant, stack, torch.tensor([20.0, 2.0, 1.0]))
    moved = (stack.buffers["log_sparsity"] - math.log(0.1)).tolist()
    assert moved == pytest.approx([CONTROL_RATE, 0, -CONTROL_RATE * math.log(2)])
    before = stack.buffers["log_sparsity"].clone()
    control_sparsity(variant, stack, torch.zeros(3))  # nothing fires: no infinite step
    torch.testing.assert_close(stack.buffers["log_sparsity"], before - CONTROL_RATE)
    fixed = case("standard", objectives={"sparsity": {"penalty": "l1", "coefficient": 1.0}})
    control_sparsity(fixed, stirred(architecture_of(fixed), SEEDS), torch.tensor([20.0, 2.0, 1.0]))


def test_smoothness_is_over_consecutive_rows_of_one_sequence(sae_training: SaeTraining) -> None:
    architecture = wanting(temporal_smoothness=0.3)
    stack, x, later = stirred(architecture, SEEDS), random_rows(3, ROWS, D_IN), random_rows(3, ROWS, D_IN, seed=8)
    follows = torch.zeros(3, ROWS, dtype=torch.bool)
    follows[0, [1, 3, 4]] = True
    follows[1] = True
    terms, forward = terms_of(architecture, stack, Batch(x, x, later, follows), sae_training)
    after = architecture.forward(stack, Batch(later, later)).acts
    for s in range(3):
        each = [(after[s, i] - forward.acts[s, i]).square().sum().item() for i in range(ROWS) if follows[s, i]]
        assert terms["temporal_smoothness"][1][s].item() == pytest.approx(np.mean(each) if each else 0)
    assert terms["temporal_smoothness"][0] == 0.3


def test_a_probe_learns_from_labelled_rows_alone(sae_training: SaeTraining) -> None:
    architecture = wanting(probe_guidance=0.2)
    stack, x = stirred(architecture, SEEDS), random_rows(3, ROWS, D_IN)
    stack.parameters["probe_W"] = random_rows(3, D_SAE, 4, seed=3)
    stack.parameters["probe_b"] = random_rows(3, 1, 4, seed=4)
    labels = torch.full((3, ROWS), -1)
    labels[0, :5] = torch.tensor([0, 1, 2, 3, 3])
    labels[1] = torch.arange(ROWS) % 4
    terms, forward = terms_of(architecture, stack, Batch(x, x, labels=labels), sae_training)
    for s in range(3):
        each = []
        for i in range(ROWS):
            if labels[s, i] >= 0:
                logits = forward.acts[s, i] @ stack.parameters["probe_W"][s] + stack.parameters["probe_b"][s, 0]
                each.append((logits.exp().sum().log() - logits[labels[s, i]]).item())
        assert terms["probe_guidance"][1][s].item() == pytest.approx(np.mean(each) if each else 0)


def test_weight_decay_and_alignment() -> None:
    for unit_norm in (True, False):
        architecture = architecture_of(
            case("topk", objectives={"weight_decay": 0.1, "encoder_decoder_alignment": 0.2}), unit_norm
        )
        stack = stirred(architecture, SEEDS)
        W_enc_T, W_dec = stack.parameters["W_enc_T"], stack.parameters["W_dec"]
        terms = weight_terms(architecture, stack)
        assert (terms["weight_decay"][0], terms["encoder_decoder_alignment"][0]) == (0.1, 0.2)
        for s in range(3):
            power = sum((W_enc_T[s, i] ** 2).sum() + (W_dec[s, i] ** 2).sum() for i in range(D_SAE)) / D_SAE
            torch.testing.assert_close(terms["weight_decay"][1][s], power)
            cosine = [torch.cosine_similarity(W_enc_T[s, i], W_dec[s, i], dim=0).item() for i in range(D_SAE)]
            assert terms["encoder_decoder_alignment"][1][s].item() == pytest.approx(1 - np.mean(cosine))
    assert weight_terms(wanting(), stack) == {}


@pytest.mark.parametrize("partner", ["nearest", "assigned"])
def test_consistency_is_the_distance_to_the_partners_in_the_group(partner: str) -> None:
    variant = case("topk", objectives={"consistency": {"partner": partner, "coefficient": 2.0, "group_size": 3}})
    architecture = architecture_of(variant)
    stack = stirred(architecture, (0, 1, 2, 3, 4, 5))
    add_objectives(variant, stack, None)  # type: ignore[arg-type]
    refresh_partners(architecture, stack)
    rows = stack.parameters["W_dec"].numpy()
    coefficient, found = weight_terms(architecture, stack)["consistency"]
    assert coefficient == 2.0
    for member in range(6):
        means = []
        for other in range(3 * (member // 3), 3 * (member // 3) + 3):
            if other != member:
                cosine = cosines(rows[member], rows[other])
                chosen = cosine.max(1) if partner == "nearest" else cosine[assign(cosine)]
                means.append(np.mean(chosen))
        assert found[member].item() == pytest.approx(1 - np.mean(means))
    if partner == "assigned":
        partners = stack.buffers["partners"]
        for latent in range(D_SAE):  # both sides name each other
            assert partners[1, 0, partners[0, 1, latent]] == latent


@pytest.mark.parametrize("partner", ["nearest", "assigned"])
def test_groups_know_nothing_of_each_other_and_both_of_a_pair_are_pulled(
    partner: str, sae_training: SaeTraining
) -> None:
    variant = case("topk", **pulled(partner))
    architecture = architecture_of(variant)
    off = sae_training.model_copy(update={"aux_k": 0})
    x = random_rows(4, ROWS, D_IN)

    def gradient(change_of_member: int | None, coefficient: float = 1.0) -> Tensor:
        chosen = pulled(partner)["objectives"]["consistency"] | {"coefficient": coefficient}
        made = architecture_of(case("topk", objectives={"consistency": chosen}))
        stack = stirred(made, (0, 1, 2, 3))
        if change_of_member is not None:
            stack.parameters["W_dec"][change_of_member] = unit(D_SAE, D_IN, seed=77).double()
        add_objectives(made.variant, stack, None)  # type: ignore[arg-type]
        refresh_partners(made, stack)
        return dense_gradients(made, off, stack, Batch(x, x), torch.zeros(4, D_SAE, dtype=torch.bool), 1).by["W_dec"]

    before, after = gradient(None), gradient(3)
    assert before[:2].equal(after[:2])
    assert not before[2].equal(after[2])
    pull = before - gradient(None, 1e-12)
    assert (pull.abs().sum((1, 2)) > 1e-3).all()
    assert len(stirred(architecture, (0, 1))) == 2


def test_no_member_of_a_pair_is_a_fixed_reference() -> None:
    """A step against the gradient of one member's term alone moves both."""
    variant = case("topk", **pulled("assigned"))
    architecture = architecture_of(variant)
    stack = stirred(architecture, (0, 1))
    add_objectives(variant, stack, None)  # type: ignore[arg-type]
    refresh_partners(architecture, stack)
    stack.parameters["W_dec"].requires_grad_(True)
    value = weight_terms(architecture, stack)["consistency"][1][0]
    (gradient,) = torch.autograd.grad(value, stack.parameters["W_dec"])
    assert (gradient.abs().sum((1, 2)) > 1e-3).all()


def test_bfloat16_takes_every_term(sae_training: SaeTraining, sequences: Activations) -> None:
    """Against float32: products are less exact, sums over many numbers are not."""
    objectives = {
        "decoder_decorrelation": 0.1, "temporal_smoothness": 0.1, "probe_guidance": 0.1, "weight_decay": 0.01,
        "encoder_decoder_alignment": 0.1,
    }  # fmt: skip
    variant = case("topk", objectives=objectives)
    feed, architecture = Feed(sequences, "mean", CPU), architecture_of(variant)
    stack = stirred(architecture, SEEDS)
    stack.parameters = {name: tensor.float() for name, tensor in stack.parameters.items()}
    add_objectives(variant, stack, feed)
    batch = feed.batch(torch.arange(3 * 64).view(3, 64), following=True)
    idle = torch.ones(3, D_SAE, dtype=torch.bool)
    low = sae_training.model_copy(update={"precision": "bfloat16"})
    one, other = (dense_gradients(architecture, t, stack, batch, idle, 1) for t in (sae_training, low))
    assert one.terms.keys() == other.terms.keys() >= set(objectives)
    for name, value in one.terms.items():
        torch.testing.assert_close(other.terms[name].float(), value, rtol=0.05, atol=0.02, msg=name)
    for name, gradient in other.by.items():
        assert gradient.dtype == torch.float32, name


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("routesae", {}, "activations", "architecture: found 'routesae' on activations of 1 hook point(s), allowed: "),
    ("topk", {}, "layers", "architecture: found 'topk' on activations of 3 hook point(s), allowed: "),
    ("transcoder", {}, "activations", "architecture: found 'transcoder' on activations without a target, allowed: "),
    ("skip_transcoder", {}, "activations", "architecture: found 'skip_transcoder' on activations without a target"),
    ("topk", {"temporal_smoothness": 1.0}, "activations", "temporal_smoothness: the activations have no `sequence`"),
    ("topk", {"probe_guidance": 1.0}, "activations", "probe_guidance: the activations have no labels, allowed: rows"),
    (
        "transcoder",
        {"encoder_decoder_alignment": 1.0},
        "pairs",
        "alignment: found d_in 16 and d_out 20, allowed: ",
    ),
    ("routesae-per_layer", {"encoder_decoder_alignment": 1.0}, "layers", "alignment: found on routesae with decoders"),
    ("routesae-per_layer", pulled("assigned")["objectives"], "layers", "consistency: found on routesae with decoders"),
]


@pytest.mark.parametrize(("name", "objectives", "rows", "sentence"), REFUSED)
def test_what_these_activations_cannot_give(
    name: str, objectives: Any, rows: str, sentence: str, request: pytest.FixtureRequest, sae_training: SaeTraining
) -> None:
    feed = Feed(request.getfixturevalue(rows), "mean", CPU)
    with pytest.raises(ReseedError, match=re.escape(sentence)):
        check_objectives(case(name, objectives=objectives), sae_training, feed, (0, 1, 2))


def test_more_refusals(
    activations: Activations, layers: Activations, sequences: Activations, sae_training: Any
) -> None:
    feed, routed, labelled = (Feed(rows, "mean", CPU) for rows in (activations, layers, sequences))
    for seeds in ((0, 1, 2), (0, 1, 2, 3), tuple(range(7))):
        with pytest.raises(ReseedError, match=f"group_size: found 2 for {len(seeds)} seeds, allowed: .*3 groups or"):
            check_objectives(case("topk", **pulled("nearest")), sae_training, feed, seeds)
    check_objectives(case("topk", **pulled("nearest")), sae_training, feed, tuple(range(6)))
    resampled = sae_training.model_copy(update={"aux_k": 0, "resample_every": 10})
    for name, rows in (("topk-archetypal", feed), ("routesae", routed)):
        with pytest.raises(ReseedError, match=r"sae\.resample_every: found with an archetypal decoder, a router"):
            check_objectives(case(name), resampled, rows, (0, 1, 2))
    free = sae_training.model_copy(update={"decoder_norm": "free"})
    with pytest.raises(ReseedError, match=r"sae\.decoder_norm: found 'free' on routesae with decoders per_layer"):
        check_objectives(case("routesae-per_layer"), free, routed, (0, 1, 2))
    routed.sequence = torch.zeros(len(routed))
    with pytest.raises(ReseedError, match="temporal_smoothness: found on routesae, allowed: an architecture of"):
        check_objectives(case("routesae", objectives={"temporal_smoothness": 1.0}), sae_training, routed, (0, 1, 2))
    assert labelled.labels is not None
    probe = case("topk", objectives={"probe_guidance": 1.0, "temporal_smoothness": 1.0})
    check_objectives(probe, sae_training, labelled, (0, 1, 2))
    labelled.labels.fill_(-1)
    with pytest.raises(ReseedError, match="probe_guidance: the activations have no labels"):
        check_objectives(probe, sae_training, labelled, (0, 1, 2))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"architecture": "topk", "k": 25}, "at most d_sae (24)"),
        ({"architecture": "topk", "k": 2, "objectives": {"sparsity": {"penalty": "l0", "coefficient": 1}}}, "no l0"),
        ({"architecture": "topk", "k": 2, "objectives": {"sparsity": {"penalty": "l1", "target_l0": 1}}}, "no l0 pen"),
        ({"architecture": "standard"}, "a penalty, without which nothing makes it sparse"),
        ({"architecture": "gated"}, "a penalty, without which nothing makes it sparse"),
        ({"architecture": "jumprelu"}, "a penalty, without which nothing makes it sparse"),
        ({"architecture": "standard", "objectives": {"sparsity": {"penalty": "l0", "target_l0": 2}}}, "l1 or tanh"),
        ({"architecture": "jumprelu", "objectives": {"sparsity": {"penalty": "l1", "target_l0": 2}}}, "l0 or tanh"),
        (
            {"architecture": "gated", "objectives": {"sparsity": {"penalty": "tanh", "target_l0": 2}}},
            "l1, which a gated",
        ),
        ({"architecture": "standard", "objectives": {"sparsity": {"penalty": "l1"}}}, "either coefficient or target"),
        (
            {
                "architecture": "standard",
                "objectives": {"sparsity": {"penalty": "l1", "coefficient": 1, "target_l0": 1}},
            },
            "either coefficient or target_l0",
        ),
        (
            {"architecture": "matryoshka", "k": 2, "widths": [8, 20]},
            "widths of which the last is d_sae (24)",
        ),
        ({"architecture": "matryoshka", "k": 2, "widths": [12, 8, 24]}, "increasing widths"),
        ({"architecture": "matryoshka", "k": 2, "widths": [0, 24]}, "increasing widths"),
        ({"architecture": "matryoshka", "k": 2, "widths": [24]}, "at least 2 items"),
        ({"architecture": "hierarchical_topk", "k": 4, "budgets": [1, 2]}, "increasing budgets of which the last is k"),
        ({"architecture": "hierarchical_topk", "k": 4, "budgets": [2, 1, 4]}, "increasing budgets"),
        (
            {"architecture": "routesae", "k": 2, "decoder": "per_layer", "routing": "soft"},
            "the shared decoder with",
        ),
        (
            {"architecture": "routesae", "k": 2, "decoder": "per_layer", "archetypal": {"points": 8, "delta": 0}},
            "the shared decoder with soft routing or an archetypal decoder",
        ),
        (
            {"architecture": "topk", "k": 2, "objectives": {"consistency": {"partner": "nearest", "coefficient": 1}}},
            "gr",
        ),
        ({"architecture": "topk", "k": 2, "objectives": {"weight_decay": -1}}, "greater than 0"),
        ({"architecture": "vanilla"}, "does not match any of the expected tags"),
    ],
)
def test_variants_that_make_no_sense(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        variant_of(**({"d_sae": D_SAE} | fields))


def test_trainings_that_make_no_sense(sae_training: SaeTraining, tolerance: Any) -> None:
    with pytest.raises(ValidationError, match=r"0 beside AuxK \(aux_k\): one of the two"):
        SaeTraining(**(sae_training.model_dump() | {"resample_every": 100}))
    with pytest.raises(ValidationError, match="as many as leave min_steps"):
        SaeTraining(**(sae_training.model_dump() | {"max_steps": 410}))
    for seeds, sentence in (((0, 1), "at least 3 seeds"), ((0, 1, 1), "every seed once"), ((-1, 0, 1), "0 or more")):
        with pytest.raises(ValidationError, match=sentence):
            Train(seeds=seeds, convergence=tolerance)


def test_labels_and_sequences_of_the_builders(sequences: Activations) -> None:
    """What the tests above take for granted."""
    feed = Feed(sequences, "mean", CPU)
    batch = feed.batch(torch.arange(2 * SEQUENCE).unsqueeze(0), following=True)
    assert batch.follows is not None
    assert (~batch.follows[0]).nonzero()[:, 0].tolist() == [SEQUENCE - 1, 2 * SEQUENCE - 1]
