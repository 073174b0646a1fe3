"""Stages of a pipeline side by side: `dvc repro` runs one at a time, though most of a study's stages wait for no other.

Each stage is a `dvc repro --single-item` of its own, which waits for DVC's lock; the order is that of DVC's graph.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import IO

from reseed import ReseedError
from reseed.stage import progress
from reseed.sweeps.pipelines import chosen, in_order, instances

PATIENCE = 0.05
"""Seconds between two looks at what runs."""
GRACE = 10
"""Seconds that a stage has to end after each kind of signal."""
SHOWN = 30
"""Lines of the output of a stage that failed."""


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    slot: int
    started: float


def repro(targets: Sequence[str], jobs: int, say: Callable[[str], None] = print) -> None:
    """Bring the stages of `dvc repro TARGETS` up to date, at most `jobs` at once, each on cores of its own.

    Says a line a stage. When one fails, or SIGINT or SIGTERM comes, nothing new starts and what runs is stopped, as by
    Ctrl-C; the last lines of what failed are in the ReseedError, which is raised too for a target that is none and for
    more jobs than there are cores.
    """
    from dvc.repo import Repo

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if not 1 <= jobs <= len(cores):
        raise ReseedError(f"--jobs: found {jobs}, allowed: 1 to {len(cores)}, the cores that this process may use")
    with Repo() as repo:
        known = instances(repo)
    left = in_order(known, chosen(known, targets))
    wanted, done, failed = set(left), set[str](), list[str]()
    running: dict[str, Running] = {}

    def told(number: int, _frame: FrameType | None) -> None:
        failed.append(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with progress(len(left), f"{jobs} side by side", "stage") as bar:
            while (running or left) and not failed:
                for address in [one for one in left if not (set(known[one].before) & wanted) - done]:
                    if not (free := set(range(jobs)) - {one.slot for one in running.values()}):
                        break
                    left.remove(address)
                    running[address] = _start(address, min(free), cores[min(free) :: jobs])
                time.sleep(PATIENCE)
                for address, one in list(running.items()):
                    if one.process.poll() is None:
                        continue
                    del running[address]
                    text = _text(one.output)
                    if one.process.returncode:
                        last = "\n".join(text.splitlines()[-SHOWN:])
                        failed.append(f"{address}: exit code {one.process.returncode}\n{last}")
                        continue
                    done.add(address)
                    bar.update()
                    say(f"{address}: {_what(text)} ({time.monotonic() - one.started:.0f} s)")
    finally:
        _stop([one.process for one in running.values()])
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        raise ReseedError("\n".join(failed))


def _what(text: str) -> str:
    """What DVC did with a stage, by what it printed."""
    return "ran" if "Running stage" in text else "from the run-cache" if "is cached" in text else "up to date"


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop DVC and its stage, which are a process group: DVC itself does not listen to SIGINT while a stage runs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, number)
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(PATIENCE)


def _start(address: str, slot: int, cores: Sequence[int]) -> Running:
    output = TemporaryFile()  # noqa: SIM115 - read and closed when the process has ended

    def own_cores() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)

    dvc = Path(sys.executable).with_name("dvc")
    process = subprocess.Popen(
        [dvc, "--wait-for-lock", "repro", "--single-item", address],
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, preexec_fn=own_cores,
        start_new_session=True,
    )  # fmt: skip
    return Running(process, output, slot, time.monotonic())


def _text(output: IO[bytes]) -> str:
    with output:
        output.seek(0)
        return output.read().decode(errors="replace")
