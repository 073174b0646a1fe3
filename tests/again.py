"""Every stage of a project's dvc.lock once more, without DVC: `PYTHONPATH=src python -P tests/again.py` in its folder.

Each runs in a process of its own, forked from this one, which has the packages' imports behind it: they take ten times
as long as most stages of a tiny pipeline.
"""

from __future__ import annotations

import gc
import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas  # noqa: F401
import sae_bench  # noqa: F401
import sae_lens.evals
import sae_lens.synthetic  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.linear_model  # noqa: F401
import yaml


def again(name: str, stage: dict[str, Any]) -> None:
    """One stage, its outputs removed before as DVC does; the process ends with the stage's exit code."""
    for out in stage.get("outs", ()):
        path = Path(out["path"])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = shlex.split(stage["cmd"])
    assert words[:3] == ["PYTHONPATH=src", "python", "-P"], stage["cmd"]
    os.environ["DVC_STAGE"] = f"dvc.yaml:{name}"
    sys.argv = words[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    """Stop at the first stage that fails."""
    gc.freeze()  # a process that ends would go through all of them again, for seconds
    for name, stage in yaml.safe_load(Path("dvc.lock").read_text())["stages"].items():
        print(name, flush=True)
        if (child := os.fork()) == 0:
            again(name, stage)
            sys.exit(0)
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(f"{name}: exit code {code}")


if __name__ == "__main__":
    main()
