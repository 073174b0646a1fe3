"""A task of a sweep and what became of it: small JSON files, each with one writer, renamed into place.

Nothing here imports torch: a worker that does no numerics itself should start in tenths of a second.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil

from reseed import ReseedError

STATE = Path(".dvc/tmp/reseed-sweeps")
REF = "refs/reseed"
"""Where a task keeps its commit until it is done."""
TASK_VARIABLE = "RESEED_TASK"
"""In the environment of everything that a task starts, so that its orphans are found."""

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know. Written once, before anything runs."""

    id: str
    name: str
    grain: Literal["experiment", "stage"]
    origin: str
    """The user's checkout, or a git bundle of it where that is out of reach."""
    head: str
    """The revision that the experiment starts from."""
    source: str
    """A commit that holds the parameter files as asked; `head` itself if nothing is changed."""
    changes: dict[str, dict[str, Any]]
    """The parameters asked for that differ from `head`, as {file: {key: value}}."""
    targets: list[str]
    state: str
    cache: str
    """The DVC cache of the checkout; a machine that does not see it uses one of its own and the DVC remote."""
    remote: bool
    """Whether the checkout has a default DVC remote."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `dvc exp run` that the queue entry was given."""
    after: list[str] = field(default_factory=list)
    """Tasks that must be done before this one may start."""
    origins: str = ""
    """What queued it: `queue`, or the sweep file."""
    hours: float = 0.0
    """The estimate that was made before it started."""


@dataclass(frozen=True)
class Worker:
    """The process that runs a task: its number of the attempt, and where to find it."""

    attempt: int
    host: str
    pid: int
    born: float
    """Start time of the process, by which a process of the same number is told apart."""
    started: float
    device: str
    clone: str


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    status: Status
    reason: str
    attempt: int
    started: float
    seconds: float
    host: str
    hardware: str
    revision: str = ""
    """The commit of the experiment."""
    bytes: int = 0
    """Of the outputs that differ from those of `head`."""
    activation_bytes: int = 0
    stages: list[str] = field(default_factory=list)
    """The stage instances that ran, not those that the run cache filled in."""


T = TypeVar("T", Task, Worker, Outcome)


def write(path: Path, content: Task | Worker | Outcome | dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(content if isinstance(content, dict) else asdict(content), indent=1) + "\n")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read(kind: type[T], path: Path) -> T | None:
    """Read what `write` wrote, None if there is no such file; raises ReseedError for a file of another version."""
    try:
        return kind(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (TypeError, json.JSONDecodeError) as error:
        raise ReseedError(f"{path}: not written by this version of reseed ({error}); remove it") from error


def task_file(state: Path, id_: str) -> Path:
    return state / "tasks" / f"{id_}.json"


def worker_file(state: Path, id_: str) -> Path:
    return state / "workers" / f"{id_}.json"


def outcome_file(state: Path, id_: str) -> Path:
    return state / "outcomes" / f"{id_}.json"


def log_file(state: Path, id_: str) -> Path:
    return state / "logs" / f"{id_}.log"


def facts_dir(state: Path, id_: str) -> Path:
    """Run facts of the stage grain, until the pipeline is joined."""
    return state / "facts" / id_


def claim_file(state: Path, id_: str) -> Path:
    return state / "claims" / f"{id_}.lock"


def all_tasks(state: Path) -> list[Task]:
    """Every task that was ever handed over, the earliest first."""
    paths = sorted((state / "tasks").glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    found = (read(Task, path) for path in paths)
    return [task for task in found if task is not None]


def process_born(pid: int) -> float:
    """When a process started, 0 if there is none of that number; a zombie is none."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return 0.0


def alive(worker: Worker | None) -> bool:
    """Whether a worker of this host still runs; of another host nothing is known, and False is said."""
    return worker is not None and worker.host == socket.gethostname() and process_born(worker.pid) == worker.born


def kill_orphans(id_: str) -> int:
    """Kill what a dead worker of the task left running on this host, and say how many processes that were."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(TASK_VARIABLE) == id_:
                process.kill()
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    psutil.wait_procs(found, timeout=5)
    return len(found)
