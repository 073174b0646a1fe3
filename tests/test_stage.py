"""What every stage script does around its body: arguments, errors, interruption, run facts, quiet bars."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from reseed import ReseedError
from reseed.params import Compute
from reseed.stage import device, progress
from tests.conftest import ROOT
from tests.scratch import listens

SCRIPT = """
import sys, time
from pathlib import Path
from reseed import ReseedError
from reseed.artifacts import write_json, writing
from reseed.stage import run_stage

def {name}(subject: str, what: str) -> dict:
    if what == "bad":
        raise ReseedError("a.yaml: x: found 1, allowed: 2")
    if what == "slow":
        print("started", flush=True)
        time.sleep(60)
    if what == "bug":
        raise RuntimeError("boom")
    write_json(Path("metrics/toy.json"), {{"x": 0.5}})
    with writing(Path("models/toy")) as folder:
        folder.mkdir()
    return {{"numbers": {{"a": 1, "b": None, "c": [{{"d": None, "e": 2}}]}}}}

run_stage({name})
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    path = tmp_path / "fake.py"
    path.write_text(SCRIPT.format(name="fake"))
    return path


def run(script: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(script), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    return subprocess.run(command, cwd=script.parent, env=env, capture_output=True, text=True, check=False)


def test_facts_are_written_and_named_after_the_stage_instance(script: Path) -> None:
    done = run(script, "modular", "good", DVC_STAGE="dvc.yaml:fake@modular-good", DVC_EXP_NAME="tidy-name")
    assert done.returncode == 0, done.stderr
    facts = json.loads((script.parent / "runs" / "fake@modular-good.json").read_text())
    assert facts["command"] == "python stages/fake.py modular good"
    text = (script.parent / "metrics/toy.json").read_bytes()
    assert facts["wrote"] == {"metrics/toy.json": hashlib.md5(text).hexdigest()}  # and not what DVC caches
    assert facts["parameters"] == {"numbers": {"a": 1, "c": [{"e": 2}]}}
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert facts["machine"]["threads"] == 2
    assert facts["experiment"] == "tidy-name"
    assert 0 <= facts["duration_s"] < 60
    assert facts["started"].endswith("+00:00")


def test_a_stage_run_by_hand_is_named_after_its_arguments(script: Path) -> None:
    run(script, "modular", "good", DVC_STAGE="")
    assert [path.name for path in (script.parent / "runs").iterdir()] == ["fake@modular-good.json"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("modular", "bad"), "error: a.yaml: x: found 1, allowed: 2\n"),
        (("modular",), "error: stages/fake.py: found 1 arguments, allowed: subject what\n"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_facts(arguments: tuple[str, ...], sentence: str, script: Path) -> None:
    done = run(script, *arguments)
    assert (done.returncode, done.stderr) == (1, sentence)
    assert not (script.parent / "runs").exists()


def test_a_bug_is_not_dressed_up_as_bad_input(script: Path) -> None:
    done = run(script, "modular", "bug")
    assert done.returncode == 1
    assert "RuntimeError: boom" in done.stderr
    assert "Traceback" in done.stderr


def test_ctrl_c_says_what_is_left(script: Path) -> None:
    command = [sys.executable, "-P", str(script), "modular", "slow"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        command, cwd=script.parent, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=listens,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "\ninterrupted: nothing half-made was left, `dvc repro` continues from here\n"
    assert not (script.parent / "runs").exists()


def test_a_gpu_that_is_not_there_is_bad_input() -> None:
    assert device(Compute(threads=1, device="cpu")).type == "cpu"
    if torch.cuda.is_available():
        assert device(Compute(threads=1, device="cuda")).type == "cuda"
    else:
        assert device(Compute(threads=1, device="auto")).type == "cpu"
        with pytest.raises(ReseedError, match=r"compute.device: found 'cuda', allowed here: auto, cpu"):
            device(Compute(threads=1, device="cuda"))


def test_progress_is_quiet_under_ci_and_off_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ci in ("true", ""):
        monkeypatch.setenv("CI", ci)
        with progress(3, "work", "step") as bar:
            bar.update(3)
    assert capsys.readouterr().err == ""
