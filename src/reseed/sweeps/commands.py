"""`reseed sweep`: run queued experiments and sweep files on an engine, see where they are, plan them by days."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reseed import ReseedError
from reseed.params import read_yaml
from reseed.stage import progress
from reseed.sweeps import budget, engines, farm, handover, on_ray, schedule, slurm, tasks
from reseed.sweeps.files import load_sweep
from reseed.sweeps.parameters import at_revision, git, shown, value_of
from reseed.sweeps.pipelines import affected, instances
from reseed.sweeps.tasks import STATE, Outcome, Task, Worker, log_file, outcome_file, worker_file

app = typer.Typer(no_args_is_help=True, help="Queued experiments and sweep files, on any number of machines.")


class EngineName(StrEnum):
    local = "local"
    ray = "ray"
    slurm = "slurm"


File = Annotated[Path | None, typer.Argument(help="a sweep file; without one, what `dvc exp run --queue` has queued")]


@app.command()
def run(
    file: File = None,
    engine: Annotated[EngineName, typer.Option(help="where the tasks run")] = EngineName.local,
    jobs: Annotated[int | None, typer.Option(min=1, help="tasks at once; as many as fit, if not given")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of a task; 1 where there are any")] = None,
    stages: Annotated[str | None, typer.Option(help="a pipeline file, of which each stage becomes a task")] = None,
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; one of this machine, if not given")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check and show, run nothing")] = False,
) -> None:
    """Run what is queued, or a sweep file, and what an earlier run left; the same command does only what is missing."""
    if stages and file:
        raise ReseedError(f"--stages {stages}: found the sweep file {file} beside it, allowed: one of them")
    if dry_run:
        found, _ = _stages(stages) if stages else _collected(file)
        _check_budget(found, file)
        Console().print(_planned(found))
        return
    result = schedule.Result(0, 0, 0, "nothing to run: every task has its result")
    with schedule.only_one(STATE):
        found, asked = _stages(stages) if stages else _collected(file)
        ledger = _check_budget(found, file)
        for task in tasks.all_tasks(STATE):  # what ended while nobody looked
            if outcome := tasks.read(Outcome, outcome_file(STATE, task.id)):
                ledger.add(task, outcome)
        chosen = _engine(engine, jobs, gpus, address) if found else None
        if stages:
            farm.hand_over(found, Path(), STATE)
        elif asked:
            found = handover.write(found, asked, _repo(), STATE)
        if chosen:
            with progress(len(found), "tasks", "task") as bar:

                def show(task: Task, outcome: Outcome) -> None:
                    bar.update()
                    bar.write(f"{outcome.status}: {task.name}" + (f": {outcome.reason}" if outcome.reason else ""))

                result = schedule.run(found, chosen, STATE, ledger, show)
        if stages and not (result.failed or result.left):
            farm.join(_repo(), stages, STATE)
    print(f"{result.done} done, {result.failed} failed, {result.left} left" + (f": {result.why}" if result.why else ""))
    if result.failed or result.left:
        raise typer.Exit(1)


@app.command()
def status() -> None:
    """Print every task: queued, running (where, since, at which stage), done, failed (why), and the cost so far."""
    shown_ = Table(title="Sweeps", title_justify="left")
    for column in ("experiment", "state", "where", "since", "took", "at, or why"):
        shown_.add_column(column, overflow="fold")
    for task in tasks.all_tasks(STATE):
        shown_.add_row(task.name, *_state(task))
    console = Console()
    console.print(shown_)
    ledger = _ledger()
    hours, size, activations = ledger.spent()
    console.print(
        f"spent: {hours:.3g} of {ledger.budget.gpu_hours:g} hours, {size / budget.GIGABYTE:.3g} GB of outputs; "
        f"activations on disk: {(ledger.on_disk + activations) / budget.GIGABYTE:.3g} of "
        f"{ledger.budget.activations_gigabytes:g} GB"
    )


@app.command()
def plan(file: File = None, gpus: Annotated[int, typer.Option(min=1, help="how many GPUs work at once")] = 1) -> None:
    """Print a day-by-day schedule and the estimated cost, from the measured rates of earlier runs."""
    found, _ = _collected(file)
    table = Table(title=f"{len(found)} experiments on {gpus} GPUs", title_justify="left")
    for column in ("day", "experiments that start", "hours"):
        table.add_column(column, overflow="fold")
    for day in budget.days(found, gpus):
        table.add_row(str(day.number), ", ".join(day.names), f"{day.hours:.3g}")
    Console().print(table)
    ledger = _ledger()
    left = ledger.budget.gpu_hours - ledger.spent()[0]
    raw = budget.on_disk(Path(), "/raw") / budget.GIGABYTE
    if sets := budget.data_sets(Path()):
        cleaned = Table(title="Data sets", title_justify="left")
        for column in ("data set", "rows kept", "removed by cleaning"):
            cleaned.add_column(column, overflow="fold")
        for one in sets:
            removed = ", ".join(f"{count} {reason}" for reason, count in one.removed.items())
            cleaned.add_row(one.subject, str(one.rows), removed or "none")
        Console().print(cleaned)
    print(f"data sets {raw:.3g} GB, activations {ledger.on_disk / budget.GIGABYTE:.3g} GB on disk")
    print(f"an estimated {sum(task.hours for task in found):.3g} hours, {left:.3g} of the budget remain")


def _repo() -> Any:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        return Repo(".")
    except DvcException as error:
        raise ReseedError(f"{Path.cwd()}: found no DVC repository, allowed: the root of a checkout") from error


def _collected(file: Path | None) -> tuple[list[Task], list[handover.Asked]]:
    """All tasks that a run would do, and what of them is asked for just now."""
    repo = _repo()
    root = Path(repo.root_dir)
    asked = handover.from_queue(repo) if file is None else handover.from_file(root, file)
    new: list[Task] = []
    if asked:
        known, rates = instances(repo), budget.rates(root)
        for task in handover.accept(asked, known, repo, STATE):
            keys = [(path, key) for path, changed in task.changes.items() for key in changed]
            flat = {key: value for changed in task.changes.values() for key, value in changed.items()}
            content = at_revision(root, task.head, "params.yaml")
            seconds = [rates.seconds(one, flat, content) for one in affected(known, task.targets, keys)]
            new.append(replace(task, hours=(sum(seconds) + budget.OVERHEAD) / budget.HOUR))
    missing = {task.id: task for task in handover.to_run(STATE, git(root, "rev-parse", "HEAD").strip())}
    done = {task.id for task in tasks.all_tasks(STATE)} - set(missing)
    wanted = {task.id: task for task in new if task.id not in done}
    if file is None:
        wanted = missing | wanted
    return list(wanted.values()), asked


def _stages(target: str) -> tuple[list[Task], list[handover.Asked]]:
    repo = _repo()
    found = farm.stages(repo, instances(repo), target, STATE)
    outcomes = ((task, tasks.read(Outcome, outcome_file(STATE, task.id))) for task in found)
    return [task for task, outcome in outcomes if outcome is None or outcome.status == "failed"], []


def _ledger(file: Path | None = None, sweep: Sequence[Task] = ()) -> budget.Ledger:
    own = load_sweep(file).budget if file else None
    return budget.Ledger(
        budget.LEDGER,
        budget.load_budget(Path()),
        budget.on_disk(Path(), "/activations/"),
        own.hours if own else None,
        own.gigabytes if own else None,
        frozenset(task.id for task in sweep),
    )


def _check_budget(found: Sequence[Task], file: Path | None) -> budget.Ledger:
    ledger = _ledger(file, found)
    budget.check_spent(ledger, found)
    return ledger


def _engine(name: EngineName, jobs: int | None, gpus: int | None, address: str | None) -> engines.Engine:
    if address is not None and name != EngineName.ray:
        raise ReseedError(f"--address {address}: found --engine {name}, allowed: with --engine ray")
    if name == EngineName.slurm:
        return slurm.slurm(jobs, gpus)
    threads = value_of(read_yaml(Path("params.yaml")), "compute.threads") or 1
    if name == EngineName.local:
        return engines.local(jobs, gpus, threads)
    remote = bool(_repo().config["core"].get("remote"))
    return on_ray.on_ray(address, jobs, gpus, threads, Path(), remote)


def _planned(found: Sequence[Task]) -> Table:
    table = Table(title="What would run", title_justify="left")
    for column in ("experiment", "from", "changes", "target", "hours"):
        table.add_column(column, overflow="fold")
    for task in found:
        table.add_row(
            task.name, task.head[:7], shown(task.changes) or "none", " ".join(task.targets), f"{task.hours:.2g}"
        )
    return table


def _state(task: Task) -> tuple[str, str, str, str, str]:
    """State, where, since when, how long, and what it is at or why it failed."""
    outcome = tasks.read(Outcome, outcome_file(STATE, task.id))
    if outcome:
        return outcome.status, outcome.host, _clock(outcome.started), f"{outcome.seconds:.0f} s", outcome.reason
    worker = tasks.read(Worker, worker_file(STATE, task.id))
    launched = schedule.launch_file(STATE, task.id).exists()
    if not launched and not tasks.alive(worker):
        return "queued", "", "", "", shown(task.changes)
    if worker is None:
        return "started", "", "", "", shown(task.changes)
    where = worker.host + (f", GPU {worker.device}" if worker.device else "")
    return "running", where, _clock(worker.started), "", _progress(log_file(STATE, task.id))


def _progress(log: Path) -> str:
    stages = re.findall(r"Running stage '([^']+)'", log.read_text(errors="replace")) if log.exists() else []
    return stages[-1] if stages else "starting"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(sep=" ", timespec="seconds")
