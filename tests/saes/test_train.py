"""The trainer on activations with a known dictionary: it finds it, every seed by itself, and says when it did not."""

from __future__ import annotations

import shutil
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from reseed.activations.store import Activations
from reseed.matching import assign, cosines
from reseed.params import Convergence, SaeTraining, Variant
from reseed.saes.architectures import Batch
from reseed.saes.rows import Feed
from reseed.saes.run import TrainedSae
from reseed.saes.step import Scratch, dense_gradients, resample, sparse_gradients
from reseed.saes.train import architecture_of, initial_weights, one_step, start, train_saes
from tests.conftest import train_of, variant_of
from tests.saes.builders import ARCHITECTURES, CASES, case, pulled, shortened, stirred
from tests.saes.builders import architecture_of as built
from tests.saes.conftest import Source

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
        assert recovery(sae, features) > 0.85  # independent unit rows of this shape match at 0.48 at most
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


def test_one_thread_or_two_give_the_same_bytes(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = sae_training.model_copy(update={"max_steps": 200, "min_steps": 100})
    torch.set_num_threads(2)
    used, made = [], []
    for size in (1 << 60, 0):  # every step is small; none is
        monkeypatch.setattr("reseed.saes.train.SMALL_STEP", size)
        log = lambda *_: used.append(torch.get_num_threads())  # noqa: E731
        made.append(train_saes(variant(), training, train_of((0, 1, 2), tolerance), activations, CPU, log=log))
        assert torch.get_num_threads() == 2
    assert used == [1] * (len(used) // 2) + [2] * (len(used) // 2)
    for small, large in zip(*made, strict=True):
        assert all(torch.equal(tensor, large.weights[name]) for name, tensor in small.weights.items())


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


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_a_check_by_the_latents_that_are_on_gives_what_one_by_all_of_them_gives(
    architecture: Literal["topk", "batchtopk"],
    activations: Activations,
    sae_training: SaeTraining,
    tolerance: Convergence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = sae_training.model_copy(update={"max_steps": 200, "min_steps": 100})
    by_few = train_saes(variant(architecture), short, train_of((0, 1, 2), tolerance), activations, CPU)
    monkeypatch.setattr("reseed.saes.train.is_sparse", lambda *_: False)
    by_all = train_saes(variant(architecture), short, train_of((0, 1, 2), tolerance), activations, CPU)
    for few, whole in zip(by_few, by_all, strict=True):
        assert few.weights["W_dec"].equal(whole.weights["W_dec"])
        assert (few.firing_counts - whole.firing_counts).abs().max() <= 2
        assert len(few.curve) > 3
        for one, other in zip(few.curve, whole.curve, strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


def test_every_check_is_logged_with_its_terms(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    brief = shortened(sae_training, 6, check_every=2)
    saes = train_saes(
        variant(), brief, train_of((4, 1), tolerance), activations, CPU, log=lambda *row: logged.append(row)
    )
    assert [seed for seed, _ in logged] == [4, 1] * 3
    assert [row for seed, row in logged if seed == 1] == saes[1].curve
    # the mean of two steps, against the same two steps taken by hand
    feed = Feed(activations, "mean", CPU)
    architecture = architecture_of(variant(), brief, feed)
    run = start(architecture, brief, train_of((4, 1), tolerance), feed, (2,))
    values = []
    for _ in range(2):
        run.step += 1
        before = {name: value.clone() for name, value in run.sums.items()}
        one_step(architecture, brief, run, feed)
        values.append({name: value - before.get(name, 0) for name, value in run.sums.items()})
    for i, sae in enumerate(saes):
        for name in ("loss/reconstruction", "gradient_norm"):
            mean = (values[0][name][i] + values[1][name][i]).item() / 2
            assert sae.curve[0][name] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_decoder_norms_are_one_or_free(
    name: str, source: Source, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    chosen = case(name)
    for kind in ("unit", "free"):
        training = shortened(sae_training, 30, decoder_norm=kind)
        feed = Feed(source(chosen), "mean", CPU)
        architecture = architecture_of(chosen, training, feed)
        run = start(architecture, training, train_of((0, 1), tolerance), feed, (getattr(chosen, "k", 0),))
        for _ in range(30):
            run.step += 1
            one_step(architecture, training, run, feed)
        off = (run.stack.parameters["W_dec"].norm(dim=-1) - 1).abs()
        assert off.max() < 1e-5 if kind == "unit" else off.max() > 0.02
        for name_, tensor in run.stack.parameters.items():
            assert tensor.dtype == torch.float32, name_


@pytest.mark.parametrize("name", ["topk", "batchtopk"])
@pytest.mark.parametrize("ks", [(2, 2, 2), (1, 2, 3)])
def test_the_sparse_step_has_the_gradients_of_the_dense_one(
    name: str, ks: tuple[int, ...], sae_training: SaeTraining
) -> None:
    objectives = {
        "decoder_decorrelation": 0.1, "weight_decay": 0.01, "encoder_decoder_alignment": 0.1,
        "consistency": {"partner": "nearest", "coefficient": 0.5, "group_size": 3},
    }  # fmt: skip
    architecture = built(case(name, objectives=objectives))
    stack = stirred(architecture, (0, 1, 2), ks)
    stack.parameters = {key: tensor.float() for key, tensor in stack.parameters.items()}
    stack.parameters["b_enc"][:2, 0, [1, 4, 7]] -= 3
    idle = torch.zeros(3, 24, dtype=torch.bool)
    idle[:, [1, 4, 7]] = True
    x = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(2))
    training = sae_training.model_copy(update={"aux_k": 2, "aux_coefficient": 0.5})
    sparse = sparse_gradients(architecture, training, stack, Batch(x, x), idle, Scratch())
    dense = dense_gradients(architecture, training, stack, Batch(x, x), idle, 1)
    assert sparse.fired.equal(dense.fired)
    assert (idle & ~sparse.fired).any()
    torch.testing.assert_close(sparse.l0.float(), dense.l0.float())
    assert sparse.terms.keys() == dense.terms.keys() >= {"aux_k", "consistency"}
    for key, value in dense.terms.items():
        torch.testing.assert_close(sparse.terms[key], value, rtol=1e-4, atol=1e-5, msg=key)
    for key, gradient in dense.by.items():
        torch.testing.assert_close(sparse.by[key], gradient, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", ["topk", "batchtopk", "jumprelu", "gated", "skip_transcoder", "routesae"])
def test_bfloat16_products_stay_close_and_weights_stay_float32(
    name: str, source: Source, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    chosen, train = case(name), train_of((0,), tolerance)
    one, other = (
        train_saes(chosen, shortened(sae_training, 60, precision=precision), train, source(chosen), CPU)[0]
        for precision in ("float32", "bfloat16")
    )
    assert {tensor.dtype for tensor in other.weights.values()} == {torch.float32}
    assert not one.weights["W_enc"].equal(other.weights["W_enc"])
    cosine = torch.cosine_similarity(one.weights["W_dec"], other.weights["W_dec"], dim=-1)
    assert cosine.mean() > 0.93  # what is selected near a tie differs, and training goes on from there
    assert other.curve[-1]["unexplained_variance"] == pytest.approx(one.curve[-1]["unexplained_variance"], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["jumprelu", *(pytest.param(name, marks=pytest.mark.weekly) for name in ("matryoshka", "hierarchical_topk"))],
)
def test_a_compiled_step_does_the_same(
    name: str, source: Source, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("torch.compile needs a C compiler")
    chosen, train = case(name), train_of((0, 1), tolerance)
    plain, fast = (
        train_saes(chosen, shortened(sae_training, 8, compile=compiled), train, source(chosen), CPU)
        for compiled in (False, True)
    )
    for one, other in zip(plain, fast, strict=True):
        for key, tensor in one.weights.items():
            torch.testing.assert_close(other.weights[key], tensor, rtol=1e-3, atol=1e-4, msg=key)
        for key, value in one.curve[-1].items():
            assert other.curve[-1][key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


def test_resampling_points_dead_latents_at_what_is_badly_reconstructed(sae_training: SaeTraining) -> None:
    architecture = built(case("topk"))
    stack = stirred(architecture, (0, 1))
    x = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x[0, 7] *= 50  # nearly all of the squared loss of member 0
    found = dense_gradients(architecture, sae_training, stack, Batch(x, x), torch.zeros(2, 24, dtype=torch.bool), 1)
    moments = {key: (torch.ones_like(p), torch.ones_like(p)) for key, p in stack.parameters.items()}
    before = {key: tensor.clone() for key, tensor in stack.parameters.items()}
    dead = torch.zeros(2, 24, dtype=torch.bool)
    dead[0, [3, 5]] = True
    assert (
        resample(architecture, stack, moments, dead, found, [torch.Generator().manual_seed(i) for i in range(2)]) == 2
    )
    p = stack.parameters
    expected = found.residual[0, 7] / found.residual[0, 7].norm()
    length = before["W_enc_T"][0][~dead[0]].norm(dim=-1).mean()
    for latent in (3, 5):
        torch.testing.assert_close(p["W_dec"][0, latent], expected)
        torch.testing.assert_close(p["W_enc_T"][0, latent], length * expected)
        assert p["b_enc"][0, 0, latent] == 0
    for key, tensor in p.items():
        flat = dead if key != "b_enc" else dead.unsqueeze(1)
        if key == "b_dec":
            assert tensor.equal(before[key])
            continue
        assert tensor[~flat].equal(before[key][~flat]), key
        for moment in moments[key]:
            assert moment[flat].abs().max() == 0
            assert (moment[~flat] == 1).all()
    # nothing to point at while all are dead, nothing to do while none is
    assert resample(architecture, stack, moments, torch.ones_like(dead), found, [torch.Generator()] * 2) == 0
    assert resample(architecture, stack, moments, torch.zeros_like(dead), found, [torch.Generator()] * 2) == 0


@pytest.mark.parametrize("name", ["standard", "topk"])
def test_resampling_revives_dead_latents(
    name: str, activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    penalty = {"objectives": {"sparsity": {"penalty": "l1", "coefficient": 3.0}}}
    wide = case(name, d_sae=96, **(penalty if name == "standard" else {"k": 3}))
    fired = {}
    for every in (0, 50):
        training = shortened(sae_training, 420, aux_k=0, dead_after_steps=20, resample_every=every, lr=0.03)
        sae = train_saes(wide, training, train_of((0,), tolerance), activations, CPU)[0]
        fired[every] = int((sae.firing_counts > 0).sum())
    assert fired[0] < 32  # little more than the 24 features, as nothing else is there to find
    assert fired[50] > 1.5 * fired[0]


@pytest.mark.parametrize(("name", "vary"), [*((name, "both") for name in CASES), ("topk", "order")])
def test_initial_weights_are_where_a_seed_began(
    name: str, vary: str, source: Source, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    chosen, train = case(name), train_of((0, 7), tolerance, vary=vary)
    found = initial_weights(chosen, sae_training, train, 7, source(chosen))
    sae = train_saes(chosen, shortened(sae_training, 1), train, source(chosen), CPU)[1]
    assert found.keys() == sae.weights.keys()
    assert found["W_dec"].flatten(0, -2).equal(sae.snapshots[0][0])
    other = initial_weights(chosen, sae_training, train, 0, source(chosen))
    assert found["W_dec"].equal(other["W_dec"]) == (vary == "order")


def test_initial_weights_of_a_group(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    chosen, train = case("topk", **pulled("assigned")), train_of(tuple(range(6)), tolerance)
    found = initial_weights(chosen, sae_training, train, 3, activations)
    sae = train_saes(chosen, shortened(sae_training, 1), train, activations, CPU)[3]
    assert found["W_dec"].equal(sae.snapshots[0][0])


def test_the_held_out_figures_do_not_depend_on_who_else_trains(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    """A batch selection over more rows at once, as fewer members leave room for, would give others."""
    training = shortened(sae_training, 4)
    together = train_saes(variant("batchtopk"), training, train_of(tuple(range(40)), tolerance), activations, CPU)
    alone = train_saes(variant("batchtopk"), training, train_of((5,), tolerance), activations, CPU)[0]
    for key, value in alone.curve[-1].items():
        assert together[5].curve[-1][key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    feed = Feed(activations, "mean", CPU)
    architecture = architecture_of(variant("batchtopk"), training, feed)
    stack = start(architecture, training, train_of((5,), tolerance), feed, (2,)).stack
    acts = [architecture.forward(stack, Batch(x, x)).acts for x in feed.held_out.x.split(training.batch_size, 1)]
    assert [(a > 0).sum().item() for a in acts] == [2 * training.batch_size] * 4
