"""Stages without the wait for their imports: a server that has them behind it forks a process for each.

SAELens and what it imports take longer than most stages of a world do. The server never imports `reseed`: each stage
imports it anew, from the `src` of its project, as `python -P stages/….py` would, and gives the same bytes.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

PACKAGES = (
    "pandas", "scipy.stats", "sklearn.linear_model", "numba", "torch", "transformer_lens", "sae_lens.synthetic",
    "sae_lens.evals", "dvc.cli", "dvc.commands.repro", "dvc.stage.run",
)  # fmt: skip
STAGE = "PYTHONPATH=src python -P "
"""How the command of every stage in dvc.yaml begins; another one is run as DVC would."""
NO_CUDA_YET = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""A process that has asked the CUDA runtime whether there is a GPU cannot be forked into one that uses it."""
PATIENCE = 0.05
"""Seconds between two looks at what ended."""
LONGEST = 1 << 16


class Stages:
    """The server, which starts with the first stage and ends with `close` or with this process.

    It imports the packages only if one of the commands that it will be asked for is a stage's of dvc.yaml.
    """

    def __init__(self, commands: Iterable[str]) -> None:
        self.packages = PACKAGES if any(command.startswith(STAGE) for command in commands) else ()
        self.codes: dict[int, int] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, address: str, cores: Sequence[int], output: IO[bytes]) -> int:
        """`dvc repro --single-item ADDRESS` on these cores, in a session of its own; returns its process id."""
        if self.process is None:
            self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", __file__, str(theirs.fileno()), *self.packages],
                    stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
                    env=os.environ | NO_CUDA_YET,
                )  # fmt: skip
        wanted = json.dumps({"address": address, "cores": list(cores)}).encode()
        socket.send_fds(self.line, [wanted], [output.fileno()])
        while "pid" not in (answer := self._answer()):
            self.codes[answer["ended"]] = answer["code"]
        return int(answer["pid"])

    def poll(self, pid: int) -> int | None:
        """The exit code of a stage that has ended, else None."""
        while pid not in self.codes:
            self.line.setblocking(False)
            try:
                answer = self._answer()
            except BlockingIOError:
                return None
            finally:
                self.line.setblocking(True)
            self.codes[answer["ended"]] = answer["code"]
        return self.codes[pid]

    def close(self) -> None:
        """End the server; stages that still run are killed."""
        if self.process is not None:
            self.line.close()
            self.process.wait()

    def _answer(self) -> dict[str, Any]:
        if not (answer := self.line.recv(LONGEST)):
            assert self.process is not None
            raise RuntimeError(f"{__file__}: the server of stages ended with {self.process.wait()}")
        return dict(json.loads(answer))


def serve(line: socket.socket, packages: Sequence[str]) -> None:
    """Fork a process for every stage that is asked for, and tell what ended, until the other side is gone."""
    for package in packages:
        importlib.import_module(package)
    running: set[int] = set()
    line.settimeout(PATIENCE)
    while True:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                line.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
        try:
            wanted, files, _, _ = socket.recv_fds(line, LONGEST, 1)
        except TimeoutError:
            continue
        if not wanted:
            break
        if (child := os.fork()) == 0:
            _end(lambda: _dvc(files[0], **json.loads(wanted)))  # noqa: B023 - called at once
        os.close(files[0])
        running.add(child)
        line.send(json.dumps({"pid": child}).encode())
    for pid in running:
        os.killpg(pid, signal.SIGKILL)


def _dvc(output: int, address: str, cores: list[int]) -> int:
    """DVC in this process, whose stage is forked from it."""
    import dvc.stage.run
    from dvc.cli import main

    os.setsid()
    for standard in (1, 2):
        os.dup2(output, standard)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    as_ever = dvc.stage.run._run

    def run(executable: str, command: str, **settings: Any) -> None:
        if not command.startswith(STAGE):
            as_ever(executable, command, **settings)
            return
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            _end(lambda: _stage(shlex.split(command.removeprefix(STAGE)), settings["cwd"], settings["env"]))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.signal(signal.SIGINT, before)
        if code:
            raise dvc.stage.run.StageCmdFailedError(command, code)

    dvc.stage.run._run = run
    return int(main(["--wait-for-lock", "repro", "--single-item", address]))


def _stage(words: list[str], folder: str, environment: dict[str, str]) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment | {"PYTHONPATH": "src"})
    sys.path.insert(0, str(Path("src").resolve()))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return 0


def _end(body: Any) -> None:
    """End this process with what `body` gives, never with what the process that it was forked from does at its end."""
    code = 1
    try:
        code = body()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        serve(asked, sys.argv[2:])
