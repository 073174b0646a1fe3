"""Parameter files as data: what changed between two of them, what a lock recorded, all read by DVC's own parser."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from dvc.utils.serialize import parse_yaml

from reseed import ReseedError

Changes = Mapping[str, Mapping[str, Any]]


def git(folder: Path | str, *arguments: str) -> str:
    """What a git command prints in `folder`; raises ReseedError with git's last line if it fails."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ReseedError(f"git {' '.join(arguments[:2])} in {folder}: {said}")
    return done.stdout


def at_revision(folder: Path | str, revision: str, path: str) -> dict[str, Any]:
    """A YAML file of a commit; raises ReseedError if it is not there."""
    content: dict[str, Any] = parse_yaml(git(folder, "show", f"{revision}:{path}"), path)
    return content


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of `after` that differ, by dotted key; None for what is gone."""
    found: dict[str, Any] = {}
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found[f"{prefix}{key}"] = new
    return found


def value_of(content: Any, key: str) -> Any:
    """content[key] for a dotted key, None if there is none; all of it for an empty one."""
    for part in filter(None, key.split(".")):
        if not isinstance(content, Mapping) or part not in content:
            return None
        content = content[part]
    return content


def place(content: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Set values in a parameter file by dotted key, each of which the file has."""
    for key, value in values.items():
        *parents, last = key.split(".")
        inner = content
        for part in parents:
            inner = inner[part]
        inner[last] = value


def overlaps(one: str, other: str) -> bool:
    """Whether one dotted key is the other, or holds it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def shown(changes: Changes) -> str:
    """Changes as `dvc exp run -S` takes them."""
    pairs = ((file, key, value) for file, keys in changes.items() for key, value in keys.items())
    return " ".join(
        f"{'' if file == 'params.yaml' else f'{file}:'}{key}={json.dumps(value, separators=(',', ':'))}"
        for file, key, value in pairs
    )


def _lock_of(stage: str) -> tuple[str, str]:
    """The lock file of a stage as DVC's log names it, and the name of the stage there."""
    pipeline, _, name = stage.rpartition(":")
    return str(Path(pipeline or "dvc.yaml").with_name("dvc.lock")), name


def _recorded(folder: Path, revision: str, stages: set[str]) -> Iterator[tuple[str, set[str], str, Any]]:
    """Stage, file, key and value of every parameter that the locks of a commit record for these stages.

    A lock names a file from the working directory of its stage, which it does not tell: its own folder or the root.
    """
    locks: dict[str, Any] = {}
    for stage in sorted(stages):
        lock, name = _lock_of(stage)
        if lock not in locks:
            locks[lock] = at_revision(folder, revision, lock)["stages"]
        for file, keys in locks[lock].get(name, {}).get("params", {}).items():
            paths = {file, os.path.normpath(Path(lock).parent / file)}
            for key, value in keys.items():
                yield stage, paths, key, value


def check_recorded(folder: Path, revision: str, source: str, changes: Changes, stages: set[str]) -> None:
    """Raise ReseedError unless an experiment recorded what was asked: in its parameter files and in its locks.

    `stages` are those that the experiment went through, also if the run cache filled them in.
    """
    for file, keys in changes.items():
        asked, found = at_revision(folder, source, file), at_revision(folder, revision, file)
        wrong = differences(asked, found) | {k: value_of(found, k) for k, v in keys.items() if value_of(found, k) != v}
        for key, value in wrong.items():
            raise ReseedError(f"{file}: {key}: the experiment recorded {value!r}, asked for {value_of(asked, key)!r}")
    seen = set()
    for stage, paths, key, value in _recorded(folder, revision, stages):
        for file in paths & set(changes):
            for change, asked in changes[file].items():
                if not overlaps(change, key):
                    continue
                seen.add((file, change))
                # one of them may hold the other
                found = value_of(value, change[len(key) + 1 :])
                wanted = value_of(asked, key[len(change) + 1 :])
                if found != wanted:
                    raise ReseedError(f"dvc.lock: {stage}: {file}: {change}: recorded {found!r}, asked for {wanted!r}")
    for file, keys in changes.items():
        for key in keys:
            if (file, key) not in seen:
                raise ReseedError(f"{file}: {key}: no stage that ran recorded it, so that the experiment is of another")
