"""Stages without the wait for their imports: a server that has them behind it forks a process for each.

SAELens and what it imports take longer than most stages of a world do. The server never imports `reseed`: each stage
imports it anew, from the `src` of its project, as `python -P stages/….py` would, and gives the same bytes.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
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


class Server:
    """One that runs a stage at a time on `cores`; it starts with the first stage and ends with `close` or this process.

    It has its cores before it imports anything: libraries count then how many threads they may keep busy.
    """

    def __init__(self, cores: Sequence[int], packages: Iterable[str]) -> None:
        self.cores, self.packages = list(cores), list(packages)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, address: str, output: IO[bytes]) -> int:
        """`dvc repro --single-item ADDRESS` in a process group of its own; returns its id."""
        if self.process is None:
            self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", __file__, str(theirs.fileno()), *self.packages],
                    stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
                    env=os.environ | NO_CUDA_YET, preexec_fn=lambda: os.sched_setaffinity(0, self.cores),
                )  # fmt: skip
        socket.send_fds(self.line, [address.encode()], [output.fileno()])
        self.code: int | None = None
        return self._answer()

    def poll(self) -> int | None:
        """The exit code of the stage if it has ended, else None."""
        if self.code is None:
            self.line.setblocking(False)
            try:
                self.code = self._answer()
            except BlockingIOError:
                return None
            finally:
                self.line.setblocking(True)
        return self.code

    def close(self) -> None:
        """End the server; a stage that still runs is killed."""
        if self.process is not None:
            self.line.close()
            self.process.wait()

    def _answer(self) -> int:
        if not (answer := self.line.recv(LONGEST)):
            assert self.process is not None
            raise RuntimeError(f"{__file__}: the server of stages ended with {self.process.wait()}")
        return int(answer)


def packages_for(commands: Iterable[str]) -> tuple[str, ...]:
    """What to import before stages of these commands; nothing if none is one of dvc.yaml."""
    return PACKAGES if any(command.startswith(STAGE) for command in commands) else ()


def serve(line: socket.socket, packages: Sequence[str]) -> None:
    """Fork a process for every stage that is asked for, tell its id and then its exit code, until nobody listens."""
    for package in packages:
        importlib.import_module(package)
    gc.freeze()  # what was imported stays: no stage need look through it for what it can free
    while True:
        address, files, _, _ = socket.recv_fds(line, LONGEST, 1)
        if not address:
            return
        if (child := os.fork()) == 0:
            line.close()
            end_with(lambda: _dvc(files[0], address.decode()))  # noqa: B023 - called at once
        os.close(files[0])
        os.setpgid(child, child)  # here, so that it can be signalled from now on
        line.send(str(child).encode())
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if select.select([line], [], [], PATIENCE)[0]:  # nothing more is asked for before it has ended
                os.killpg(child, signal.SIGKILL)
                return
        line.send(str(os.waitstatus_to_exitcode(ended[1])).encode())


def _dvc(output: int, address: str) -> int:
    for standard in (1, 2):
        os.dup2(output, standard)
    return dvc_with_forked_stages(["--wait-for-lock", "repro", "--single-item", address])


def dvc_with_forked_stages(arguments: Sequence[str]) -> int:
    """DVC in this process, whose stages are forked from it; returns the exit code.

    DVC hashes what a stage depends on when it has run. Code that was pulled or edited in the meantime would be written
    into the lock as that which ran: such a stage fails here.
    """
    import dvc.stage.run
    from dvc.cli import main
    from dvc.exceptions import DvcException

    as_ever, whole = dvc.stage.run._run, dvc.stage.run.cmd_run

    def unchanged(stage: Any, dry: bool = False, run_env: dict[str, str] | None = None) -> None:
        before = [] if dry else [(dep, dep.get_hash().value) for dep in stage.deps]
        whole(stage, dry=dry, run_env=run_env)
        for dep, digest in before:
            if dep.get_hash().value != digest:
                raise DvcException(
                    f"{dep}: changed while {stage.addressing} ran, allowed: the same from its start to its end; run "
                    "it again"
                )

    def run(executable: str, command: str, **settings: Any) -> None:
        if not command.startswith(STAGE):
            as_ever(executable, command, **settings)
            return
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            end_with(lambda: _stage(shlex.split(command.removeprefix(STAGE)), settings["cwd"], settings["env"]))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.signal(signal.SIGINT, before)
        if code:
            raise dvc.stage.run.StageCmdFailedError(command, code)

    dvc.stage.run._run, dvc.stage.run.cmd_run = run, unchanged
    return int(main(list(arguments)))


def _stage(words: list[str], folder: str, environment: dict[str, str]) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment | {"PYTHONPATH": "src"})
    sys.path.insert(0, str(Path("src").resolve()))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return 0


def end_with(body: Callable[[], int]) -> None:
    """End this process with what `body` gives, never with what the process that it was forked from does at its end."""
    code = 1
    try:
        code = body()
    except SystemExit as stop:  # as Python itself takes it
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        serve(asked, sys.argv[2:])
