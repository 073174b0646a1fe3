"""`python -m reseed.sweeps.worker TASK.json`: the whole of a task, in a fresh clone that vanishes with it.

The process that an engine starts does nothing but watch: what runs DVC is a child in a session of its own, so that a
stage, a crash of DVC or a signal never leaves the task without its outcome and the machine without its disk.
Exit code: 0 after an outcome was written (also of a failure), 143 if the task was told to stop, else what broke.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from reseed import ReseedError
from reseed.sweeps import compiled, tasks
from reseed.sweeps.parameters import check_recorded, git
from reseed.sweeps.tasks import (
    Outcome,
    Task,
    Worker,
    claim_file,
    facts_dir,
    kill_orphans,
    log_file,
    outcome_file,
    worker_file,
)  # fmt: skip

STOPPED = 143
GRACE = 5.0
"""Seconds between the request to stop and the kill."""
PUSHES = 5
WENT_THROUGH = re.compile(r"(?:Running stage|Stage) '([^']+)'")
RAN = re.compile(r"Running stage '([^']+)'")


class _Stopped(Exception):
    """SIGTERM or SIGINT: a preemption, or the submitting command going away."""


def work(file: Path) -> int:
    """Do a task that nobody else does, and write its outcome; returns the exit code."""
    task = tasks.read(Task, file)
    if task is None:
        raise ReseedError(f"{file}: the file does not exist")
    claim = claim_file(Path(task.state), task.id)
    claim.parent.mkdir(parents=True, exist_ok=True)
    with claim.open("a") as lock:
        # released by the system with this process: a second worker waits, and then finds the outcome
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _claimed(task)


def _claimed(task: Task) -> int:
    state = Path(task.state)
    before = tasks.read(Worker, worker_file(state, task.id))
    done = tasks.read(Outcome, outcome_file(state, task.id))
    if done and done.status == "done":
        return 0
    if before:
        kill_orphans(task.id)
        shutil.rmtree(before.clone, ignore_errors=True)
    attempt, started = before.attempt + 1 if before else 1, time.time()
    clone = state / "clones" / f"{task.id}-{attempt}"
    me = Worker(
        attempt, socket.gethostname(), os.getpid(), tasks.process_born(os.getpid()), started,
        os.environ.get("CUDA_VISIBLE_DEVICES", ""), str(clone),
    )  # fmt: skip
    tasks.write(worker_file(state, task.id), me)
    log = log_file(state, task.id)
    offset = log.stat().st_size if log.exists() else 0
    try:
        found = _in_a_child(task, clone)
    except _Stopped:
        return STOPPED
    finally:
        shutil.rmtree(clone, ignore_errors=True)
    if "reason" in found:
        found = {"reason": _first_error(log, offset) or found["reason"]}
    outcome = Outcome(
        status="failed" if found.get("reason") else "done",
        reason=found.pop("reason", ""),
        attempt=attempt,
        started=started,
        seconds=time.time() - started,
        host=me.host,
        hardware=found.pop("hardware", "") or _processor(),
        **found,
    )
    tasks.write(outcome_file(state, task.id), outcome)
    worker_file(state, task.id).unlink(missing_ok=True)
    if outcome.status == "done":
        shutil.rmtree(state / "checkpoints" / task.id, ignore_errors=True)
        if Path(task.origin).is_dir():
            git(task.origin, "update-ref", "-d", f"{tasks.REF}/{task.id}")
    return 0


def _in_a_child(task: Task, clone: Path) -> dict[str, Any]:
    """What `_run` gives, or a reason, from a forked child; raises _Stopped when this process is told to stop."""
    result = clone.with_name(f"{clone.name}.json")
    result.unlink(missing_ok=True)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Stopped

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _child(task, clone, result, parent)
    try:
        _, status = os.waitpid(child, 0)
    except _Stopped:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        _end(child)
        kill_orphans(task.id)
        raise
    finally:
        found = json.loads(result.read_text()) if result.exists() else None
        result.unlink(missing_ok=True)
    code = os.waitstatus_to_exitcode(status)
    if code:
        kill_orphans(task.id)
    if found is None:
        return {"reason": f"the process of DVC ended with {code} before it had a result"}
    return dict(found)


def _child(task: Task, clone: Path, result: Path, parent: int) -> None:
    """Run DVC and write what came of it; never returns."""
    code = 1
    try:
        os.setsid()
        # with its parent killed, a run would go on unwatched
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.environ[tasks.TASK_VARIABLE] = task.id
        found = _run(task, clone)
        code = 0
    except ReseedError as error:
        found = {"reason": str(error)}
    except BaseException as error:
        traceback.print_exc()
        found = {"reason": _chain(error)}
    try:
        tasks.write(result, found)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end(child: int) -> None:
    """Ask the session of a child to stop, then kill it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, number)
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.02)


def _run(task: Task, clone: Path) -> dict[str, Any]:
    """Clone, run, compare, publish; what an outcome says of a task that is done."""
    ref = f"refs/exps/{task.head[:2]}/{task.head[2:]}/{task.name}"
    local = Path(task.origin).is_dir()
    _clone(task, clone, local)
    os.chdir(clone)
    clone = Path.cwd()
    log = log_file(Path(task.state), task.id)
    offset = log.stat().st_size if log.exists() else 0
    if task.grain == "experiment" and local and _has(task.origin, ref):
        # names that were taken are refused: an earlier attempt published it and died before it could say so
        git(clone, "fetch", "-q", "origin", f"{ref}:{ref}")
        return _summary(task, clone, git(clone, "rev-parse", ref).strip(), set())
    repo, shared = _configured(task, clone, local)
    arguments = {"allow_missing": True, "pull": task.remote, "targets": task.targets}
    if task.grain == "stage":
        repo.reproduce(**arguments)
        revision = ""
    else:
        repo.experiments.run(name=task.name, **(task.options | arguments))
        revision = _with_run_facts(clone, ref)
    compiled.keep(clone, task.head, Path(task.state))
    sys.stdout.flush()
    text = log.read_text(errors="replace")[offset:] if log.exists() else ""
    if task.grain == "experiment":
        check_recorded(clone, revision, task.source, task.changes, set(WENT_THROUGH.findall(text)))
    if not shared:
        repo.push(run_cache=True, revs=[revision] if revision else None, targets=None if revision else task.targets)
    if task.grain == "experiment":
        _publish(task, clone, local, ref)
    return _summary(task, clone, revision, set(RAN.findall(text)))


def _clone(task: Task, clone: Path, local: bool) -> None:
    """A clone at `head` with the parameter files as asked. Never a linked worktree: those share DVC's references."""
    clone.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["git", "clone", "-q", "--no-checkout", *(["--shared"] if local else []), task.origin, str(clone)], check=True
    )
    if not local:
        git(clone, "fetch", "-q", "origin", "+refs/reseed/*:refs/reseed/*")
    git(clone, "checkout", "-q", "--detach", task.head)
    if task.changes:
        git(clone, "restore", f"--source={task.source}", "--", *task.changes)
    if local:
        for key in ("user.name", "user.email"):
            found = subprocess.run(
                ["git", "-C", task.origin, "config", key], capture_output=True, text=True, check=False
            ).stdout.strip()
            if found:
                git(clone, "config", key, found)
    compiled.restore(clone, task.head, Path(task.state))
    # a training goes on from its checkpoint whoever continues it
    checkpoints = Path(task.state) / "checkpoints" / task.id
    checkpoints.mkdir(parents=True, exist_ok=True)
    (clone / "checkpoints").symlink_to(checkpoints.resolve())
    with (clone / ".git" / "info" / "exclude").open("a") as exclude:
        exclude.write("/checkpoints\n")


def _configured(task: Task, clone: Path, local: bool) -> tuple[Any, bool]:
    """The clone as a DVC repository, and whether its cache is that of the checkout."""
    from dvc.config import Config
    from dvc.repo import Repo

    given = Path(task.origin) / ".dvc" if local else Path(task.state)
    settings = Config(str(given), validate=False).read("local") if (given / "config.local").is_file() else {}
    shared = bool(task.cache) and Path(task.cache).is_dir()
    if not shared and not task.remote:
        raise ReseedError(f"{task.cache}: this machine does not see the DVC cache, and no DVC remote is configured")
    with Config(str(clone / ".dvc"), validate=False).edit("local") as conf:
        conf.update(settings)
        if shared:
            conf.setdefault("cache", {})["dir"] = task.cache
        else:
            conf.get("cache", {}).pop("dir", None)
        # else a folder of DVC's machine-wide state would be left behind for every clone
        conf.setdefault("core", {})["site_cache_dir"] = str(clone / ".dvc" / "tmp" / "site")
    return Repo(str(clone)), shared


def _with_run_facts(clone: Path, ref: str) -> str:
    """The experiment's commit, with those run facts that DVC left out because git did not know them yet."""
    new = [name for name in git(clone, "ls-files", "-z", "--others", "--exclude-standard", "runs").split("\0") if name]
    revision = git(clone, "rev-parse", ref).strip()
    if not new:
        return revision
    index = {"GIT_INDEX_FILE": str(clone / ".git" / "facts-index")}

    def run(*arguments: str, **more: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=clone, env=os.environ | index | more, check=True, capture_output=True, text=True
        ).stdout.strip()

    run("read-tree", revision)
    run("add", "--force", "--", *new)
    message = git(clone, "show", "-s", "--format=%B", revision)
    parents = [f"-p{parent}" for parent in git(clone, "show", "-s", "--format=%P", revision).split()]
    amended = run("commit-tree", run("write-tree"), *parents, "-m", message.strip())
    git(clone, "update-ref", ref, amended)
    return amended


def _publish(task: Task, clone: Path, local: bool, ref: str) -> None:
    """Give the experiment to the checkout, or leave it as a bundle beside the outcome."""
    if not local:
        bundle = outcome_file(Path(task.state), task.id).with_suffix(".bundle")
        bundle.parent.mkdir(parents=True, exist_ok=True)
        git(clone, "bundle", "create", "-q", str(bundle), f"{task.head}..{ref}")
        return
    for left in reversed(range(PUSHES)):
        try:
            git(clone, "push", "-q", "origin", f"{ref}:{ref}")
        except ReseedError:
            # DVC removes folders of references that it finds empty, which may be that of this one
            if not left:
                raise
            time.sleep(0.2)
        else:
            return


def _has(origin: str, ref: str) -> bool:
    return (
        subprocess.run(["git", "-C", origin, "rev-parse", "-q", "--verify", ref], capture_output=True).returncode == 0
    )


def _summary(task: Task, clone: Path, revision: str, ran: set[str]) -> dict[str, Any]:
    """What the run made and cost, from the locks and the run facts of its commit."""
    pair, paths = [task.head, revision] if revision else [task.head], ["--", "dvc.lock", "**/dvc.lock"]
    locks = git(clone, "diff", "--name-only", *pair, *paths).splitlines()
    if not revision:
        locks += git(clone, "ls-files", "--others", *paths).splitlines()
    known = _outputs(clone, task.head, locks)
    made = {out: size for out, size in _outputs(clone, revision, locks).items() if out not in known}
    facts = [path for path in sorted((clone / "runs").glob("*.json")) if path.stem in {s.split(":")[-1] for s in ran}]
    machines = [json.loads(path.read_text())["machine"] for path in facts]
    if task.grain == "stage":
        for path in facts:
            facts_dir(Path(task.state), task.id).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, facts_dir(Path(task.state), task.id) / path.name)
    names = {machine["processor"] if machine["device"] == "cpu" else machine["device"] for machine in machines}
    return {
        "revision": revision,
        "bytes": sum(made.values()),
        "activation_bytes": sum(size for (path, _), size in made.items() if "/activations/" in path),
        "hardware": ", ".join(sorted(names)),
        "stages": sorted(ran),
    }


def _outputs(clone: Path, revision: str, locks: list[str]) -> dict[tuple[str, str], int]:
    """Size by path and hash of every output in some locks of a commit, or of the clone as it is for none."""
    found: dict[tuple[str, str], int] = {}
    for lock in locks:
        if not revision:
            text = (clone / lock).read_text()
        elif git(clone, "ls-tree", revision, "--", lock):
            text = git(clone, "show", f"{revision}:{lock}")
        else:
            continue
        for stage in yaml.load(text, yaml.CSafeLoader)["stages"].values():
            found |= {(out["path"], out["md5"]): out.get("size", 0) for out in stage.get("outs", [])}
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found.group(1).strip() if found else os.uname().machine


def _first_error(log: Path, offset: int) -> str:
    """The sentence by which a stage refused, if one did."""
    text = log.read_text(errors="replace")[offset:] if log.exists() else ""
    found = re.search(r"^error: (.+)$", text, re.MULTILINE)
    return found.group(1) if found else ""


def _chain(error: BaseException) -> str:
    """An exception and what caused it, in one line."""
    said = []
    current: BaseException | None = error
    while current is not None:
        said.append(" ".join(str(current).split()) or type(current).__name__)
        current = current.__cause__
    return ": ".join(dict.fromkeys(said))


def main() -> None:
    """Run the command; a task file that cannot be used is one sentence and exit code 1."""
    try:
        sys.exit(work(Path(sys.argv[1])))
    except ReseedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
