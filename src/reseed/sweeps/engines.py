"""Where tasks run. An engine starts `python -m reseed.sweeps.worker TASK.json` somewhere and tells when it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reseed import ReseedError
from reseed.sweeps.tasks import Task, Worker, log_file, process_born, task_file
from reseed.sweeps.worker import GRACE


class Engine(Protocol):
    """A handle names a started worker, also to a later process: it is written down before anyone waits for it."""

    name: str
    patience: float
    """Seconds between two looks at what runs."""

    @property
    def slots(self) -> int:
        """How many tasks may run at once."""

    def start(self, started: Sequence[Task]) -> list[str]:
        """Start a worker for each task and return their handles."""

    def ended(self, handle: str) -> str | None:
        """How a worker ended, None while it runs or waits."""

    def stop(self, handles: Sequence[str]) -> None:
        """Ask workers to stop, and return when they have."""

    def close(self) -> None:
        """Let go of what the engine holds."""


def command(file: Path) -> list[str]:
    return [sys.executable, "-m", "reseed.sweeps.worker", str(file)]


def environment(devices: str) -> dict[str, str]:
    """The environment of a worker: this package, this interpreter's programs, and its GPUs (none: no GPU)."""
    package, programs = Path(__file__).parents[2], Path(sys.executable).parent
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DVC_EXP")}
    return inherited | {
        "PYTHONPATH": str(package),
        "PATH": f"{programs}:{os.environ.get('PATH', '')}",
        "CUDA_VISIBLE_DEVICES": devices,
        "DVC_NO_ANALYTICS": "1",
    }


def handle_of(worker: Worker) -> str:
    """The handle that the local engine gives to a worker of this machine."""
    return _handle(worker.host, worker.pid, worker.born)


def _handle(host: str, pid: int, born: float) -> str:
    return f"{host}:{pid}:{born}"


def gpus_here() -> list[str]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES leaves, by number."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [part for part in named.split(",") if part]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [str(i) for i in range(listed.stdout.count("GPU "))] if listed.returncode == 0 else []


@dataclass
class Local:
    """Workers on this machine, each with GPUs of its own."""

    devices: list[str]
    """What each slot gives as CUDA_VISIBLE_DEVICES."""
    name: str = "local"
    patience: float = 0.05
    _mine: dict[str, tuple[subprocess.Popen[bytes], str]] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return len(self.devices)

    def start(self, started: Sequence[Task]) -> list[str]:
        handles = []
        for task in started:
            taken = [devices for process, devices in self._mine.values() if process.poll() is None]
            free = list(self.devices)
            for devices in taken:
                free.remove(devices)
            state = Path(task.state)
            log_file(state, task.id).parent.mkdir(parents=True, exist_ok=True)
            with log_file(state, task.id).open("ab") as log:
                process = subprocess.Popen(
                    command(task_file(state, task.id)),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(free[0]), start_new_session=True,
                )  # fmt: skip
            handles.append(_handle(socket.gethostname(), process.pid, process_born(process.pid)))
            self._mine[handles[-1]] = process, free[0]
        return handles

    def ended(self, handle: str) -> str | None:
        if handle in self._mine:
            code = self._mine[handle][0].poll()
            return None if code is None else f"ended with {code}"
        host, pid, born = handle.split(":")
        running = host == socket.gethostname() and process_born(int(pid)) == float(born)
        return None if running else "vanished"

    def stop(self, handles: Sequence[str]) -> None:
        running = [handle for handle in handles if self.ended(handle) is None]
        for handle in running:
            os.kill(int(handle.split(":")[1]), signal.SIGTERM)
        deadline = time.monotonic() + 2 * GRACE
        while any(self.ended(handle) is None for handle in running) and time.monotonic() < deadline:
            time.sleep(self.patience)

    def close(self) -> None:
        self._mine.clear()


def local(jobs: int | None, gpus: int | None, threads: int) -> Local:
    """The engine of this machine; raises ReseedError for more GPUs than it has.

    Without `jobs`: one task for every `gpus` GPUs, or on a machine without any as many as its cores carry.
    """
    here = gpus_here()
    gpus = min(1, len(here)) if gpus is None else gpus
    most = len(here) // gpus if gpus else max(1, (os.cpu_count() or 1) // threads)
    if gpus and (jobs or 1) * gpus > len(here):
        raise ReseedError(
            f"--jobs {jobs or 1} --gpus {gpus}: found {len(here)} GPUs on this machine, allowed: jobs times gpus of at "
            "most that"
        )
    groups = [",".join(here[i * gpus : (i + 1) * gpus]) for i in range(jobs or most)]
    return Local(groups)
