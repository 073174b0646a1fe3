"""Tiny checkpoints of each architecture family with random weights, and tiny tokenised text, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from reseed.artifacts import write_json
from reseed.text.sequences import LAST, TEXT, Sequences, read_sequences, write_shard

VOCABULARY = 50
N_CTX = 32
_SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": N_CTX,
    "attn_implementation": "eager",
    # wide enough that attention and activations are far from linear, so that a wrong detail shows
    "initializer_range": 0.4,
}
_GROUPED = _SIZE | {"num_key_value_heads": 2}
_ROPE3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_PARTIAL = {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}
MADE: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_inner=48, n_layer=3, n_head=4, n_positions=N_CTX, initializer_range=0.4,
            attn_implementation="eager",
        ),
    ),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**_SIZE, rope_parameters=_PARTIAL)),
    "gpt-neox sequential": (GPTNeoXForCausalLM, GPTNeoXConfig(**_SIZE, use_parallel_residual=False)),
    "gemma": (GemmaForCausalLM, GemmaConfig(**_SIZE | {"num_key_value_heads": 1}, head_dim=12)),
    "gemma-2": (
        Gemma2ForCausalLM,
        Gemma2Config(
            **_GROUPED, head_dim=12, sliding_window=5, query_pre_attn_scalar=20, attn_logit_softcapping=3.0,
            final_logit_softcapping=4.0,
        ),
    ),
    "llama": (LlamaForCausalLM, LlamaConfig(**_SIZE)),
    "llama-3": (LlamaForCausalLM, LlamaConfig(**_GROUPED, rope_parameters=_ROPE3)),
    "phi": (PhiForCausalLM, PhiConfig(**_SIZE)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**_GROUPED)),
    "bert": (BertModel, BertConfig(**_SIZE)),
}  # fmt: skip


def checkpoint(family: str, folder: Path) -> PreTrainedModel:
    """Write a checkpoint of a family with random weights and biases into `folder`; the model that transformers has."""
    kind, config = MADE[family]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms start at constants, which a wrong place would not show
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model.eval()


def write_text(path: Path, rows: dict[str, Tensor], vocabulary: int, pad: int | None = None) -> Sequences:
    """Shards and index of token rows [n, n_ctx] by split; a row is a document, its trailing `pad` tokens padding."""
    splits = {}
    for split, tokens in rows.items():
        text = torch.ones_like(tokens, dtype=torch.bool) if pad is None else tokens != pad
        kind = text * TEXT
        kind[torch.arange(len(tokens)), text.sum(1) - 1] |= LAST
        number = torch.arange(len(tokens))[:, None].expand_as(tokens)
        shards = []
        for i, part in enumerate(torch.arange(len(tokens)).split(max(1, len(tokens) // 2))):
            shard = {
                "tokens": tokens[part].int(),
                "document": torch.where(text, number, -1)[part].int(),
                "kind": kind[part].to(torch.uint8),
                "label": torch.full_like(tokens[part], -1).to(torch.int8),
            }
            shards.append(write_shard(path / f"{split}-{i:05}.safetensors", shard))
        splits[split] = {"sequences": len(tokens), "shards": shards}
    index = {
        "kind": "language",
        "n_ctx": next(iter(rows.values())).shape[1],
        "vocabulary": vocabulary,
        "splits": splits,
    }
    write_json(path / "index.json", index | ({} if pad is None else {"pad": pad}))
    return read_sequences(path)
