"""The loop that keeps an engine busy until every task has an outcome; killed at any moment, the next one goes on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from reseed import ReseedError
from reseed.sweeps import tasks
from reseed.sweeps.budget import Ledger
from reseed.sweeps.engines import Engine, handle_of
from reseed.sweeps.tasks import Outcome, Task, Worker, kill_orphans, outcome_file, worker_file

LAUNCHES = 5
"""A task whose workers die this often without a result has failed."""


@dataclass(frozen=True)
class Result:
    """What a run of the scheduler came to."""

    done: int
    failed: int
    left: int
    why: str
    """Why tasks were left."""


def launch_file(state: Path, id_: str) -> Path:
    return state / "launches" / f"{id_}.json"


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the scheduler's lock, which the system releases with its process; raises ReseedError if another holds it."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "scheduler.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ReseedError(
                f"{state / 'scheduler.lock'}: another `reseed sweep run` (process {lock.read().strip() or 'unknown'}) "
                "is running, allowed: one at a time"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def run(
    wanted: Sequence[Task], engine: Engine, state: Path, ledger: Ledger, show: Callable[[Task, Outcome], None]
) -> Result:
    """Run tasks until each is done or failed, or the budget is spent, or the process is told to stop.

    Workers of an earlier run that was killed are waited for, not started again.
    """
    waiting = {task.id: task for task in wanted}
    running: dict[str, str] = {}
    counts = {"done": 0, "failed": 0}
    stop: list[str] = []

    def told(number: int, _frame: FrameType | None) -> None:
        stop.append(f"stopped by {signal.Signals(number).name}")

    def settle(task: Task, outcome: Outcome) -> None:
        counts[outcome.status] += 1
        ledger.add(task, outcome)
        show(task, outcome)

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for task in wanted:
            launched = _launched(state, task.id)
            if launched and launched["engine"] == engine.name and engine.ended(launched["handle"]) is None:
                running[task.id] = launched["handle"]
            elif (worker := tasks.read(Worker, worker_file(state, task.id))) and tasks.alive(worker):
                if engine.name == "local":  # its scheduler was killed before it could write down the handle
                    running[task.id] = handle_of(worker)
                    continue
                raise ReseedError(f"{task.name}: it still runs by another engine, allowed: that one until it has ended")
            elif (outcome := tasks.read(Outcome, outcome_file(state, task.id))) and ledger.lacks(task, outcome):
                settle(waiting.pop(task.id), outcome)  # it ended while nobody looked
            else:
                outcome_file(state, task.id).unlink(missing_ok=True)
                launch_file(state, task.id).unlink(missing_ok=True)
        while waiting and not stop:
            for id_, handle in list(running.items()):
                how = engine.ended(handle)
                if how is None:
                    continue
                del running[id_]
                if found := _result(waiting[id_], state, how, ledger):
                    settle(waiting.pop(id_), found)
            _give_up_on_dependents(waiting, state, settle)
            ready = [task for task in waiting.values() if task.id not in running and not set(task.after) & set(waiting)]
            room = max(0, engine.slots - len(running))
            affordable, why = ledger.affordable(ready[:room], [waiting[id_] for id_ in running])
            if affordable:
                for task, handle in zip(affordable, _start(engine, affordable, state), strict=True):
                    running[task.id] = handle
            elif not running and waiting:
                return Result(counts["done"], counts["failed"], len(waiting), why)
            time.sleep(engine.patience)
        if stop:
            engine.stop(list(running.values()))
        return Result(counts["done"], counts["failed"], len(waiting), stop[0] if stop else "")
    finally:
        engine.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _launched(state: Path, id_: str) -> dict[str, str] | None:
    file = launch_file(state, id_)
    return dict(json.loads(file.read_text())) if file.exists() else None


def _start(engine: Engine, started: Sequence[Task], state: Path) -> list[str]:
    handles = engine.start(started)
    for task, handle in zip(started, handles, strict=True):
        number = int((_launched(state, task.id) or {"number": "0"})["number"]) + 1
        tasks.write(launch_file(state, task.id), {"engine": engine.name, "handle": handle, "number": str(number)})
    return handles


def _result(task: Task, state: Path, how: str, ledger: Ledger) -> Outcome | None:
    """The outcome of a worker that ended; None if it left none and the task is to be started again."""
    outcome = tasks.read(Outcome, outcome_file(state, task.id))
    launched = _launched(state, task.id)
    if outcome is None:
        worker = tasks.read(Worker, worker_file(state, task.id))
        kill_orphans(task.id)
        number = int(launched["number"]) if launched else LAUNCHES
        lost = Outcome(
            status="failed",
            reason=f"its worker {how} without a result, {number} times",
            attempt=number,
            started=worker.started if worker else time.time(),
            seconds=time.time() - worker.started if worker else 0.0,
            host=worker.host if worker else "",
            hardware="",
        )
        if number < LAUNCHES:
            ledger.add(task, replace(lost, reason=f"its worker {how} without a result: started again"))
            return None
        outcome = lost
        if worker and worker.host == socket.gethostname():
            shutil.rmtree(worker.clone, ignore_errors=True)
        tasks.write(outcome_file(state, task.id), outcome)
    launch_file(state, task.id).unlink(missing_ok=True)
    return outcome


def _give_up_on_dependents(waiting: dict[str, Task], state: Path, settle: Callable[[Task, Outcome], None]) -> None:
    """Tasks after one that failed end as failed, with that as their reason, and so do those after them."""
    for task in list(waiting.values()):
        for id_ in task.after:
            outcome = None if id_ in waiting else tasks.read(Outcome, outcome_file(state, id_))
            if outcome is not None and outcome.status == "failed":
                why = f"not run, because {id_.rpartition('@')[0]} failed"
                lost = Outcome("failed", why, 0, time.time(), 0.0, "", "")
                tasks.write(outcome_file(state, task.id), lost)
                settle(waiting.pop(task.id), lost)
                return _give_up_on_dependents(waiting, state, settle)
    return None
