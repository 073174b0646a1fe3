"""The protocol on a world whose causal directions are known: what must pass passes, what must fail fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE

import reseed.interventions.latents as latents_room
from reseed import ReseedError
from reseed.interventions.concepts import Concept, concepts_of, traced_variables
from reseed.interventions.edits import ablate, clamp, interchange_latent, interchange_subspace, steer
from reseed.interventions.hooks import Continuation
from reseed.interventions.latents import Candidates, check_drawing
from reseed.interventions.protocol import (
    EDITS,
    LATENT,
    Bench,
    Ground,
    Response,
    _unmatched,
    bench,
    factors_at,
    ground,
    judges_of,
    measure,
    read_outs_of,
    respond,
    scale_to_kl,
)
from reseed.interventions.readouts import expected_calibration_error, fit_linear
from reseed.interventions.report import causal_summary, p_above_zero
from reseed.interventions.run import SeedSaes, about_read_outs, run_protocol
from reseed.stability.jackknife import Estimate, Groups
from tests.interventions.builders import (
    BITS,
    GAIN,
    HOOK,
    axes,
    options,
    random_sae,
    reading_sae,
    true_sae,
    world,
)

SEEDS = 10


@cache
def known(hook_name: str = HOOK) -> Ground:
    model, traces = world()
    rows = torch.arange(2000), torch.arange(1000)
    return ground(model, traces, hook_name, rows, decoder=hook_name == HOOK)


def concepts() -> list[Concept]:
    return concepts_of(*traced_variables(known().traces), options(), "world")


def judged(
    make: Callable[[int], SAE[Any]],
    seeds: int,
    some: list[Concept],
    alive: Callable[[SAE[Any]], Any] = lambda _: None,
    **fields: object,
) -> dict[str, Any]:
    """causal.json of so many seeds of an SAE, with random SAEs for its null SAEs."""
    x = known().train.residual
    saes = []
    for seed in range(seeds):
        sae = make(seed)
        others = {
            name: Candidates.of(random_sae(10 * seed + i), x)
            for i, name in enumerate(("frozen_sae", "random_model_sae", "untrained_sae"))
        }
        saes.append(SeedSaes(seed, Candidates.of(sae, x, alive(sae)), others))
    bar: Any = SimpleNamespace(update=lambda: None)
    found = run_protocol(known(), some, saes, options(**fields), "world", bar)
    return causal_summary(*found, Groups(seeds), 0.95)


@cache
def of_true_saes() -> dict[str, Any]:
    return judged(true_sae, SEEDS, concepts())


def bench_of(name: str) -> Bench:
    concept = next(one for one in concepts() if one.name == name)
    return bench(known(), concept, read_outs_of(known(), concept), [], options(), "world")


def test_a_true_direction_passes_as_predicted() -> None:
    found = of_true_saes()
    for bit in range(BITS):
        one = found["concepts"][f"bit_{bit}=1"]
        assert one["passes"] == 1, one
        assert one["read_out"] == "output and decoder"
        assert one["latents"] == [bit] * SEEDS
        assert one["slope"]["value"] == pytest.approx(1, abs=0.2)
        assert one["intercept"]["value"] == pytest.approx(0, abs=0.1)
        assert one["calibration_error"]["value"] < 0.05
        assert one["monotone"]["value"] == 1
        assert one["specificity"]["value"] > 0.9
        assert one["specificity_random_latent"]["value"] < 0.8
        assert one["accuracy_kept"]["value"] > 0.99
        assert 0.3 < one["accuracy"]["value"] < 0.7
        assert one["accuracy_kept_random_latent"]["value"] > 0.99
        assert one["monotone_random_latent"]["value"] < 0.9
        assert one["calibration_error_random_latent"]["value"] < 0.3  # nothing is predicted of another bit's
        assert set(one["p_by_read_out"]) == {"output", "decoder"}
        assert max(one["p_by_read_out"].values()) <= one["p"]
        assert one["clamp_random_latent"]["value"] < one["clamp"]["value"]
        # sigma times the mean of the doses, in log-odds: 2 GAIN of the latent's own unit
        sigma = one["sigma"]["value"]
        assert one["effect_at_equal_norm"][LATENT]["value"] == pytest.approx(1.55 * sigma * 2 * GAIN, rel=0.05)
        # a number of 1.5 is taken away: 2 GAIN times it in log-odds
        assert one["ablation"]["value"] == pytest.approx(1.5 * 2 * GAIN, rel=0.05)
        assert one["clamp"]["value"] > 1
        assert one["interchange"]["value"] > 4 * abs(one["interchange_random"]["value"])
        assert one["interchange_das_1"]["value"] > 0.8 * one["interchange"]["value"]
        # other bits move the output as much at equal KL divergence, and this bit not at all
        assert one["edits_kl_unmatched"]["value"] < 0.2
        assert max(one[f"{edit}_p"] for edit in EDITS) < 0.05
        for edit in EDITS:
            assert abs(one[f"{edit}_random_latent_kl"]["value"]) < 0.5 * one[edit]["value"]
    assert found["sign_p_floor"] == 1 / 1024
    assert found["sign_p_floor_holm"] == 7 / 1024
    assert found["null_saes"] == {LATENT: BITS, "frozen_sae": 0, "random_model_sae": 0, "untrained_sae": 0}


def test_five_seeds_and_two_draws_show_an_effect_over_all_concepts_though_of_none_alone() -> None:
    """As many as params.yaml has: against null SAEs that differ from seed to seed, seven corrected p are too many."""
    found = judged(true_sae, 5, concepts(), draws=2)
    assert found["mean"]["passes"] == 1
    assert found["mean"]["p"] < 0.01
    assert found["passed"] == 0
    assert 0.05 < found["concepts"]["bit_0=1"]["p_holm"] < 0.1
    # what the labels find passes by the rule of the null SAEs
    assert found["references"]["difference_of_means"] == BITS
    assert found["null_saes"] == {LATENT: BITS, "frozen_sae": 0, "random_model_sae": 0, "untrained_sae": 0}


def test_a_direction_that_only_the_skip_connection_carries_does_not_pass() -> None:
    one = of_true_saes()["concepts"]["idle=yes"]
    assert one["read_out"] == "decoder"
    assert one["auc"]["decoder"] > 0.99
    assert one["passes"] == 0
    # the decoder itself would see the edit: what is subtracted is not small
    a = bench_of("idle=yes")
    edited = a.rest.residual[None] + 3 * axes()[2 * BITS]
    _, final = a.rest(edited, final=True)
    assert final is not None
    assert (a.read_out(final[0], final[0]) - a.read_out(final[0], a.clean_final)).mean() > 1
    assert respond(a, edited).change.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("make", "alive"),
    [
        pytest.param(reading_sae, lambda _: None, id="reads the states, moves none"),
        pytest.param(random_sae, lambda _: None, id="random directions"),
        pytest.param(true_sae, lambda sae: np.zeros(sae.cfg.d_sae, bool), id="every latent dead"),
        pytest.param(true_sae, lambda sae: np.arange(sae.cfg.d_sae) >= BITS, id="the true latents dead"),
    ],
)
def test_null_saes_and_dead_latents_fail(make: Callable[[int], SAE[Any]], alive: Callable[[SAE[Any]], Any]) -> None:
    found = judged(make, 5, concepts()[:2], alive)
    assert found["passed"] == 0
    assert found["judged"] == 2
    assert found["null_saes"]["latent"] == 0
    assert found["mean"]["passes"] == 0
    p = [one[f"{edit}_p"] for one in found["concepts"].values() for edit in EDITS if f"{edit}_p" in one]
    assert min(p, default=1.0) > 0.05


def test_the_edits_are_what_they_are_called() -> None:
    sae, x = true_sae(0), known().train.residual[:50]
    acts = sae.encode(x)
    error = x - sae.decode(acts)
    for edit, expected in (
        (ablate(sae, 1), torch.zeros(50)),
        (clamp(sae, 1, 2.5), torch.full((50,), 2.5)),
        (interchange_latent(sae, 1, x.flip(0)), acts.flip(0)[:, 1]),
    ):
        wanted = acts.clone()
        wanted[:, 1] = expected
        torch.testing.assert_close(edit(x), sae.decode(wanted) + error)  # the error term stays
    amount = torch.arange(50.0)
    torch.testing.assert_close(steer(sae.W_dec[1], amount)(x), x + amount[:, None] * sae.W_dec[1])
    basis = axes()[:2]
    patched = interchange_subspace(basis, x.flip(0))(x)
    torch.testing.assert_close(patched @ basis.T, x.flip(0) @ basis.T)
    torch.testing.assert_close(patched @ axes()[2:].T, x @ axes()[2:].T)


def test_controls_are_scaled_to_the_divergence_that_is_asked_for() -> None:
    a = bench_of("bit_0=1")
    directions = torch.cat([axes()[:2], axes()[:1] + axes()[1:2]])
    asked = 0.05
    factors = scale_to_kl(a, directions, 0.7, asked)
    steps = torch.stack([sign * 0.7 * factors[:, None] * directions for sign in (-1.0, 1.0)], dim=1).flatten(0, 1)
    kl = respond(a, a.rest.residual[None] + steps[:, None]).kl.unflatten(0, (3, 2)).mean(1)
    np.testing.assert_allclose(kl.numpy(), asked, rtol=0.03)
    # in closed form: bit 0 alone is moved, from log-odds 2 GAIN c by 2 GAIN step
    before = torch.sigmoid(2 * GAIN * (a.rest.residual @ axes()[0]).double())
    sides = []
    for sign in (-1.0, 1.0):
        after = torch.sigmoid(torch.logit(before) + 2 * GAIN * sign * 0.7 * float(factors[0]))
        sides.append((before * (before / after).log() + (1 - before) * ((1 - before) / (1 - after)).log()).mean())
    assert float(sum(sides) / 2) == pytest.approx(asked, rel=0.03)


def test_alignment_search_finds_the_causal_direction() -> None:
    a = bench_of("bit_2=1")
    # as far as 128 rows with drawn labels tell it; a random direction has a cosine of 0.14
    assert float(a.bases[1][0] @ axes()[2]) > 0.7
    torch.testing.assert_close(a.bases[2] @ a.bases[2].T, torch.eye(2), atol=1e-5, rtol=0)


def test_at_the_last_residual_stream_only_the_output_is_read() -> None:
    last = known("blocks.1.hook_resid_post")
    assert about_read_outs(last)["decoder"].startswith("refused: blocks.1.hook_resid_post is the last residual stream")
    assert "decoder" in about_read_outs(known())
    kinds = {one.name: [each.kind for each in read_outs_of(last, one)] for one in concepts()}
    assert all(found == ["output"] for found in kinds.values())
    idle = next(one for one in concepts() if one.variable == "idle")
    assert not judges_of(read_outs_of(last, idle), options())  # the output does not tell it: never judged
    bar: Any = SimpleNamespace(update=lambda: None)
    with pytest.raises(ReseedError, match=r"no read-out .* tells any of idle=yes from unedited test rows"):
        run_protocol(last, [idle], [], options(), "world", bar)


def test_the_probe_and_the_calibration_error_in_closed_form() -> None:
    on = known().traces.rows("train")[:2000, 0] == 1
    probe = fit_linear(known().train.residual, on)
    assert float(probe.weights @ axes()[0]) == pytest.approx(2 * GAIN, rel=0.1)
    predicted, observed = np.array([0.05, 0.15, 0.15, 0.95]), np.array([0.05, 0.35, 0.15, 0.75])
    assert expected_calibration_error(predicted, observed) == pytest.approx((0 + 2 * 0.1 + 0.2) / 4)
    assert expected_calibration_error(predicted, predicted) == 0


def test_concepts_take_turns_and_need_rows_on_either_side() -> None:
    first = torch.tensor([0, 1, 2, 3] * 10)
    states = {"a": dict.fromkeys(("train", "test"), first), "b": dict.fromkeys(("train", "test"), (first == 0).long())}
    states["c"] = {"train": first, "test": torch.zeros(40, dtype=torch.long)}
    values = {"a": ("p", "q", "r", "s"), "b": ("no", "yes"), "c": ("p", "q", "r", "s")}
    found = concepts_of(states, values, options(concepts=4), "world")
    assert [one.name for one in found] == ["a=p", "b=yes", "a=q", "a=r"]  # c cannot be tested: one side has no rows
    states["a"]["test"] = torch.where(first == 0, -1, first)
    assert concepts_of(states, values, options(concepts=9), "world")[0].name == "a=q"  # p has no test row any more
    with pytest.raises(ReseedError, match=r"no value of c is on in more than 0.05 of the training rows and 8 "):
        concepts_of({"c": states["c"]}, values, options(), "world")


def test_a_divergence_of_zero_is_matched_by_nothing() -> None:
    directions = torch.eye(3)
    for kl, share in (([0, 0, 0, 0, 0, 0], 1), ([1, 1, 1, 1, 1, 1], 0), ([1, 1, 1, 1, 2, 2], 0.5)):
        nothing = torch.zeros(6, 1)
        found = Response(nothing[:, None], torch.tensor(kl, dtype=torch.float32), nothing[:, 0], nothing > 0)
        assert _unmatched(found, directions) == share


def test_seeds_that_do_not_differ_say_nothing_of_others() -> None:
    assert p_above_zero(Estimate(1.0, (1.0,) * 5)) == 1
    assert p_above_zero(Estimate(1.0, (0.9, 1.1, 1.0, 0.95, 1.05))) < 0.01
    assert p_above_zero(Estimate(-1.0, (-0.9, -1.1, -1.0, -0.95, -1.05))) > 0.99


def test_a_seed_without_a_latent_moves_nothing() -> None:
    sae = true_sae(0)
    trained = Candidates.of(sae, known().train.residual)
    nothing = measure(bench_of("bit_0=1"), None, trained, {}, options(), "world")
    assert set(nothing.effect["norm"].values()) == {0.0}
    on = known().traces.rows("train")[:2000, 0] == 1
    everything = torch.ones(2000, dtype=torch.bool)
    best = trained.best(on, everything)
    assert best is not None
    assert best.latent == 0
    acts = trained.acts[:, 0]
    assert best.correlation == pytest.approx(np.corrcoef(acts, on.numpy())[0, 1])
    assert best.sigma == pytest.approx(acts.std())
    assert replace(trained, alive=np.zeros(len(trained.alive), bool)).best(on, everything) is None


def test_factors_bring_a_rising_function_to_its_target() -> None:
    scales = torch.tensor([0.5, 1.0, 4.0])
    found = factors_at(lambda factors: scales * factors**2, 3, 2.0)
    assert found.tolist() == pytest.approx([2.0, 2**0.5, 2**-0.5], rel=0.02)


def test_a_control_at_equal_divergence_has_the_divergence_of_the_latents_edit() -> None:
    """Of a clamp, done again by hand: along another bit by the factor of that bisection, the KL is the latent's."""
    made, sae = bench_of("bit_0=1"), true_sae(0)
    residual = made.rest.residual
    own = respond(made, clamp(sae, 0, 2.0)(residual)[None])
    moved = clamp(sae, 0, 2.0, sae.W_dec[1])(residual) - residual

    def kl(factors: torch.Tensor) -> torch.Tensor:
        return respond(made, residual + factors[:, None, None] * moved).kl

    with torch.no_grad():
        factor = factors_at(kl, 1, float(own.kl[0]))
        assert float(kl(factor)[0]) == pytest.approx(float(own.kl[0]), rel=0.03)


def test_a_projection_on_rows_that_are_not_orthonormal_is_refused() -> None:
    """Unit rows that lie near each other: their B^T B has a gain above one."""
    oblique = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.2, 0.0]]), dim=1)
    assert torch.linalg.matrix_norm(oblique.T @ oblique, 2) > 1.9
    with pytest.raises(ReseedError, match=r"off those of orthonormal ones by 0\.981, allowed: at most 0\.0001"):
        interchange_subspace(oblique, torch.zeros(3))
    interchange_subspace(torch.linalg.qr(oblique.T).Q.T, torch.zeros(3))


def test_an_effect_without_its_random_control_is_refused() -> None:
    one = [concept for concept in concepts() if concept.name == "bit_0=1"]
    found = known()
    (bit,) = one
    made = bench(found, bit, read_outs_of(found, bit), [], options(), "world")
    sae = Candidates.of(true_sae(0), found.train.residual)
    on = bit.labels["train"][found.train_rows] == 1
    others = dict.fromkeys(("frozen_sae", "random_model_sae", "untrained_sae"))
    measured = [measure(made, sae.best(on, on | ~on), sae, others, options(), f"world/{seed}") for seed in range(3)]
    assert causal_summary({bit.name: made}, {bit.name: measured}, {}, Groups(3), 0.95)["judged"] == 1
    for each in measured:
        del each.effect["norm"]["random_direction"]
    with pytest.raises(ReseedError, match=r"bit_0=1: the effect at equal norm stands without 'random_direction'"):
        causal_summary({bit.name: made}, {bit.name: measured}, {}, Groups(3), 0.95)


def test_random_latents_are_drawn_without_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    check_drawing()
    monkeypatch.setattr(latents_room, "drawn", lambda among, draws, _: [int(among[0])] * draws)
    with pytest.raises(ReseedError, match=r"10 of them are drawn \[1000, 0, .*, allowed: each about 100 times"):
        check_drawing()


def test_edits_too_small_to_be_felt_are_no_fault() -> None:
    """Of a latent that hardly ever fires: its standard deviation is lost to rounding, and it moves nothing."""
    made, sae = bench_of("bit_0=1"), Candidates.of(true_sae(0), known().train.residual)
    on = made.concept.labels["train"][known().train_rows] == 1
    chosen = sae.best(on, on | ~on)
    assert chosen is not None
    others = dict.fromkeys(("frozen_sae", "random_model_sae", "untrained_sae"))
    found = measure(made, replace(chosen, sigma=1e-12), sae, others, options(), "world/0")
    assert found.effect["norm"][LATENT] == 0
    assert found.figures["kl"] == 0


def test_edits_that_edit_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Continuation.__call__
    monkeypatch.setattr(
        Continuation, "__call__", lambda self, edited, final=False: real(self, 0 * edited + self.residual, final)
    )
    with pytest.raises(ReseedError, match=r"bit_0=1: the output is the same, bit for bit, after every edit"):
        judged(true_sae, 3, [one for one in concepts() if one.name == "bit_0=1"])
