"""Secrets come from the environment or `.env`, and reach no file and no output of a stage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reseed.secrets import secret, without_secret
from reseed.stage import run_stage
from tests.conftest import ROOT
from tests.subjects.looks import gsm8k_folder, question

PLANTED = "hf_PlantedTokenValue0123456789"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret("HF_TOKEN") is None
    (tmp_path / ".env").write_text("# keys\nOTHER=x\nHF_TOKEN_2=y\nexport HF_TOKEN = 'from file='\nEMPTY=\n")
    assert secret("HF_TOKEN") == "from file="
    assert secret("OTHER") == "x"
    assert secret("EMPTY") is None
    assert secret("TOKEN") is None
    monkeypatch.setenv("HF_TOKEN", "from environment")
    assert secret("HF_TOKEN") == "from environment"


def test_a_secret_is_cut_out_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_secret("no token", "HF_TOKEN") == "no token"
    monkeypatch.setenv("HF_TOKEN", PLANTED)
    assert without_secret(f"401 for {PLANTED}: {PLANTED}", "HF_TOKEN") == "401 for [HF_TOKEN]: [HF_TOKEN]"


def test_git_ignores_the_file_with_secrets() -> None:
    done = subprocess.run(["git", "check-ignore", ".env"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == ".env"


@pytest.mark.parametrize("corpus", ["gsm8k", "reveal"])
def test_a_planted_token_reaches_no_file_and_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], corpus: str
) -> None:
    """The stage as it runs, once to its end and once into a refusal; everything that it leaves is searched."""
    from stages.download import download

    subject = yaml.safe_load((ROOT / "subjects" / "gsm8k-gpt.yaml").read_text())
    subject["data"] |= {"corpus": corpus}
    (tmp_path / "subjects").mkdir()
    (tmp_path / "subjects" / "look.yaml").write_text(yaml.safe_dump(subject))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / ".env").write_text(f"WANDB_API_KEY={PLANTED}\n")
    monkeypatch.setenv("HF_TOKEN", PLANTED)
    gsm8k_folder(monkeypatch, tmp_path / "corpora", map(question, range(60)), map(question, range(60, 80)))
    monkeypatch.setattr("reseed.subjects.overlap.sae_probes_folder", lambda: None)
    monkeypatch.setattr(sys, "argv", ["stages/download.py", "look"])
    if corpus == "gsm8k":
        run_stage(download)
        assert (tmp_path / "data/look/raw/manifest.json").is_file()
        assert (tmp_path / "runs/download@look.json").is_file()
    else:
        with pytest.raises(SystemExit):
            run_stage(download)
        assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    out = capfd.readouterr()
    assert PLANTED not in out.out + out.err
    holding = [p.name for p in tmp_path.rglob("*") if p.is_file() and PLANTED.encode() in p.read_bytes()]
    assert holding == [".env"]
