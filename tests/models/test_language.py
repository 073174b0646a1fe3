"""Loading language models: what TransformerLens computes is what transformers computes, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedEncoder, HookedTransformer

from reseed import ReseedError
from reseed.artifacts import sha256, write_json
from reseed.models.language import forward, load_language_model, store_checkpoint
from reseed.models.transformer import weights_sha256
from reseed.params import ModelFolder
from reseed.text.sequences import Sequences
from tests.models.checkpoints import MADE, N_CTX, VOCABULARY, checkpoint, write_text

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = torch.randint(VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))
REAL = torch.arange(20) < torch.tensor([[20], [13], [1]])


@pytest.fixture
def sequences(tmp_path: Path) -> Sequences:
    (tmp_path / "tokens").mkdir()
    return write_text(tmp_path / "tokens", {"test": TOKENS}, VOCABULARY)


def stored(folder: Path, path: Path, **fields: Any) -> ModelFolder:
    config = ModelFolder(kind="folder", path=str(folder), **fields)
    path.mkdir(exist_ok=True)
    store_checkpoint(config, path)
    return config


def read_at(model: HookedTransformer | HookedEncoder, names: list[str], stop: int | None = None) -> dict[str, Tensor]:
    """What `forward` shows at hook points."""
    found: dict[str, Tensor] = {}
    forward(model, TOKENS, REAL, [(name, lambda x, hook: found.update({hook.name: x.clone()})) for name in names], stop)
    return found


@pytest.mark.parametrize("family", [name for name in MADE if name != "bert"])
def test_a_decoder_computes_what_transformers_computes(family: str, sequences: Sequences, tmp_path: Path) -> None:
    reference = checkpoint(family, tmp_path / "hf")
    config = stored(tmp_path / "hf", tmp_path / "lm")
    model = load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
    assert isinstance(model, HookedTransformer)
    with torch.no_grad():
        expected = reference(TOKENS, output_hidden_states=True)
        torch.testing.assert_close(model(TOKENS), expected.logits, atol=1e-4, rtol=1e-4)
    found = read_at(model, [f"blocks.{layer}.hook_resid_post" for layer in range(2)])
    for layer in range(2):  # transformers' last hidden state is behind the final norm
        torch.testing.assert_close(
            found[f"blocks.{layer}.hook_resid_post"], expected.hidden_states[layer + 1], atol=1e-4, rtol=1e-4
        )


def test_an_encoder_computes_what_transformers_computes_and_never_reads_padding(
    sequences: Sequences, tmp_path: Path
) -> None:
    reference = checkpoint("bert", tmp_path / "hf")
    config = stored(tmp_path / "hf", tmp_path / "lm")
    model = load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
    assert isinstance(model, HookedEncoder)
    names = [f"blocks.{layer}.hook_normalized_resid_post" for layer in range(3)]
    with torch.no_grad():
        expected = reference(TOKENS, attention_mask=REAL.long(), output_hidden_states=True).hidden_states
    found = read_at(model, ["hook_full_embed", *names])
    for name, hidden in zip(["hook_full_embed", *names], expected, strict=True):
        torch.testing.assert_close(found[name][REAL], hidden[REAL], atol=1e-4, rtol=1e-4)


def test_no_block_runs_behind_the_last_one_wanted(sequences: Sequences, tmp_path: Path) -> None:
    for family in ("gpt2", "bert"):
        checkpoint(family, tmp_path / family)
        config = stored(tmp_path / family, tmp_path / f"{family}-lm")
        model = load_language_model(config, tmp_path / f"{family}-lm", "trained", sequences, "tiny")
        names = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
        assert sorted(read_at(model, names, stop=2)) == names[:2]
        whole, part = read_at(model, names), read_at(model, names, stop=2)
        assert whole[names[1]].equal(part[names[1]])
        assert not model.hook_dict[names[0]].fwd_hooks  # none is left behind


def test_the_weights_are_unprocessed(sequences: Sequences, tmp_path: Path) -> None:
    reference = checkpoint("gpt2", tmp_path / "hf")
    config = stored(tmp_path / "hf", tmp_path / "lm")
    model = load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
    assert model.cfg.normalization_type == "LN"
    assert model.W_E.equal(reference.transformer.wte.weight)  # not centred
    assert model.blocks[1].ln1.w.equal(reference.transformer.h[1].ln_1.weight)  # not folded
    assert model.blocks[1].mlp.W_in.equal(reference.transformer.h[1].mlp.c_fc.weight)


@pytest.mark.parametrize("family", ["gpt2", "gemma-2", "bert"])
def test_the_random_model_is_the_same_config_at_its_own_initialisation(
    family: str, sequences: Sequences, tmp_path: Path
) -> None:
    checkpoint(family, tmp_path / "hf")
    config = stored(tmp_path / "hf", tmp_path / "lm")
    torch.manual_seed(5)
    first, again, trained = (
        load_language_model(config, tmp_path / "lm", arm, sequences, "tiny")
        for arm in ("random_model", "random_model", "trained")
    )
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after  # the global generator is left alone
    assert weights_sha256(first) == weights_sha256(again) != weights_sha256(trained)
    shapes = {name: value.shape for name, value in trained.named_parameters()}
    assert shapes == {name: value.shape for name, value in first.named_parameters()}
    deviation = first.blocks[0].mlp.W_in.std().item()
    assert deviation == pytest.approx(0.4, rel=0.1)  # initializer_range of the config
    again_trained = load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
    assert weights_sha256(again_trained) == weights_sha256(trained)  # also of the heads that BertModel lacks


def test_a_wrong_hash_is_refused_when_stored_and_when_loaded(sequences: Sequences, tmp_path: Path) -> None:
    checkpoint("gpt2", tmp_path / "hf")
    digest = sha256(tmp_path / "hf" / "model.safetensors")
    config = stored(tmp_path / "hf", tmp_path / "lm", sha256=digest)
    load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
    with pytest.raises(
        ReseedError, match=rf"hf/model\.safetensors: its sha256 is {digest[:12]}…, allowed: 000000000000…"
    ):
        stored(tmp_path / "hf", tmp_path / "other", sha256="0" * 64)
    other = ModelFolder(kind="folder", path=str(tmp_path / "hf"), sha256="0" * 64)
    with pytest.raises(ReseedError, match=r"cfg\.json: files: model\.safetensors: found .* allowed: 000000000000…"):
        load_language_model(other, tmp_path / "lm", "trained", sequences, "tiny")
    file = tmp_path / "lm" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(ReseedError, match="truncated or edited"):
        load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")


def test_shards_are_loaded_and_hashed_one_by_one(sequences: Sequences, tmp_path: Path) -> None:
    reference = checkpoint("llama", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    reference.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    index = tmp_path / "hf" / "model.safetensors.index.json"
    config = stored(tmp_path / "hf", tmp_path / "lm", sha256=sha256(index))
    shards = sorted((tmp_path / "lm").glob("model-*.safetensors"))
    assert len(shards) > 1
    model = load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), reference(TOKENS).logits, atol=1e-4, rtol=1e-4)
    shards[0].write_bytes(b"\x00")
    with pytest.raises(ReseedError, match="truncated or edited"):
        load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = "../secret.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ReseedError, match=r"found '\.\./secret\.safetensors', allowed: safetensors files beside it"):
        stored(tmp_path / "hf", tmp_path / "other")


def test_a_missing_hook_point_is_refused(sequences: Sequences, tmp_path: Path) -> None:
    for family in ("gpt2", "bert"):
        checkpoint(family, tmp_path / family)
        config = stored(tmp_path / family, tmp_path / f"{family}-lm")
        model = load_language_model(config, tmp_path / f"{family}-lm", "trained", sequences, "tiny")
        with pytest.raises(ReseedError, match=r"found 'blocks\.9\.hook_resid_post', .* nearest: blocks\."):
            read_at(model, ["blocks.9.hook_resid_post"])


def test_a_context_or_vocabulary_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    checkpoint("phi", tmp_path / "hf")
    config = stored(tmp_path / "hf", tmp_path / "lm")
    (tmp_path / "long").mkdir()
    long = write_text(tmp_path / "long", {"test": torch.zeros(2, N_CTX + 1).long()}, VOCABULARY)
    with pytest.raises(ReseedError, match=r"subjects/tiny\.yaml: data\.n_ctx: found 33, allowed: at most 32"):
        load_language_model(config, tmp_path / "lm", "trained", long, "tiny")
    (tmp_path / "wide").mkdir()
    wide = write_text(tmp_path / "wide", {"test": TOKENS}, VOCABULARY + 1)
    with pytest.raises(ReseedError, match=r"data\.tokenizer: found 51 tokens, allowed: at most 50"):
        load_language_model(config, tmp_path / "lm", "random_model", wide, "tiny")


class Bomb:
    """Pickled, it would touch a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    checkpoint("gpt2", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    with pytest.raises(ReseedError, match="found no weights, allowed"):
        stored(tmp_path / "hf", tmp_path / "lm")
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(ReseedError, match=r"found pickled weights \(pytorch_model\.bin\), which can run code"):
        stored(tmp_path / "hf", tmp_path / "lm")
    assert not (tmp_path / "exploded").exists()


def test_code_of_the_folder_is_never_executed(sequences: Sequences, tmp_path: Path) -> None:
    reference = checkpoint("qwen2", tmp_path / "hf")
    planted = f"from pathlib import Path\nPath({str(tmp_path / 'exploded')!r}).touch()\n"
    (tmp_path / "hf" / "modeling_evil.py").write_text(planted)
    content = json.loads((tmp_path / "hf" / "config.json").read_text())
    content["auto_map"] = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(content))
    config = stored(tmp_path / "hf", tmp_path / "lm")
    model = load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), reference(TOKENS).logits, atol=1e-4, rtol=1e-4)
    assert not list((tmp_path / "lm").glob("*.py"))
    content |= {"architectures": ["EvilForCausalLM"], "model_type": "evil"}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(content))
    with pytest.raises(ReseedError, match="architectures: found EvilForCausalLM, allowed: GPT2LMHeadModel, "):
        stored(tmp_path / "hf", tmp_path / "other")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("family", "key", "value", "sentence"),
    [
        ("llama", "attention_bias", True, "attention_bias: found True"),
        ("llama", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}, "found 'yarn'"),
        ("qwen2", "use_sliding_window", True, "use_sliding_window: found True"),
        ("phi", "num_key_value_heads", 2, "num_key_value_heads: found 2"),
        ("gpt-neox", "hidden_act", "mish", "hidden_act: found 'mish'"),
        ("llama", "num_hidden_layers", 4, "the weights lack model.layers.3"),
        ("llama", "num_hidden_layers", 2, "the weights hold model.layers.2"),
        ("llama", "intermediate_size", 40, "the weights are not those of its config"),
        ("llama", "quantization_config", {"quant_method": "gptq"}, "found quantization_config"),
    ],
)
def test_a_config_that_would_be_computed_wrongly_is_refused(
    family: str, key: str, value: object, sentence: str, sequences: Sequences, tmp_path: Path
) -> None:
    checkpoint(family, tmp_path / "hf")
    content = json.loads((tmp_path / "hf" / "config.json").read_text()) | {key: value}
    write_json(tmp_path / "hf" / "config.json", {k: v for k, v in content.items() if v is not None})
    with pytest.raises(ReseedError, match=sentence):
        config = stored(tmp_path / "hf", tmp_path / "lm")
        load_language_model(config, tmp_path / "lm", "trained", sequences, "tiny")
