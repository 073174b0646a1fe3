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
from typing import IO

from reseed import ReseedError
from reseed.stage import progress
from reseed.sweeps.pipelines import chosen, in_order, instances

PATIENCE = 0.05
"""Seconds between two looks at what runs."""
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

    Says a line a stage. When one fails nothing new starts, what runs ends, and its last lines are in the ReseedError,
    which is raised too for a target that is none and for more jobs than there are cores.
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
    try:
        with progress(len(left), f"{jobs} side by side", "stage") as bar:
            while running or (left and not failed):
                for address in [one for one in left if not (set(known[one].before) & wanted) - done]:
                    free = set(range(jobs)) - {one.slot for one in running.values()}
                    if not free or failed:
                        break
                    left.remove(address)
                    running[address] = _start(address, min(free), cores[min(free) :: jobs])
                for address, one in list(running.items()):
                    if (code := one.process.poll()) is None:
                        continue
                    del running[address]
                    text = _text(one.output)
                    if code:
                        failed.append(f"{address}: exit code {code}\n" + "\n".join(text.splitlines()[-SHOWN:]))
                        continue
                    done.add(address)
                    bar.update()
                    what = "ran" if "Running stage" in text else "up to date"
                    say(f"{address}: {what} ({time.monotonic() - one.started:.0f} s)")
                time.sleep(PATIENCE)
    finally:
        for one in running.values():
            one.process.send_signal(signal.SIGINT)  # DVC then stops its stage too
        for one in running.values():
            one.process.wait()
    if failed:
        raise ReseedError("\n".join(failed))


def _start(address: str, slot: int, cores: Sequence[int]) -> Running:
    output = TemporaryFile()  # noqa: SIM115 - read and closed when the process has ended

    def own_cores() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)

    dvc = Path(sys.executable).with_name("dvc")
    process = subprocess.Popen(
        [dvc, "--wait-for-lock", "repro", "--single-item", address],
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, preexec_fn=own_cores,
    )  # fmt: skip
    return Running(process, output, slot, time.monotonic())


def _text(output: IO[bytes]) -> str:
    with output:
        output.seek(0)
        return output.read().decode(errors="replace")
