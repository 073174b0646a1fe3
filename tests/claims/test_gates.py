"""Every gate fails a null and passes a positive, by its own reason; one that cannot tell them apart opens to nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reseed.claims import gates
from reseed.claims.gates import GATES, Case, Gate, rule
from tests.claims.builders import ABOVE_CONTROL, OPTIONS, PAIRS, claim, stability

PAIR = PAIRS[0]
BENCHMARK = "saebench:sparse_probing/top_1"


def figure(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def case(files: dict[str, dict[str, Any]] | None = None, **change: Any) -> Case:
    """A seed set that passes every gate."""
    content = stability({"trained": 0.9, "random_model": 0.4, "gaussian": 0.1})
    content["trained"]["recovery"] = {"gt_mcc": figure(0.95) | {"null": 0.3}}
    benchmark = figure(0.8) | {"over_random_sae": figure(0.1), "over_frozen_sae": figure(0.05)}
    found = {
        "stability": content,
        "saebench": {"sparse_probing": {"top_1": benchmark}},
        "ood": {"retained": figure(0.8), "over_null": figure(0.3)},
    }
    rival = {"verdict": "not accepted", "kappa_difference": figure(-0.3)}
    comparison = {
        "baseline": "topk-k4",
        "l0_tolerance": 0.1,
        "variants": {
            "topk-k4": {"architecture": "topk"},
            "skip": {"architecture": "skip_transcoder", "against_baseline": rival},
        },
    }
    about = claim(
        ABOVE_CONTROL, pairs=(PAIR,), benchmark=BENCHMARK, gates=("converged", "alive", *GATES.keys() - {"converged"})
    )
    whole = Case(about, PAIR, found | (files or {}), {"metrics/comparisons/c.json": comparison}, OPTIONS, 0.95)
    return replace(whole, **change)


@pytest.mark.parametrize("name", GATES)
def test_a_seed_set_that_is_what_it_should_be_passes(name: str) -> None:
    ruling = rule(name, case())
    assert ruling.outcome == "passed", ruling.reason


def without(key: str) -> Callable[[Case], Case]:
    return lambda good: good.with_file("stability", {k: v for k, v in good.stability.items() if k != key})


def alone(good: Case) -> Case:
    return replace(good, files={"stability": good.stability})


def at(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    return gates.planted(content, path, value)


def with_stability(path: str, value: Any) -> Callable[[Case], Case]:
    return lambda good: good.with_file("stability", at(good.stability, path, value))


def with_kappa(value: float) -> Callable[[Case], Case]:
    return lambda good: good.with_file("stability", gates.planted_kappa(good.stability, "pw_mcc", value))


def benchmark_at(control: str, value: float) -> Callable[[Case], Case]:
    path = f"sparse_probing/top_1/over_{control}"
    return lambda good: good.with_file("saebench", at(good.files["saebench"], path, value))


def rival_at(value: float, verdict: str = "not accepted") -> Callable[[Case], Case]:
    def change(good: Case) -> Case:
        content = good.comparisons["metrics/comparisons/c.json"]
        content = at(content, "variants/skip/against_baseline/kappa_difference", value)
        content = at(content, "variants/skip/against_baseline/verdict", verdict)
        return replace(good, comparisons={"metrics/comparisons/c.json": content})

    return change


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("converged", with_stability("trained/pw_mcc/plateau_change", 0.05), "it changed by 0.05 over the last"),
        ("converged", with_stability("trained/cosine_to_init/high", 0.96), "it was not trained"),
        ("converged", with_stability("random_model/seeds_converged", 3), "3 of 5 seeds converged"),
        ("held_out", with_stability("held_out/repeated", 0.9), "90.00% of the held-out rows stand among the training"),
        ("between_groups", with_stability("coupled_by", "consistency"), "couples its seeds, and they are scored as"),
        ("random_dictionary", with_kappa(0.0), "above the strictest null: 0.000 [-0.020, 0.020], to be above 0"),
        ("random_model", with_kappa(0.4), "less that of the random_model arm: 0.000 ["),
        ("gaussian", with_kappa(0.05), "less that of the gaussian arm: -0.050 [-0.050, -0.050], to be above 0"),
        ("benchmark", benchmark_at("random_sae", 0.0), "top_1 less that of the random_sae: 0.000 [-0.010, 0.010]"),
        ("frozen_decoder", benchmark_at("frozen_sae", -0.2), "less that of the frozen_sae: -0.200 [-0.210, -0.190]"),
        ("transcoder", rival_at(0.3), "kappa of pw_mcc less that of skip: -0.300 [-0.310, -0.290], to be above 0"),
        ("correctness", with_stability("trained/recovery/gt_mcc", 0.3), "similarity to the true features: 0.300 [0."),
    ],
)  # fmt: skip
def test_a_null_fails_for_its_own_reason(name: str, change: Callable[[Case], Case], reason: str) -> None:
    ruling = rule(name, change(case()))
    assert ruling.outcome == "failed"
    assert reason in ruling.reason


def truth(margin: float, figure_name: str = "correct") -> dict[str, Any]:
    return {"figures": {figure_name: figure(0.5) | {"margin": figure(margin) | {"over": "untrained"}}}}


def test_where_states_are_known_the_figure_must_exceed_its_strictest_null() -> None:
    """Of a claim on agreement the share of correct latents, of a claim on a figure of truth.json that figure."""
    assert rule("correctness", case({"truth": truth(0.2)})).outcome == "passed"
    refused = rule("correctness", case({"truth": truth(-0.1)}))
    assert refused.outcome == "failed"
    assert refused.reason == (
        "truth: correct less that of its strictest null (untrained): -0.100 [-0.110, -0.090], to be above 0"
    )
    about = claim(
        {"above": 0}, pairs=(PAIR,), files=(f"metrics/{PAIR}/truth.json",), statistic=None, unit="fraction",
        metric="truth:figures/coverage",
    )  # fmt: skip
    for margin, outcome in ((0.2, "passed"), (0.0, "failed")):
        good = case({"truth": truth(margin, "coverage")}, claim=about)
        assert rule("correctness", good).outcome == outcome
    lacking = rule("correctness", case({"truth": truth(0.2)}, claim=about))
    assert (lacking.outcome, lacking.reason) == (
        "not testable",
        f"metrics/{PAIR}/truth.json: it has no figures/coverage/margin: the figure stands beside no null",
    )


def test_two_bad_numbers_are_no_small_difference_out_of_distribution() -> None:
    """As bad out of distribution as an untrained SAE, whatever share of a small gain is kept."""
    ruling = rule("ood", case({"ood": {"retained": figure(0.99), "over_null": figure(0.0)}}))
    assert (ruling.outcome, ruling.reason.partition(":")[0]) == (
        "failed",
        "explained variance out of distribution less that of an untrained SAE there",
    )
    assert rule("ood", case({"ood": {"retained": figure(0.2), "over_null": figure(0.3)}})).outcome == "failed"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("held_out", without("held_out"),
         "does not say how many held-out rows repeat"),
        ("benchmark", alone, "saebench.json is not among its"),
        ("benchmark", lambda good: good.with_file("saebench", at(good.files["saebench"], "sparse_probing/may_gate", 0)),
         "sparse_probing is not marked as one that may gate"),
        ("ood", alone, "ood.json is not among its evidence"),
        ("transcoder", lambda good: replace(good, comparisons={}), "no comparison among its evidence"),
        ("transcoder", rival_at(-0.3, "not comparable"), "equal L0, steps and convergence are needed"),
        ("correctness", lambda good: good.with_file("stability", stability({"trained": 0.9})), "are not known"),
    ],
)  # fmt: skip
def test_without_its_evidence_a_gate_is_not_testable(name: str, change: Callable[[Case], Case], reason: str) -> None:
    ruling = rule(name, change(case()))
    assert ruling.outcome == "not testable"
    assert reason in ruling.reason


def test_a_gate_that_cannot_fail_a_null_opens_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the prior system's: passed for ever by a fixed number."""
    open_gate = Gate(lambda _: ("passed", "6.2e-5 is above 0"), lambda case: case, lambda case: case, True)
    monkeypatch.setitem(GATES, "random_dictionary", open_gate)
    ruling = rule("random_dictionary", case())
    assert (ruling.outcome, ruling.reason) == ("not testable", "the gate passes a planted null (6.2e-5 is above 0)")


def test_a_gate_that_cannot_pass_a_positive_says_so() -> None:
    """Structurally unsatisfiable: with this spread over seeds not even the best value would pass."""
    wide = stability({"trained": 0.9, "random_model": 0.4, "gaussian": 0.1}, spread=0.6)
    ruling = rule("random_dictionary", case({"stability": wide}))
    assert ruling.outcome == "not testable"
    assert ruling.reason.startswith(
        "the gate does not pass a planted positive (kappa of pw_mcc above the strictest null"
    )


def test_the_word_converged_beside_numbers_that_are_not_is_not_believed() -> None:
    lying = at(stability({"trained": 0.9, "random_model": 0.4, "gaussian": 0.1}), "trained/pw_mcc/plateau_change", 0.08)
    assert lying["trained"]["pw_mcc"]["converged"] == 1
    assert rule("converged", case({"stability": lying})).outcome == "failed"
