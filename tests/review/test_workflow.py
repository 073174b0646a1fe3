"""The workflow of a pull request, its shell steps run as a runner would: what it says, what it blocks, one comment."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.review import project
from tests.review.project import CLAIM
from tests.sweeps.toy import git

pytestmark = pytest.mark.slow
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/claims.yml").read_text())
STEPS = {step["name"]: step for step in WORKFLOW["jobs"]["check"]["steps"] if "name" in step}
MERGED, OWN, BASE, SHOW = list(STEPS)[:4]
LAST = ("No claim stands without its evidence", "Nor by the code of the base")
GH = """#!/bin/sh
# gh api: lists the comments of a pull request, or keeps what it is sent
case "$*" in
  *--method*) echo "$3 $4" >> "$GH/sent"; cp comment.md "$GH/body"; echo 7 > "$GH/own" ;;
  *) cat "$GH/own" 2> /dev/null || true ;;
esac
"""


class Runner:
    """A checkout of the merge of a branch into main, as `actions/checkout` leaves it."""

    def __init__(self, folder: Path, temp: Path) -> None:
        git(folder, "switch", "-q", "--detach", "main")
        git(folder, "merge", "-q", "--no-ff", "-m", "Merge", "change")
        self.folder, self.temp, self.outputs = folder, temp, dict[str, str]()
        (temp / "bin").mkdir()
        (temp / "bin/gh").write_text(GH)
        (temp / "bin/gh").chmod(0o755)
        (folder / ".venv/bin").mkdir(parents=True)
        (folder / ".venv/bin/activate").touch()
        (folder / ".git/info/exclude").write_text(".venv\n")

    def step(self, name: str) -> int:
        """The exit status of a step by itself."""
        output = self.temp / "output"
        output.unlink(missing_ok=True)
        env = project.environment() | {
            "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.temp / "summary"), "GH": str(self.temp),
            "RUNNER_TEMP": str(self.temp), "PYTHONPATH": str(self.folder / "src"),
        }  # fmt: skip
        env["PATH"] = f"{self.temp / 'bin'}:{env['PATH']}"
        done = subprocess.run(
            ["bash", "-e", "-c", re.sub(r"\$\{\{(.*?)\}\}", self._value, STEPS[name]["run"])],
            cwd=self.folder, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if output.is_file():
            written = dict(line.split("=", 1) for line in output.read_text().splitlines())
            self.outputs |= {f"steps.{STEPS[name]['id']}.outputs.{key}": value for key, value in written.items()}
        return done.returncode

    def _value(self, expression: re.Match[str]) -> str:
        known = {"github.repository": "some/one", "github.event.number": "3", **self.outputs}
        for part in expression[1].split("||"):
            if part.strip().startswith("'"):
                return part.strip().strip("'")
            if value := known.get(part.strip(), ""):
                return value
        return ""


@pytest.fixture
def runner(branch: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Runner:
    request.param(branch)
    (tmp_path / "temp").mkdir()
    return Runner(branch, tmp_path / "temp")


def better(branch: Path) -> None:
    project.edit(branch, "planted.yaml", "variants/topk-k4/kappa", 0.9)
    project.rerun(branch, "better")


def edited(branch: Path) -> None:
    """A verdict that nobody judged, and beside it main has gone on."""
    path = branch / f"metrics/claims/{CLAIM}.json"
    path.write_text(path.read_text().replace('"supported"', '"supported, very"'))
    project.commit(branch, "a better verdict")
    git(branch, "switch", "-q", "main")
    (branch / "notes.md").write_text("of main\n")
    project.commit(branch, "notes")


@pytest.mark.parametrize("runner", [better], indirect=True)
def test_a_change_that_may_land_passes_and_has_one_comment(runner: Runner) -> None:
    assert [runner.step(name) for name in (MERGED, OWN, BASE)] == [0, 0, 0]
    assert runner.outputs["steps.merged.outputs.base"] == git(runner.folder, "rev-parse", "main").strip()
    assert [runner.step(name) for name in (*LAST, SHOW, SHOW)] == [0, 0, 0, 0]
    comments = "repos/some/one/issues"
    assert (runner.temp / "sent").read_text().splitlines() == [
        f"POST {comments}/3/comments", f"PATCH {comments}/comments/7",
    ]  # fmt: skip
    body = (runner.temp / "body").read_text()
    assert body.startswith("<!-- reseed claims check -->\n")
    assert "trained.pw_mcc.kappa | 0.8 [0.79, 0.81] | 0.9 | beyond its interval |" in body
    assert "By the code of the base" not in body
    assert (runner.temp / "summary").read_text() == body


@pytest.mark.parametrize("runner", [edited], indirect=True)
def test_a_change_that_may_not_land_is_blocked_and_is_no_change_of_what_main_did_meanwhile(runner: Runner) -> None:
    assert [runner.step(name) for name in (MERGED, OWN, BASE)] == [0, 0, 0]
    assert [runner.step(name) for name in LAST] == [1, 1]
    body = (runner.folder / "comment.md").read_text()
    assert f"**Blocked by {CLAIM}, first.**" in body
    assert "it says 'supported, very', and its evidence gives 'supported'" in body
    # a comment that would be too long for GitHub is cut between two characters
    (runner.folder / "comment.md").write_text(body + "é" * 40000)
    assert runner.step(SHOW) == 0
    sent = (runner.temp / "body").read_bytes()
    assert 59_000 < len(sent) < 61_000
    assert sent.decode().endswith("é\n\n**Cut off here:** the whole stands in the summary of this job.\n")


def test_a_step_that_never_ran_is_no_pass() -> None:
    for name in LAST:
        run = re.sub(r"\$\{\{.*?\}\}", "", STEPS[name]["run"])
        assert subprocess.run(["bash", "-e", "-c", run], capture_output=True, check=False).returncode == 2


def test_a_runner_may_do_what_the_steps_ask_for_and_no_more() -> None:
    checkout, python, setup = WORKFLOW["jobs"]["check"]["steps"][:3]
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}  # all of the history, no token
    assert WORKFLOW["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert [name for name, step in STEPS.items() if "GH_TOKEN" in str(step)] == [SHOW]
    assert STEPS[SHOW]["if"] == "github.event.pull_request.head.repo.full_name == github.repository"  # not of a fork
    for name in LAST:
        assert STEPS[name]["if"].startswith("always()")
    assert setup["run"] == "make setup"
    assert python["with"]["python-version"] == "3.11"
