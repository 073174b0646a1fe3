"""What changed against a base revision: metrics with their intervals, parameters, data, claims."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.diff import diff, format_dict

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.claims.registry import keeps, promise
from reseed.params import read_yaml
from reseed.review.check import Checks, claims_files, tracked
from reseed.review.judges import judging
from reseed.sweeps import locks
from reseed.sweeps.objects import one_line

PARAMS, STUDY = "params.yaml", "study.yaml"
INSIDE, BEYOND, NO_INTERVAL, NEW, GONE = "inside its interval", "beyond its interval", "no interval", "new", "gone"


@dataclass(frozen=True)
class Moved:
    """One figure that differs. interval: of the base, where it has one."""

    file: str
    key: str
    before: Any
    after: Any
    interval: tuple[float, float] | None
    how: str


@dataclass(frozen=True)
class ClaimChange:
    """A claim whose verdict, promise or evidence is not that of the base."""

    name: str
    before: str
    after: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    base: str
    metrics: tuple[Moved, ...]
    parameters: tuple[tuple[str, str, Any, Any], ...]
    """File, key, before, after; None where there is none."""
    data: tuple[str, ...]
    """Outputs below data/ and models/ whose hash in a lock is another."""
    claims: tuple[ClaimChange, ...]
    judge: tuple[str, ...]
    """Changed files of what judges, which the same change could have made lenient."""
    evidence: tuple[str, ...] = ()
    """Other changed files of the code that computes what claims rest on."""


def check_base(root: Path, base: str) -> locks.Tree:
    """The tree of `base`; raises ReseedError for a revision that this clone does not have."""
    known = locks.commits(root)(base) if base else None
    if known is None:
        raise ReseedError(f"--base {base!r}: no such revision in this clone, allowed: one that `git rev-parse` knows")
    return known


def difference(root: Path, base: str, checks: Checks) -> Difference:
    """What the workspace changes against `base`.

    Raises ReseedError for a base that this clone does not have, or metrics that cannot be read on either side, unless
    no stage ever made them: a comparison that leaves out what it cannot read would pass it.
    """
    known = check_base(root, base)
    try:
        with Repo(str(root.resolve())) as repo:
            compared = repo.metrics.diff(a_rev=base, b_rev="workspace", all=True, on_error="return")
    except (DvcException, OSError) as error:
        raise ReseedError(f"--base {base}: the metrics cannot be compared: {one_line(error)}") from error
    now = checks.tree or tracked(root)
    found = compared.get("diff", {})
    for tree, errors in (
        (known, compared.get("errors", {}).get(base)),
        (now, compared.get("errors", {}).get("workspace")),
    ):
        _check_read(errors or {}, tree, base)
    moving = {path for path in {*now.md5s, *known.md5s} if now.md5s.get(path) != known.md5s.get(path)}
    judge = (judging(now) | judging(known)) & moving
    return Difference(
        base,
        tuple(one for file in sorted(found) for one in moved(file, found[file])),
        tuple(_parameters(now, known, checks.stages)),
        tuple(_data(now, known)),
        tuple(_claims(root, base, checks)),
        tuple(sorted(judge)),
        tuple(sorted(path for path in moving - judge if _within(path, checks.code))),
    )


def _check_read(errors: Exception | Mapping[str, Exception], tree: locks.Tree, base: str) -> None:
    """Raise ReseedError for a metric that could not be read; that of a stage that never ran is in no lock."""
    if isinstance(errors, Exception):
        raise ReseedError(f"--base {base}: the metrics cannot be compared: {one_line(errors)}") from errors
    made = {out for file in locks.pipelines(tree) for out in _outs(tree.yaml(locks.lock_of(file)))}
    for path, error in sorted(errors.items()):
        if path in made or not isinstance(error, FileNotFoundError):
            raise ReseedError(f"--base {base}: the metrics cannot be compared: {one_line(error)}") from error


def _within(path: str, places: Collection[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def moved(file: str, figures: Mapping[str, Mapping[str, Any]]) -> list[Moved]:
    """The figures of a metric file that differ; low, high and what belongs to an interval go with their value."""
    found = []
    for key, pair in sorted(figures.items()):
        before, after = pair.get("old"), pair.get("new")
        if key.rpartition(".")[2] in ("low", "high", "kappa_low", "kappa_high"):
            continue
        interval = _interval(key, figures, "old")
        if (before, interval) == (after, _interval(key, figures, "new")):
            continue
        if before is None or after is None:
            how = NEW if before is None else GONE
        elif interval is None:
            how = NO_INTERVAL
        else:
            how = INSIDE if interval[0] <= after <= interval[1] else BEYOND
        found.append(Moved(file, key.removesuffix(".value"), before, after, interval, how))
    return found


def _interval(key: str, figures: Mapping[str, Mapping[str, Any]], side: str) -> tuple[float, float] | None:
    parent, _, last = key.rpartition(".")
    start = f"{parent}." if parent else ""
    names = {"value": ("low", "high"), "kappa": ("kappa_low", "kappa_high")}.get(last)
    if names is None:
        return None
    low, high = (figures.get(f"{start}{name}", {}).get(side) for name in names)
    return None if low is None or high is None else (float(low), float(high))


def _parameters(tree: locks.Tree, base: locks.Tree, stages: Sequence[locks.Stage]) -> list[tuple[str, str, Any, Any]]:
    """The parameters that differ, as `dvc params diff` has them: of params.yaml and studies all, else what stages read.

    Not by DVC itself, which would read every pipeline of both revisions once more.
    """
    read = {(file, key) for stage in stages for file, keys in stage.params.items() for key in keys}
    whole = {PARAMS}
    for one in (tree, base):  # also what only a stage of the base reads
        for file in locks.pipelines(one):
            whole.add(posixpath.join(posixpath.dirname(file), STUDY))
            for stage in one.yaml(locks.lock_of(file)).get("stages", {}).values():
                params = stage.get("params", {}).items()
                read |= {(name.removeprefix("../../"), key) for name, values in params for key in values}
    files = sorted({*whole, *(file for file, _ in read)})
    then, now = ({file: {"data": format_dict(one.yaml(file))} for file in files} for one in (base, tree))
    return [
        (file, key, values["old"], values["new"])
        for file, changes in sorted(diff(then, now).items())
        for key, values in sorted(changes.items())
        if file in whole or any((file, above) in read for above in _with_all_above(key))
    ]


def _with_all_above(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _data(tree: locks.Tree, base: locks.Tree) -> list[str]:
    """The outputs of data and models whose hash in a lock differs from that of the base."""
    found = []
    for file in dict.fromkeys([*locks.pipelines(tree), *locks.pipelines(base)]):
        now, then = (_outs(one.yaml(locks.lock_of(file))) for one in (tree, base))
        found += [
            out
            for out in sorted({*now, *then})
            if now.get(out) != then.get(out) and out.startswith(("data/", "models/"))
        ]
    return list(dict.fromkeys(found))


def _outs(lock: Mapping[str, Any]) -> dict[str, str]:
    stages = (lock.get("stages") or {}).values()
    return {out["path"].removeprefix("../../"): out.get("md5", "") for stage in stages for out in stage.get("outs", [])}


def _claims(root: Path, base: str, checks: Checks) -> list[ClaimChange]:
    found = []
    listed = locks.git(root, "ls-tree", "-r", "--name-only", base, "--", "claims.yaml", "studies").decode().split()
    files = dict.fromkeys([*claims_files(root), *(path for path in listed if path.endswith("claims.yaml"))])
    for file in files:
        before = _committed(root, base, file)
        now = {one.name: one for one in checks.claims if one.file == file}
        raw = (read_yaml(root / file).get("claims") or {}) if (root / file).is_file() else {}
        for name in sorted({*before, *now}):
            then = _verdict(root, base, name)
            if name not in now:
                found.append(ClaimChange(name, then, "", ("it was removed",)))
                continue
            changes = []
            one = now[name]
            if name not in before:
                changes.append("it is new")
            elif promise(raw[name]) != promise(before[name]):
                stricter = keeps(promise(raw[name]), promise(before[name]))
                changes.append("it asks for more than before" if stricter else "what it asks for was changed")
            if evidence := [path for path in one.claim.sources if _changed(root, base, path)]:
                changes.append(f"its evidence moved ({', '.join(evidence)})")
            if then != one.verdict and name in before:
                changes.append("its verdict is another")
            if changes:
                found.append(ClaimChange(name, then, one.verdict, tuple(changes)))
    return found


def _committed(root: Path, base: str, file: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(locks.git(root, "show", f"{base}:{file}").decode()) or {}
    except ReseedError:
        return {}
    except yaml.YAMLError as error:
        raise ReseedError(f"--base {base}: {file} is not valid YAML there") from error
    return dict(content.get("claims") or {})


def _verdict(root: Path, base: str, name: str) -> str:
    try:
        return str(json.loads(locks.git(root, "show", f"{base}:metrics/claims/{name}.json"))["verdict"])
    except (ReseedError, ValueError, KeyError):
        return "not judged"


def _changed(root: Path, base: str, path: str) -> bool:
    """Whether a metric file is another than at the base, by its content."""
    try:
        then = json.loads(locks.git(root, "show", f"{base}:{path}"))
    except (ReseedError, ValueError):
        return True
    try:
        return bool(read_json(root / path) != then)
    except ReseedError:
        return True
