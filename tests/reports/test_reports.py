"""The log, the README tables and the pictures come from the artefacts alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from reseed import ReseedError
from reseed.artifacts import write_json
from reseed.cli import app
from reseed.reports import history, plots, readme
from tests.conftest import ROOT
from tests.scratch import environment


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env=environment(), check=True, capture_output=True)


def stability(kappa: float) -> dict[str, object]:
    return {"trained": {"pw_mcc": {"kappa": kappa}}}


def test_the_log_tells_runs_commits_and_experiments(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    facts = {
        "command": "python stages/train.py modular a trained", "started": "2026-01-02T03:04:05+00:00",
        "duration_s": 12.5, "revision": "f" * 40, "uncommitted_code": 2, "machine": {"device": "cpu"},
    }  # fmt: skip
    write_json(tmp_path / "runs" / "train@modular-a.json", facts)
    (tmp_path / "dvc.lock").write_text(
        "stages:\n  train@modular-a:\n    outs:\n    - {path: models/modular/a, md5: 0123456789.dir}\n"
    )
    write_json(tmp_path / "metrics/modular/a/stability.json", stability(0.25))
    write_json(tmp_path / "metrics/claims/c.json", {"verdict": "not supported"})
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first results")
    write_json(tmp_path / "metrics/modular/a/stability.json", stability(0.75))
    git(tmp_path, "commit", "-qam", "an experiment")
    git(tmp_path, "update-ref", "refs/exps/ab/cdef/bold-name", "HEAD")
    git(tmp_path, "update-ref", "refs/exps/exec/EXEC_HEAD", "HEAD")
    git(tmp_path, "reset", "-q", "--hard", "HEAD~1")
    (run,) = history.stage_runs(tmp_path)
    assert run.artefacts == {"models/modular/a": "0123456789.dir"}
    assert (run.command, run.uncommitted_code, run.device) == (facts["command"], 2, "cpu")
    found = [(state.name, state.kappas, state.verdicts) for state in history.states(tmp_path)]
    assert found == [
        ("workspace", {"modular/a": 0.25}, {"c": "not supported"}),
        ("bold-name", {"modular/a": 0.75}, {"c": "not supported"}),
        ("first results", {"modular/a": 0.25}, {"c": "not supported"}),
    ]


def test_a_log_outside_git_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match=r"git for-each-ref refs/exps .*not a git repository"):
        history.states(tmp_path)


def test_the_commands_print_and_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "160")
    done = CliRunner().invoke(app, ["log", "--commits", "3"])
    assert done.exit_code == 0, done.output
    assert "workspace" in done.output
    assert "stages/train.py modular topk-k4 trained" in done.output
    text = (ROOT / "README.md").read_text()
    stale = tmp_path / "README.md"
    stale.write_text(text.replace("| `topk-k4` |", "| `topk-k4` | 0.999 |"))
    assert readme.update(stale, ROOT, check=False)  # whatever is stale here while it is worked on
    assert stale.read_text() == text
    assert not readme.update(stale, ROOT, check=False)
    stale.write_text("no marks")
    with pytest.raises(ReseedError, match="found no pair of marks for the results"):
        readme.update(stale, ROOT)


@pytest.mark.slow
def test_every_plot_is_drawn_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    specifications = plots.specifications()
    # of every kind the first, and all of one variant: a picture takes a quarter of a second
    kinds = {Path(name).name: name for name in reversed(specifications)}
    own = {
        name: content
        for name, content in specifications.items()
        if name in kinds.values() or "modular/topk-k4/" in name or "variants" in name
    }
    monkeypatch.setattr(plots, "specifications", lambda _: own)
    drawn = plots.render(tmp_path)
    names = {path.name for path in drawn}
    assert {"variants.png", "metrics_modular_topk-k4_steps.svg", "metrics_modular_topk-k4_matches.svg"} <= names
    locks = [
        yaml.safe_load(lock.read_text())["stages"] for lock in (ROOT / "dvc.lock", *ROOT.glob("studies/*/dvc.lock"))
    ]
    compared, edited, fitted = (
        [sum(name.startswith(f"{stage}@") for name in lock) for lock in locks]
        for stage in ("stability", "causal", "reliability")
    )
    plots_of_stages = 3 * sum(compared) + 2 * sum(edited) + sum(fitted)
    assert len(specifications) == plots_of_stages + sum(count > 0 for count in compared)
    assert len(drawn) == 2 * len(own)
    assert len(kinds) >= 5
    for path in drawn:
        assert path.stat().st_size > 3000, path
    steps = (tmp_path / "metrics_modular_topk-k4_steps.svg").read_text()
    assert "covariance null" in steps
    assert "pw_mcc" in steps
    assert (tmp_path / "variants.svg").read_text().count("batchtopk-k4") >= 1
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    assert plots.specifications(("HEAD",)).keys() == specifications.keys()
