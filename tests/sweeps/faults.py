"""Faults at random moments of a sweep, by a seed: `python -m tests.sweeps.faults 5` tries each five times.

After each, by the same command once more: every experiment ends as done or failed with a reason, none twice, none lost,
none with another's parameters, no clone and no process left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from resource import RLIMIT_FSIZE
from unittest.mock import patch

import psutil

from reseed.sweeps.tasks import (
    TASK_VARIABLE,
    Outcome,
    Worker,
    all_tasks,
    outcome_file,
    read,
)  # fmt: skip
from tests.scratch import dvc, environment
from tests.sweeps.project import commit, experiments, make, metric, reseed

ROOT = Path(__file__).parents[2]
SWEEP = "name: s\ngrid: {train.seeds: [[0, 1, 2], [3, 4, 5]], variants.topk.k: [2, 6], behave.seconds: [1]}\n"
SCORES = {
    "s-seeds0_2-k2-seconds1": 3002, "s-seeds0_2-k6-seconds1": 3006,
    "s-seeds3_5-k2-seconds1": 12002, "s-seeds3_5-k6-seconds1": 12006,
}  # fmt: skip
CLI = "from reseed.sweeps.commands import app; app()"


@dataclass
class Count:
    """What a fault did to the experiments of a sweep."""

    tried: int = 0
    done: int = 0
    failed: int = 0
    lost: int = 0
    twice: int = 0
    foreign: int = 0
    left_behind: int = 0


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`reseed sweep run` with two workers."""
    # what Ray is installed beside the environment stays visible
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    env = environment() | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-c", CLI, "run", "sweep.yaml", "--jobs", "2", *arguments],
        cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def workers(folder: Path) -> Iterator[tuple[str, Worker]]:
    """Those that run, the longest first."""
    state = state_of(folder)
    for path in sorted((state / "workers").glob("*.json")):
        worker = read(Worker, path)
        if worker is not None and psutil.pid_exists(worker.pid):
            yield path.stem, worker


def a_worker(folder: Path, dice: random.Random) -> tuple[str, Worker]:
    """One of those that run, at a random moment of its work."""
    deadline = time.monotonic() + 60
    while True:
        found = list(workers(folder))
        if found:
            time.sleep(dice.uniform(0, 1.5))
            found = [pair for pair in found if psutil.pid_exists(pair[1].pid)]
            if found:
                return dice.choice(found)
        assert time.monotonic() < deadline, "no worker came"
        time.sleep(0.02)


def a_stage(folder: Path) -> tuple[str, psutil.Process]:
    """A stage that runs, and its task."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in psutil.process_iter():
            try:
                task = process.environ().get(TASK_VARIABLE)
                if task and process.cmdline()[-1] == "train.py" and process.cwd().startswith(str(folder)):
                    return task, process
            except (psutil.NoSuchProcess, psutil.AccessDenied, IndexError):
                continue
        time.sleep(0.02)
    raise AssertionError("no stage came")


def worker_killed(folder: Path, dice: random.Random, _first: subprocess.Popen[str]) -> set[str]:
    os.kill(a_worker(folder, dice)[1].pid, signal.SIGKILL)
    return set()


def dvc_killed(folder: Path, dice: random.Random, _first: subprocess.Popen[str]) -> set[str]:
    task, worker = a_worker(folder, dice)
    children = psutil.Process(worker.pid).children()
    for child in children:
        child.kill()
    return {task} if children else set()


def stage_killed(folder: Path, _dice: random.Random, _first: subprocess.Popen[str]) -> set[str]:
    task, process = a_stage(folder)
    process.kill()
    return {task}


def submitter_killed(folder: Path, dice: random.Random, first: subprocess.Popen[str]) -> set[str]:
    a_worker(folder, dice)
    first.kill()
    return set()


def submitter_stopped(folder: Path, dice: random.Random, first: subprocess.Popen[str]) -> set[str]:
    a_worker(folder, dice)
    first.terminate()
    return set()


def everything_killed(folder: Path, dice: random.Random, first: subprocess.Popen[str]) -> set[str]:
    a_worker(folder, dice)
    first.kill()
    for _, worker in workers(folder):
        os.kill(worker.pid, signal.SIGKILL)
    return set()


def preempted(folder: Path, dice: random.Random, _first: subprocess.Popen[str]) -> set[str]:
    os.kill(a_worker(folder, dice)[1].pid, signal.SIGTERM)
    return set()


def disk_full(folder: Path, _dice: random.Random, _first: subprocess.Popen[str]) -> set[str]:
    task, process = a_stage(folder)
    process.rlimit(RLIMIT_FSIZE, (0, 0))
    return {task}


def push_breaks(folder: Path, _dice: random.Random, _first: subprocess.Popen[str]) -> set[str]:
    """Every push fails three times, after its objects have arrived."""
    hook = folder / ".git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    count = 'f="$PWD/pushes-$(basename $ref)"; echo x >> "$f"; [ $(wc -l < "$f") -gt 3 ]'
    hook.write_text(f"#!/bin/sh\nread old new ref\n{count}\n")
    hook.chmod(0o755)
    return set()


def nothing(_folder: Path, _dice: random.Random, _first: subprocess.Popen[str]) -> set[str]:
    return set()


def stale_locks(folder: Path) -> None:
    state_of(folder).mkdir(parents=True)
    (state_of(folder) / "scheduler.lock").write_text("4194305")
    held = {"outs": {}, "read": {}, "write": {"pid": 4194305, "cmd": "dvc repro"}}
    (folder / ".dvc/tmp/rwlock").write_text(json.dumps({str(folder / "models/sae"): held}))
    (folder / ".dvc/tmp/lock").write_text("4194305")


def corrupt_object(folder: Path) -> None:
    """An output of the baseline, which every experiment needs, is not what its name says."""
    assert dvc(folder, "repro").returncode == 0
    commit(folder)
    (folder / "sweep.yaml").write_text("name: s\ngrid: {scale: [2, 3]}\n")
    commit(folder)
    objects = [path for path in (folder / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    (bad,) = [path for path in objects if path.read_bytes().startswith(b"[[0, 1, 2]")]
    bad.chmod(0o644)
    bad.write_bytes(b"[[9, 9, 9]" + bad.read_bytes()[9:])
    bad.chmod(0o444)


def one_fails(folder: Path) -> None:
    text = (folder / "sweep.yaml").read_text()
    (folder / "sweep.yaml").write_text(text.replace("variants.topk.k: [2, 6]", "behave.fail: [false, true]"))
    commit(folder)


def state_of(folder: Path) -> Path:
    return folder / ".dvc/tmp/reseed-sweeps"


Fault = Callable[[Path, random.Random, subprocess.Popen[str]], set[str]]
FAULTS: dict[str, tuple[Callable[[Path], None] | None, Fault, int]] = {
    # what is prepared, what is done while it runs, and how many experiments fail for it
    "a worker killed": (None, worker_killed, 0),
    "DVC killed under a worker": (None, dvc_killed, 0),
    "a stage killed": (None, stage_killed, 0),
    "the submitting command killed": (None, submitter_killed, 0),
    "the submitting command stopped": (None, submitter_stopped, 0),
    "submitting command and workers killed": (None, everything_killed, 0),
    "a worker preempted": (None, preempted, 0),
    "a full disk in one worker": (None, disk_full, 0),
    "every push broken three times": (None, push_breaks, 0),
    "stale locks": (stale_locks, nothing, 0),
    "failing experiments among good ones": (one_fails, nothing, 2),
    "a corrupted cache object": (corrupt_object, nothing, 2),
}


def inject(name: str, seed: int, folder: Path) -> Count:
    """One fault in one sweep, then the same command again until it has nothing to do; what became of everything."""
    prepare, fault, _ = FAULTS[name]
    make(folder)
    (folder / "sweep.yaml").write_text(SWEEP)
    commit(folder)
    if prepare:
        prepare(folder)
    first = start(folder)
    fault(folder, random.Random(seed), first)
    said = [first.communicate(timeout=120)[0]]
    with contextlib.chdir(folder), patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": ""}):
        said.append(reseed("run", "sweep.yaml", "--jobs", "2").output)
    return counted(folder, said)


def counted(folder: Path, said: list[str]) -> Count:
    """What holds after a sweep, compared with what was asked."""
    state, count = state_of(folder), Count()
    made = experiments(folder)
    ledger = [json.loads(line) for line in (folder / "runs/ledger.jsonl").read_text().splitlines()]
    for task in all_tasks(state):
        count.tried += 1
        outcome = read(Outcome, outcome_file(state, task.id))
        if (
            outcome is None
            or (outcome.status == "done") != (task.name in made)
            or bool(outcome.reason) != (outcome.status == "failed")
        ):
            count.lost += 1
            continue
        count.done += outcome.status == "done"
        count.failed += outcome.status == "failed"
        count.twice += sum(e["task"] == task.id and e["status"] == "done" for e in ledger) > 1
        if outcome.status == "done":
            values = {key: value for keys in task.changes.values() for key, value in keys.items()}
            seeds, k = values.get("train.seeds", [0, 1, 2]), values.get("variants.topk.k", 4)
            expected = values.get("scale", 1) * (sum(seeds) * 1000 + k)
            count.foreign += json.loads(metric(folder, made[task.name])) != {"score": expected}
    running = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get(TASK_VARIABLE)]
    count.left_behind = len(list((state / "clones").iterdir())) + len(list(workers(folder))) + len(running)
    assert count.tried, said
    return count


def main() -> None:
    """Try every fault so often, and print what was tried and lost."""
    rounds, total = int(sys.argv[1]) if len(sys.argv) > 1 else 1, Count()
    for name in FAULTS:
        for seed in range(rounds):
            with tempfile.TemporaryDirectory(prefix="reseed-faults-") as temporary:
                count = inject(name, seed, Path(temporary) / "project")
            print(f"{name} (seed {seed}): {count}", flush=True)
            for field in vars(total):
                setattr(total, field, getattr(total, field) + getattr(count, field))
    print(f"{rounds * len(FAULTS)} faults, {total}")


if __name__ == "__main__":
    main()
