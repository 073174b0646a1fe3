"""What a dvc.lock says against the code, parameters and results beside it, in the workspace or in a commit."""

from __future__ import annotations

import hashlib
import json
import posixpath
import subprocess
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import parse_yaml

from reseed import ReseedError
from reseed.sweeps.objects import directory_md5, one_line

PIPELINE, LOCK = "dvc.yaml", "dvc.lock"
OVERRIDES = {"train": "seeds", "sae": "steps"}
"""The key of a variant that changes what a stage takes from another parameter, and so what its facts say of it."""


@dataclass(frozen=True)
class Tree:
    """The files of the workspace or of a commit: the md5 of each by its path from the root, and how to read one."""

    name: str
    md5s: Mapping[str, str]
    read: Callable[[str], bytes]

    @cached_property
    def _paths(self) -> list[str]:
        return sorted(self.md5s)

    @cached_property
    def _parsed(self) -> dict[str, dict[str, Any]]:
        return {}

    def hash(self, path: str) -> str | None:
        """DVC's hash of a file or directory, None if it is not there."""
        if path in self.md5s:
            return self.md5s[path]
        first, last = (bisect_left(self._paths, path + end) for end in "/0")  # 0 follows / in ASCII
        below = self._paths[first:last]
        return directory_md5((name[len(path) + 1 :], self.md5s[name]) for name in below) if below else None

    def yaml(self, path: str) -> dict[str, Any]:
        """A YAML file as DVC reads it, empty if it is not there; raises ReseedError if it is no mapping in YAML."""
        if path not in self.md5s:
            return {}
        if path not in self._parsed:
            try:
                content = parse_yaml(self.read(path).decode(), path) or {}
            except (DvcException, UnicodeDecodeError) as error:
                raise ReseedError(f"{self.name}: {path}: not valid YAML: {one_line(error)}") from error
            if not isinstance(content, dict):
                raise ReseedError(
                    f"{self.name}: {path}: found {type(content).__name__}, allowed: a mapping of keys to values"
                )
            self._parsed[path] = content
        return self._parsed[path]


@dataclass(frozen=True)
class Stage:
    """A stage as its dvc.yaml defines it, and as its dvc.lock recorded it (None: it never ran)."""

    file: str
    name: str
    frozen: bool
    command: str
    deps: frozenset[str]
    params: Mapping[str, frozenset[str]]
    outs: Mapping[str, bool]
    """Whether DVC caches it (else git tracks it), by path."""
    lock: Mapping[str, Any] | None

    @property
    def address(self) -> str:
        """How `dvc repro` calls it."""
        return self.name if self.file == PIPELINE else f"{self.file}:{self.name}"

    def locked(self, kind: str) -> dict[str, str]:
        """The hash of each dependency (kind `deps`) or output (`outs`) in the lock, by its path."""
        return {entry["path"]: entry["md5"] for entry in (self.lock or {}).get(kind, []) if "md5" in entry}

    def locked_params(self) -> dict[tuple[str, str], Any]:
        """The value of each parameter in the lock, by its file and key."""
        params = (self.lock or {}).get("params", {})
        return {(file, key): value for file, values in params.items() for key, value in values.items()}


@dataclass(frozen=True)
class Mismatch:
    """One way in which a stage's lock is not of its tree: `what` differs, which is of a `kind`."""

    kind: str
    what: str

    def __str__(self) -> str:
        return self.what or self.kind


FACTS: dict[str, type] = {"revision": str, "wrote": dict, "parameters": dict}
"""What is read of the facts of a run, and its type there."""
NOT_RUN = Mismatch("not run", "")


def git(root: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """The output of a git command; raises ReseedError if it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise ReseedError(f"git {' '.join(arguments)}: {done.stderr.decode().strip().splitlines()[-1]}")
    return done.stdout


def commits(root: Path) -> Callable[[str], Tree | None]:
    """A function from a revision to its tree, None for one that this clone does not have; nothing is read twice."""
    blobs: dict[str, str] = {}
    trees: dict[str, Tree | None] = {}

    def tree(revision: str) -> Tree | None:
        if revision not in trees:
            trees[revision] = read(revision)
        return trees[revision]

    def read(revision: str) -> Tree | None:
        known = ["git", "-C", str(root), "cat-file", "-e", f"{revision}^{{commit}}"]
        if subprocess.run(known, capture_output=True, check=False).returncode:
            return None
        listed = git(root, "ls-tree", "-r", "-z", revision).decode().split("\0")
        entries = {
            entry.partition("\t")[2]: entry.split(" ", 2)[2].partition("\t")[0] for entry in filter(None, listed)
        }
        missing = [oid for oid in dict.fromkeys(entries.values()) if oid not in blobs]
        stream, at = git(root, "cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in missing).encode()), 0
        for oid in missing:
            header = stream.index(b"\n", at)
            end = header + 1 + int(stream[at:header].split()[2])
            blobs[oid] = hashlib.md5(stream[header + 1 : end], usedforsecurity=False).hexdigest()
            at = end + 1
        md5s = {path: blobs[oid] for path, oid in entries.items()}
        return Tree(revision[:7], md5s, lambda path: git(root, "cat-file", "blob", entries[path]))

    return tree


def pipelines(tree: Tree) -> list[str]:
    """Every dvc.yaml of a tree."""
    return sorted(path for path in tree.md5s if posixpath.basename(path) == PIPELINE)


def lock_of(pipeline: str) -> str:
    return posixpath.join(posixpath.dirname(pipeline), LOCK)


def stages(repo: Repo, tree: Tree, files: Iterable[str], revision: str | None = None) -> list[Stage]:
    """The stages of pipeline files, their templates resolved by DVC, with their lock.

    Raises ReseedError if DVC cannot read a file.
    """
    found = []
    with repo.switch(revision) if revision else nullcontext():
        for file in files:
            locks = tree.yaml(lock_of(file)).get("stages", {})
            try:
                loaded = repo.stage.load_all(repo.fs.join(repo.root_dir, *file.split("/")))
            except DvcException as error:
                raise ReseedError(f"{tree.name}: {file}: {one_line(error)}") from error
            for stage in loaded:
                inside = partial(_inside, repo.fs.relpath(stage.wdir, repo.root_dir))
                params = {inside(dep.def_path): frozenset(dep.params) for dep in stage.params}
                found.append(
                    Stage(
                        file, stage.name, stage.frozen and not stage.is_import, stage.cmd,
                        frozenset(inside(dep.def_path) for dep in stage.deps) - params.keys(),
                        params, {inside(out.def_path): out.use_cache for out in stage.outs},
                        _from_root(locks[stage.name], inside) if stage.name in locks else None,
                    )
                )  # fmt: skip
    return found


def unlisted(tree: Tree, file: str, listed: Iterable[Stage]) -> list[str]:
    """The stages of a lock that its pipeline no longer has: DVC neither checks nor pushes them, and gc deletes them."""
    names = {stage.name for stage in listed if stage.file == file}
    return [name for name in tree.yaml(lock_of(file)).get("stages", {}) if name not in names]


def made(listed: Iterable[Stage]) -> dict[str, str]:
    """The hash of each output that some lock records, by its path."""
    return {path: md5 for stage in listed for path, md5 in stage.locked("outs").items()}


def mismatches(stage: Stage, tree: Tree, outputs: Mapping[str, str]) -> list[Mismatch]:
    """How the lock of a stage differs from its definition, code, parameters and data; `outputs` are those `made`."""
    if stage.lock is None:
        return [NOT_RUN]
    found = []
    params = stage.locked_params()
    defined = {
        "cmd": (stage.command, stage.lock.get("cmd")),
        "deps": (stage.deps, stage.locked("deps").keys()),
        "outs": (stage.outs.keys(), stage.locked("outs").keys()),
        "params": ({(file, key) for file, keys in stage.params.items() for key in keys}, params.keys()),
    }
    found += [Mismatch("definition", f"its {key}") for key, (now, then) in defined.items() if now != then]
    for path, md5 in stage.locked("deps").items():
        if path in outputs:
            if outputs[path] != md5:
                found.append(Mismatch("data", path))
        elif tree.hash(path) != md5:
            found.append(Mismatch("code", path))
    return found + [Mismatch("parameters", f"{file}: {key}") for file, key in _changed(params, tree)]


def changed_outputs(stage: Stage, tree: Tree) -> list[str]:
    """The outputs that are not those of the lock; a cached one may be absent, one that git tracks may not."""
    hashes = {path: tree.hash(path) for path in stage.locked("outs")}
    return [
        path
        for path, md5 in stage.locked("outs").items()
        if hashes[path] != md5 and not (hashes[path] is None and stage.outs.get(path, True))
    ]


def run_facts(stage: Stage, tree: Tree) -> dict[str, Any]:
    """The facts of a stage's last run, empty if there are none; raises ReseedError for a file that has none."""
    path = f"runs/{stage.name}.json"
    if path not in tree.md5s:
        return {}
    try:
        facts = json.loads(tree.read(path))
    except json.JSONDecodeError as error:
        raise ReseedError(f"{tree.name}: {path}: not valid JSON ({error}); run its stage again") from error
    if not isinstance(facts, dict) or "revision" not in facts:
        raise ReseedError(f"{tree.name}: {path}: found no revision, allowed: the facts of a run; run its stage again")
    for key, kind in FACTS.items():
        if not isinstance(found := facts.get(key, kind()), kind):
            raise ReseedError(
                f"{tree.name}: {path}: {key}: found {found!r}, allowed: what a run writes there; run its stage again"
            )
    return facts


def unaccounted(stage: Stage, found: Iterable[Mismatch], then: Tree | None, root: Path) -> list[Mismatch]:
    """The mismatches that the history of git does not account for; `then` is the tree at which the stage ran."""
    params = {f"{file}: {key}" for file, key in _changed(stage.locked_params(), then)} if then else set()
    deps = stage.locked("deps")
    left = []
    for mismatch in found:
        if mismatch.kind == "data":
            explained = _was_locked(root, deps[mismatch.what])
        elif mismatch.kind == "code":
            explained = then is not None and then.hash(mismatch.what) == deps[mismatch.what]
        elif mismatch.kind == "parameters":
            explained = then is not None and mismatch.what not in params
        else:
            explained = True  # a stage that awaits its run, or a definition that was edited since: DVC runs it again
        if not explained:
            left.append(mismatch)
    return left


def foreign_code(stage: Stage, then: Tree, outputs: Mapping[str, str]) -> list[str]:
    """The code that the lock records and the tree at which the stage ran does not have, as after `dvc commit`."""
    deps = stage.locked("deps").items()
    return [path for path, md5 in deps if path not in outputs and then.hash(path) != md5]


def foreign_outputs(stage: Stage, facts: Mapping[str, Any]) -> list[str]:
    """The outputs in git that the lock records and the run did not write so, as after an edit and `dvc commit`."""
    wrote = facts.get("wrote", {})
    tracked = {path: md5 for path, md5 in stage.locked("outs").items() if not stage.outs.get(path, True)}
    return [path for path, md5 in tracked.items() if wrote.get(path) != md5]


def foreign_parameters(stage: Stage, facts: Mapping[str, Any]) -> list[str]:
    """The parameters of the lock that the run facts give another value, as after `dvc exp save`."""
    params = {key: value for (_, key), value in stage.locked_params().items()}
    variants = [key for key in params if key.startswith("variants.")]
    if len(variants) > 1:  # which of them is the `variant` of the facts is the stage's affair
        return []
    variant = params[variants[0]] if variants else {}
    found = []
    for key, value in params.items():
        recorded = _at(facts.get("parameters", {}), "variant" if key in variants else key)
        if recorded is not None and OVERRIDES.get(key) not in variant and not _within(value, recorded):
            found.append(key)
    return found


def _within(value: Any, recorded: Any) -> bool:
    """Whether what the lock says is what the facts say, which also have the defaults, and floats at 6 digits."""
    if isinstance(value, Mapping) and isinstance(recorded, Mapping):
        return all(
            name in recorded and _within(item, recorded[name]) for name, item in value.items() if item is not None
        )
    if isinstance(value, list) and isinstance(recorded, list):
        return len(value) == len(recorded) and all(map(_within, value, recorded))
    if isinstance(value, float) and isinstance(recorded, int | float):
        return float(f"{value:.6g}") == float(f"{recorded:.6g}")
    return bool(value == recorded)


@cache
def _was_locked(root: Path, md5: str) -> bool:
    """Whether some committed dvc.lock had this hash."""
    return bool(git(root, "log", "-1", "--format=%h", f"-S{md5}", "--", f"*{LOCK}"))


def _changed(params: Mapping[tuple[str, str], Any], tree: Tree) -> list[tuple[str, str]]:
    content = {file: tree.yaml(file) for file, _ in params}
    return [(file, key) for (file, key), value in params.items() if _at(content[file], key) != value]


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            return None
        content = content[part]
    return content


def _inside(folder: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(folder, path))


def _from_root(entry: Mapping[str, Any], inside: Callable[[str], str]) -> dict[str, Any]:
    lists = {kind: [item | {"path": inside(item["path"])} for item in entry.get(kind, [])] for kind in ("deps", "outs")}
    params = {inside(file): values for file, values in entry.get("params", {}).items()}
    return {**entry, **lists, "params": params}
