"""A project whose figures are what its parameters say, judged by the real claims stage: a pull request in seconds."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from reseed.cli import app
from tests import forked
from tests.conftest import ROOT
from tests.scratch import environment
from tests.sweeps.toy import dvc_ok, git

CLAIM = "toy-agrees"
PAIRS = ("toy/topk-k4", "toy/topk-k8")
FIRST = f"metrics/{PAIRS[0]}/stability.json"
SCORE = '''\
"""score: a stability.json of the kappa that planted.yaml gives a variant."""

from pathlib import Path
from typing import Any

from reseed.artifacts import write_json
from reseed.params import read_yaml
from reseed.stage import run_stage


def score(variant: str) -> dict[str, Any]:
    planted = read_yaml(Path("planted.yaml"))["variants"][variant]
    arms = {"trained": planted["kappa"], "random_model": 0.1, "gaussian": 0.0}
    figure = lambda value: {"value": value, "low": value - 0.01, "high": value + 0.01}
    records = [
        {"arm": arm, "statistic": "pw_mcc", "latents": latents, "kappa": kappa, "nulls": {"isotropic": 0.2},
         "kappa_deleted": [kappa + 0.001 * place for place in (-2, -1, 0, 1, 2)]}
        for arm, kappa in arms.items() for latents in ("alive", "all")
    ]
    content = {
        arm: {"seeds_converged": 5, "cosine_to_init": figure(0.2),
              "pw_mcc": figure(0.8) | {"kappa": kappa, "kappa_low": kappa - 0.01, "kappa_high": kappa + 0.01,
                                       "converged": 1, "plateau_change": planted.get("moving", 0.001)}}
        for arm, kappa in arms.items()
    }
    write_json(
        Path("metrics/toy") / variant / "stability.json",
        content | {"k": planted["k"], "seeds": 5, "records": records, "held_out": {"rows": 100, "repeated": 0.0},
                   "artefacts": {f"models/toy/{variant}": "0" * 64, "data/toy/activations/trained": "1" * 64}},
    )
    return {"planted": planted}


if __name__ == "__main__":
    run_stage(score)
'''
PIPELINE = """\
vars: [claims.yaml]
stages:
  score:
    foreach: [topk-k4, topk-k8]
    do:
      cmd: PYTHONPATH=src python -P stages/score.py ${item}
      deps: [stages/score.py]
      params:
        - planted.yaml: ["variants.${item}"]
      metrics:
        - metrics/toy/${item}/stability.json: {cache: false}
"""


def make(folder: Path) -> Path:
    """The project with its results, committed on `main` and pushed to a bare remote beside it."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    files = ("stages/claims.py", "params.yaml", ".dvcignore")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "stages/score.py").write_text(SCORE)
    (folder / ".gitignore").write_text("__pycache__/\n*.egg-info/\n")
    claims = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["claims"]
    claims["do"].pop("wdir")
    claims["do"]["cmd"] = claims["do"]["cmd"].replace("${claims_file}", "claims.yaml")
    claims["do"]["params"] = [claims["do"]["params"][0], {"claims.yaml": ["claims.${key}"]}]
    pipeline = yaml.safe_load(PIPELINE)
    pipeline["stages"]["claims"] = claims
    write(folder, "dvc.yaml", pipeline)
    write(folder, "planted.yaml", {"variants": {"topk-k4": {"k": 4, "kappa": 0.8}, "topk-k8": {"k": 8, "kappa": 0.6}}})
    git(folder.parent, "init", "-q", "--bare", "-b", "main", str(folder.parent / "remote.git"))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "remote", "add", "origin", str(folder.parent / "remote.git"))
    dvc_ok(folder, "init", "-q")
    write(folder, "claims.yaml", {"claims": {}, "phases": {}})
    commit(folder, "code")
    registered = git(folder, "rev-parse", "HEAD").strip()
    write(folder, "claims.yaml", {"claims": {CLAIM: claim(registered)}, "phases": {"first": phase()}})
    commit(folder, "a claim, before its evidence")
    repro(folder)
    commit(folder, "results")
    git(folder, "push", "-q", "origin", "main")
    return folder


def claim(registered: str, **change: Any) -> dict[str, Any]:
    paths = [f"metrics/{pair}/stability.json" for pair in PAIRS]
    return {
        "statement": "Toy SAEs agree above every null.", "statistic": "pw_mcc", "unit": "kappa",
        "tests": [{"figure": "trained", "over": "each", "above": 0.5}], "evidence": paths + [paths[-1]] * 6,
        "speaks_of": {PAIRS[0]: {"k": 4}, PAIRS[1]: {"k": 8}}, "minimum_seeds": 5,
        "gates": [
            "converged", "alive", "held_out", "between_groups", "multiplicity", "random_dictionary", "random_model",
        ],
        "tried": 2, "registered": registered,
    } | change  # fmt: skip


def phase() -> dict[str, Any]:
    return {
        "question": "Do they agree?", "assumptions": ["none"], "open_questions": [], "stop_rules": ["no agreement"],
        "criteria": {"agree": {"claim": CLAIM}}, "verdict": "go",
    }  # fmt: skip


def read(folder: Path, name: str) -> Any:
    return yaml.safe_load((folder / name).read_text())


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))


def edit(folder: Path, name: str, path: str, value: Any) -> None:
    """Set a key, its names separated by `/`, of a YAML file."""
    content = read(folder, name)
    *parents, last = path.split("/")
    place = content
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    place[last] = value
    write(folder, name, content)


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def repro(folder: Path) -> None:
    dvc_ok(folder, "repro")


def rerun(folder: Path, message: str) -> None:
    """Commit what was changed, run what it makes stale, and commit the results."""
    commit(folder, message)
    repro(folder)
    commit(folder, "results")


def claims(folder: Path, *arguments: str, code: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`reseed claims ARGUMENTS` there, in this process; as a user runs it, with the code of a checkout, where given.

    What would end in a traceback is raised: its exit code is that of a refusal.
    """
    words = ["claims", *arguments]
    if code is None:
        with contextlib.chdir(folder):
            found = CliRunner().invoke(app, words, env={"COLUMNS": "100"})
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return subprocess.CompletedProcess(words, found.exit_code, found.stdout, found.stderr)
    settings = environment() | {"COLUMNS": "100", "PYTHONPATH": str(code / "src")}
    return forked.run(folder, ["reseed", *words], settings, code)
