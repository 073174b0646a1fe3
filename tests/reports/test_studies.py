"""The page of the studies: every figure with its interval, what is not converged says so, and no study is required."""

from pathlib import Path

from reseed.artifacts import write_json
from reseed.reports import studies
from reseed.stability.variants import compare_variants
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
