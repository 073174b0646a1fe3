"""`dvc` and `reseed` as from a shell, without the wait for their imports: forked from a process that has those.

Stages are forked as well, as `reseed repro` does it; this rests on its `sweeps/warm.py`. `reseed` itself is imported
anew by each, from where the caller says.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LONGEST = 1 << 17


class Done(subprocess.CompletedProcess[str]):
    """As of `subprocess.run`, with what it took."""

    processor_seconds: float
    """Of it and of all processes that it started and waited for; other work on the machine does not count."""


def run(folder: Path, words: Sequence[str], environment: Mapping[str, str], code: Path = ROOT) -> Done:
    """`dvc ...` or `reseed ...` in a folder; `code` is the checkout whose `reseed` it is."""
    line = _server()
    asked = {"folder": str(folder.resolve()), "words": list(words), "environment": dict(environment), "code": str(code)}
    asked["cores"] = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        socket.send_fds(line, [json.dumps(asked).encode()], [out.fileno(), err.fileno()])
        code_, seconds = json.loads(line.recv(LONGEST))
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    done = Done(list(words), code_, *texts)
    done.processor_seconds = seconds
    return done


@cache
def _server() -> socket.socket:
    """One for this process, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
        )  # fmt: skip

    def close() -> None:
        ours.close()
        process.wait()

    atexit.register(close)
    return ours


def _serve(line: socket.socket) -> None:
    warm = _warm()
    for package in (*warm.PACKAGES, "typer", "rich.console"):
        importlib.import_module(package)
    gc.freeze()
    while True:
        text, files, _, _ = socket.recv_fds(line, LONGEST, 2)
        if not text:
            return
        if (child := os.fork()) == 0:
            line.close()
            warm.end_with(lambda: _do(warm, files, **json.loads(text)))  # noqa: B023 - called at once
        for file in files:
            os.close(file)
        _, status, used = os.wait4(child, 0)
        line.send(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]).encode())


def _warm() -> Any:
    """The module by its file: to import it by its name would import `reseed`, before anyone says whose."""
    spec = importlib.util.spec_from_file_location("warm", ROOT / "src" / "reseed" / "sweeps" / "warm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _do(
    warm: Any, files: list[int], folder: str, words: list[str], environment: dict[str, str], code: str, cores: list[int]
) -> int:
    for standard, file in enumerate(files, start=1):
        os.dup2(file, standard)
    os.setpgid(0, 0)
    os.sched_setaffinity(0, cores)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if words[0] == "dvc":
        return int(warm.dvc_with_forked_stages(words[1:]))
    sys.path.insert(0, f"{code}/src")
    sys.argv = words
    from reseed.cli import main

    main()
    return 0


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked_on:
        _serve(asked_on)
