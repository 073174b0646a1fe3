"""Each fault once, at a moment that its seed draws; `python -m tests.sweeps.faults 10` tries more moments."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from reseed.sweeps import schedule
from tests.sweeps import cluster
from tests.sweeps.faults import FAULTS, SWEEP, Count, a_stage, counted, inject, start, state_of, workers
from tests.sweeps.project import commit, experiments, git

pytestmark = pytest.mark.slow
EACH_TIME = (
    "a worker killed", "submitting command and workers killed", "a full disk in one worker", "a corrupted cache object",
)  # fmt: skip
"""One of each kind: of a process, of all, of what it writes to, of what it reads."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EACH_TIME else pytest.mark.weekly) for name in FAULTS]
)
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


def survived(folder: Path, first: subprocess.Popen[str]) -> None:
    """The sweep ended by itself, with every experiment done once."""
    said = first.communicate(timeout=400)[0]
    assert "4 done, 0 failed, 0 left" in said, said
    assert counted(folder, [said]) == Count(tried=4, done=4)


@pytest.mark.weekly
@pytest.mark.skipif(bool(cluster.why_no_slurm()), reason=cluster.why_no_slurm())
@pytest.mark.parametrize("what", ["a job requeued", "a machine that vanishes"])
def test_a_sweep_on_slurm_survives(what: str, project: Path, tmp_path: Path) -> None:
    (project / "sweep.yaml").write_text(SWEEP.replace("seconds: [1]", "seconds: [3]"))
    commit(project)
    with cluster.slurm(tmp_path / "slurm") as daemons:
        first = start(project, "--engine", "slurm", "--gpus", "1")
        task, process = a_stage(project)
        if what == "a job requeued":
            launched = json.loads(schedule.launch_file(state_of(project), task).read_text())
            subprocess.run(["scontrol", "requeue", launched["handle"]], check=True)
        else:
            daemons["gpu1"].kill()
            for one in psutil.process_iter(["name", "cmdline"]):
                if one.info["name"] == "slurmstepd" and process in one.children(recursive=True):
                    one.kill()
        while first.poll() is None:
            cluster.start_at_once()
            time.sleep(1)
        survived(project, first)


@pytest.mark.weekly
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make ray")
def test_a_sweep_on_ray_survives_a_node_that_is_removed(project: Path) -> None:
    (project / "sweep.yaml").write_text(SWEEP.replace("seconds: [1]", "seconds: [3]"))
    commit(project)
    with cluster.ray(3) as (address, remove_node):
        first = start(project, "--engine", "ray", "--address", address, "--gpus", "1", "--jobs", "3")
        while len(list(workers(project))) < 3:
            time.sleep(0.05)
        remove_node()
        survived(project, first)
