"""A pipeline whose stage instances run as tasks, in clones of their own, and end in one lock."""

from __future__ import annotations

import json
from pathlib import Path

from tests.scratch import dvc
from tests.sweeps.project import commit, git, reseed


def test_every_stage_is_a_task_and_the_checkout_ends_as_after_dvc_repro(here: Path, tmp_path: Path) -> None:
    done = reseed("run", "--stages", "dvc.yaml", "--jobs", "2")
    assert "2 done, 0 failed, 0 left" in done.output, done.exception
    assert dvc(here, "status", "--json").stdout.strip() == "{}"
    assert json.loads(Path("metrics/score.json").read_text()) == {"score": 3004}
    assert json.loads(Path("runs/train.json").read_text())["machine"]["processor"] == "Test CPU"
    ran = [json.loads(line) for line in Path("runs/ledger.jsonl").read_text().splitlines()]
    assert [entry["task"].split("@")[0] for entry in ran] == ["train", "score"]  # each once, in their order
    assert ran[0]["bytes"] > 1000
    lock = Path("dvc.lock").read_text()
    other = tmp_path / "other"
    git(here, "clone", "-q", str(here), str(other))
    assert dvc(other, "repro").returncode == 0
    assert (other / "dvc.lock").read_text() == lock
    commit(here)
    assert "0 done, 0 failed, 0 left: nothing to run" in reseed("run", "--stages", "dvc.yaml").output


def test_what_follows_a_failed_stage_is_not_run_and_nothing_is_joined(here: Path) -> None:
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("fail: false", "fail: true"))
    commit(here)
    done = reseed("run", "--stages", "dvc.yaml")
    assert "failed: train: params.yaml: behave.fail: found True" in done.output
    assert "failed: score: not run, because train failed" in done.output
    assert "0 done, 2 failed, 0 left" in done.output
    assert not Path("dvc.lock").exists()
    assert git(here, "status", "--porcelain") == "?? runs/"
