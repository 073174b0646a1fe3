"""The experiment log: what was run, at which revision, into which artefacts, with which headline figures.

Three sources, none of them written by hand: the run facts in runs/, the committed states of dvc.lock and metrics/ in
git's history, and the experiments that DVC keeps as git references.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.params import read_yaml

WORKSPACE = "workspace"
# References of DVC's own bookkeeping below refs/exps, which are no experiments.
BOOKKEEPING = ("celery", "exec", "temp")


@dataclass(frozen=True)
class StageRun:
    """One stage instance as it last ran: its command and facts, and the hashes that dvc.lock gives its outputs."""

    stage: str
    command: str
    started: str
    duration_s: float
    revision: str
    uncommitted_code: int
    device: str
    artefacts: dict[str, str]


@dataclass(frozen=True)
class State:
    """One state of the results: a commit that changed dvc.lock, a DVC experiment, or the workspace."""

    revision: str
    date: str
    name: str
    kappas: dict[str, float]
    verdicts: dict[str, str]


def stage_runs(root: Path = Path()) -> list[StageRun]:
    """The last run of every stage instance, in the order in which they ran.

    Raises ReseedError if a facts file is not JSON.
    """
    lock = read_yaml(root / "dvc.lock")["stages"] if (root / "dvc.lock").is_file() else {}
    runs = []
    for path in sorted((root / "runs").glob("*.json")):
        facts = read_json(path)
        outs = lock.get(path.stem, {}).get("outs", [])
        runs.append(
            StageRun(
                stage=path.stem,
                command=facts["command"],
                started=facts["started"],
                duration_s=facts["duration_s"],
                revision=facts["revision"],
                uncommitted_code=facts["uncommitted_code"],
                device=facts["machine"]["device"],
                artefacts={out["path"]: out.get("md5", "") for out in outs},
            )
        )
    return sorted(runs, key=lambda run: (run.started, run.stage))


def states(root: Path = Path(), limit: int = 20) -> list[State]:
    """The workspace, then DVC's experiments, then the last `limit` commits that changed dvc.lock, newest first.

    Raises ReseedError outside a git repository.
    """
    found = [_workspace(root)]
    for line in _git(root, "for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines():
        name, revision = line.split()
        if name.split("/")[2] not in BOOKKEEPING:
            found.append(_committed(root, revision, name.split("/")[-1]))
    for line in _git(root, "log", f"--max-count={limit}", "--format=%H %s", "--", "dvc.lock").splitlines():
        revision, _, subject = line.partition(" ")
        found.append(_committed(root, revision, subject))
    return found


def headline(contents: dict[str, dict[str, Any]]) -> tuple[dict[str, float], dict[str, str]]:
    """The kappa of pw_mcc of the trained arm by variant, and the verdict by claim, of metric files {path: content}."""
    kappas, verdicts = {}, {}
    for path, content in sorted(contents.items()):
        parts = Path(path).parts
        if parts[-1] == "stability.json" and "kappa" in content["trained"]["pw_mcc"]:
            kappas["/".join(parts[-3:-1])] = content["trained"]["pw_mcc"]["kappa"]
        elif parts[-2] == "claims":
            verdicts[Path(path).stem] = content["verdict"]
    return kappas, verdicts


def _workspace(root: Path) -> State:
    contents = {str(path.relative_to(root)): read_json(path) for path in sorted((root / "metrics").rglob("*.json"))}
    return State("", "", WORKSPACE, *headline({path: c for path, c in contents.items() if _is_headline(path)}))


def _committed(root: Path, revision: str, name: str) -> State:
    files = _git(root, "ls-tree", "-r", "--name-only", revision, "--", "metrics").splitlines()
    contents = {path: json.loads(_git(root, "show", f"{revision}:{path}")) for path in files if _is_headline(path)}
    date = _git(root, "show", "--no-patch", "--format=%cs", revision).strip()
    return State(revision, date, name, *headline(contents))


def _is_headline(path: str) -> bool:
    parts = Path(path).parts
    return parts[-1] == "stability.json" or parts[-2] == "claims"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReseedError(f"git {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
