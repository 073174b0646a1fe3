"""What interrupted runs and transfers leave behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from reseed.sweeps.findings import Finding
from reseed.sweeps.objects import Store

QUIET_S = 600
"""What was written to more recently is not called left behind: somebody may be at work on it."""
SKIPPED = (".git", ".dvc", ".venv")


def leftovers(root: Path, temporary: Path) -> list[Finding]:
    """Folders of experiments in which nothing runs, unfinished outputs, checkpoints; `temporary` is .dvc/tmp."""
    working = _working_directories()
    experiments = [*temporary.glob("exps/tmp*"), *temporary.glob("exps/standalone/tmp*")]
    idle = [path for path in experiments if path.is_dir() and not any(at.is_relative_to(path) for at in working)]
    return [
        *_findings(root, idle, "the folder of an experiment in which no process of this machine works", "rm -rf {}"),
        *_findings(root, _partial(root), "an output that was never finished", "rm -rf {}"),
        *_findings(
            root, (root / "checkpoints").rglob("*.safetensors"),
            "the checkpoint of a training that did not end", "dvc repro, which continues from it; or rm -f {}",
        ),
    ]  # fmt: skip


def transfers(store: Store, names: Iterable[str]) -> list[Finding]:
    """What broken transfers left in a cache or remote; a remote does not tell how long ago, so all count."""
    broken, found = [name for name in names if name.endswith(".tmp")], "a transfer that was interrupted"
    if store.remote:
        todo = "delete it there, if nobody is pushing"
        return [Finding("orphan", f"{store.name} {name}", found, todo) for name in sorted(broken)]
    return _findings(Path(), [Path(store.path, name) for name in broken], found, "rm -f {}")


def _findings(root: Path, paths: Iterable[Path], found: str, todo: str) -> list[Finding]:
    quiet = [path for path in paths if time.time() - path.stat().st_mtime > QUIET_S]
    names = sorted(os.path.relpath(path, root) for path in quiet)
    return [Finding("orphan", name, found, todo.format(name)) for name in names]


def _partial(root: Path) -> list[Path]:
    found = []
    for at, folders, files in os.walk(root):
        found += [Path(at, name) for name in (*folders, *files) if name.endswith(".partial")]
        folders[:] = [name for name in folders if name not in SKIPPED and not name.endswith(".partial")]
    return found


def _working_directories() -> set[Path]:
    cwds = (process.info["cwd"] for process in psutil.process_iter(["cwd"]))
    return {Path(cwd) for cwd in cwds if cwd}  # psutil gives None for a process that it may not look into
