"""From what a user asked for to tasks: everything is checked first, then written, then taken out of DVC's queue."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reseed import ReseedError
from reseed.params import checked, kind_of
from reseed.sweeps import tasks
from reseed.sweeps.files import experiments, load_sweep
from reseed.sweeps.parameters import at_revision, differences, git, place, value_of
from reseed.sweeps.pipelines import Instance, chosen, target_for
from reseed.sweeps.tasks import Outcome, Task, outcome_file, task_file

ARGUMENTS = ".dvc/tmp/repro.dat"
CODE = ("src", "stages", "subjects", "studies")
"""Where an untracked file may be part of the code or of the parameters of a run."""
PASSED_ON = ("single_item", "force", "downstream", "recursive", "force_downstream", "on_error")


@dataclass(frozen=True)
class Asked:
    """An experiment as it was asked for."""

    name: str
    head: str
    keys: tuple[tuple[str, str], ...]
    """Files and keys that it sets, also those that it sets to the value of `head`."""
    changes: dict[str, dict[str, Any]]
    origins: str
    targets: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    stash: str = ""


def from_queue(repo: Any) -> list[Asked]:
    """What waits in DVC's queue; raises ReseedError for an entry that holds more than parameters."""
    found = []
    for message, entry in repo.experiments.celery_queue._iter_queued():
        _, more, _ = message.decode()
        if more.get("copy_paths"):
            raise ReseedError(
                f"experiment {entry.name!r}: queued with --copy-paths {' '.join(more['copy_paths'])}, allowed: files "
                f"of its commit; commit them, `dvc queue remove {entry.name}` and queue it again"
            )
        head, root = entry.head_rev or entry.baseline_rev, repo.root_dir
        stash = entry.stash_rev
        files = git(root, "diff", "--name-only", head, stash).splitlines()
        changes = {}
        for file in files:
            if file == ARGUMENTS or file.startswith("runs/") or Path(file).name == "dvc.lock":
                continue
            if Path(file).suffix != ".yaml" or Path(file).name == "dvc.yaml":
                raise ReseedError(
                    f"experiment {entry.name!r}: it was queued with uncommitted changes of {file}, allowed: of "
                    f"parameter files; commit them, `dvc queue remove {entry.name}` and queue it again"
                )
            changes[file] = differences(at_revision(root, head, file), at_revision(root, stash, file))
        # what DVC itself pickled into its own stash, a moment ago, on this machine
        packed = subprocess.run(
            ["git", "show", f"{stash}:{ARGUMENTS}"], cwd=root, capture_output=True, check=True
        ).stdout
        arguments = pickle.loads(packed)["kwargs"]
        found.append(
            Asked(
                name=entry.name,
                head=head,
                keys=tuple((file, key) for file, keys in changes.items() for key in keys),
                changes=changes,
                origins="queue",
                targets=list(arguments.get("targets") or []),
                options={name: arguments[name] for name in PASSED_ON if arguments.get(name)},
                stash=stash,
            )
        )
    return found


def from_file(root: Path, path: Path) -> list[Asked]:
    """The experiments of a sweep file at the commit that is checked out.

    Raises ReseedError for a fault of the file, an unknown parameter, or changes that are not committed.
    """
    sweep = load_sweep(path)
    check_committed(root)
    head = git(root, "rev-parse", "HEAD").strip()
    before: dict[str, dict[str, Any]] = {}
    found = []
    for name, wanted in experiments(sweep, path).items():
        changes: dict[str, dict[str, Any]] = {}
        for file, keys in wanted.items():
            if file not in before:
                if not git(root, "ls-tree", head, "--", file).strip():
                    raise ReseedError(f"{path}: {file}: the file does not exist in the commit {head[:7]}")
                before[file] = at_revision(root, head, file)
            for key, value in keys.items():
                _check_known(path, file, key, before[file])
                if value_of(before[file], key) != value:
                    changes.setdefault(file, {})[key] = value
        pairs = tuple((file, key) for file, keys in wanted.items() for key in keys)
        found.append(Asked(name, head, pairs, changes, str(path), [sweep.target] if sweep.target else []))
    return found


def check_committed(root: Path) -> None:
    """Raise ReseedError for changes that a worker's clone would not have; run facts may differ."""
    changed = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    new = git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE).splitlines()
    files = [line[3:] for line in changed if not line[3:].startswith("runs/")] + new
    if files:
        raise ReseedError(
            f"{files[0]}: found uncommitted changes (in {len(files)} files), allowed: none outside runs/, because a "
            "sweep runs what is committed; commit or `git stash` them"
        )


def _check_known(path: Path, file: str, key: str, content: Mapping[str, Any]) -> None:
    parent, _, last = key.rpartition(".")
    beside = value_of(content, parent)
    if not isinstance(beside, Mapping) or last not in beside:
        known = ", ".join(map(str, beside)) if isinstance(beside, Mapping) else "nothing"
        raise ReseedError(f"{path}: {key}: {file} has no such parameter; known there: {known}")


def check_stated(asked: Asked, content: Mapping[str, Any]) -> None:
    """Raise ReseedError if a variant whose name states a value (topk-k4) would get another."""
    variants = content.get("variants", {})
    for key in asked.changes.get("params.yaml", {}):
        match = re.fullmatch(r"variants\.([^.]+)\.(k|d_sae)", key)
        if match is None:
            continue
        name, value = match[1], value_of(content, key)
        stating = {f"{match[2][0]}{value}", str(value)}
        if stating & set(name.split("-")[1:]):
            free = "-".join(part for part in name.split("-") if not re.fullmatch(r"[kd]?\d+", part))
            instead = f"use variants.{free}.{match[2]}" if free in variants else f"add a variant {free!r} for it"
            raise ReseedError(
                f"experiment {asked.name!r}: {key}: found {asked.changes['params.yaml'][key]!r}, allowed: {value!r}, "
                f"which the name of the variant states; {instead}"
            )


def check_values(asked: Asked, root: Path) -> None:
    """Raise ReseedError for a parameter file that is not valid as it was asked for.

    It is judged by the type that the stages read it with (`params.kind_of`), and only if it is valid by that type in
    the commit that the experiment starts from; otherwise it is a file of another project, whose values are its own.
    """
    for file, keys in asked.changes.items():
        content = at_revision(root, asked.head, file)
        kind = kind_of(file, content)
        if kind is None:
            continue
        try:
            checked(kind, content, Path(file))
        except ReseedError:  # of another project
            continue
        if asked.stash:
            content = at_revision(root, asked.stash, file)
        else:
            place(content, keys)
        try:
            checked(kind, content, Path(file))
        except ReseedError as error:
            raise ReseedError(f"experiment {asked.name!r}: {error}") from error


def accept(asked: list[Asked], known: Mapping[str, Instance], repo: Any, state: Path) -> list[Task]:
    """Check all that was asked and return its tasks, unwritten.

    Raises ReseedError for a name that is taken or given twice, a stated value, a value that is not valid, a key that
    nothing reads, a remote that is not defined.
    """
    root, found = Path(repo.root_dir), {}
    remote, remotes = repo.config["core"].get("remote"), list(repo.config["remote"])
    if remote and remote not in remotes:
        raise ReseedError(
            f".dvc/config: core.remote: found {remote!r}, allowed: {', '.join(remotes) or 'none is defined'}"
        )
    for one in asked:
        task_id = f"{one.name}@{one.head[:7]}"
        if task_id in found:
            raise ReseedError(f"experiment {one.name!r}: found twice, allowed: every name once; rename one of them")
        check_stated(one, at_revision(root, one.head, "params.yaml"))
        check_values(one, root)
        before = tasks.read(Task, task_file(state, task_id))
        if before and before.changes != one.changes:
            raise ReseedError(
                f"experiment {one.name!r}: an earlier sweep gave this name to other parameters; choose another name"
            )
        ref = f"refs/exps/{one.head[:2]}/{one.head[2:]}/{one.name}"
        if not before and git(root, "for-each-ref", ref).strip():
            raise ReseedError(f"experiment {one.name!r}: `dvc exp show` has one of that name; choose another name")
        targets = one.targets or [target_for(known, one.keys, one.name)]
        looked = [known[address].reads for address in chosen(known, targets)]
        for file, key in one.keys:
            # a change that no stage sees would be an experiment of nothing
            target_for({"": Instance("", targets[0], sum(looked, ()), ())}, [(file, key)], one.name)
        found[task_id] = before or Task(
            id=task_id,
            name=one.name,
            grain="experiment",
            origin=str(root),
            head=one.head,
            source=one.stash or one.head,
            changes=one.changes,
            targets=targets,
            state=str(state.resolve()),
            cache=repo.cache.local_cache_dir,
            remote=bool(remote),
            options=one.options,
            origins=one.origins,
        )
    return list(found.values())


def write(accepted: list[Task], asked: list[Asked], repo: Any, state: Path) -> list[Task]:
    """Make accepted tasks durable, then take those of the queue out of it: killed in between, nothing is lost."""
    root, written = Path(repo.root_dir), []
    Path(repo.cache.local_cache_dir).mkdir(parents=True, exist_ok=True)
    for task in accepted:
        if not task_file(state, task.id).exists():
            if task.source == task.head and task.changes:
                task = replace_source(task, root)
            # keeps the commit from git's garbage collection, and lets other machines fetch it
            git(root, "update-ref", f"{tasks.REF}/{task.id}", task.source)
            tasks.write(task_file(state, task.id), task)
        written.append(task)
    stashes = [one.stash for one in asked if one.stash]
    if stashes:
        repo.experiments.celery_queue.remove(stashes)
    return written


def replace_source(task: Task, root: Path) -> Task:
    """The task with a commit that holds its parameter files as asked, comments and order kept."""
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    index = {"GIT_INDEX_FILE": str(root / ".git" / f"reseed-index-{os.getpid()}")}

    def run(*arguments: str, given: str | None = None) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=os.environ | index,
            input=given,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    try:
        run("read-tree", task.head)
        for file, keys in task.changes.items():
            content = parse_yaml_for_update(git(root, "show", f"{task.head}:{file}"), file)
            place(content, keys)
            blob = run("hash-object", "-w", "--stdin", given=dumps_yaml(content))
            run("update-index", "--cacheinfo", f"100644,{blob},{file}")
        commit = run("commit-tree", run("write-tree"), "-p", task.head, "-m", f"Parameters of {task.name}")
    finally:
        Path(index["GIT_INDEX_FILE"]).unlink(missing_ok=True)
    return replace(task, source=commit)


def to_run(state: Path, head: str) -> list[Task]:
    """Tasks without a result: what was never done, and what failed at the commit that is checked out."""
    found = []
    for task in tasks.all_tasks(state):
        outcome = tasks.read(Outcome, outcome_file(state, task.id))
        if outcome is None or (outcome.status == "failed" and task.head == head):
            found.append(task)
    return found
