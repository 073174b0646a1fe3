"""Stages of a pipeline side by side: `dvc repro` runs one at a time, though most of a study's stages wait for no other.

Each stage is a `dvc repro --single-item` of its own, which waits for DVC's lock; the order is that of DVC's graph.
A server a job, which has the imports behind it, forks them (`warm`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from types import FrameType
from typing import IO

from reseed import ReseedError
from reseed.stage import progress
from reseed.sweeps.pipelines import chosen, in_order, instances
from reseed.sweeps.warm import Server, packages_for

PATIENCE = 0.05
"""Seconds between two looks at what runs."""
GRACE = 10
"""Seconds that a stage has to end after each of two signals, before it is killed."""
SHOWN = 30
"""Lines of the output of a stage that failed."""


@dataclass(frozen=True)
class Running:
    pid: int
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

    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= jobs <= len(cores):
        raise ReseedError(f"--jobs: found {jobs}, allowed: 1 to {len(cores)}, the cores that this process may use")
    with Repo() as repo:
        known = instances(repo)
    left = in_order(known, chosen(known, targets))
    wanted, done, failed = set(left), set[str](), list[str]()
    running: dict[str, Running] = {}
    packages = packages_for(known[address].command for address in left)
    servers = [Server(cores[slot::jobs], packages) for slot in range(jobs)]

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
                    output, started = TemporaryFile(), time.monotonic()  # noqa: SIM115 - read when the stage has ended
                    pid = servers[min(free)].start(address, output)
                    running[address] = Running(pid, output, min(free), started)
                time.sleep(PATIENCE)
                for address, one in list(running.items()):
                    if (code := servers[one.slot].poll()) is None:
                        continue
                    del running[address]
                    text = _text(one.output)
                    if code:
                        last = "\n".join(text.splitlines()[-SHOWN:])
                        failed.append(f"{address}: exit code {code}\n{last}")
                        continue
                    done.add(address)
                    bar.update()
                    say(f"{address}: {_what(text)} ({time.monotonic() - one.started:.0f} s)")
    finally:
        _stop(servers, running.values())
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        raise ReseedError("\n".join(failed))


def _what(text: str) -> str:
    """What DVC did with a stage, by what it printed."""
    return "ran" if "Running stage" in text else "from the run-cache" if "is cached" in text else "up to date"


def _stop(servers: Sequence[Server], running: Collection[Running]) -> None:
    """Stop DVC and its stage, which are a process group: DVC itself does not listen to SIGINT while a stage runs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        deadline = time.monotonic() + GRACE
        for one in running:
            if servers[one.slot].poll() is None:
                with suppress(ProcessLookupError):  # it has ended since
                    os.killpg(one.pid, number)
        while any(servers[one.slot].poll() is None for one in running) and time.monotonic() < deadline:
            time.sleep(PATIENCE)
    for server in servers:
        server.close()


def _text(output: IO[bytes]) -> str:
    with output:
        output.seek(0)
        return output.read().decode(errors="replace")
