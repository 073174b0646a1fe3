"""Each fault once, at a moment that its seed draws; `python -m tests.sweeps.faults 10` tries more moments."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.sweeps.faults import FAULTS, SWEEP, Count, a_stage, inject, start, state_of, workers
from tests.sweeps.project import commit, experiments, git

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_every_experiment_is_done_or_failed_with_a_reason(name: str, tmp_path: Path) -> None:
    failed = FAULTS[name][2]
    found = inject(name, seed=0, folder=tmp_path / "project")
    assert found == Count(tried=found.tried, done=found.tried - failed, failed=failed)
    assert found.tried == (2 if "corrupted" in name else 4)


def test_a_preempted_training_goes_on_from_its_checkpoint(project: Path) -> None:
    (project / "sweep.yaml").write_text(SWEEP.replace("[2, 6]", "[2]").replace("[[0, 1, 2], [3, 4, 5]]", "[[0, 1, 2]]"))
    commit(project)
    first = start(project)
    task, _ = a_stage(project)
    mark = state_of(project) / "checkpoints" / task / "train"
    while not mark.exists() or int(mark.read_text()) < 3:
        time.sleep(0.01)
    os.kill(dict(workers(project))[task].pid, signal.SIGTERM)
    assert "1 done, 0 failed, 0 left" in first.communicate(timeout=60)[0]
    (revision,) = experiments(project).values()
    assert json.loads(git(project, "show", f"{revision}:runs/train.json"))["resumed_from"] >= 3
    assert not mark.exists()
