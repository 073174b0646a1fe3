"""The page of the studies: every figure with its interval, what is not converged says so, and no study is required."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reseed.artifacts import read_json, write_json
from reseed.interventions import protocol
from reseed.reports import studies, truth
from reseed.stability.planted import PLANTED
from reseed.stability.reliability import MODELS
from reseed.stability.variants import compare_variants
from tests.conftest import ROOT
from tests.reports.builders import planted_causal, planted_coverage, planted_ood, planted_reliability, planted_truth
from tests.stability.test_variants import HIGH, LOW, evidence


def test_a_comparison_shows_verdicts_intervals_and_what_is_not_converged(tmp_path: Path) -> None:
    found = {"plain": evidence(LOW), "better": evidence(HIGH), "moving": evidence(HIGH, converged=0)}
    for content in found.values():
        trained = content["trained"]
        trained |= {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in ("l0", "alive_fraction")}
        trained["pw_mcc"] |= {"low": 0.4, "high": 0.6, "null": 0.2, "kappa": 0.5, "kappa_low": 0.4, "kappa_high": 0.6}
    table = compare_variants(found, "plain", 0.0, 0.05, 0.95)
    write_json(tmp_path / "metrics" / "comparisons" / "named.json", table)
    text = studies.page(tmp_path)
    better, moving = (next(line for line in text.splitlines() if f"`{name}`" in line) for name in ("better", "moving"))
    assert "## Variants: named" in text
    assert "0.500 [0.400, 0.600]" in better
    assert better.endswith("| accepted |")
    assert "not converged" in moving
    assert moving.endswith("| not testable |")
    (tmp_path / "docs").mkdir()
    assert studies.update(tmp_path)
    assert not studies.update(tmp_path)


def test_without_any_study_the_page_is_its_head(tmp_path: Path) -> None:
    assert studies.page(tmp_path) == studies.HEAD


def test_language_models_stand_beside_their_ngrams_and_others_are_left_out(tmp_path: Path) -> None:
    arms = {arm: {"d_in": 256, "effective_rank": rank} for arm, rank in (("trained", 9.876), ("random_model", 88.0))}
    losses = {"loss": {"test": 2.5}, "bigram_loss": {"test": 4.25}, "unigram_loss": {"test": 6.0}}
    common = {"sequences": {"test": 7}, **arms}
    for name, model in (
        ("gpt", losses | {"parameters": 12345}),
        ("encoder", {"parameters": 678}),
        ("toy", {"accuracy": {"test": 1.0}}),
    ):
        write_json(tmp_path / "metrics" / name / "subject.json", common | {"model": model})
    lines = studies.page(tmp_path).splitlines()
    assert "| gpt | 12,345 | 7 | 256 | 2.500 | 4.250 | 6.000 | 9.9 | 88.0 |" in lines
    assert "| encoder | 678 | 7 | 256 |  |  |  | 9.9 | 88.0 |" in lines
    assert not any(line.startswith("| toy") for line in lines)


def test_a_kappa_that_does_not_exist_is_said_so() -> None:
    assert studies.kappa({}) == "none: the null is too high"


def test_a_broken_certificate_says_whether_it_moved_by_more_than_allowed(tmp_path: Path) -> None:
    def reading(inside: int, widened: int) -> dict[str, object]:
        one = {"value": 0.9, "low": 0.9, "high": 0.9}
        return {"short": one, "long": one, "inside": inside, "inside_widened": widened}

    def check(inside: int, widened: int) -> dict[str, object]:
        return {"verdict": "holds" if inside else "broken", "certified": 1, "value": reading(inside, widened)}

    for name, other in (("near", check(0, 1)), ("far", check(0, 0))):
        content = {"architecture": "topk", "verdict": "broken", "constant_steps": 1, "constant_steps_long": 4}
        write_json(
            tmp_path / "metrics" / "toy" / name / "certificate.json",
            content | {"pw_mcc": check(1, 1), "shared_fraction": other},
        )
    near, far = (
        next(line for line in studies.page(tmp_path).splitlines() if f"`{n}`" in line) for n in ("near", "far")
    )
    assert near.endswith("| shared_fraction | broken | none |")
    assert far.endswith("| shared_fraction | broken | shared_fraction |")


def test_benchmarks_stand_beside_their_controls_and_say_what_was_left_out(tmp_path: Path) -> None:
    of = tmp_path / "metrics" / "tiny" / "topk"

    def figure(value: float, **more: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.01, "high": value + 0.01, **more}

    probes = {"delta": figure(-0.1), "wins": 3, "losses": 108, "ties": 2, "random_sae": -0.2, "pca": -0.05}
    normal = {k: dict.fromkeys(("f1", "acc", "auc"), probes) for k in ("top_16", "top_2", "best_k")}
    dense = {"f1": 0.7, "acc": 0.71, "auc": 0.72}
    write_json(of / "sae_probes.json", {"datasets": 113, "normal": normal | {"dense": dense}})
    core = {"model_performance_preservation.ce_loss_score": figure(0.97, random_sae=0.5)}
    write_json(of / "evals.json", {"core": core, "ravel": {"not_run": "made for others"}})
    scores = {
        f"{kind}.{score}": figure(5.0)
        for kind in ("corrected", "as_published")
        for score in ("contrastive", "independence", "combined")
    }
    write_json(of / "ce_bench.json", scores | {"pairs": 40})
    text = studies.benchmarks(tmp_path / "metrics")
    assert "| tiny/`topk` | 2 | -0.100 [-0.110, -0.090] |" in text
    assert "| 3/108/2 | -0.200 |  |  | -0.050 |  |" in text
    assert text.index("| tiny/`topk` | 2 |") < text.index("| tiny/`topk` | 16 |") < text.index("by validation")
    assert "The dense probe itself: tiny/`topk`: F1 0.700, accuracy 0.710, AUC 0.720." in text
    assert "| tiny/`topk` | loss kept | 0.970 [0.960, 0.980] | 0.500 |" in text
    assert "- ravel: made for others" in text
    assert "| tiny/`topk` | combined | 5.000 [4.990, 5.010] |  |  |  | 5.00 |" in text
    for converged, said in ((5, "| tiny/`topk` | 2 |"), (4, "| tiny/`topk`, 4 of 5 seeds converged | 2 |")):
        write_json(of / "stability.json", {"seeds": 5, "trained": {"seeds_converged": converged}})
        assert said in studies.benchmarks(tmp_path / "metrics")


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next of its level."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def line(text: str, begin: str) -> str:
    (found,) = (one for one in text.splitlines() if one.startswith(begin))
    return found


def test_go_and_no_go_stand_with_every_rule_and_what_was_found(tmp_path: Path) -> None:
    planted_truth(tmp_path / "metrics")
    write_json(tmp_path / "metrics/modular/topk-k4/truth.json", read_json(ROOT / "metrics/modular/topk-k4/truth.json"))
    decided = section(studies.page(tmp_path), "Go or no-go")
    assert line(decided, "| superposition/`known-12` |") == (
        "| superposition/`known-12` | Do SAEs find features that are known to be there? | "
        "fidelity ≥ 0.95: 0.978 [0.978, 0.978], above its nulls: met; "
        "gt_mcc ≥ 0.9: 1.000 [1.000, 1.000], above its nulls: met; "
        "recall ≥ 0.9: 1.000 [1.000, 1.000], above its nulls: met | 0.120 | **go** |"
    )
    # as many latents as dimensions, a low end below the bound, and a figure that nobody measured
    assert line(decided, "| stack/`made-up` |") == (
        "| stack/`made-up` | Are states found? | coverage ≥ 0.75: 0.800 [0.700, 0.900], above its nulls: not met; "
        "gt_mcc ≥ 0.9: not measured: not met | 1.125, not below 1 | **no-go** |"
    )
    planes = line(decided, "| modular/`topk-k4` |")
    assert "planes ≥ 0.8: 0.000 [0.000, 0.000], not above its nulls: not met" in planes
    assert planes.endswith("| **no-go** |")
    assert "unruled" not in decided  # no rules, no verdict
    assert "| superposition/`unruled` |" in section(studies.page(tmp_path), "Known truth")


def test_scores_stand_beside_their_strictest_null_their_peers_and_the_ceiling(tmp_path: Path) -> None:
    planted_truth(tmp_path / "metrics")
    write_json(tmp_path / "metrics/stack/made-up/stability.json", {"seeds": 5, "trained": {"seeds_converged": 4}})
    known = section(studies.page(tmp_path), "Known truth")
    scores = known.partition("### Scores: stack\n")[2].partition("###")[0]
    assert line(scores, "| coverage |") == (
        "| coverage | `made-up`, 4 of 5 seeds converged | 0.800 [0.700, 0.900] | 0.250 (untrained) | yes | "
        "0.500 | 0.562 | 0.438 | 0.938 (linear probe) |"
    )
    assert "| recall |" not in scores  # only figures that there are
    assert line(known, "| stack/`made-up`, 4 of 5 seeds converged |") == (
        "| stack/`made-up`, 4 of 5 seeds converged | 41 concepts of exact states, 7 more too rare | "
        "0.969 [0.900, 1.000], no evidence: L0 ≥ d_in |  |  | 36.00 | 1.125 | 75% | 0.875 [0.812, 0.938] |"
    )
    # the committed directions, whose strictest null was drawn with the decoders' covariance
    found = read_json(ROOT / "metrics/superposition/known-12/truth.json")["figures"]["gt_mcc"]
    assert found["nulls"]["covariance"] == max(found["nulls"].values())
    directions = known.partition("### Scores: superposition\n")[2]
    assert f"| {found['nulls']['covariance']:.3f} (covariance) | yes |" in line(directions, "| gt_mcc | `known-12` |")


def test_a_probe_is_no_ceiling_of_directions() -> None:
    found = {"peers": {"linear_probe": 0.5, "pca": 0.6}}
    assert (truth.ceiling("coverage", found), truth.ceiling("gt_mcc", found)) == ("linear_probe", None)


def test_planes_that_cannot_be_tested_say_so(tmp_path: Path) -> None:
    committed = read_json(ROOT / "metrics/modular/topk-k4/truth.json")
    left = {name: one for name, one in committed["figures"].items() if name not in ("planes", "coverage")}
    rules = {"planes": {"bound": 0.8, "met": 0}}
    changed = {"testable": 0, "figures": left, "phase": committed["phase"] | {"rules": rules}}
    write_json(tmp_path / "metrics/modular/noise/truth.json", committed | changed)
    text = studies.page(tmp_path)
    planes = len(committed["frequencies"])
    assert f"| {planes} planes, not testable: the model's waves explain too little |" in text
    assert "| planes ≥ 0.8: not measured: not met | 0.031 | **no-go** |" in text


@pytest.mark.parametrize(
    ("plant", "heading", "expected"),
    [
        (
            planted_coverage,
            "Parts of the domain",
            "0.875 [0.812, 0.938] | value: 0.625 [0.562, 0.688] | 0.750 | the edges listed in another order | "
            "0.500 [0.438, 0.562] | 0.375 [0.312, 0.438] | 0.938 | 0.000 [-0.062, 0.062] | 0.312 [0.250, 0.375] |",
        ),
        (
            planted_ood,
            "Other text",
            "0.750 [0.688, 0.812] (0.250 [0.188, 0.312]) | 0.375 [0.312, 0.438] (0.125 [0.062, 0.188]) | "
            "0.250 [0.188, 0.312] | 0.500 [0.438, 0.562] | 1,000 |",
        ),
    ],
)
def test_where_an_sae_holds_stands_beside_untrained_saes(
    plant: Callable[[Path], None], heading: str, expected: str, tmp_path: Path
) -> None:
    plant(tmp_path / "metrics/graph/made-up")
    found = section(studies.page(tmp_path), heading)
    assert line(found, "| graph/`made-up` |") == f"| graph/`made-up` | {expected}"


def test_a_subject_that_lends_its_text_has_no_control_arm(tmp_path: Path) -> None:
    lent = {"model": {"parameters": 1000}, "sequences": {"test": 9}, "trained": {"d_in": 4, "effective_rank": 2.5}}
    write_json(tmp_path / "metrics/prompts/subject.json", lent)
    assert line(section(studies.page(tmp_path), "Language models"), "| prompts |") == (
        "| prompts | 1,000 | 9 | 4 |  |  |  | 2.5 |  |"
    )


def test_causal_tests_count_what_passes_beside_the_strongest_control_and_null_saes(tmp_path: Path) -> None:
    planted_causal(tmp_path / "metrics/modular/topk-k4")
    passed, _, edits = section(studies.page(tmp_path), "Causal tests").partition("\n| SAE | slope |")
    # half width of a mean of five seeds 0.01 apart: t(4) * sqrt(0.00025 / 5) = 2.776 * 0.00707 = 0.0196
    assert line(passed, "| modular/`topk-k4` |") == (
        "| modular/`topk-k4` | 2 | 1 | 1 | 0.000 | 1.250 [1.230, 1.270] (principal component -0.900) | "
        "1.250 [1.230, 1.270] (soft-frozen SAE -0.700) | 1 | 0 | 0 | 1 | 0 | 0 |"
    )
    assert line(edits, "| modular/`topk-k4` |") == (
        "| modular/`topk-k4` | 0.625 [0.625, 0.625] | 0.031 [0.031, 0.031] | 1.000 [1.000, 1.000] | "
        "0.625 [0.625, 0.625] |  |  |"
    )
    untold = {"judged": 0, "passed": 0, "untold": {"a": {}, "b": {}}, "null_saes": dict.fromkeys(
        ("latent", *protocol.NULL_SAES), 0), "references": dict.fromkeys(protocol.REFERENCES, 0)}  # fmt: skip
    write_json(tmp_path / "metrics/modular/blind/causal.json", untold)
    assert "| modular/`blind` | 0 | 0 | 2 |  |  |  | 0 | 0 | 0 | 0 | 0 | 0 |" in studies.page(tmp_path)


def test_edits_of_exact_states_stand_beside_another_row(tmp_path: Path) -> None:
    planted_truth(tmp_path / "metrics")
    path = tmp_path / "metrics/stack/made-up/truth.json"
    edits: dict[str, Any] = {"causal_tests": 0}
    for name, value, null in (("reached", 0.5, 0.0625), ("spared", 0.96875, 0.9375)):
        edits[name] = {"value": value, "low": value - 0.03125, "high": value + 0.03125, "nulls": {"shuffled": null}}
    write_json(path, read_json(path) | {"edits": edits})
    assert line(studies.page(tmp_path).partition("### Edits of exact states")[2], "| stack/`made-up` |") == (
        "| stack/`made-up` | 0.500 [0.469, 0.531] | 0.062 | 0.969 [0.938, 1.000] | 0.938 |"
    )


def test_p_correct_stands_with_its_skills_and_the_detector_with_its_false_alarms(tmp_path: Path) -> None:
    planted_reliability(tmp_path / "metrics/reliability")
    made, shown = read_json(tmp_path / "metrics/reliability/worlds.json"), {}
    text = section(studies.page(tmp_path), "P(correct) and the detector")
    assert f"Verdict: {made['verdict']}." in text
    for figure, one in made["transfer"]["signals"].items():
        if figure != "worst_family":
            shown[figure] = f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
    worst = min(made["held_out"], key=lambda name: made["held_out"][name]["signals"]["skill_above_constant"]["value"])
    brier, skill = (made["transfer"]["signals"]["worst_family"][of] for of in ("brier", "skill_above_constant"))
    assert skill == pytest.approx(made["held_out"][worst]["signals"]["skill_above_constant"]["value"])
    assert made["shipped"] == "signals"
    assert line(text, "| all signals (shipped) |") == (
        f"| all signals (shipped) | {shown['brier']} | {shown['ece']} | {shown['skill_above_constant']} | "
        f"{shown['skill_above_reappearance']} | {worst}: {brier:.3f} ({skill:.2f}) |"
    )
    # honest sets of one family look planted: a detector that lets them pass sees no plant
    assert line(text, "| planted |") == "| planted | 12 | 0 | 0.000 [0.000, 0.265] | 12 |"
    false_alarms = "| honest (false alarms) | 15 | 3 | 0.200 [0.043, 0.481] |  |"
    assert line(text, "| honest (false alarms) |") == false_alarms
    assert line(text, "| planted: label leak |") == "| planted: label leak | 0 | 0 |  |  |"


def test_the_names_of_controls_models_and_plants_are_those_of_their_writers() -> None:
    assert set(truth.CONTROLS) == set(protocol.NULLS)
    assert truth.NULL_SAES == protocol.NULL_SAES
    assert set(truth.SUPERVISED) == set(protocol.REFERENCES)
    assert set(truth.MODELS) == set(MODELS)
    assert {at[1] for at in truth.SEED_SETS.values() if at[0] == "controls"} == set(PLANTED)
