"""The stages capture and gaussian of a language model, from its files to its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from reseed import ReseedError
from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, lm_dir, tokens_dir
from reseed.models.transformer import save_transformer, weights_sha256
from reseed.params import load_language
from tests.activations.builders import GPT, N_CTX, gpt, lengths, write_padded
from tests.conftest import ROOT, stage


def test_a_language_subject_goes_from_tokens_to_its_arms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = yaml.safe_load((ROOT / "subjects" / "gsm8k-gpt.yaml").read_text())
    subject["data"] |= {"n_ctx": N_CTX, "packing": "padded"}
    subject["model"] = GPT.model_dump(mode="json")
    subject["capture"] |= {"hook_name": "blocks.1.hook_resid_post"}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["compute"]["device"] = "cpu"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subjects").mkdir()
    (tmp_path / "subjects" / "tiny.yaml").write_text(yaml.safe_dump(subject))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_padded(tokens_dir("tiny"))
    model = gpt()
    with torch.no_grad():
        model.embed.W_E += 1
    lm_dir("tiny").mkdir(parents=True)
    save_transformer(model, load_language("tiny").model, lm_dir("tiny"), {"loss": 1.0})

    used = stage("capture")("tiny", "trained")
    assert used["measured"]["plain"] > 0
    assert "tokens/s plain" in capsys.readouterr().out
    stage("capture")("tiny", "random_model")
    stage("gaussian")("tiny")

    trained, random, noise = (
        read_activations(activations_dir("tiny", arm)) for arm in ("trained", "random_model", "gaussian")
    )
    for arm in (trained, random, noise):
        assert len(arm.rows("train")) == sum(lengths("train"))
        assert len(arm.rows("test")) == sum(lengths("test"))
    assert trained.index["model_sha256"] == weights_sha256(model) != random.index["model_sha256"]
    assert trained.index["positions"] == ["all"]
    assert trained.index["depends_on"] == {"blocks.1.hook_resid_post": "context"}
    assert "quarantine" not in trained.index
    assert random.index["generator"] == "forward pass of the model at its own initialisation"
    assert not trained.rows("train").whole().equal(random.rows("train").whole())
    assert trained.has("sequence")
    assert not noise.has("sequence")
    assert torch.tensor(noise.index["mean"]).sub(torch.tensor(trained.index["mean"])).abs().max() < 0.5
    # nothing that a clock tells is in an output, and nothing is left where a kill would have been resumed
    assert "measured" not in trained.index
    assert list((tmp_path / "checkpoints" / "tiny").iterdir()) == []
    with pytest.raises(ReseedError, match=r"subjects/tiny\.yaml: capture\.arms: found no 'ood'; known"):
        stage("capture")("tiny", "ood")


def test_a_hook_point_that_is_a_lookup_carries_that_as_its_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = yaml.safe_load((ROOT / "subjects" / "gsm8k-gpt.yaml").read_text())
    subject["data"] |= {"n_ctx": N_CTX, "packing": "padded"}
    subject["model"] = GPT.model_dump(mode="json")
    subject["capture"] |= {"hook_name": "hook_embed"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subjects").mkdir()
    (tmp_path / "subjects" / "tiny.yaml").write_text(yaml.safe_dump(subject))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    write_padded(tokens_dir("tiny"))
    lm_dir("tiny").mkdir(parents=True)
    save_transformer(gpt(), load_language("tiny").model, lm_dir("tiny"), {"loss": 1.0})
    stage("capture")("tiny", "trained")
    index = read_activations(activations_dir("tiny", "trained")).index
    assert index["depends_on"] == {"hook_embed": "token"}
    assert index["quarantine"] == "hook_embed is a lookup of the token, whatever stands around it"


def test_the_model_reads_the_text_of_another_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = yaml.safe_load((ROOT / "subjects" / "gsm8k-gpt.yaml").read_text())
    subject["data"] |= {"n_ctx": N_CTX, "packing": "padded"}
    subject["model"] = GPT.model_dump(mode="json")
    subject["capture"] |= {"hook_name": "blocks.1.hook_resid_post", "arms": ["trained", "ood"], "ood": "elsewhere"}
    elsewhere = subject | {"data": subject["data"] | {"corpus": "openr1"}}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subjects").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())

    def write(name: str, content: dict[str, Any]) -> None:
        (tmp_path / "subjects" / f"{name}.yaml").write_text(yaml.safe_dump(content))

    write("tiny", subject)
    write("elsewhere", elsewhere)
    own, other = write_padded(tokens_dir("tiny")), write_padded(tokens_dir("elsewhere"), seed=1)
    model = gpt()
    lm_dir("tiny").mkdir(parents=True)
    save_transformer(model, load_language("tiny").model, lm_dir("tiny"), {"loss": 1.0})
    stage("capture")("tiny", "trained")
    stage("capture")("tiny", "ood")

    trained, ood = (read_activations(activations_dir("tiny", arm)) for arm in ("trained", "ood"))
    assert ood.index["model_sha256"] == trained.index["model_sha256"]
    assert (ood.index["arm"], ood.index["text"], trained.index["text"]) == ("ood", "elsewhere", "tiny")
    for found, sequences in ((trained, own), (ood, other)):
        # what TransformerLens gives of the first document, after its BOS
        tokens = sequences.read(sequences.files("test")[0])["tokens"][:1].long()
        expected = model.run_with_cache(tokens)[1]["blocks.1.hook_resid_post"][0, 1 : 1 + lengths("test")[0]]
        assert torch.allclose(found.rows("test").whole()[: len(expected)], expected, atol=1e-5)

    # what is only to be read for an evaluation is never trained on, whichever arm it is in
    write("elsewhere", elsewhere | {"data": elsewhere["data"] | {"use": "evaluation"}})
    with pytest.raises(ReseedError, match=r"elsewhere\.yaml: data\.use: found 'evaluation', allowed: 'training' for"):
        stage("train")("tiny", "topk-k4", "ood")
    write("tiny", subject | {"data": subject["data"] | {"use": "evaluation"}})
    with pytest.raises(ReseedError, match=r"subjects/tiny\.yaml: data\.use: found 'evaluation', allowed: 'training'"):
        stage("train")("tiny", "topk-k4", "trained")
    assert not (tmp_path / "models/tiny/topk-k4").exists()
    write("tiny", subject)
    write("elsewhere", elsewhere)

    index = json.loads((tokens_dir("elsewhere") / "index.json").read_text())
    (tokens_dir("elsewhere") / "index.json").write_text(json.dumps(index | {"tokenizer_sha256": "u" * 64}))
    with pytest.raises(ReseedError, match=r"elsewhere/tokens/index\.json: tokenizer_sha256: found u+…, allowed: t+…"):
        stage("capture")("tiny", "ood")
    write("elsewhere", subject | {"capture": subject["capture"] | {"arms": ["trained"], "ood": None}})
    with pytest.raises(ReseedError, match=r"capture\.ood: found 'elsewhere', whose corpus is gsm8k as well"):
        stage("capture")("tiny", "ood")
    write("tiny", subject | {"capture": subject["capture"] | {"ood": None}})
    with pytest.raises(ReseedError, match=r"capture\.ood: found nothing, allowed: the subject whose text is read"):
        stage("capture")("tiny", "ood")
