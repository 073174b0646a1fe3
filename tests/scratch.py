"""The whole pipeline on tiny parameters, in a scratch copy of the project: `make smoke`, and the slow tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from reseed.saes import kernels
from tests import forked

ROOT = Path(__file__).parents[1]
VARIANTS = ("topk-k4", "batchtopk-k4")
CLAIM = "low-l0-agreement"
REPRO = ("reseed", "repro", "dvc.yaml")
COMPILED = (".pyc", ".nbi", ".nbc", ".compiled")


def make(folder: Path) -> Path:
    """Copy the project's files (not its outputs) into `folder`, make every parameter tiny, and commit that."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    outputs = ("metrics/", "runs/", "dvc.lock", "studies/")  # a study that never ran has nothing to check out
    for name in sorted(filter(None, listed)):
        if not name.startswith(outputs) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    kernels.ready()
    for compiled in sorted(path for path in (ROOT / "src").rglob("__pycache__/*") if path.suffix in COMPILED):
        target = folder / compiled.relative_to(ROOT)  # of sources of the same time, so it is taken
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(compiled, target)
    edit(folder / "params.yaml", _tiny_params)
    edit(folder / "subjects" / "modular.yaml", _tiny_subject)
    edit(folder / "study.yaml", _tiny_study)
    edit(folder / "claims.yaml", lambda content: content.update(claims={CLAIM: content["claims"][CLAIM]}, phases={}))
    git = ["git", "-c", "user.name=scratch", "-c", "user.email=scratch@localhost", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q"], cwd=folder, check=True)
    subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-qm", "tiny"], cwd=folder, check=True)
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a YAML file in place."""
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def environment() -> dict[str, str]:
    """The environment of a user who activated the virtual environment that this interpreter belongs to."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
    identity = {f"GIT_{who}_{what}": f"scratch{at}" for who in ("AUTHOR", "COMMITTER") for what, at in _IDENTITY}
    return env | identity | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "DVC_NO_ANALYTICS": "1"}


def dvc(folder: Path, *arguments: str) -> forked.Done:
    """Run a dvc command in `folder` and capture what it prints."""
    return forked.run(folder, ["dvc", *arguments], environment())


def repro(folder: Path) -> forked.Done:
    """What `make repro` runs, in `folder`."""
    return forked.run(folder, REPRO, environment())


def listens() -> None:
    """To be run in a new process: what a shell starts in its background ignores SIGINT, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


_IDENTITY = (("NAME", ""), ("EMAIL", "@localhost"))


def _tiny_params(params: dict[str, Any]) -> None:
    params["train"]["seeds"] = [0, 1, 2]
    params["variants"] = {
        "topk-k4": {"architecture": "topk", "d_sae": 48, "k": 4},
        "batchtopk-k4": {"architecture": "batchtopk", "d_sae": 64, "k": 4},
    }
    params["stability"] |= {"null_draws": 2}
    params["saebench"] |= {"k_values": [1, 2], "frequencies": 1, "probe_train_rows": 120, "probe_test_rows": 60}


def _tiny_subject(subject: dict[str, Any]) -> None:
    subject["data"] |= {"p": 31, "train_fraction": 0.8, "validation_fraction": 0.1}
    subject["model"] |= {"d_model": 32, "n_heads": 2, "d_mlp": 64}
    # generalises in three seconds (validation accuracy 0.98 or more); the bound leaves room for other processors
    subject["model"]["training"] |= {"max_steps": 800, "batch_size": 128, "lr": 0.003, "min_accuracy": 0.5}
    subject["sae"] |= {"batch_size": 64, "warm_up_steps": 20, "max_steps": 800, "check_every": 50, "min_steps": 400}


def _tiny_study(study: dict[str, Any]) -> None:
    first, second = VARIANTS
    for table in ("runs", "pairs", "scored", "covered", "exemplified", "benches"):
        kept = (first,) if table == "exemplified" else VARIANTS
        study[table] = {name: entry for name, entry in study[table].items() if entry["variant"] in kept}
    study["worlds"] = {}
    study["gaussians"] = {"modular": {}}
    study["comparisons"]["modular-k"] |= {"variants": [first, *7 * [second]], "baseline": second}
    study["bars"] = {path: column for path, column in study["bars"].items() if path.split("/")[2] in VARIANTS}


def main() -> None:
    """Run the tiny pipeline from nothing, report how long it took, and leave nothing behind."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reseed-smoke-") as temporary:
        folder = make(Path(temporary))
        done = subprocess.run(REPRO, cwd=folder, env=environment(), check=False)  # and prints what it does
        if done.returncode:
            sys.exit(f"smoke: reseed repro ended with {done.returncode}")
        verdict = yaml.safe_load((folder / "metrics" / "claims" / f"{CLAIM}.json").read_text())["verdict"]
    print(f"smoke: all stages ran in {time.monotonic() - started:.0f} s; the claim {CLAIM} is {verdict} there")


if __name__ == "__main__":
    main()
