"""A claim of a study is judged by the pipeline and the lock of its own study, which has the stages of all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.review import project
from tests.review.project import CLAIM
from tests.sweeps.toy import dvc_ok, git

pytestmark = pytest.mark.slow
PIPELINE = "studies/other/dvc.yaml"
SCORED = f"{PIPELINE}:score@topk-k16"
PATH = "metrics/toy/topk-k16/stability.json"


@pytest.fixture(scope="module")
def studied(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a second study: a seed set that a claim of its own speaks of, and one that none speaks of."""
    folder = tmp_path_factory.mktemp("studied") / "project"
    subprocess.run(["cp", "-a", made, folder], check=True)
    pipeline = project.read(folder, "dvc.yaml")
    pipeline["vars"] = ["study.yaml", "claims.yaml"]
    pipeline["stages"]["score"] |= {"foreach": "${scored}"}
    pipeline["stages"]["score"]["do"] |= {"wdir": "${root}"}
    pipeline["stages"]["claims"] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["claims"]
    (folder / "studies/other").mkdir(parents=True)
    for file in ("dvc.yaml", PIPELINE):
        project.write(folder, file, pipeline)
    study = {"root": ".", "claims_file": "claims.yaml", "scored": ["topk-k4", "topk-k8"]}
    project.write(folder, "study.yaml", study)
    other = {"root": "../..", "claims_file": "studies/other/claims.yaml", "scored": ["topk-k16", "topk-k32"]}
    project.write(folder, "studies/other/study.yaml", other)
    planted = project.read(folder, "planted.yaml")
    planted["variants"] |= {"topk-k16": {"k": 16, "kappa": 0.9}, "topk-k32": {"k": 32, "kappa": 0.7}}
    project.write(folder, "planted.yaml", planted)
    claim = project.claim(
        git(folder, "rev-parse", "HEAD").strip(), evidence=[PATH] * 8, speaks_of={"toy/topk-k16": {"k": 16}}
    )
    project.write(folder, "studies/other/claims.yaml", {"claims": {"elsewhere": claim}, "phases": {}})
    project.commit(folder, "a study")
    dvc_ok(folder, "repro")
    dvc_ok(folder, "repro", PIPELINE)
    project.commit(folder, "its results")
    return folder


@pytest.fixture
def clone(studied: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", studied, tmp_path / "project"], check=True)
    return tmp_path / "project"


def checked(folder: Path, code: int) -> dict[str, Any]:
    """What the check finds: each claim by its name, and the stages that must run again."""
    done = project.claims(folder, "check", "--format", "json")
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    return {one["name"]: one for one in found["claims"]} | {"stale": found["stale"]}


def test_the_lock_of_the_study_says_whether_its_claim_may_stand(clone: Path) -> None:
    found = checked(clone, 0)
    assert (found["elsewhere"]["verdict"], found["elsewhere"]["faults"], found["stale"]) == ("supported", [], [])
    for variant in ("topk-k16", "topk-k32"):
        project.edit(clone, "planted.yaml", f"variants/{variant}/kappa", 0.8)
    project.commit(clone, "other parameters")
    found = checked(clone, 1)
    assert (found["elsewhere"]["verdict"], found["elsewhere"]["recorded"]) == ("not testable", "supported")
    assert found["elsewhere"]["faults"] == [
        f"1 of the 2 stages behind it are stale (parameters planted.yaml: variants.topk-k16); run `dvc repro {SCORED}`"
    ]
    assert found[CLAIM]["faults"] == []
    assert found["stale"] == [SCORED]  # and not what no claim rests on
    assert f"To be run again: {SCORED}\n" in project.claims(clone, "check").stdout


def test_other_stages_than_those_of_the_default_study_are_refused(clone: Path) -> None:
    with (clone / PIPELINE).open("a") as file:
        file.write("# a stage of its own\n")
    project.commit(clone, "another pipeline")
    found = checked(clone, 1)
    assert found["elsewhere"]["faults"] == [
        f"{PIPELINE}: it makes {path} and is not as dvc.yaml, allowed: the same stages everywhere"
        for path in ("metrics/claims/elsewhere.json", PATH)
    ]
    assert (found["elsewhere"]["verdict"], found[CLAIM]["faults"]) == ("not testable", [])


def test_show_gives_the_command_of_the_study(clone: Path) -> None:
    done = project.claims(clone, "show", "elsewhere")
    assert done.returncode == 0, done.stderr
    revision = json.loads((clone / "runs/claims@elsewhere.json").read_text())["revision"]
    assert done.stdout.endswith(f"  git checkout {revision} && dvc repro {PIPELINE}:claims@elsewhere\n")
    assert "planted.yaml:variants.topk-k16 (score): {k: 16, kappa: 0.9}" in done.stdout
