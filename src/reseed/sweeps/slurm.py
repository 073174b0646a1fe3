"""Tasks as elements of Slurm job arrays, on nodes that share the file system of the checkout."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reseed import ReseedError
from reseed.sweeps.engines import command, environment
from reseed.sweeps.tasks import Task, log_file, task_file

JOB = "reseed-sweep"
PATIENCE = 60.0
"""Seconds that workers get to stop; Slurm kills them after 30 (its KillWait)."""
SCRIPT = """\
#!/bin/bash
{exports}
line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {listed})
exec {worker} "${{line%%$'\\t'*}}" >> "${{line#*$'\\t'}}" 2>&1
"""


@dataclass
class Slurm:
    """A job array for every group of tasks that may start; Slurm itself requeues what a node takes with it."""

    slots: int
    gpus: int
    name: str = "slurm"
    patience: float = 0.5
    _seen: dict[str, str] = field(default_factory=dict)
    _looked: float = 0.0

    def start(self, started: Sequence[Task]) -> list[str]:
        state = Path(started[0].state)
        listed = state / "slurm" / f"{time.time_ns()}.tsv"
        listed.parent.mkdir(parents=True, exist_ok=True)
        log_file(state, "").parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{task_file(state, task.id)}\t{log_file(state, task.id)}\n" for task in started))
        given = environment("")
        names = ("PYTHONPATH", "PATH", "DVC_NO_ANALYTICS", *(() if self.gpus else ("CUDA_VISIBLE_DEVICES",)))
        script = SCRIPT.format(
            exports="\n".join(f"export {name}={shlex.quote(given[name])}" for name in names),
            listed=shlex.quote(str(listed)),
            worker=shlex.join(command(Path())[:-1]),
        )
        options = [
            f"--array=0-{len(started) - 1}",
            f"--job-name={JOB}",
            "--output=/dev/null",
            "--requeue",
            "--parsable",
        ]
        if self.gpus:
            options.append(f"--gres=gpu:{self.gpus}")
        job = _slurm("sbatch", *options, given=script).strip().split(";")[0]
        self._looked = 0.0
        return [f"{job}_{i}" for i in range(len(started))]

    def ended(self, handle: str) -> str | None:
        if time.monotonic() - self._looked > self.patience:
            try:
                lines = _slurm("squeue", "--noheader", "--array", f"--name={JOB}", "--format=%i %T").splitlines()
            except ReseedError:
                return None  # a controller that does not answer has not ended anything
            self._seen = dict(line.split() for line in lines)
            self._looked = time.monotonic()
        return None if handle in self._seen else "ended as a job of Slurm"

    def stop(self, handles: Sequence[str]) -> None:
        if not handles:
            return
        _slurm("scancel", *handles)
        deadline = time.monotonic() + PATIENCE
        while any(self.ended(handle) is None for handle in handles) and time.monotonic() < deadline:
            time.sleep(self.patience)

    def close(self) -> None:
        self._seen.clear()


def slurm(jobs: int | None, gpus: int | None) -> Slurm:
    """The cluster that this machine submits to; raises ReseedError if there is none, or it does not answer."""
    if shutil.which("sbatch") is None:
        raise ReseedError("--engine slurm: found no sbatch on PATH, allowed: a machine that submits to a Slurm cluster")
    _slurm("sinfo", "--noheader")
    return Slurm(jobs or 1000, 1 if gpus is None else gpus)


def _slurm(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(arguments, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ReseedError(f"--engine slurm: {arguments[0]}: {said}; allowed: a Slurm controller that answers")
    return done.stdout
