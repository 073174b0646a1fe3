"""Tokenised text whose every position is known by hand, and small models that read it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed.activations.store import Provenance
from reseed.artifacts import write_json
from reseed.models.transformer import build_transformer
from reseed.params import Budget, Gpt, GptTraining, LanguageCapture
from reseed.text.sequences import LAST, STEP, TEXT, Sequences, read_sequences, write_shard

VOCABULARY, N_CTX, D, LAYERS = 40, 16, 8, 3
PAD, BOS = 0, 1
HOOK = "blocks.1.hook_resid_post"
SIZES = {"train": 53, "validation": 9, "test": 11}
PER_SHARD = 20
CPU = torch.device("cpu")
ROOMY = Budget()

GPT = Gpt(
    kind="pretrained_here", n_layers=LAYERS, d_model=D, n_heads=2, d_mlp=16, act_fn="gelu", normalization_type="LN",
    training=GptTraining(
        seed=0, batch_size=4, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), warm_up_steps=1, steps=2, check_every=1,
        below_bigram=0,
    ),
)  # fmt: skip


def gpt(n_ctx: int = N_CTX) -> HookedTransformer:
    return build_transformer(GPT, VOCABULARY, n_ctx, "tiny").eval()


def document(number: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """BOS, then `length` tokens: one question token, then steps of two tokens with the labels 0, 1, 0, 1 …; padded."""
    text = torch.arange(N_CTX) - 1
    inside = (text >= 0) & (text < length)
    step = inside & (text >= 1)
    kind = inside * TEXT + step * STEP + (text == length - 1) * LAST
    random = torch.Generator().manual_seed(1000 * seed + number)
    tokens = torch.where(inside, torch.randint(2, VOCABULARY, (N_CTX,), generator=random), PAD)
    tokens[0] = BOS
    return {
        "tokens": tokens.int(),
        "document": torch.where(text < length, number, -1).int(),
        "kind": kind.to(torch.uint8),
        "label": torch.where(step, (text - 1) // 2 % 2, -1).to(torch.int8),
    }


def lengths(split: str) -> list[int]:
    """Text tokens of every document of a split: 3 to 15."""
    return [3 + (7 * i + len(split)) % 13 for i in range(SIZES[split])]


def write_padded(path: Path, seed: int = 0) -> Sequences:
    """One document a sequence, in shards of PER_SHARD sequences."""
    path.mkdir(parents=True)
    splits = {}
    for split, size in SIZES.items():
        documents = [document(i, length, seed) for i, length in enumerate(lengths(split))]
        entries = []
        for start in range(0, size, PER_SHARD):
            part = documents[start : start + PER_SHARD]
            tensors = {name: torch.stack([one[name] for one in part]) for name in part[0]}
            entries.append(write_shard(path / f"{split}-{len(entries):05d}.safetensors", tensors))
        splits[split] = {"sequences": size, "shards": entries}
    index = {
        "kind": "language", "n_ctx": N_CTX, "vocabulary": VOCABULARY, "pad": PAD, "bos": BOS, "packing": "padded",
        "labels": ["equation", "other"], "tokenizer_sha256": "t" * 64, "documents": SIZES, "splits": splits,
    }  # fmt: skip
    write_json(path / "index.json", index)
    return read_sequences(path)


def options(**fields: object) -> LanguageCapture:
    known = {"hook_name": HOOK, "positions": "all", "dtype": "float32", "arms": ("trained",)}
    return LanguageCapture.model_validate(known | fields)


def made_by(options: LanguageCapture) -> Provenance:
    return Provenance(
        "tiny", "trained", options.hook_name, (options.positions,), "forward pass of the trained model", "m" * 64,
        "t" * 64, options.hook_name_out,
    )  # fmt: skip
