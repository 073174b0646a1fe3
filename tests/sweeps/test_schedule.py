"""The scheduler on an engine whose workers do as they are told: nothing is lost, nothing is done twice."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reseed import ReseedError
from reseed.params import Budget
from reseed.sweeps import schedule, tasks
from reseed.sweeps.budget import Ledger
from reseed.sweeps.tasks import Outcome, Task, outcome_file


@dataclass
class Obedient:
    """Each start of a task takes the next word from its list: done, failed, or die."""

    state: Path
    words: dict[str, list[str]]
    name: str = "local"
    patience: float = 0.0
    slots: int = 2
    started: list[str] = field(default_factory=list)
    most: int = 0
    stopped: list[str] = field(default_factory=list)
    _open: dict[str, int] = field(default_factory=dict)

    def start(self, started: Sequence[Task]) -> list[str]:
        for task in started:
            self.started.append(task.name)
            word = self.words[task.name].pop(0)
            if word == "never":
                self._open[task.name] = 10**9
                continue
            if word != "die":
                made = Outcome(
                    word, "as told" if word == "failed" else "", 1, float(len(self.started)), 36.0, "h", "cpu"
                )  # type: ignore[arg-type]
                tasks.write(outcome_file(self.state, task.id), made)
            self._open[task.name] = 2
        self.most = max(self.most, sum(left > 0 for left in self._open.values()))
        return [task.name for task in started]

    def ended(self, handle: str) -> str | None:
        self._open[handle] = self._open.get(handle, 0) - 1
        return None if self._open[handle] > 0 else "ended with -9"

    def stop(self, handles: Sequence[str]) -> None:
        self.stopped += handles

    def close(self) -> None:
        pass


def make(state: Path, *names: str, after: dict[str, list[str]] | None = None) -> list[Task]:
    made = [
        Task(f"{n}@0", n, "experiment", "", "0" * 40, "", {}, [], str(state), "", False,
             after=[f"{m}@0" for m in (after or {}).get(n, [])], hours=0.01) for n in names
    ]  # fmt: skip
    for task in made:
        tasks.write(tasks.task_file(state, task.id), task)
    return made


def run(engine: Obedient, wanted: list[Task], hours: float = 100) -> tuple[schedule.Result, dict[str, Outcome]]:
    ends: dict[str, Outcome] = {}
    ledger = Ledger(engine.state / "ledger.jsonl", Budget(gpu_hours=hours))
    result = schedule.run(wanted, engine, engine.state, ledger, lambda task, end: ends.update({task.name: end}))
    return result, ends


def test_a_worker_that_dies_is_started_again_and_a_failed_task_is_not(tmp_path: Path) -> None:
    engine = Obedient(tmp_path, {"a": ["die", "die", "done"], "b": ["failed"], "c": ["done"]})
    result, ends = run(engine, make(tmp_path, "a", "b", "c"))
    assert (result.done, result.failed, result.left) == (2, 1, 0)
    assert sorted(engine.started) == ["a", "a", "a", "b", "c"]
    assert {name: end.reason for name, end in ends.items()} == {"a": "", "b": "as told", "c": ""}
    assert engine.most == 2


def test_a_worker_that_always_dies_ends_as_failed_with_its_reason(tmp_path: Path) -> None:
    engine = Obedient(tmp_path, {"a": 9 * ["die"]})
    result, ends = run(engine, make(tmp_path, "a"))
    assert (result.done, result.failed, len(engine.started)) == (0, 1, schedule.LAUNCHES)
    assert ends["a"].reason == "its worker ended with -9 without a result, 5 times"


def test_what_comes_after_a_failed_task_is_not_run_and_the_rest_in_order(tmp_path: Path) -> None:
    engine = Obedient(tmp_path, {"a": ["failed"], "b": [], "c": [], "d": ["done"], "e": ["done"]})
    wanted = make(tmp_path, "e", "c", "b", "a", "d", after={"b": ["a"], "c": ["b"], "e": ["d"]})
    result, ends = run(engine, wanted)
    assert (result.done, result.failed) == (2, 3)
    assert ends["b"].reason == "not run, because a failed"
    assert ends["c"].reason == "not run, because b failed"
    assert engine.started.index("d") < engine.started.index("e")


def test_at_the_limit_nothing_starts_and_what_remains_is_said(tmp_path: Path) -> None:
    engine = Obedient(tmp_path, {name: ["done"] for name in "abcd"}, slots=1)
    result, ends = run(engine, make(tmp_path, *"abcd"), hours=0.025)
    assert (result.done, result.left, engine.started) == (2, 2, ["a", "b"])
    assert result.why == "params.yaml: budget.gpu_hours: 0.02 of 0.025 are spent, and the next task would pass it"
    assert sorted(ends) == ["a", "b"]


def test_a_later_run_waits_for_the_workers_of_a_killed_one(tmp_path: Path) -> None:
    wanted = make(tmp_path, "a", "b")
    # the first scheduler started both, died, and `b` has ended since
    for task in wanted:
        tasks.write(schedule.launch_file(tmp_path, task.id), {"engine": "local", "handle": task.name, "number": "1"})
    engine = Obedient(tmp_path, {"a": [], "b": []}, _open={"a": 3})
    for name in "ab":
        tasks.write(outcome_file(tmp_path, f"{name}@0"), Outcome("done", "", 1, 1.0, 36.0, "h", "cpu"))
    result, ends = run(engine, wanted)
    assert (result.done, engine.started, sorted(ends)) == (2, [], ["a", "b"])


def test_a_second_scheduler_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    ready, leave = multiprocessing.Event(), multiprocessing.Event()

    def hold() -> None:
        with schedule.only_one(tmp_path):
            ready.set()
            leave.wait(10)

    first = multiprocessing.get_context("fork").Process(target=hold)
    first.start()
    assert ready.wait(10)
    with pytest.raises(ReseedError, match=f"process {first.pid}"), schedule.only_one(tmp_path):
        pass
    first.kill()
    first.join()
    with schedule.only_one(tmp_path):  # a killed one leaves nothing that another would have to remove
        pass
