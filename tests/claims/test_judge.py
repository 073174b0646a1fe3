"""The judge is seen to support what was planted, to refuse a null, and to say when it cannot tell."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reseed import ReseedError
from reseed.claims import judge as module
from reseed.claims.judge import judge
from tests.claims.builders import (
    ABOVE_CONTROL,
    ABOVE_NULL,
    OPTIONS,
    PAIRS,
    PATHS,
    claim,
    deleted,
    evidence,
    stability,
)

FALLS = {"figure": "trained", "over": "log2_k", "below": 0}
FALLS_FASTER = {"figure": "trained - random_model", "over": "log2_k", "below": 0}


def test_a_planted_positive_is_supported() -> None:
    verdict = judge(claim(ABOVE_NULL), evidence(), OPTIONS)
    assert (verdict["verdict"], verdict["tests_held"]) == ("supported", 4)
    assert judge(claim(FALLS, FALLS_FASTER), evidence(), OPTIONS)["verdict"] == "supported"


def test_a_null_is_not_supported() -> None:
    null = evidence(trained=(0.001, -0.002, 0.0, 0.003), control=(0.0, 0.001, -0.001, 0.002), common=False)
    for test in (ABOVE_NULL, ABOVE_CONTROL, FALLS, FALLS_FASTER):
        verdict = judge(claim(test), null, OPTIONS)
        assert verdict["verdict"] == "not supported"
        assert {outcome["outcome"] for outcome in verdict["tests"]} == {"unresolved"}


def test_an_effect_in_the_other_direction_is_called_refuted() -> None:
    verdict = judge(claim(ABOVE_CONTROL), evidence(), OPTIONS)
    assert verdict["verdict"] == "not supported"
    assert [outcome["outcome"] for outcome in verdict["tests"]] == ["holds", "holds", "refuted", "refuted"]
    assert "topk-k32: -0.300 [" in verdict["reasons"][3]
    assert verdict["reasons"][3].endswith("to be above 0: refuted")


def test_the_slope_is_the_least_squares_slope_per_doubling_with_its_jackknife_interval() -> None:
    values = (0.9, 0.75, 0.5, 0.35)
    outcome = judge(claim(FALLS), evidence(trained=values), OPTIONS)["tests"][0]
    assert outcome["value"] == pytest.approx(stats.linregress([2, 3, 4, 5], values).slope)
    slopes = [
        stats.linregress([2, 3, 4, 5], [deleted(v, 0.005, shift=i)[s] for i, v in enumerate(values)]).slope
        for s in range(5)
    ]
    error = np.sqrt(4 / 5 * np.sum((np.array(slopes) - np.mean(slopes)) ** 2))
    assert outcome["high"] - outcome["value"] == pytest.approx(stats.t.ppf(0.975, 4) * error)


def test_a_difference_leaves_the_same_seed_out_of_both_arms() -> None:
    same = evidence(trained=(0.6,) * 4, control=(0.5,) * 4, spread=0.2)
    verdict = judge(claim(ABOVE_CONTROL), same, OPTIONS)
    assert verdict["verdict"] == "supported"  # the spread is common to both arms and cancels
    assert judge(claim(ABOVE_NULL), same, OPTIONS)["verdict"] == "not supported"


def change(content: dict[str, Any], where: str, value: Any) -> None:
    *parents, last = where.split(".")
    place: Any = content
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        (
            "trained.pw_mcc.converged",
            0,
            "modular/topk-k8: converged: pw_mcc of the trained arm is not converged (5 of 5",
        ),
        ("random_model.pw_mcc.converged", 0, "modular/topk-k8: converged: pw_mcc of the random_model arm is not conv"),
        ("random_model.seeds_converged", 4, "converged: pw_mcc of the random_model arm is not converged (4 of 5 seeds"),
        ("trained.pw_mcc.plateau_change", 0.2, "it changed by 0.2 over the last doubling of steps"),
        (
            "trained.cosine_to_init.high",
            0.95,
            "modular/topk-k8: converged: the decoder of the trained arm is at cosine",
        ),
        ("seeds", 4, f"{PATHS[1]}: 4 seeds, the claim asks for 5"),
        ("k", 5, f"{PATHS[1]}: k is 5, the claim speaks of 8"),
        ("random_model", None, f"{PATHS[1]}: it has no arm 'random_model'"),
        ("records.0.kappa", None, "pw_mcc of the trained arm has no kappa over alive latents (its null is too high)"),
        (
            "artefacts",
            None,
            "does not say by hash which data/modular/activations/trained it is of: run its stage again",
        ),
    ],
)
def test_what_cannot_be_tested_is_said_and_not_judged(where: str, value: Any, reason: str) -> None:
    content = copy.deepcopy(evidence(control=(0.0,) * 4))
    assert judge(claim(ABOVE_CONTROL), content, OPTIONS)["verdict"] == "supported"
    if value is None:
        *parents, last = where.split(".")
        place: Any = content[PATHS[1]]
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        del place[last]
        if last == "kappa":  # as the stage writes it where it is undefined
            del place["kappa_deleted"], content[PATHS[1]]["trained"]["pw_mcc"]["kappa"]
    else:
        change(content[PATHS[1]], where, value)
    verdict = judge(claim(ABOVE_CONTROL), content, OPTIONS)
    assert verdict["verdict"] == "not testable"
    assert any(reason in found for found in verdict["reasons"]), verdict["reasons"]


def test_an_arm_that_no_test_reads_does_not_stop_a_claim() -> None:
    unused = evidence()
    unused[PATHS[0]]["random_model"]["pw_mcc"]["converged"] = 0
    assert judge(claim(ABOVE_NULL), unused, OPTIONS)["verdict"] == "supported"


def test_a_file_that_is_no_stability_report_is_refused() -> None:
    content = evidence()
    del content[PATHS[3]]["records"]
    with pytest.raises(ReseedError, match=r"topk-k32/stability.json: found no 'records', allowed as evidence"):
        judge(claim(ABOVE_NULL), content, OPTIONS)


def test_a_verdict_that_flips_when_dead_latents_count_is_not_testable() -> None:
    content = evidence()
    record = next(r for r in content[PATHS[2]]["records"] if (r["arm"], r["latents"]) == ("trained", "all"))
    record |= {"kappa": -0.2, "kappa_deleted": deleted(-0.2, 0.005)}
    verdict = judge(claim(ABOVE_NULL), content, OPTIONS)
    assert verdict["verdict"] == "not testable"
    assert verdict["reasons"] == [
        f"{', '.join(PAIRS)}: alive: trained, modular/topk-k16: holds over alive latents, refuted over all"
    ]


def test_the_gate_on_dead_latents_must_tell_its_null_from_its_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over each seed set and over a slope, of a bound that holds and of one that does not."""
    about = [
        claim(ABOVE_NULL),
        claim({"figure": "trained - random_model", "over": "each", "above": 0}),
        claim({"figure": "trained", "over": "log2_k", "below": 0}),
        claim({"figure": "trained", "over": "log2_k", "above": 0}),
    ]
    for one in about:
        (alive,) = (gate for gate in judge(one, evidence(), OPTIONS)["gates"] if gate["gate"] == "alive")
        assert (alive["outcome"], alive["reason"]) == ("passed", "no outcome changes when dead latents are counted")
    for blind, reason in (
        ("", "the gate passes a planted null"),
        ("always", "the gate does not pass a planted positive"),
    ):
        monkeypatch.setattr(module, "_flipped", lambda *_, said=blind: said)
        for one in about:
            verdict = judge(one, evidence(), OPTIONS)
            assert verdict["verdict"] == "not testable"
            assert reason in verdict["reasons"][0], verdict["reasons"]


def test_a_quarantined_subject_is_no_evidence() -> None:
    found = evidence()
    found[PATHS[1]]["quarantined"] = "the answer stands in the input"
    with pytest.raises(ReseedError, match=r"topk-k8/stability\.json: the subject is quarantined \(the answer stands"):
        judge(claim(ABOVE_NULL), found, OPTIONS)


def test_files_of_two_runs_are_not_testable_together() -> None:
    """A benchmark of other SAEs beside the agreement of these: the fault of gates that were bound to nothing."""
    path = "metrics/modular/topk-k4/saebench.json"
    about = claim(ABOVE_NULL, pairs=PAIRS[:1], files=(path,))
    found: dict[str, Any] = {PATHS[0]: evidence()[PATHS[0]], path: {"core": {}}}
    found[path]["artefacts"] = found[PATHS[0]]["artefacts"]
    assert judge(about, found, OPTIONS)["verdict"] == "supported"
    found[path]["artefacts"] = found[PATHS[0]]["artefacts"] | {f"models/{PAIRS[0]}": "c" * 64}
    verdict = judge(about, found, OPTIONS)
    assert verdict["verdict"] == "not testable"
    assert verdict["reasons"] == [
        f"{path} is of models/{PAIRS[0]} cccccccccccc, and {PATHS[0]} of aaaaaaaaaaaa: they are not of the same run"
    ]


def test_a_verdict_names_the_artefacts_by_hash_and_its_standing() -> None:
    verdict = judge(claim(ABOVE_NULL, standing="exploratory"), evidence(), OPTIONS)
    assert verdict["artefacts"] == {
        **{f"models/{pair}": "a" * 64 for pair in PAIRS}, "data/modular/activations/trained": "b" * 64,
    }  # fmt: skip
    assert verdict["standing"] == "exploratory"


def test_intervals_are_corrected_for_what_was_tried() -> None:
    """Best of sixteen: the interval of a single try excludes the bound, that of sixteen does not."""
    found = {PATHS[0]: stability({"trained": 0.02, "random_model": 0.0, "gaussian": 0.0}, spread=0.005)}
    one = judge(claim(ABOVE_NULL, pairs=PAIRS[:1]), found, OPTIONS)
    sixteen = judge(claim(ABOVE_NULL, pairs=PAIRS[:1], tried=16), found, OPTIONS)
    assert (one["verdict"], sixteen["verdict"]) == ("supported", "not supported")
    error = np.sqrt(4 / 5 * np.sum(np.square(0.005 * np.linspace(-1, 1, 5))))
    assert one["tests"][0]["low"] == pytest.approx(0.02 - stats.t.ppf(0.975, 4) * error)
    assert sixteen["tests"][0]["low"] == pytest.approx(0.02 - stats.t.ppf(1 - 0.025 / 16, 4) * error)


METRIC = {"statistic": None, "metric": "stability:trained/explained_variance", "unit": "fraction"}


def test_a_metric_is_bounded_by_its_interval_at_the_corrected_level() -> None:
    found = {PATHS[0]: evidence()[PATHS[0]]}
    tight = judge(claim({"above": 0.889}, pairs=PAIRS[:1], **METRIC), found, OPTIONS)
    assert (tight["verdict"], tight["tests"][0]["low"]) == ("supported", 0.89)
    wide = judge(claim({"above": 0.889}, pairs=PAIRS[:1], tried=2, **METRIC), found, OPTIONS)
    half = 0.01 * stats.t.ppf(1 - 0.025 / 2, 4) / stats.t.ppf(0.975, 4)
    assert (wide["verdict"], wide["tests"][0]["low"]) == ("not supported", pytest.approx(0.9 - half))


def test_a_metric_that_does_not_exist_names_what_does() -> None:
    missing = METRIC | {"metric": "stability:trained/nothing/explained_variance"}
    with pytest.raises(
        ReseedError, match=r"topk-k4/stability.json: found no 'nothing' of .*known there: cosine_to_init"
    ):
        judge(claim({"above": 0.5}, pairs=PAIRS[:1], **missing), {PATHS[0]: evidence()[PATHS[0]]}, OPTIONS)
