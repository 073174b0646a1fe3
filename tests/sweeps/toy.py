"""A small project of two stages that has run, is committed, and whose workspace is linked into its cache."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.scratch import dvc, environment

MAKE = """\
import hashlib, json, pathlib, sys, yaml
sys.path.insert(0, "src")
import facts
n = yaml.safe_load(pathlib.Path("params.yaml").read_text())["toy"]["n"]
out = pathlib.Path("data/toy")
out.mkdir(parents=True, exist_ok=True)
(out / "train-00000.bin").write_bytes(bytes(range(256)) * n)
(out / "notes.txt").write_text("no manifest lists this file\\n")
digest = hashlib.sha256((out / "train-00000.bin").read_bytes()).hexdigest()
shards = {"shards": [{"file": "train-00000.bin", "rows": n, "sha256": digest}]}
(out / "index.json").write_text(json.dumps({"splits": {"train": shards}}))
facts.write("make", {"toy": {"n": n, "default": None}})
"""
SCORE = """\
import json, pathlib, sys
sys.path.insert(0, "src")
import facts
size = pathlib.Path("data/toy/train-00000.bin").stat().st_size
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/toy.json").write_text(json.dumps({"size": size}))
facts.write("score")
"""
FACTS = """\
import json, pathlib, subprocess
def write(stage, parameters={}):
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    pathlib.Path("runs").mkdir(exist_ok=True)
    pathlib.Path(f"runs/{stage}.json").write_text(json.dumps({"revision": revision, "parameters": parameters}))
"""
PIPELINE = """\
stages:
  make:
    cmd: python -B src/make.py
    deps: [src/make.py]
    params: [toy]
    outs: [data/toy]
  score:
    cmd: python -B src/score.py
    deps: [src/score.py, data/toy]
    metrics:
      - metrics/toy.json: {cache: false}
"""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dvc_ok(folder: Path, *arguments: str) -> str:
    done = dvc(folder, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def make(folder: Path) -> Path:
    """The project in the new folder."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    dvc_ok(folder, "init", "-q")
    dvc_ok(folder, "config", "cache.type", "hardlink,copy")
    code = {"src/make.py": MAKE, "src/score.py": SCORE, "src/facts.py": FACTS}
    write(folder, {**code, "dvc.yaml": PIPELINE, "params.yaml": "toy:\n  n: 4\n", ".gitignore": "/data/\n"})
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "code")
    dvc_ok(folder, "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "results")
    return folder


def copy(made: Path, folder: Path) -> Path:
    """A copy, hard links kept."""
    subprocess.run(["cp", "-a", made, folder], check=True)
    return folder


def add_experiment(folder: Path, name: str) -> str:
    """Make an experiment of the changes in the workspace, as somebody's script might; its revision."""
    baseline = git(folder, "rev-parse", "HEAD").strip()
    git(folder, "commit", "-qam", name)
    revision = git(folder, "rev-parse", "HEAD").strip()
    git(folder, "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", revision)
    git(folder, "reset", "-q", "--hard", baseline)
    return revision


def overwrite(path: Path, content: bytes) -> None:
    """Change a file in place, and with it what is linked to it, as a bad disk would: neither mode nor time tells."""
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
