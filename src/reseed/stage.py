"""What every stage script shares: checked arguments, one-sentence errors, fixed threads, progress bars, run facts."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from reseed import INTERRUPTED, NUMERIC_PACKAGES, ReseedError, installed_version
from reseed.artifacts import WRITTEN, write_json
from reseed.params import Compute, load_params

if TYPE_CHECKING:  # the commands import this module as well, and torch takes seconds to import
    import torch

RUNS = Path("runs")
TRACKED = ("metrics", "docs")
"""Where stages write what git tracks."""


def run_stage(body: Callable[..., Mapping[str, BaseModel | object]]) -> None:
    """Run a stage script: `body` takes the command-line arguments by name and returns the parameters that it used.

    Exits with 0 after writing the run facts, 1 with one sentence for bad input, 130 after Ctrl-C.
    """
    import torch

    names = list(inspect.signature(body).parameters)
    arguments = sys.argv[1:]
    script = Path(sys.argv[0]).stem
    try:
        if len(arguments) != len(names):
            raise ReseedError(f"stages/{script}.py: found {len(arguments)} arguments, allowed: {' '.join(names)}")
        compute = load_params().compute
        # before the first parallel region, whose threads inherit it: Adam's moments of a latent that never fires decay
        # to denormal numbers, which take four times as long
        torch.set_flush_denormal(True)
        torch.set_num_threads(compute.threads)
        _be_deterministic(compute)
        started = time.time()
        # numpy's matrices here are small: two threads of BLAS spend many times their work on waiting for each other
        with threadpool_limits({"blas": 1, "openmp": compute.threads}):
            used = body(*arguments)
        write_json(RUNS / f"{_instance(script, arguments)}.json", _facts(script, arguments, used, compute, started))
    except ReseedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\n{INTERRUPTED}", file=sys.stderr)
        sys.exit(130)


def _be_deterministic(compute: Compute) -> None:
    """Make torch reproduce its bytes: the gradient of an embedding, for one, would else depend on thread timing."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=device(compute).type == "cuda")


def device(compute: Compute) -> torch.device:
    """The device that `compute.device` asks for; raises ReseedError if it asks for a GPU that is not there."""
    import torch

    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ReseedError("params.yaml: compute.device: found 'cuda', allowed here: auto, cpu (torch sees no GPU)")
    wanted = "cuda" if compute.device != "cpu" and torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def progress(total: int, description: str, unit: str) -> Any:
    """A progress bar with throughput and time left; silent when the output is no terminal or CI is set."""
    quiet = True if os.environ.get("CI") else None  # None: tqdm is silent unless stderr is a terminal
    return tqdm(total=total, desc=description, unit=unit, disable=quiet, dynamic_ncols=True, smoothing=0.1)


def _instance(script: str, arguments: list[str]) -> str:
    """DVC's name of the stage instance, or one made of the arguments for a stage that is run by hand."""
    name = os.environ.get("DVC_STAGE", "").rpartition(":")[2]
    return name or f"{script}@{'-'.join(arguments)}"


def _facts(
    script: str, arguments: list[str], used: Mapping[str, Any], compute: Compute, started: float
) -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {
        "command": f"python stages/{script}.py {' '.join(arguments)}".strip(),
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "duration_s": time.time() - started,
        "revision": revision(),
        "uncommitted_code": len(_git("status", "--porcelain", "--", "src", "stages", "dvc.yaml").splitlines()),
        "wrote": _wrote(),
        "parameters": _without_none({name: _dump(value) for name, value in used.items()}),
        "versions": {"python": platform.python_version()}
        | {name: found for name in NUMERIC_PACKAGES if (found := installed_version(name))},
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "cores": os.cpu_count() or 1,
            "threads": compute.threads,
            "device": torch.cuda.get_device_name() if device(compute).type == "cuda" else "cpu",
        },
    }
    if experiment := os.environ.get("DVC_EXP_NAME"):
        facts["experiment"] = experiment
    return facts


def _wrote() -> dict[str, str]:
    """The md5 of every file that the stage wrote for git to track, by its path."""
    files = sorted(path for path in WRITTEN if path.parts[0] in TRACKED and path.is_file())
    return {path.as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files}


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def revision() -> str:
    """The commit that this run's code belongs to, `unknown` outside git."""
    return _git("rev-parse", "HEAD") or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found.group(1).strip() if found else platform.machine()
