"""Weights & Biases gets a run where a key is set, and only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reseed.saes.record import wandb_run

LOGGED = """
from reseed.saes.record import wandb_run
with wandb_run("modular/topk-k4/0123abc", {"variant": {"k": 4}}) as log:
    for step in (100, 200):
        log(3, {"step": step, "loss/reconstruction": 1.0 / step})
"""


def test_without_a_key_nothing_is_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    with wandb_run("modular/topk-k4/0123abc", {}) as log:
        assert log is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_with_a_key_every_check_of_a_seed_is_logged(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline", "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", LOGGED], cwd=tmp_path, env=environment, check=True, capture_output=True)
    (written,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = written.read_bytes()
    for expected in ("modular/topk-k4/0123abc", "seed_3/loss/reconstruction", json.dumps(1.0 / 200)):
        assert expected.encode() in content, expected
