"""Tasks on the nodes of a Ray cluster, also on nodes that see neither the checkout nor its DVC cache.

Such a node gets the commits as a git bundle and gives the experiment back as one; its data come from the DVC remote.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from reseed import ReseedError
from reseed.sweeps import tasks
from reseed.sweeps.engines import command, environment
from reseed.sweeps.parameters import git
from reseed.sweeps.tasks import Task, log_file, outcome_file, task_file

BUNDLE = "origin.bundle"
CONFIG = "config.local"
TO_CONNECT = 10.0
"""Seconds until an address counts as one where nothing answers; Ray itself tries for minutes."""


def do(content: dict[str, Any], files: Mapping[str, bytes], gpus: int) -> dict[str, Any]:
    """On a node: run the worker of a task and return how it ended, with what it wrote if the driver cannot see it."""
    task = Task(**content)
    shared = task_file(Path(task.state), task.id).exists()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""
    if not shared:
        # the same folder for every attempt, so that a training goes on where the last one stopped
        state = Path(tempfile.gettempdir()) / f"reseed-sweeps-{task.head[:7]}" / task.id
        state.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (state / name).write_bytes(data)
        task = replace(task, state=str(state), origin=str(state / BUNDLE), cache="")
        tasks.write(task_file(state, task.id), task)
    state = Path(task.state)
    log_file(state, task.id).parent.mkdir(parents=True, exist_ok=True)
    with log_file(state, task.id).open("ab") as log:
        process = subprocess.Popen(
            command(task_file(state, task.id)),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(devices), start_new_session=True,
            # a worker must not outlive the process of Ray that watches it
            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM),
        )  # fmt: skip
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    found: dict[str, Any] = {"how": f"ended with {code} on {socket.gethostname()}"}
    if shared:
        return found
    outcome = outcome_file(state, task.id)
    found["log"] = log_file(state, task.id).read_bytes()
    for name, path in (("outcome", outcome), ("bundle", outcome.with_suffix(".bundle"))):
        found |= {name: path.read_bytes()} if path.exists() else {}
    if "outcome" in found:
        shutil.rmtree(state)
        with contextlib.suppress(OSError):  # another task of the sweep still has its folder there
            state.parent.rmdir()
    return found


@dataclass
class OnRay:
    """One Ray task for every task; it is this project that starts lost ones again, and counts how often."""

    ray: Any
    slots: int
    gpus: int
    cpus: int
    files: dict[str, bytes]
    """What nodes that do not see the checkout need of it."""
    name: str = "ray"
    patience: float = 0.1
    _open: dict[str, Any] = field(default_factory=dict)
    _tasks: dict[str, Task] = field(default_factory=dict)
    _ended: dict[str, str] = field(default_factory=dict)

    def start(self, started: Sequence[Task]) -> list[str]:
        remote = self.ray.remote(do).options(num_gpus=self.gpus, num_cpus=self.cpus, max_retries=0)
        files, handles = self.ray.put(self.files), []
        for task in started:
            reference = remote.remote(asdict(task), files, self.gpus)
            handle = reference.hex()
            self._open[handle], self._tasks[handle] = reference, task
            handles.append(handle)
        return handles

    def ended(self, handle: str) -> str | None:
        if handle in self._ended:
            return self._ended[handle]
        if handle not in self._open:
            return "went with its driver"
        ready, _ = self.ray.wait([self._open[handle]], timeout=0)
        if not ready:
            return None
        try:
            found = self.ray.get(self._open.pop(handle))
        except (self.ray.exceptions.RayError, OSError) as error:
            last = (str(error).strip() or "no message").splitlines()[-1]
            self._ended[handle] = f"was lost by Ray ({type(error).__name__}: {last[:200]})"
        else:
            self._ended[handle] = found["how"]
            _bring_home(self._tasks[handle], found)
        return self._ended[handle]

    def stop(self, handles: Sequence[str]) -> None:
        for handle in handles:
            if handle in self._open:
                self.ray.cancel(self._open[handle])
        deadline = time.monotonic() + 30
        while any(self.ended(handle) is None for handle in handles) and time.monotonic() < deadline:
            time.sleep(self.patience)

    def close(self) -> None:
        self.ray.shutdown()


def _bring_home(task: Task, found: Mapping[str, Any]) -> None:
    """Take a remote node's experiment into the checkout, then write its outcome: in this order nothing is lost."""
    state = Path(task.state)
    if "log" in found:
        log_file(state, task.id).parent.mkdir(parents=True, exist_ok=True)
        log_file(state, task.id).write_bytes(found["log"])
    if "bundle" in found:
        ref = f"refs/exps/{task.head[:2]}/{task.head[2:]}/{task.name}"
        bundle = state / "bundles" / f"{task.id}.bundle"
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_bytes(found["bundle"])
        git(task.origin, "fetch", "-q", str(bundle), f"+{ref}:{ref}")
        bundle.unlink()
        git(task.origin, "update-ref", "-d", f"{tasks.REF}/{task.id}")
    if "outcome" in found:
        path = outcome_file(state, task.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(found["outcome"])
        partial.replace(path)


def on_ray(address: str | None, jobs: int | None, gpus: int | None, threads: int, root: Path, remote: bool) -> OnRay:
    """An existing cluster, or one of this machine.

    Raises ReseedError if Ray is not installed, no cluster answers, or a node cannot get at the data.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise ReseedError("--engine ray: Ray is not installed; `make ray` adds it") from error
    if address:
        _check_answers(address)
    settings = {"PYTHONPATH": str(Path(__file__).parents[2]) + os.pathsep + os.environ.get("PYTHONPATH", "")}
    try:
        # "local": else Ray would remember a cluster of before, which may be gone
        ray.init(
            address=address or "local", runtime_env={"env_vars": settings} if not address else None,
            log_to_driver=False, logging_level="error",
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        ray.shutdown()  # a client that half connected refuses the next address
        said = " ".join(str(error).split())
        raise ReseedError(f"--address {address}: no Ray cluster answers there ({said[:200]})") from error
    try:
        others = sorted({n["NodeManagerHostname"] for n in ray.nodes() if n["Alive"]} - {socket.gethostname()})
        if others and not remote:
            raise ReseedError(
                f".dvc/config: core.remote: found none, allowed: a default DVC remote, because {others[0]} does not "
                "share the cache of this checkout"
            )
        total = ray.cluster_resources()
        gpus = min(1, int(total.get("GPU", 0))) if gpus is None else gpus
        if gpus > total.get("GPU", 0):
            raise ReseedError(
                f"--gpus {gpus}: found {total.get('GPU', 0):g} GPUs in the Ray cluster, allowed: at most that"
            )
        cpus = 1 if gpus else min(threads, int(total.get("CPU", 1)))
        most = int(total["GPU"] // gpus if gpus else total.get("CPU", 1) // cpus)
    except ReseedError:
        ray.shutdown()
        raise
    return OnRay(ray, jobs or max(1, most), gpus, cpus, _files(root) if others else {})


def _check_answers(address: str) -> None:
    """Raise ReseedError if nothing listens at HOST:PORT or ray://HOST:PORT; other forms, as `auto`, are Ray's own."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise ReseedError(f"--address {address}: no Ray cluster answers there ({error})") from error


def _files(root: Path) -> dict[str, bytes]:
    """The commits of this checkout and its private DVC settings."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / BUNDLE
        git(root, "bundle", "create", "-q", str(bundle), "--all")
        found = {BUNDLE: bundle.read_bytes()}
    config = root / ".dvc" / CONFIG
    return found | ({CONFIG: config.read_bytes()} if config.is_file() else {})
