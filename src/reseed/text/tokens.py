"""Token shards: int32 [n_sequences, n_ctx] in safetensors beside an index that names and hashes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import check_sha256, read_json, read_tensors, sha256, write_json, write_tensors

SEQUENCES_PER_SHARD = 1 << 19


@dataclass(frozen=True)
class Tokens:
    """Token sequences of a subject.

    splits: name -> int32 [n_sequences, n_ctx]. positions: name -> index within a sequence. The model predicts the
    token at position `target` from the logits at position `predict`; no position after `predict` is an input to it.
    """

    splits: dict[str, Tensor]
    vocabulary: int
    positions: dict[str, int]
    predict: str
    target: str

    @property
    def n_ctx(self) -> int:
        return next(iter(self.splits.values())).shape[1]

    def position(self, name: str) -> int:
        """The index of a named position; raises ReseedError for a name that the subject does not have."""
        if name not in self.positions:
            raise ReseedError(
                f"position {name!r}: the tokens have no such position; known: {', '.join(self.positions)}"
            )
        return self.positions[name]


def write_tokens(tokens: Tokens, path: Path) -> None:
    """Write shards and index.json into the new directory `path`."""
    path.mkdir(parents=True)
    splits: dict[str, Any] = {}
    for split, rows in tokens.splits.items():
        shards = []
        for i, block in enumerate(rows.split(SEQUENCES_PER_SHARD)):
            file = path / f"{split}-{i:05d}.safetensors"
            write_tensors(file, {"tokens": block.to(torch.int32)})
            shards.append({"file": file.name, "sequences": len(block), "sha256": sha256(file)})
        splits[split] = {"sequences": len(rows), "shards": shards}
    write_json(
        path / "index.json",
        {
            "n_ctx": tokens.n_ctx,
            "vocabulary": tokens.vocabulary,
            "positions": tokens.positions,
            "predict": tokens.predict,
            "target": tokens.target,
            "pads": "none: every sequence has the full length",
            "splits": splits,
        },
    )


def read_tokens(path: Path) -> Tokens:
    """Read and verify the shards of `path`; raises ReseedError for a missing, truncated or edited one."""
    index = read_json(path / "index.json")
    splits = {}
    for split, entry in index["splits"].items():
        blocks = []
        for shard in entry["shards"]:
            check_sha256(path / shard["file"], shard["sha256"])
            blocks.append(read_tensors(path / shard["file"])["tokens"])
        splits[split] = torch.cat(blocks)
    return Tokens(splits, index["vocabulary"], index["positions"], index["predict"], index["target"])
