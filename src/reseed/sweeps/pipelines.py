"""The pipelines of a checkout as DVC resolves them: which stage instance reads which parameters, and follows which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reseed import ReseedError
from reseed.sweeps.parameters import overlaps

ROOT = "dvc.yaml"


@dataclass(frozen=True)
class Instance:
    """A stage instance: the pipeline file that defines it, the parameters it reads, what it waits for and runs."""

    address: str
    pipeline: str
    reads: tuple[tuple[str, str], ...]
    """Pairs of a file and a dotted key."""
    before: tuple[str, ...]
    command: str = ""


def instances(repo: Any) -> dict[str, Instance]:
    """Every stage instance of the checkout by its address, those of the root pipeline without a file name."""
    from dvc.dependency import ParamsDependency

    graph, found = repo.index.graph, {}
    for stage in repo.index.stages:
        reads = [
            (repo.fs.relpath(dep.fs_path, repo.root_dir), key)
            for dep in stage.deps
            if isinstance(dep, ParamsDependency)
            for key in dep.params
        ]
        before = tuple(sorted(address_of(repo, one) for one in graph.successors(stage)))
        pipeline = repo.fs.relpath(stage.path, repo.root_dir)
        found[address_of(repo, stage)] = Instance(
            address_of(repo, stage), pipeline, tuple(reads), before, str(stage.cmd or "")
        )
    return found


def address_of(repo: Any, stage: Any) -> str:
    pipeline, name = repo.fs.relpath(stage.path, repo.root_dir), getattr(stage, "name", "")
    return str(name if pipeline == ROOT else f"{pipeline}:{name}" if name else pipeline)


def chosen(known: Mapping[str, Instance], targets: Iterable[str]) -> set[str]:
    """The instances that `dvc repro TARGETS` looks at; raises ReseedError for a target that is none."""
    found: set[str] = set()
    for target in targets:
        named = target.removeprefix(f"{ROOT}:")
        group = {
            address
            for address, one in known.items()
            if address == named or one.pipeline == named or address.startswith(f"{named}@")
        }
        if not group:
            raise ReseedError(f"target {target!r}: no stage and no pipeline file of this checkout has that name")
        found |= group
    left = list(found)
    while left:
        new = set(known[left.pop()].before) - found
        found |= new
        left += new
    return found


def affected(known: Mapping[str, Instance], targets: Iterable[str], keys: Iterable[tuple[str, str]]) -> list[str]:
    """The instances among those of the targets that a change of these parameters makes run, upstream ones first."""
    looked, keys = chosen(known, targets), list(keys)
    found: list[str] = []
    for address in in_order(known, looked):
        one = known[address]
        touched = any(f == file and overlaps(k, key) for f, k in one.reads for file, key in keys)
        if touched or set(one.before) & set(found):
            found.append(address)
    return found


def in_order(known: Mapping[str, Instance], addresses: Iterable[str]) -> list[str]:
    """Addresses such that each stands behind those that it waits for."""
    wanted = set(addresses)
    done: list[str] = []
    left = sorted(wanted)
    while left:
        ready = [address for address in left if not (set(known[address].before) & wanted) - set(done)]
        done += ready
        left = [address for address in left if address not in ready]
    return done


def target_for(known: Mapping[str, Instance], keys: Iterable[tuple[str, str]], name: str) -> str:
    """The pipeline for an experiment that names none: the root one if it reads every key, else the one that does.

    Raises ReseedError if there is none, or several.
    """
    keys = list(keys)
    reading = []
    for pipeline in sorted({one.pipeline for one in known.values()}):
        reads = [pair for one in known.values() if one.pipeline == pipeline for pair in one.reads]
        missing = [(f, k) for f, k in keys if not any(f == file and overlaps(k, key) for file, key in reads)]
        if not missing:
            reading.append(pipeline)
    if ROOT in reading:
        return ROOT
    if len(reading) == 1:
        return reading[0]
    asked = ", ".join(f"{file}:{key}" for file, key in keys)
    if reading:
        raise ReseedError(
            f"experiment {name!r}: {asked} is read by {', '.join(reading)}: name one of them as the target"
        )
    raise ReseedError(f"experiment {name!r}: no pipeline has stages that read all of {asked}: nothing would run")
