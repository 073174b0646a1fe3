"""A DVC project of two stages without any numerics, whose parameters say how they misbehave."""

from __future__ import annotations

import subprocess
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from reseed.sweeps.commands import app
from tests.scratch import dvc, environment

PARAMS = """\
compute: {threads: 2}
train: {seeds: [0, 1, 2]}
variants: # one name states its k, the other takes it
  topk: {architecture: topk, d_sae: 32, k: 4}
  topk-k8: {architecture: topk, d_sae: 32, k: 8}
behave: {seconds: 0, fail: false, kilobytes: 1}
scale: 1
unread: 1
"""
TRAIN = """\
import json, os, pathlib, sys, time, yaml
params = yaml.safe_load(open("params.yaml"))
behave, started = params["behave"], time.time()
data = pathlib.Path("data.txt").read_text()
if data != "data":
    sys.exit("error: data.txt: its sha256 is another")
if behave["fail"]:
    sys.exit("error: params.yaml: behave.fail: found True, allowed: False")
checkpoints = pathlib.Path("checkpoints")
checkpoints.mkdir(exist_ok=True)
mark = checkpoints / "train"
done = int(mark.read_text()) if mark.exists() else 0
for step in range(done, int(10 * behave["seconds"])):
    time.sleep(0.1)
    (checkpoints / "partial").write_text(str(step + 1))
    (checkpoints / "partial").replace(mark)
mark.unlink(missing_ok=True)
out = pathlib.Path("models/sae")
out.mkdir(parents=True)
variants = params["variants"]
text = json.dumps([params["train"]["seeds"], variants["topk"], variants["topk-k8"]])
(out / "sae.json").write_text(text)
(out / "weights").write_bytes(b"\\0" * 1000 * behave["kilobytes"])
pathlib.Path("runs").mkdir(exist_ok=True)
facts = {"duration_s": time.time() - started, "resumed_from": done, "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
         "parameters": {"train": params["train"]}, "machine": {"device": "cpu", "processor": "Test CPU"}}
pathlib.Path("runs/train.json").write_text(json.dumps(facts))
"""
SCORE = """\
import json, pathlib, yaml
scale = yaml.safe_load(open("params.yaml"))["scale"]
seeds, variant, _ = json.loads(pathlib.Path("models/sae/sae.json").read_text())
score = scale * (sum(seeds) * 1000 + variant["k"])
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/score.json").write_text(json.dumps({"score": score}))
"""
PIPELINE = """\
stages:
  train:
    cmd: python train.py
    deps: [train.py, data.txt]
    params: [train, behave, variants.topk, variants.topk-k8]
    outs: [models/sae]
  score:
    cmd: python score.py
    deps: [score.py, models/sae]
    params: [scale]
    metrics: [{metrics/score.json: {cache: false}}]
"""


def make(folder: Path) -> Path:
    """The project, committed, in a new folder."""
    files = {
        "params.yaml": PARAMS, "train.py": TRAIN, "score.py": SCORE, "dvc.yaml": PIPELINE, "data.txt": "data",
        ".gitignore": "/models/\n/checkpoints/\n", ".dvc/config": "", ".dvc/.gitignore": "/config.local\n/tmp\n/cache",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@localhost")
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    """Commit every file and return the revision."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "files")
    return git(folder, "rev-parse", "HEAD")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment(), check=True, text=True, stdout=subprocess.PIPE
    ).stdout.strip()


def reseed(*arguments: str) -> Result:
    """`reseed sweep ARGUMENTS` in the working directory, without the seconds that a new interpreter would import."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


def queue(folder: Path, *overrides: str, name: str = "") -> None:
    """`dvc exp run --queue -S ...`"""
    settings = [part for override in overrides for part in ("-S", override)]
    done = dvc(folder, "exp", "run", "--queue", *(["--name", name] if name else []), *settings)
    assert done.returncode == 0, done.stderr


def experiments(folder: Path) -> dict[str, str]:
    """The commit of every experiment by its name."""
    found = {}
    for line in git(folder, "for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines():
        ref, revision = line.split()
        if ref.split("/")[2] not in ("celery", "exec", "temp", "stash"):
            found[ref.rpartition("/")[2]] = revision
    return found


def metric(folder: Path, revision: str) -> str:
    """The metric of an experiment: what seeds and k it was made with."""
    return git(folder, "show", f"{revision}:metrics/score.json")
