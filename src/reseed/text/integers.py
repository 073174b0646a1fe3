"""The tokenizer of modular addition: a number is its own token, and one more token stands for `=`."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from reseed import ReseedError
from reseed.artifacts import check_sha256, read_json
from reseed.text.tokens import Tokens


def tokenize_addition(raw: Path, p: int) -> Tokens:
    """Read raw/*.jsonl, verified against its manifest, as sequences [a, b, =, answer].

    The answer is the target of the prediction at `=` and stands after it, so that a causal model never reads it.
    Raises ReseedError for an edited file or a number outside 0..p-1.
    """
    manifest = read_json(raw / "manifest.json")
    splits = {}
    for name, entry in manifest["files"].items():
        file = raw / name
        check_sha256(file, entry["sha256"])
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        if not rows:
            raise ReseedError(f"{file}: found no line, allowed: at least one; run `dvc repro` or its stage download")
        tokens = torch.tensor([[row["a"], row["b"], p, row["answer"]] for row in rows], dtype=torch.int32)
        numbers = tokens[:, [0, 1, 3]]
        if numbers.min() < 0 or numbers.max() >= p:
            raise ReseedError(f"{file}: found the number {numbers.max().item()}, allowed: 0 to {p - 1}")
        splits[file.stem] = tokens
    return Tokens(splits, p + 1, {"a": 0, "b": 1, "equals": 2, "answer": 3}, predict="equals", target="answer")
