"""Shards of tokenised text: sequences of equal length, and for every position what it is and which document it is of.

A shard holds, all [n_sequences, n_ctx]: `tokens` int32; `document` int32, the document's number within its split, -1 on
padding; `kind` uint8, flags: TEXT on a token of the text, not on padding and special tokens, LAST on the last text
token of a document, STEP on a token of a labelled reasoning step; `label` int8, the place of the step's label in the
index's `labels`, -1 elsewhere. The index names and hashes the shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import check_sha256, read_json, read_tensors, sha256, write_tensors

TEXT, LAST, STEP = 1, 2, 4
SHARD_FIELDS = ("tokens", "document", "kind", "label")


@dataclass(frozen=True)
class Sequences:
    """Tokenised text of a subject: its index, and where its shards lie."""

    path: Path
    index: dict[str, Any]

    @property
    def n_ctx(self) -> int:
        return int(self.index["n_ctx"])

    @property
    def vocabulary(self) -> int:
        return int(self.index["vocabulary"])

    @property
    def pad(self) -> int | None:
        """The token that pads, None where every sequence has the full length."""
        return self.index.get("pad")

    def files(self, split: str) -> list[Path]:
        return [self.path / shard["file"] for shard in self.index["splits"][split]["shards"]]

    def read(self, file: Path) -> dict[str, Tensor]:
        """One verified shard, memory-mapped; raises ReseedError for a missing, truncated or edited one."""
        known = {s["file"]: s["sha256"] for split in self.index["splits"].values() for s in split["shards"]}
        check_sha256(file, known[file.name])
        return read_tensors(file)

    def count(self, split: str) -> int:
        """Sequences of a split."""
        return int(self.index["splits"][split]["sequences"])


def write_shard(file: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write one shard; its entry in the index."""
    write_tensors(file, {name: tensors[name].contiguous() for name in SHARD_FIELDS})
    return {"file": file.name, "sequences": len(tensors["tokens"]), "sha256": sha256(file)}


def read_sequences(path: Path) -> Sequences:
    """Read the index in `path`; raises ReseedError if there is none."""
    return Sequences(path, read_json(path / "index.json"))


def check_same_tokenizer(text: Sequences, of_model: Sequences) -> None:
    """Raises ReseedError unless `text` was made by the tokenizer whose tokens the model reads."""
    found, allowed = text.index["tokenizer_sha256"], of_model.index["tokenizer_sha256"]
    if found != allowed:
        raise ReseedError(
            f"{text.path / 'index.json'}: tokenizer_sha256: found {found[:12]}…, allowed: {allowed[:12]}… of "
            f"{of_model.path}, the tokens that the model was made for"
        )
