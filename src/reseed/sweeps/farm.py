"""One large pipeline, a stage instance a task: each in a clone of its own, joined by the run cache afterwards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reseed.sweeps import budget
from reseed.sweeps.handover import check_committed
from reseed.sweeps.parameters import git
from reseed.sweeps.pipelines import Instance, address_of, chosen, in_order
from reseed.sweeps.tasks import REF, Task, all_tasks, facts_dir, task_file, write


def stages(repo: Any, known: Mapping[str, Instance], target: str, state: Path) -> list[Task]:
    """A task for every instance of a pipeline that is stale or waits for a stale one, upstream ones first.

    Raises ReseedError for a target that is none, and for changes that are not committed.
    """
    root = Path(repo.root_dir)
    check_committed(root)
    head = git(root, "rev-parse", "HEAD").strip()
    looked = chosen(known, [target])
    with repo.lock:
        # not by `dvc repro --dry`, which stops at data that a stage before would make
        stale = {
            address_of(repo, stage)
            for stage in repo.index.stages
            if address_of(repo, stage) in looked and stage.changed(allow_missing=True)
        }
    rates = budget.rates(root)
    found: dict[str, Task] = {}
    for address in in_order(known, looked):
        before = [found[one].id for one in known[address].before if one in found]
        if address not in stale and not before:
            continue
        found[address] = Task(
            id=f"{re.sub(r'[/:]', '_', address)}@{head[:7]}",
            name=address,
            grain="stage",
            origin=str(root),
            head=head,
            source=head,
            changes={},
            targets=[address],
            state=str(state.resolve()),
            cache=repo.cache.local_cache_dir,
            remote=bool(repo.config["core"].get("remote")),
            after=before,
            origins=target,
            hours=(rates.seconds(address, {}, {}) + budget.OVERHEAD) / budget.HOUR,
        )
    return list(found.values())


def hand_over(found: Sequence[Task], root: Path, state: Path) -> None:
    """Make the tasks durable."""
    for task in found:
        Path(task.cache).mkdir(parents=True, exist_ok=True)
        git(root, "update-ref", f"{REF}/{task.id}", task.head)
        write(task_file(state, task.id), task)


def join(repo: Any, target: str, state: Path) -> None:
    """Take what the tasks made into the checkout by `dvc repro`: one dvc.lock, no conflict, and the run facts beside.

    Without a shared cache, stages whose metrics git tracks run again: DVC does not push those.
    """
    remote = bool(repo.config["core"].get("remote"))
    repo.reproduce(targets=[target], pull=remote, allow_missing=remote)
    runs = Path(repo.root_dir) / "runs"
    for task in all_tasks(state):
        if task.grain == "stage" and task.origins == target:
            for path in sorted(facts_dir(state, task.id).glob("*.json")):
                runs.mkdir(exist_ok=True)
                path.replace(runs / path.name)
