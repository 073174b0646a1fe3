"""A claim is written down with its power, its comments kept; what may not be claimed is refused and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from scipy import stats
from typer.testing import CliRunner, Result

from reseed import ReseedError
from reseed.claims import registry
from reseed.claims.registry import ALWAYS, load_claim, load_registry
from reseed.cli import app
from reseed.review.register import power, register
from tests.claims.builders import stability
from tests.conftest import ROOT
from tests.sweeps.toy import git

ASKED: dict[str, Any] = {
    "statement": "TopK SAEs at k = 8 agree.", "statistic": "pw_mcc",
    "tests": [{"figure": "trained", "over": "each", "above": 0.2}], "speaks_of": {"modular/topk-k8": {"k": 8}},
    "minimum_seeds": 5, "gates": [*ALWAYS, "random_model"], "tried": 1,
}  # fmt: skip


PIPELINE = {
    "stages": {
        "score": {
            "matrix": {
                "pair": ["modular/topk-k4", "modular/topk-k8", "modular/topk-k16", "superposition/known-12"],
                "kind": ["stability", "truth", "saebench"],
            },
            "cmd": "true ${item.pair} ${item.kind}",
            "metrics": ["metrics/${item.pair}/${item.kind}.json"],
        }
    }
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("params.yaml", "study.yaml", "claims.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    git(tmp_path, "init", "-q", "-b", "main")
    Repo.init(str(tmp_path)).close()
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "files")
    return tmp_path


def test_a_claim_is_written_down_as_it_would_be_by_hand(checkout: Path) -> None:
    before = (checkout / "claims.yaml").read_text()
    found = register(checkout, "claims.yaml", "k8-agrees", ASKED)
    claim = load_claim(checkout / "claims.yaml", "k8-agrees")
    assert claim.evidence == ("metrics/modular/topk-k8/stability.json",) * 8
    assert (claim.unit, claim.registered) == ("kappa", git(checkout, "rev-parse", "HEAD").strip())
    after = (checkout / "claims.yaml").read_text().splitlines()
    start = after.index("  k8-agrees:")
    end = after.index("phases:") - 1  # every other line stays as it was, comments and all
    assert after[: start - 1] + after[end:] == before.splitlines()
    assert max(map(len, after[start:end])) <= 120
    assert (found.seeds, found.detectable) == (5, None)  # no seed set has run here


def test_the_first_claim_of_a_study_is_written_down_as_well(checkout: Path) -> None:
    (checkout / "claims.yaml").write_text("# none yet\nclaims: {}\n# the end\n")
    register(checkout, "claims.yaml", "k8-agrees", ASKED)
    assert load_claim(checkout / "claims.yaml", "k8-agrees").statement == ASKED["statement"]
    lines = (checkout / "claims.yaml").read_text().splitlines()
    assert (lines[:3], lines[-1]) == (["# none yet", "claims:", "  k8-agrees:"], "# the end")


def test_power_is_that_of_the_t_interval_and_of_all_relabellings() -> None:
    found = power(5, 0.95, [0.01, 0.02, 0.03])
    assert found.in_errors == pytest.approx(stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4))
    assert found.detectable == pytest.approx(0.02 * found.in_errors)
    assert found.attainable_p == pytest.approx(0.008, abs=1e-4)
    assert power(3, 0.95).attainable_p == 0.1


def test_power_is_of_the_figure_that_is_asked_for(checkout: Path) -> None:
    """An arm, a difference of arms with seeds in common, a slope, a metric: each with the error of its own."""
    content = stability({"trained": 0.9, "random_model": 0.6}, spread=0.01, apart=2)
    factor, deleted = stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4), np.linspace(-0.01, 0.01, 5)
    truth = {"figures": {"coverage": {"value": 0.5, "low": 0.5 - 0.2, "high": 0.5 + 0.2}}}
    for pair in ("modular/topk-k4", "modular/topk-k16"):
        (folder := checkout / "metrics" / pair).mkdir(parents=True)
        (folder / "stability.json").write_text(json.dumps(content))  # in the workspace, not committed
        (folder / "truth.json").write_text(json.dumps(truth))

    def error(values: np.ndarray) -> float:
        return float(np.sqrt(4 / 5 * np.sum((values - values.mean()) ** 2)))

    def found(name: str, **change: Any) -> float | None:
        asked = {key: value for key, value in (ASKED | change).items() if value is not None}
        return register(checkout, "claims.yaml", name, asked).detectable

    alone, apart = error(deleted), error(deleted - np.roll(deleted, 2))
    assert found("a") == pytest.approx(factor * alone)
    difference = {"figure": "trained - random_model", "over": "each", "above": 0}
    assert found("b", tests=[difference]) == pytest.approx(factor * apart)
    over = {"modular/topk-k4": {"k": 4}, "modular/topk-k8": {"k": 8}, "modular/topk-k16": {"k": 16}}
    slope = {"figure": "trained", "over": "log2_k", "below": 0}
    assert found("c", tests=[slope], speaks_of=over) == pytest.approx(factor * alone / np.sqrt(2))  # log2 k = 2, 3, 4
    metric = {"statistic": None, "metric": "truth:figures/coverage", "tests": [{"above": 0.1}]}
    assert found("d", **metric) == pytest.approx(factor * 0.2 / stats.t.ppf(0.975, 4))
    assert found("e", statistic="mean_max_cos") is None  # nothing here has it


def test_a_claim_whose_evidence_is_there_already_is_exploratory(checkout: Path) -> None:
    """In the workspace, where it may have been looked at, or in a commit, even if it was removed since."""
    path = "metrics/modular/topk-k8/stability.json"
    assert "k8-agrees is written down; commit it before" in registers(checkout, "k8-agrees", *OF, "--above", "0").stdout
    (checkout / path).parent.mkdir(parents=True)
    (checkout / path).write_text("{}")
    done = registers(checkout, "k8-seen", *OF, "--above", "0")
    assert f"k8-seen is written down as exploratory: its evidence {path} is there already.\n" in done.stdout
    git(checkout, "add", path)
    git(checkout, "commit", "-qm", "evidence")
    (checkout / path).unlink()
    assert "k8-known is written down as exploratory" in registers(checkout, "k8-known", *OF, "--above", "0").stdout
    standings = [load_claim(checkout / "claims.yaml", name).standing for name in ("k8-agrees", "k8-seen", "k8-known")]
    assert standings == ["confirmatory", "exploratory", "exploratory"]


def test_an_id_of_another_claims_file_is_taken(checkout: Path) -> None:
    (checkout / "studies/more").mkdir(parents=True)
    (checkout / "studies/more/claims.yaml").write_text("claims: {}\nphases: {}\n")
    shutil.copy(checkout / "study.yaml", checkout / "studies/more")
    done = registers(checkout, "low-l0-agreement", *OF, "--above", "0", "--file", "studies/more/claims.yaml")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: claims.yaml: claims: found 'low-l0-agreement' already, allowed: an id that is not taken\n"
    )
    assert load_registry(checkout / "studies/more/claims.yaml").claims == {}


def test_what_a_gate_reads_is_among_the_evidence(checkout: Path) -> None:
    of = {"superposition/known-12": {"k": 12}}
    register(checkout, "claims.yaml", "found", ASKED | {"speaks_of": of, "gates": [*ALWAYS, "correctness"]})
    assert load_claim(checkout / "claims.yaml", "found").sources == (
        "metrics/superposition/known-12/stability.json", "metrics/superposition/known-12/truth.json",
    )  # fmt: skip
    with pytest.raises(ReseedError, match=r"claims\.out: gates: found 'ood' for modular/topk-k8, allowed for no seed"):
        register(checkout, "claims.yaml", "out", ASKED | {"gates": [*ALWAYS, "ood"]})


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("low-l0-agreement", {}, "claims: found 'low-l0-agreement' already, allowed: an id that is not taken"),
        ("K8", {}, "found 'K8', allowed: text that matches ^"),
        ("x", {"speaks_of": {"modular/none": {}}}, "speaks_of: found 'modular/none', allowed: modular/topk-k4, "),
        ("x", {"speaks_of": {"modular/topk-k8": {"k": 9}}}, "speaks_of.modular/topk-k8.k: found 9, allowed: 8, which"),
        ("x", {"gates": [*ALWAYS, "vibes"]}, "gates.5: found 'vibes', allowed: 'converged'"),
        ("x", {"tests": [{"figure": "trained", "over": "each"}]}, "exactly one of above and below"),
        (
            "x",
            {"statistic": None, "metric": "stability:trained/vibes", "tests": [{"above": 0.5}]},
            "claims.yaml: claims.x: metric: found 'stability:trained/vibes', allowed: a metric whose unit is known",
        ),
        (
            "x",
            {"statistic": None, "metric": "nosuch:trained/gt_mcc", "tests": [{"above": 0.5}]},
            "claims.yaml: claims.x: evidence: found metrics/modular/topk-k8/nosuch.json, which no stage makes, allowed "
            "there: saebench, stability, truth",
        ),
        ("x", {"tests": [{"figure": "trained", "over": "each", "above": float("nan")}]}, "tests.0.above: found nan"),
        ("x", {"tests": [{"figure": "trained", "over": "each", "below": float("inf")}]}, "tests.0.below: found inf"),
        (
            "x",
            {"tests": [{"figure": "trained", "over": "each", "above": -5.0}]},
            "from 0 (chance) on, lower with the gate 'random_dictionary'",
        ),
    ],
)
def test_what_may_not_be_claimed_is_refused_and_nothing_is_written(
    checkout: Path, name: str, change: dict[str, Any], sentence: str
) -> None:
    before = (checkout / "claims.yaml").read_text()
    asked = {key: value for key, value in (ASKED | change).items() if value is not None}
    with pytest.raises((ReseedError, ValueError)) as caught:
        register(checkout, "claims.yaml", name, asked)
    assert sentence in str(caught.value)
    assert ".partial" not in str(caught.value)
    assert (checkout / "claims.yaml").read_text() == before
    assert git(checkout, "status", "--porcelain") == ""


OF = ("--statement", "TopK SAEs at k = 8 agree.", "--of", "modular/topk-k8:k=8")


def registers(checkout: Path, *arguments: str) -> Result:
    """`reseed claims register ARGUMENTS` as a user runs it there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        return CliRunner().invoke(app, ["claims", "register", *arguments])


def test_the_command_writes_down_a_metric_with_every_option(checkout: Path) -> None:
    # soft_frozen is a float of a variant: what is typed has to be one as well
    params = (checkout / "params.yaml").read_text()
    frozen = params.replace("topk-k8: {architecture: topk,", "topk-k8: {architecture: topk, soft_frozen: 0.8,")
    assert frozen != params
    (checkout / "params.yaml").write_text(frozen)
    (checkout / "studies/more").mkdir(parents=True)
    (checkout / "studies/more/claims.yaml").write_text("claims: {}\nphases: {}\n")
    shutil.copy(checkout / "study.yaml", checkout / "studies/more")
    before = (checkout / "claims.yaml").read_text()
    done = registers(
        checkout, "found", "--statement", "It probes well.", "--of", "modular/topk-k8:k=8,soft_frozen=0.8",
        "--metric", "saebench:sparse_probing/top_1", "--below", "0.9", "--gate", "benchmark",
        "--gate", "frozen_decoder", "--benchmark", "saebench:sparse_probing/top_1", "--tried", "4",
        "--minimum-seeds", "4", "--file", "studies/more/claims.yaml",
    )  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("studies/more/claims.yaml: found is written down; commit it before its evidence.\n")
    assert "With 5 seeds and intervals at 98.75 %, it can tell" in done.stdout  # 95 % corrected for four settings
    claim = load_claim(checkout / "studies/more/claims.yaml", "found")
    assert claim.speaks_of == {"modular/topk-k8": {"k": 8, "soft_frozen": 0.8}}
    assert (claim.metric, claim.statistic, claim.unit) == ("saebench:sparse_probing/top_1", None, "accuracy")
    assert claim.tests == (registry.Test(figure="value", over="each", below=0.9),)
    assert claim.gates == (*ALWAYS, "benchmark", "frozen_decoder")
    assert (claim.benchmark, claim.tried, claim.minimum_seeds) == ("saebench:sparse_probing/top_1", 4, 4)
    assert claim.sources == ("metrics/modular/topk-k8/stability.json", "metrics/modular/topk-k8/saebench.json")
    assert (checkout / "claims.yaml").read_text() == before


def test_the_command_writes_down_a_slope_of_a_difference(checkout: Path) -> None:
    done = registers(
        checkout, "falls", *OF, "--of", "modular/topk-k4:k=4", "--statistic", "mean_max_cos",
        "--figure", "trained - random_model", "--over", "log2_k", "--above", "0",
    )  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    claim = load_claim(checkout / "claims.yaml", "falls")
    assert claim.tests == (registry.Test(figure="trained - random_model", over="log2_k", above=0.0),)
    assert (claim.statistic, claim.unit, claim.tried) == ("mean_max_cos", "kappa", 1)
    assert claim.speaks_of == {"modular/topk-k8": {"k": 8}, "modular/topk-k4": {"k": 4}}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("x", "--statement", "x", "--of", "modular/topk-k8:k", "--above", "0"),
            "--of modular/topk-k8:k: found 'k', allowed: KEY=VALUE, separated by commas",
        ),
        (
            ("x", "--statement", "x", "--of", "modular/topk-k8:k=8,=3", "--above", "0"),
            "--of modular/topk-k8:k=8,=3: found '=3', allowed: KEY=VALUE, separated by commas",
        ),
        (
            ("x", "--statement", "x", "--of", "modular/topk-k8:k=8.5", "--above", "0"),
            "claims.yaml: claims.x: speaks_of.modular/topk-k8.k: found 8.5, allowed: 8, which params.yaml gives",
        ),
        (("x", *OF, "--above", "0", "--gate", "vibes"), "claims.yaml: claims.x.gates.5: found 'vibes', allowed: 'con"),
        (("x", *OF, "--above", "0", "--metric", "stability:trained/vibes"), "a metric whose unit is known ("),
        (
            ("x", *OF, "--above", "0", "--metric", "truth:figures/recall", "--statistic", "pw_mcc"),
            "--metric truth:figures/recall: found --statistic beside it, allowed: a metric, or a statistic with its",
        ),
        (("x", *OF, "--above=-inf"), "tests.0.above: found -inf, allowed: a finite number"),
        (("low-l0-agreement", *OF, "--above", "0"), "claims.yaml: claims: found 'low-l0-agreement' already, allowed: "),
        (("x", *OF), "exactly one of above and below"),
        (
            ("x", *OF, "--above", "0", "--file", "none.yaml"),
            "none.yaml: the file does not exist, allowed: claims.yaml",
        ),
        (
            ("x", *OF, "--above", "0", "--file", "params.yaml"),
            "params.yaml: a file of another name, allowed: claims.yaml",
        ),
    ],
)  # fmt: skip
def test_bad_input_of_the_command_has_exit_code_two(checkout: Path, arguments: tuple[str, ...], sentence: str) -> None:
    before = (checkout / "claims.yaml").read_text()
    done = registers(checkout, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert (checkout / "claims.yaml").read_text() == before


def test_a_claim_of_another_unit_beside_it_has_exit_code_two(checkout: Path) -> None:
    text = (checkout / "claims.yaml").read_text().replace("unit: kappa", "unit: cosine", 1)
    (checkout / "claims.yaml").write_text(text)
    done = registers(checkout, "x", *OF, "--above", "0")
    assert (done.exit_code, done.stdout) == (2, "")
    assert ".unit: found 'cosine', allowed: kappa, which is that of a statistic" in done.stderr
    assert (checkout / "claims.yaml").read_text() == text
