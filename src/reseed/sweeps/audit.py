"""`reseed audit`: whether the bytes, locks and experiments of a clone are what they say, which DVC does not check."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from reseed import ReseedError
from reseed.stage import progress
from reseed.sweeps import leftovers, locks, manifests
from reseed.sweeps.findings import STALE, Finding, Report
from reseed.sweeps.locks import Mismatch, Stage, Tree
from reseed.sweeps.objects import Store, hashes, one_line, rehash


def audit(root: Path = Path(), remotes: Sequence[str] = ()) -> Report:
    """Look at everything that this clone and the named remotes hold.

    Raises ReseedError where it cannot look: no DVC or git repository, a pipeline that DVC cannot read, a remote that
    does not answer.
    """
    try:
        repo = Repo(str(root.resolve()))
    except DvcException as error:
        raise ReseedError(f"{root.resolve()}: {one_line(error)}") from error
    with repo:
        root = Path(repo.root_dir)
        commits = locks.commits(root)
        written = hashed(root, _tracked_state(root), {}, "pipelines")
        pipelines = locks.pipelines(written)
        stages = locks.stages(repo, written, pipelines)
        experiments = _experiments(root)
        findings, used = _check_experiments(repo, experiments, commits)
        used = {md5: path for path, md5 in locks.made(stages).items()} | used

        cache = Store("cache", repo.cache.legacy.fs, repo.cache.legacy.path, remote=False)
        stores = [cache, *(_remote(repo, name) for name in remotes)]
        rehashed = [rehash(store, used) for store in stores]
        findings += [finding for one in rehashed for finding in one.findings]

        known = {_inode(Path(cache.path, name)): md5 for name, md5 in rehashed[0].md5s.items()}
        workspace = hashed(root, {*written.md5s, *_outputs_and_code(repo, stages)}, known, "workspace")
        findings += _check_locks(root, stages, workspace, commits)
        listed = manifests.listed(root, stages, workspace)
        findings += manifests.check(root, listed)
        findings += [
            Finding("frozen", f"{stage.file}:{stage.name}", "frozen: true", "remove the key `frozen`, then `dvc repro`")
            for stage in stages
            if stage.frozen
        ]
        findings += leftovers.leftovers(root, Path(repo.tmp_dir))
        for store, one in zip(stores, rehashed, strict=True):
            findings += leftovers.transfers(store, one.sizes)
        findings += [
            Finding("unverified", f"remote {name}", "verify is not set", f"dvc remote modify {name} verify true")
            for name, config in repo.config["remote"].items()
            if not config.get("verify")
        ]
    counts = [
        *(
            f"{len(one.md5s):,} objects ({sum(map(one.sizes.__getitem__, one.md5s)) / 1e9:.2f} GB) of the {store.name}"
            for store, one in zip(stores, rehashed, strict=True)
        ),
        f"{len(stages)} stages of {len(pipelines)} pipelines",
        f"{len(experiments)} experiments",
        f"{len(listed)} files that manifests list",
    ]
    return Report(tuple(counts), tuple(findings))


def _remote(repo: Repo, name: str) -> Store:
    try:
        remote = repo.cloud.get_remote(name)
    except DvcException as error:
        raise ReseedError(f"remote {name}: {one_line(error)}") from error
    return Store(f"remote {name}", remote.fs, remote.path, remote=True)


def _tracked_state(root: Path) -> list[str]:
    """The pipelines, locks, parameters and run facts that git tracks or would track."""
    listed = locks.git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    return [path for path in listed if path.endswith((".yaml", ".lock")) or path.startswith("runs/")]


def _outputs_and_code(repo: Repo, stages: Iterable[Stage]) -> set[str]:
    """The files of every output and dependency as DVC sees them, which also counts files that git ignores."""
    found = set()
    for path in {path for stage in stages for kind in ("deps", "outs") for path in stage.locked(kind)}:
        if Path(repo.root_dir, path).is_dir():
            walked = repo.dvcignore.find(repo.fs, str(Path(repo.root_dir, path)))
            found |= {os.path.relpath(name, repo.root_dir) for name in walked}
        else:
            found.add(path)
    return found


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def hashed(root: Path, paths: Iterable[str], known: Mapping[tuple[int, int], str], label: str) -> Tree:
    """Those of the paths that are files, as a tree; one that is a link into the cache is not read again."""
    present = [path for path in paths if (root / path).is_file()]
    md5s: dict[str, str | Exception] = {path: known[i] for path in present if (i := _inode(root / path)) in known}
    sizes = {path: (root / path).stat().st_size for path in present if path not in md5s}
    md5s |= hashes(sizes, lambda path: (root / path).open("rb"), label)
    for path, md5 in md5s.items():
        if isinstance(md5, Exception):
            raise ReseedError(f"{path}: could not be read: {one_line(md5)}") from md5
    return Tree("workspace", {path: str(md5) for path, md5 in md5s.items()}, lambda path: (root / path).read_bytes())


def _check_locks(
    root: Path, stages: Sequence[Stage], tree: Tree, commits: Callable[[str], Tree | None]
) -> list[Finding]:
    outputs = locks.made(stages)
    findings = []
    for file in dict.fromkeys(stage.file for stage in stages):
        lock, repro = locks.lock_of(file), "dvc repro" if file == locks.PIPELINE else f"dvc repro {file}"
        faults: dict[str, list[Mismatch]] = {}
        stale: dict[str, list[Mismatch]] = {}
        foreign: dict[str, list[str]] = {}
        changed: dict[str, list[str]] = {}
        for stage in (stage for stage in stages if stage.file == file):
            facts = locks.run_facts(stage, tree)
            then = commits(facts["revision"]) if facts else None
            found = locks.mismatches(stage, tree, outputs)
            fault = locks.unaccounted(stage, found, then, root)
            if found and not fault:
                stale[stage.name] = found
            if fault:
                faults[stage.name] = fault
            elif names := _foreign(stage, facts, then, outputs):
                foreign[stage.name] = names
            if paths := locks.changed_outputs(stage, tree):
                changed[stage.name] = paths
        if faults:
            findings.append(Finding("lock", lock, f"of no known revision: {_several(faults)}", repro))
        if foreign:
            found_there = f"not what the run facts say: {_several(foreign)}"
            findings.append(Finding("provenance", lock, found_there, f"{repro} --force --single-item STAGE"))
        if changed:
            todo = f"what DVC caches: dvc checkout --force; what git tracks: git checkout; or {repro}"
            findings.append(Finding("output", lock, f"the workspace has another: {_several(changed)}", todo))
        if stale:
            kinds = Counter(kind for found in stale.values() for kind in dict.fromkeys(m.kind for m in found))
            how = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
            total = sum(stage.file == file for stage in stages)
            findings.append(
                Finding(STALE, lock, f"{len(stale)} of {total} stages are older than the workspace ({how})", repro)
            )
        if names := locks.unlisted(tree, file, stages):
            todo = f"list them again in {posixpath.join(posixpath.dirname(file), 'study.yaml')}, or delete the entries"
            findings.append(Finding("unlisted", lock, _some(names), todo))
    return findings


def _foreign(stage: Stage, facts: Mapping[str, Any], then: Tree | None, outputs: Mapping[str, str]) -> list[str]:
    """What the facts of a stage's last run say that its lock does not."""
    if facts and then is None:
        return [f"ran at {facts['revision'][:7]}, which this clone does not have"]
    code = locks.foreign_code(stage, then, outputs) if then else []
    outputs_of_another = locks.foreign_outputs(stage, facts) if "wrote" in facts else []  # older facts do not tell
    return [*code, *outputs_of_another, *locks.foreign_parameters(stage, facts)]


def _experiments(root: Path) -> dict[str, tuple[str, str]]:
    """The revision and the baseline of every experiment, by its name."""
    found = {}
    for line in locks.git(root, "for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").decode().splitlines():
        reference, revision = line.split()
        _, _, head, tail, *name = reference.split("/")
        if name and len(head + tail) == 40:  # others are DVC's bookkeeping
            found["/".join(name)] = (revision, head + tail)
    return found


def _check_experiments(
    repo: Repo, experiments: Mapping[str, tuple[str, str]], commits: Callable[[str], Tree | None]
) -> tuple[list[Finding], dict[str, str]]:
    """What is wrong with each experiment, and the outputs of all by their hash.

    Only what the baseline had not been wrong about is the experiment's; the rest is staleness.
    """
    findings: list[Finding] = []
    used: dict[str, str] = {}
    with progress(len(experiments), "experiments", "experiment") as bar:
        for name, (revision, baseline) in experiments.items():
            tree, base = commits(revision), commits(baseline)
            assert tree is not None
            files = [file for file in locks.pipelines(tree) if _lock_changed(file, tree, base)] or [locks.PIPELINE]
            wrong = _wrong(repo, tree, revision, files, used)
            before = _wrong(repo, base, baseline, files, {}) if base and any(wrong.values()) else {}
            new = {stage: [m for m in found if m not in before.get(stage, [])] for stage, found in wrong.items()}
            new = {stage: found for stage, found in new.items() if found}
            old = {stage: found for stage, found in wrong.items() if found and stage not in new}
            where = f"experiment {name} ({revision[:7]})"
            if new:
                todo = f"dvc exp remove {name}, then run it again"
                findings.append(Finding("experiment", where, f"not of its own lock: {_several(new)}", todo))
            if old:
                todo = "dvc repro, then run it again"
                findings.append(
                    Finding(STALE, where, f"as stale as its baseline {baseline[:7]}: {_several(old)}", todo)
                )
            bar.update()
    return findings, used


def _lock_changed(file: str, tree: Tree, base: Tree | None) -> bool:
    lock = locks.lock_of(file)
    return base is None or tree.md5s.get(lock) != base.md5s.get(lock)


def _wrong(
    repo: Repo, tree: Tree, revision: str, files: Sequence[str], used: dict[str, str]
) -> dict[str, list[Mismatch]]:
    stages = locks.stages(repo, tree, files, revision)
    outputs = locks.made(stages)
    used |= {md5: path for path, md5 in outputs.items()}
    return {
        stage.name: [
            *locks.mismatches(stage, tree, outputs),
            *(
                Mismatch("provenance", f"{key} of the run facts")
                for key in locks.foreign_parameters(stage, locks.run_facts(stage, tree))
            ),
            *(Mismatch("output", path) for path in locks.changed_outputs(stage, tree)),
            *([Mismatch("frozen", "frozen: true")] if stage.frozen else []),
        ]
        for stage in stages
    }


def _several(found: Mapping[str, Iterable[object]], shown: int = 3) -> str:
    """Stages with what is wrong about each, cut short."""
    texts = [f"{name} ({_some([str(item) for item in items])})" for name, items in found.items()]
    return ", ".join(texts[:shown]) + (f" and {len(texts) - shown} more stages" if len(texts) > shown else "")


def _some(names: Sequence[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
