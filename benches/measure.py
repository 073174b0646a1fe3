"""What the benchmarks share: the machine, a process's memory, and runners that take turns.

Each runner lives in a process of its own; because they follow each other, what slows the machine slows all of them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]


def environment(threads: int) -> dict[str, str]:
    """Of a runner's process: this checkout's code, so many threads, no progress bars."""
    return os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": str(threads), "CI": "true"}


def machine(device: str) -> str:
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def resident(kind: str) -> float:
    """This process's resident memory now (VmRSS) or at its peak (VmHWM), in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


class Turns:
    """The processes of some runners, which answer every line on their stdin by a line of JSON on their stdout."""

    def __init__(self, script: str, runners: Iterable[str], arguments: Sequence[str], threads: int) -> None:
        self.processes = {}
        for runner in runners:
            self.processes[runner] = subprocess.Popen(
                [sys.executable, script, "--child", runner, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment(threads),
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.communicate()

    def turn(self, runner: str, line: object) -> dict[str, Any]:
        """What `runner` answers to a line; raises SystemExit with its command if it has ended."""
        process = self.processes[runner]
        assert process.stdin is not None
        assert process.stdout is not None
        if process.poll() is None:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            for found in process.stdout:  # libraries print, too
                if found.startswith("{"):
                    answer: dict[str, Any] = json.loads(found)
                    return answer
        raise SystemExit(f"{runner}: its process ended; run `{' '.join(map(str, process.args))}` by hand")  # type: ignore[arg-type]
