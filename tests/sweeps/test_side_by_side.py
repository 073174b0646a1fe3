"""Stages side by side in a scratch project: which run together, which wait, what a failure leaves."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from reseed import ReseedError
from reseed.sweeps import warm
from reseed.sweeps.side_by_side import repro
from tests import CORES
from tests.scratch import dvc, environment
from tests.sweeps.toy import git

STEP = """\
import json, os, pathlib, sys, time
name, seconds, *parts = sys.argv[1:]
started = time.time()
time.sleep(float(seconds))
if float(seconds) < 0.15:
    sys.exit(f"error: {name}: found 0.1, allowed: more")
value = sum(json.loads(pathlib.Path(f"{part}.json").read_text())["value"] for part in parts) or 1
facts = {"value": value, "started": started, "ended": time.time(), "cores": sorted(os.sched_getaffinity(0))}
pathlib.Path(f"{name}.json").write_text(json.dumps(facts))
"""
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="one core: nothing runs side by side")


def stage(name: str, *parts: str, seconds: float = 3) -> dict[str, object]:
    return {
        "cmd": f"python step.py {name} {seconds} {' '.join(parts)}",
        "deps": ["step.py", *(f"{part}.json" for part in parts)],
        "outs": [f"{name}.json"],
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "step.py").write_text(STEP)
    write(tmp_path, seconds=3)
    git(tmp_path, "init", "--quiet")
    dvc(tmp_path, "init", "--quiet")
    monkeypatch.chdir(tmp_path)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    return tmp_path


def write(folder: Path, seconds: float, other: float = 3) -> None:
    """left and right wait for nothing, both for them; other and spare stand alone."""
    stages = {"left": stage("left"), "right": stage("right", seconds=seconds), "both": stage("both", "left", "right")}
    stages |= {"other": stage("other", seconds=other), "spare": stage("spare")}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))


def running(folder: Path) -> list[int]:
    """The processes of stages that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and "step.py" in process.cmdline():
                found.append(process.pid)
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, a minute at most."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert condition()


def facts(name: str) -> dict[str, object]:
    return dict(json.loads(Path(f"{name}.json").read_text()))


@needs_two_cores
@pytest.mark.usefixtures("project")
def test_what_waits_for_nothing_runs_together_and_what_waits_comes_after() -> None:
    said: list[str] = []
    repro(["both"], 2, said.append)
    left, right, both = facts("left"), facts("right"), facts("both")
    assert max(left["started"], right["started"]) < min(left["ended"], right["ended"])  # type: ignore[type-var]
    assert both["started"] >= max(left["ended"], right["ended"])  # type: ignore[type-var, operator]
    assert both["value"] == 2
    assert not set(left["cores"]) & set(right["cores"])  # type: ignore[call-overload]
    assert not Path("other.json").exists()
    assert sorted(line.split(" (")[0] for line in said) == ["both: ran", "left: ran", "right: ran"]
    assert set(yaml.safe_load(Path("dvc.lock").read_text())["stages"]) == {"left", "right", "both"}
    said.clear()
    repro(["both"], 2, said.append)
    assert sorted(line.split(" (")[0] for line in said) == ["both: up to date", "left: up to date", "right: up to date"]
    assert facts("both") == both


@needs_two_cores
def test_a_failure_stops_what_runs_starts_nothing_new_and_says_why(project: Path) -> None:
    write(project, seconds=0.1, other=60)  # in the order of their names: left and other begin, right fails behind left
    started = time.monotonic()
    with pytest.raises(ReseedError, match=r"right: exit code [1-9]\d*\n(.*\n)*error: right: found 0.1, allowed: more"):
        repro(["dvc.yaml"], 2)
    assert time.monotonic() - started < 40
    assert Path("left.json").exists()
    assert not Path("other.json").exists()  # it was running, and was stopped
    assert not Path("spare.json").exists()  # it could have started
    assert set(yaml.safe_load(Path("dvc.lock").read_text())["stages"]) == {"left"}
    assert not running(project)


@needs_two_cores
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_process_behind(project: Path, number: signal.Signals) -> None:
    write(project, seconds=60, other=60)
    code = "from reseed.sweeps.side_by_side import repro; repro(['right', 'other'], 2)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: len(running(project)) == 2)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"stopped by {number.name}" in error
    assert not running(project)
    assert not Path("dvc.lock").exists()


@needs_two_cores
def test_stages_that_run_when_this_process_is_killed_are_killed_too(project: Path) -> None:
    write(project, seconds=60, other=60)
    code = "from reseed.sweeps.side_by_side import repro; repro(['right', 'other'], 2)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    until(lambda: len(running(project)) == 2)
    process.kill()
    process.wait()
    until(lambda: not running(project))


FORKED = """\
import json, os, sys
before = set(sys.modules)
import reseed
facts = {
    "arguments": sys.argv, "folder": os.getcwd(), "path": os.environ["PYTHONPATH"], "stage": os.environ["DVC_STAGE"],
    "reseed": reseed.__file__, "imported": sorted({"torch", "sae_lens", "reseed"} & before), "name": __name__,
}
if sys.argv[1] == "fails":
    raise ValueError("found 1, allowed: 2")
if sys.argv[1] == "says why":
    sys.exit("error: one sentence")
open(f"{sys.argv[1]}.json", "w").write(json.dumps(facts))
"""


def test_a_stage_is_forked_with_the_packages_imported_and_reseed_not(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "src" / "reseed").mkdir(parents=True)
    (project / "src" / "reseed" / "__init__.py").touch()  # its own code, as in a clone
    (project / "stages").mkdir()
    (project / "stages" / "step.py").write_text(FORKED)

    def command(*words: str) -> dict[str, object]:
        return {"cmd": f"PYTHONPATH=src python -P stages/step.py {' '.join(words)}", "outs": [f"{words[0]}.json"]}

    stages = {"works": command("works", "'two words'")}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    repro(["works"], 1)
    assert facts("works") == {
        "arguments": ["stages/step.py", "works", "two words"], "folder": str(project), "path": "src",
        "stage": "works", "reseed": str(project / "src/reseed/__init__.py"), "name": "__main__",
        "imported": ["sae_lens", "torch"],
    }  # fmt: skip
    assert set(yaml.safe_load(Path("dvc.lock").read_text())["stages"]) == {"works"}
    monkeypatch.setattr(warm, "PACKAGES", [name for name in warm.PACKAGES if name.startswith("dvc")])  # of no use now
    for argument, message in (("fails", "ValueError: found 1, allowed: 2"), ("'says why'", "error: one sentence")):
        (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"step": command(argument)}}))
        with pytest.raises(ReseedError, match=rf"step: exit code [1-9]\d*\n(.*\n)*{message}"):
            repro(["step"], 1)


@pytest.mark.usefixtures("project")
def test_targets_and_jobs_that_are_none_are_refused() -> None:
    with pytest.raises(ReseedError, match="target 'middle': no stage and no pipeline file"):
        repro(["middle"], 1)
    cores = len(CORES)
    for jobs in (0, cores + 1):
        with pytest.raises(ReseedError, match=f"--jobs: found {jobs}, allowed: 1 to {cores}, the cores"):
            repro(["both"], jobs)
