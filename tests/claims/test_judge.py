"""The judge is seen to support what was planted, to refuse a null, and to say when it cannot tell."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reseed import ReseedError
from reseed.claims.judge import judge
from reseed.claims.registry import Claim
from reseed.claims.registry import Test as Bound

KS = (4, 8, 16, 32)
PATHS = tuple(f"metrics/modular/topk-k{k}/stability.json" for k in KS)


def deleted(value: float, spread: float, n: int = 5, shift: int = 0) -> list[float]:
    return [value + spread * x for x in np.roll(np.linspace(-1, 1, n), shift)]


def evidence(
    trained: tuple[float, ...] = (0.9, 0.7, 0.5, 0.3),
    control: tuple[float, ...] = (0.6, 0.6, 0.6, 0.6),
    spread: float = 0.005,
    common: bool = True,
) -> dict[str, dict[str, Any]]:
    content = {}
    for i, (path, k) in enumerate(zip(PATHS, KS, strict=True)):
        arms = {"trained": trained[i], "random_model": control[i]}
        content[path] = {
            "k": k,
            "seeds": 5,
            **{
                arm: {"seeds_converged": 5, "pw_mcc": {"converged": 1, "plateau_change": 0.001}} for arm in arms
            },
            "records": [
                {
                    "arm": arm, "statistic": "pw_mcc", "latents": latents, "kappa": kappa,
                    "kappa_deleted": deleted(kappa, spread, shift=i + 2 * (arm != "trained" and not common)),
                }
                for arm, kappa in arms.items()
                for latents in ("alive", "all")
            ],
        }  # fmt: skip
    return content


def claim(*tests: dict[str, Any], **change: Any) -> Claim:
    return Claim(
        **{
            "statement": "A statement.", "statistic": "pw_mcc", "tests": tuple(Bound(**test) for test in tests),
            "evidence": PATHS, "k": KS, "minimum_seeds": 5, "gates": ("converged", "alive"),
        } | change
    )  # fmt: skip


ABOVE_NULL = {"figure": "trained", "over": "each", "above": 0}
ABOVE_CONTROL = {"figure": "trained - random_model", "over": "each", "above": 0}
FALLS = {"figure": "trained", "over": "log2_k", "below": 0}
FALLS_FASTER = {"figure": "trained - random_model", "over": "log2_k", "below": 0}


def test_a_planted_positive_is_supported() -> None:
    verdict = judge(claim(ABOVE_NULL), evidence(), 0.95)
    assert (verdict["verdict"], verdict["tests_held"]) == ("supported", 4)
    assert judge(claim(FALLS, FALLS_FASTER), evidence(), 0.95)["verdict"] == "supported"


def test_a_null_is_not_supported() -> None:
    null = evidence(trained=(0.001, -0.002, 0.0, 0.003), control=(0.0, 0.001, -0.001, 0.002), common=False)
    for test in (ABOVE_NULL, ABOVE_CONTROL, FALLS, FALLS_FASTER):
        verdict = judge(claim(test), null, 0.95)
        assert verdict["verdict"] == "not supported"
        assert {outcome["outcome"] for outcome in verdict["tests"]} == {"unresolved"}


def test_an_effect_in_the_other_direction_is_called_refuted() -> None:
    verdict = judge(claim(ABOVE_CONTROL), evidence(), 0.95)
    assert verdict["verdict"] == "not supported"
    assert [outcome["outcome"] for outcome in verdict["tests"]] == ["holds", "holds", "refuted", "refuted"]
    assert "topk-k32: -0.300 [" in verdict["reasons"][3]
    assert verdict["reasons"][3].endswith("to be above 0: refuted")


def test_the_slope_is_the_least_squares_slope_per_doubling_with_its_jackknife_interval() -> None:
    values = (0.9, 0.75, 0.5, 0.35)
    outcome = judge(claim(FALLS), evidence(trained=values), 0.95)["tests"][0]
    assert outcome["value"] == pytest.approx(stats.linregress([2, 3, 4, 5], values).slope)
    slopes = [
        stats.linregress([2, 3, 4, 5], [deleted(v, 0.005, shift=i)[s] for i, v in enumerate(values)]).slope
        for s in range(5)
    ]
    error = np.sqrt(4 / 5 * np.sum((np.array(slopes) - np.mean(slopes)) ** 2))
    assert outcome["high"] - outcome["value"] == pytest.approx(stats.t.ppf(0.975, 4) * error)


def test_a_difference_leaves_the_same_seed_out_of_both_arms() -> None:
    same = evidence(trained=(0.6,) * 4, control=(0.5,) * 4, spread=0.2)
    verdict = judge(claim(ABOVE_CONTROL), same, 0.95)
    assert verdict["verdict"] == "supported"  # the spread is common to both arms and cancels
    assert judge(claim(ABOVE_NULL), same, 0.95)["verdict"] == "not supported"


def change(content: dict[str, Any], where: str, value: Any) -> None:
    *parents, last = where.split(".")
    place: Any = content
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        ("trained.pw_mcc.converged", 0, "pw_mcc of the trained arm is not converged (5 of 5 seeds converged; it"),
        ("random_model.pw_mcc.converged", 0, "pw_mcc of the random_model arm is not converged"),
        ("seeds", 4, "4 seeds, the claim asks for 5"),
        ("k", 5, "k is 5, the claim speaks of 8"),
        ("random_model", None, "it has no arm 'random_model'"),
        ("records.0.kappa", None, "pw_mcc of the trained arm has no kappa over alive latents (its null is too high)"),
    ],
)
def test_what_cannot_be_tested_is_said_and_not_judged(where: str, value: Any, reason: str) -> None:
    content = copy.deepcopy(evidence(control=(0.0,) * 4))
    assert judge(claim(ABOVE_CONTROL), content, 0.95)["verdict"] == "supported"
    if value is None:
        *parents, last = where.split(".")
        place: Any = content[PATHS[1]]
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        del place[last]
    else:
        change(content[PATHS[1]], where, value)
    verdict = judge(claim(ABOVE_CONTROL), content, 0.95)
    assert verdict["verdict"] == "not testable"
    assert any(f"{PATHS[1]}: {reason}" in found for found in verdict["reasons"])


def test_an_arm_that_no_test_reads_does_not_stop_a_claim() -> None:
    unused = evidence()
    unused[PATHS[0]]["random_model"]["pw_mcc"]["converged"] = 0
    assert judge(claim(ABOVE_NULL), unused, 0.95)["verdict"] == "supported"


def test_a_file_that_is_no_stability_report_is_refused() -> None:
    content = evidence()
    del content[PATHS[3]]["k"]
    with pytest.raises(ReseedError, match=r"topk-k32/stability.json: found no 'k', allowed as evidence"):
        judge(claim(ABOVE_NULL), content, 0.95)


def test_a_verdict_that_flips_when_dead_latents_count_is_not_testable() -> None:
    content = evidence()
    record = next(r for r in content[PATHS[2]]["records"] if (r["arm"], r["latents"]) == ("trained", "all"))
    record |= {"kappa": -0.2, "kappa_deleted": deleted(-0.2, 0.005)}
    verdict = judge(claim(ABOVE_NULL), content, 0.95)
    assert verdict["verdict"] == "not testable"
    assert verdict["reasons"] == ["trained, modular/topk-k16: holds over alive latents, refuted over all"]


def test_a_quarantined_subject_is_no_evidence() -> None:
    found = evidence()
    found[PATHS[1]]["quarantined"] = "the answer stands in the input"
    with pytest.raises(ReseedError, match=r"topk-k8/stability\.json: the subject is quarantined \(the answer stands"):
        judge(claim(ABOVE_NULL), found, 0.95)
