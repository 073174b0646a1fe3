"""The stage model on language subjects: what it writes, and that a refused model leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from reseed import ReseedError
from reseed.artifacts import lm_dir, read_json, tokens_dir
from reseed.models.language import load_language_model
from reseed.params import load_language
from reseed.text.sequences import read_sequences
from tests.conftest import ROOT, stage
from tests.models.checkpoints import checkpoint, write_text
from tests.models.test_gpt import SIZES, VOCABULARY, second_order

pytestmark = pytest.mark.usefixtures("one_thread")

GPT = {
    "kind": "pretrained_here", "n_layers": 1, "d_model": 32, "n_heads": 2, "d_mlp": 32, "act_fn": "gelu",
    "normalization_type": "LN",
    "training": {
        "seed": 0, "batch_size": 16, "lr": 0.01, "weight_decay": 0.01, "betas": [0.9, 0.95], "warm_up_steps": 10,
        "steps": 60, "check_every": 30, "below_bigram": 0.3,
    },
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with tokenised text of a subject `tiny`, whose model each test chooses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    tokens_dir("tiny").mkdir(parents=True)
    write_text(tokens_dir("tiny"), {s: second_order(n, seed) for seed, (s, n) in enumerate(SIZES.items())}, VOCABULARY)
    return tmp_path


def run(model: dict[str, Any], use: str = "training") -> None:
    subject = yaml.safe_load((ROOT / "subjects" / "gsm8k-gpt.yaml").read_text())
    subject["data"] |= {"n_ctx": 16, "use": use}
    Path("subjects").mkdir(exist_ok=True)
    Path("subjects/tiny.yaml").write_text(yaml.safe_dump(subject | {"model": model}))
    stage("model")("tiny")


def loaded(arm: str) -> Any:
    return load_language_model(
        load_language("tiny").model, lm_dir("tiny"), arm, read_sequences(tokens_dir("tiny")), "tiny"
    )


@pytest.mark.usefixtures("project")
def test_no_gpt_is_pretrained_on_text_for_evaluation() -> None:
    with pytest.raises(ReseedError, match=r"subjects/tiny\.yaml: data\.use: found 'evaluation', allowed: 'training'"):
        run(GPT, use="evaluation")
    assert not lm_dir("tiny").exists()


@pytest.mark.usefixtures("project")
def test_a_gpt_is_pretrained_measured_and_stored() -> None:
    run(GPT)
    facts = read_json(lm_dir("tiny") / "metrics.json")
    assert facts["loss"]["test"] < facts["bigram_loss"]["test"] - 0.3
    assert facts["steps"] == 60
    header, *rows = (lm_dir("tiny") / "training.csv").read_text().splitlines()
    assert header == "step,train_loss,validation_loss"
    assert [row.split(",")[0] for row in rows] == ["30", "60"]
    assert not loaded("trained").W_E.equal(loaded("random_model").W_E)


@pytest.mark.usefixtures("project")
def test_a_gpt_that_did_not_learn_leaves_nothing_behind() -> None:
    with pytest.raises(ReseedError, match="did not learn the language"):
        run(GPT | {"training": GPT["training"] | {"steps": 2}})  # type: ignore[operator]
    assert not lm_dir("tiny").parent.exists() or not list(lm_dir("tiny").parent.iterdir())


def test_a_folder_is_measured_where_it_predicts_the_next_token(project: Path) -> None:
    for family in ("gpt2", "bert"):
        reference = checkpoint(family, project / family)
        run({"kind": "folder", "path": family})
        facts = read_json(lm_dir("tiny") / "metrics.json")
        assert ("loss" in facts) == (family == "gpt2")
        assert facts["parameters"] >= sum(parameter.numel() for parameter in reference.parameters())
        names = {file.name for file in lm_dir("tiny").iterdir()}
        assert names == {"cfg.json", "config.json", "metrics.json", "model.safetensors"}
        assert isinstance(loaded("random_model"), torch.nn.Module)
