"""The committed results are those of the committed code, parameters and claims, and the README shows them."""

import hashlib
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from reseed.artifacts import read_json
from reseed.claims.registry import load_claim
from reseed.params import load_study
from reseed.reports import readme, studies
from reseed.review.check import judged_now
from tests import forked
from tests.conftest import ROOT
from tests.scratch import dvc, environment
from tests.sweeps.toy import git

CLAIMS = list(yaml.safe_load((ROOT / "claims.yaml").read_text())["claims"])


LOCKS = [ROOT / "dvc.lock", *sorted(ROOT.glob("studies/*/dvc.lock"))]


def test_the_lock_belongs_to_the_code_the_parameters_and_the_metrics() -> None:
    done = dvc(ROOT, "repro", "--dry", "--allow-missing")
    assert done.stdout.strip().endswith("Data and pipelines are up to date."), done.stdout


def reseed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(ROOT, ["reseed", *arguments], environment())


@pytest.mark.slow
def test_an_audit_finds_nothing_but_age() -> None:
    """As the workflow of a pull request runs it: revisions that a clone has, parameters that are those of the lock."""
    if git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("a shallow clone has no revisions to look for")
    done = reseed("audit", "--allow-stale")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_pull_request_that_changes_nothing_may_land() -> None:
    """As the workflow of a pull request asks: every claim and phase of every study stands, and nothing moved."""
    if git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("a shallow clone does not know when a claim was written down")
    done = reseed("claims", "check", "--base", "HEAD", "--format", "json")
    assert done.returncode == 0, done.stderr or json.loads(done.stdout)["blocked"]
    against = json.loads(done.stdout)["against"]
    assert [against[what] for what in ("metrics", "parameters", "data", "claims")] == [[], [], [], []]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_what_a_study_shows_is_what_its_lock_says_it_made(lock: Path) -> None:
    """Also of a study that was run at an earlier revision, which its run facts name."""
    outs = [out for stage in yaml.safe_load(lock.read_text())["stages"].values() for out in stage["outs"]]
    shown = [out for out in outs if out["path"].endswith((".json", ".csv", ".md"))]
    assert shown
    for out in shown:
        assert hashlib.md5((ROOT / out["path"]).read_bytes()).hexdigest() == out["md5"], out["path"]


@pytest.mark.parametrize("name", CLAIMS)
def test_every_verdict_follows_from_the_committed_evidence(name: str) -> None:
    verdict = judged_now(ROOT, load_claim(ROOT / "claims.yaml", name))
    committed = read_json(ROOT / "metrics" / "claims" / f"{name}.json")
    assert (verdict["verdict"], verdict["reasons"]) == (committed["verdict"], committed["reasons"])


def test_no_metric_holds_a_missing_value_in_disguise() -> None:
    def walk(value: Any, where: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{where}.{key}")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walk(item, f"{where}[{i}]")
        elif isinstance(value, float):
            assert math.isfinite(value), where
            assert value != -1 or ".margin." in where, where  # a difference of counts may well be that
            assert float(f"{value:.6g}") == value, where
        else:
            assert isinstance(value, str | int), where

    files = sorted((ROOT / "metrics").rglob("*.json"))
    assert len([path for path in files if "saebench" not in path.parts]) >= 14
    for path in files:
        if "saebench" not in path.parts:  # SAEBench's own files are as SAEBench writes them
            walk(json.loads(path.read_text()), str(path))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_every_result_has_its_run_facts(lock: Path) -> None:
    for name in yaml.safe_load(lock.read_text())["stages"]:
        facts = read_json(ROOT / "runs" / f"{name}.json")
        assert facts["uncommitted_code"] == 0, name
        assert len(facts["revision"]) == 40, name


def test_the_model_behind_the_results_generalised_and_does_not_read_its_answer() -> None:
    for subject in load_study(ROOT / "study.yaml").subjects:
        model = read_json(ROOT / "metrics" / subject / "subject.json")["model"]
        assert model["accuracy"]["validation"] >= 0.99
        assert model["accuracy"]["test"] > 20 * model["chance_accuracy"]
        assert model["label_sensitivity"] == 0
        assert model["operand_sensitivity"] >= 0.9


def test_the_readme_shows_the_committed_results() -> None:
    assert f"{readme.START}\n{readme.results(ROOT)}{readme.END}" in (ROOT / "README.md").read_text()


def test_the_page_of_the_studies_shows_the_committed_results() -> None:
    assert studies.page(ROOT) == (ROOT / studies.PAGE).read_text()


def test_metrics_and_plot_data_are_small() -> None:
    cached = {"examples", "saebench", "tables", "truth"}  # outputs in DVC's cache, which git does not hold
    for path in sorted((ROOT / "metrics").rglob("*")):
        if path.is_file() and not cached & set(path.relative_to(ROOT / "metrics").parts[:-1]):
            assert path.stat().st_size < 300_000, path


def test_the_score_of_the_planted_faults_is_a_metric_of_dvc() -> None:
    done = dvc(ROOT, "metrics", "show", "--json", "metrics/faults.json")
    assert json.loads(done.stdout)[""]["data"]["metrics/faults.json"]["data"] == read_json(ROOT / "metrics/faults.json")


def test_a_pipeline_file_beside_the_metrics_has_no_stage() -> None:
    """No lock and no run: it only tells DVC what else is a metric."""
    assert list(yaml.safe_load((ROOT / "metrics/dvc.yaml").read_text())) == ["metrics"]


def test_the_same_stages_in_every_study() -> None:
    default = (ROOT / "dvc.yaml").read_bytes()
    for path in sorted(Path(ROOT / "studies").glob("*/dvc.yaml")):
        assert path.read_bytes() == default, path
