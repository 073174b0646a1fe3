"""What sweeps cost: an estimate from the rates of earlier runs, a ledger of what was spent, a schedule by days."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from pydantic import ConfigDict

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.params import Budget, Strict, load
from reseed.sweeps.parameters import shown, value_of
from reseed.sweeps.tasks import Outcome, Task

BUDGET = "params.yaml: budget"
LEDGER = Path("runs/ledger.jsonl")
HOUR = 3600.0
GIGABYTE = 1e9
OVERHEAD = 3.0
"""Seconds that a task takes beside its stages."""
CLEANING = ("duplicates", "near_duplicates", "benchmark_text")
"""Steps of cleaning as manifests name them, beside `dropped`, which has its own reasons."""
UNKNOWN = 60.0
"""Seconds of a stage of which no run is known."""


class _WithBudget(Strict):
    """params.yaml of any project, of which sweeps read no other key."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    budget: Budget = Budget()


@dataclass(frozen=True)
class Rates:
    """How long stage instances took, as the run facts say, and what they were given."""

    facts: dict[str, dict[str, Any]]

    def seconds(self, address: str, asked: Mapping[str, Any], parameters: Mapping[str, Any]) -> float:
        """What an instance would take: as last time, in proportion to the seeds and latents that it now trains.

        An instance that never ran takes the mean of its stage.
        """
        name = address.rpartition(":")[2]
        if name in self.facts:
            facts = self.facts[name]
            return float(facts["duration_s"]) * _growth(facts.get("parameters", {}), asked, parameters)
        like = [f["duration_s"] for n, f in self.facts.items() if n.split("@")[0] == name.split("@")[0]]
        return mean(like) if like else UNKNOWN


def rates(root: Path) -> Rates:
    """The run facts of a checkout; raises ReseedError if one is not JSON."""
    return Rates({path.stem: read_json(path) for path in sorted((root / "runs").glob("*.json"))})


def _growth(before: Mapping[str, Any], asked: Mapping[str, Any], parameters: Mapping[str, Any]) -> float:
    """How much more an instance has to do: seeds times latents, where these are changed."""
    factor = 1.0
    seeds = asked.get("train.seeds")
    if seeds and (old := value_of(before, "train.seeds")):
        factor *= len(seeds) / len(old)
    widths = {key: value for key, value in asked.items() if key.endswith(".d_sae")}
    for key, value in widths.items():
        old = value_of(before, "variant.d_sae")
        if old and old == value_of(parameters, key):
            factor *= value / old
    return factor


def load_budget(root: Path) -> Budget:
    """The budget of all sweeps, its defaults if params.yaml has none; raises ReseedError for a fault in it."""
    return load(_WithBudget, root / "params.yaml").budget


@dataclass
class Ledger:
    """runs/ledger.jsonl: a line for every attempt, only ever appended to. It keeps new tasks within the budget."""

    path: Path
    budget: Budget
    on_disk: float = 0.0
    """Bytes of activations of the committed results."""
    limit_hours: float | None = None
    """Of this sweep alone."""
    limit_bytes: float | None = None
    sweep: frozenset[str] = frozenset()
    """The tasks of this sweep."""

    def entries(self) -> list[dict[str, Any]]:
        """Every whole line; the last may have been cut off by a full disk."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def lacks(self, task: Task, outcome: Outcome) -> bool:
        """Whether an outcome is not written down yet."""
        key = (task.id, outcome.started)
        return key not in {(entry["task"], entry["started_s"]) for entry in self.entries()}

    def add(self, task: Task, outcome: Outcome) -> None:
        """Append what an attempt took, once."""
        if not self.lacks(task, outcome):
            return
        entry = {
            "task": task.id,
            "status": outcome.status,
            "changes": shown(task.changes),
            "hours": round(outcome.seconds / HOUR, 6),
            "bytes": outcome.bytes,
            "activation_bytes": outcome.activation_bytes,
            "hardware": outcome.hardware,
            "host": outcome.host,
            "started": datetime.fromtimestamp(outcome.started, UTC).isoformat(timespec="seconds"),
            "started_s": outcome.started,
            "reason": outcome.reason,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a") as file:
            file.write(("\n" if whole else "") + json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def spent(self, only: frozenset[str] | None = None) -> tuple[float, float, float]:
        """Hours, bytes and bytes of activations so far, of all sweeps or of some tasks."""
        chosen = [e for e in self.entries() if only is None or e["task"] in only]
        hours, size, activations = (sum(e[key] for e in chosen) for key in ("hours", "bytes", "activation_bytes"))
        return hours, size, activations

    def affordable(self, ready: Sequence[Task], running: Iterable[Task]) -> tuple[list[Task], str]:
        """The first of the ready tasks that the budget still pays, and the sentence for those that it does not."""
        hours, _, activations = self.spent()
        own_hours, own_bytes, _ = self.spent(self.sweep)
        promised = sum(task.hours for task in running)
        found: list[Task] = []
        for task in ready:
            promised += task.hours
            over = [
                (f"{BUDGET}.gpu_hours", hours + promised, self.budget.gpu_hours, hours),
                ("budget.hours of the sweep", own_hours + promised, self.limit_hours, own_hours),
                (f"{BUDGET}.activations_gigabytes", (self.on_disk + activations) / GIGABYTE,
                 self.budget.activations_gigabytes, (self.on_disk + activations) / GIGABYTE),
                ("budget.gigabytes of the sweep", own_bytes / GIGABYTE, self.limit_bytes, own_bytes / GIGABYTE),
            ]  # fmt: skip
            for what, then, most, now in over:
                if most is not None and then > most:
                    return found, f"{what}: {now:.3g} of {most:g} are spent, and the next task would pass it"
            found.append(task)
        return found, ""


def on_disk(root: Path, kind: str) -> float:
    """Bytes of the outputs of a kind (`/activations/`, `/raw`) that the locks of a checkout name."""
    found: dict[str, int] = {}
    for lock in [root / "dvc.lock", *sorted((root / "studies").glob("*/dvc.lock"))]:
        if not lock.is_file():
            continue
        for stage in yaml.load(lock.read_text(), yaml.CSafeLoader)["stages"].values():
            found |= {o["md5"]: o.get("size", 0) for o in stage.get("outs", []) if kind in o["path"]}
    return float(sum(found.values()))


@dataclass(frozen=True)
class DataSet:
    """What a manifest of raw data says: the rows that were kept, and why cleaning removed others."""

    subject: str
    rows: int
    removed: dict[str, int]
    """By reason, of all splits together."""


def data_sets(root: Path) -> list[DataSet]:
    """The raw data sets whose manifests are in the workspace; raises ReseedError if one is not JSON."""
    found = []
    for path in sorted((root / "data").glob("*/raw/manifest.json")):
        manifest = read_json(path)
        removed = dict(manifest.get("dropped", {}))
        for step in CLEANING:
            removed[step.replace("_", " ")] = sum(manifest.get(step, {}).values())
        rows = sum(file["rows"] for file in manifest["files"].values())
        found.append(DataSet(path.parts[-3], rows, {reason: count for reason, count in removed.items() if count}))
    return found


def check_spent(ledger: Ledger, tasks: Sequence[Task]) -> None:
    """Raise ReseedError if the budget pays not one of the tasks, or a sweep is estimated above its own."""
    affordable, why = ledger.affordable(tasks[:1], [])
    if tasks and not affordable:
        raise ReseedError(why)
    estimate = sum(task.hours for task in tasks)
    if ledger.limit_hours is not None and estimate > ledger.limit_hours:
        raise ReseedError(
            f"budget.hours of the sweep: an estimated {estimate:.3g}, allowed: {ledger.limit_hours:g}; take fewer "
            "experiments or raise it"
        )


@dataclass(frozen=True)
class Day:
    """What one day of a schedule holds."""

    number: int
    names: list[str]
    hours: float
    """Of all GPUs together."""


def days(tasks: Sequence[Task], gpus: int, per_day: float = 24.0) -> list[Day]:
    """Which experiments start on which day: each goes to the GPU that is free first."""
    free = [0.0] * gpus
    found: dict[int, list[Task]] = {}
    for task in tasks:
        first = min(range(gpus), key=free.__getitem__)
        found.setdefault(int(free[first] // per_day), []).append(task)
        free[first] += task.hours
    return [Day(n + 1, [task.name for task in some], sum(task.hours for task in some)) for n, some in found.items()]
