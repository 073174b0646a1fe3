"""Activation shards and the index that says what made them: the one way in and out of the activations.

A shard holds `activations` [rows, d_in], or [rows, n_layers, d_in] of several hook points, and beside them what some
SAEs need: `target` [rows, d_out] (where a transcoder writes), `sequence` [rows] (which sequence a row is from; rows of
one sequence follow each other) and `labels` [rows] (a class, -1 where there is none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import check_sha256, read_json, read_tensors, sha256, write_json, write_tensors
from reseed.params import SPLITS

ROWS_PER_SHARD = 1 << 18
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Provenance:
    """What made the activations. A real model's name stands only on what a forward pass of that model gave."""

    subject: str
    arm: str
    hook_name: str | tuple[str, ...]
    """Several where rows are [n_layers, d_in]."""
    positions: tuple[str, ...]
    generator: str
    model_sha256: str
    tokens_sha256: str
    hook_name_out: str | None = None
    """Where `target` was read, for transcoders."""


class Rows:
    """Rows of one kind over all shards of a split, memory-mapped: only what is asked for is read."""

    def __init__(self, blocks: list[Tensor]) -> None:
        self.blocks = blocks
        self.starts = torch.tensor([0, *(len(block) for block in blocks)]).cumsum(0)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.blocks[0].shape[1:])

    def take(self, indices: Tensor) -> Tensor:
        """The rows at `indices` [n], in that order."""
        if len(self.blocks) == 1:
            return self.blocks[0][indices]
        block = torch.bucketize(indices, self.starts[1:], right=True)
        taken = self.blocks[0].new_empty((len(indices), *self.shape[1:]))
        for i in block.unique().tolist():
            chosen = (block == i).nonzero()[:, 0]
            taken[chosen] = self.blocks[i][indices[chosen] - self.starts[i]]
        return taken

    def whole(self) -> Tensor:
        return self.blocks[0] if len(self.blocks) == 1 else torch.cat(self.blocks)


@dataclass(frozen=True)
class Activations:
    """The activations of one arm: shards of tensors by split, memory-mapped, and their index."""

    shards: dict[str, list[dict[str, Tensor]]]
    index: dict[str, Any]

    @property
    def d_in(self) -> int:
        return int(self.index["d_in"])

    def has(self, name: str) -> bool:
        return name in self.shards["train"][0]

    def rows(self, split: str, name: str = "activations") -> Rows:
        return Rows([shard[name] for shard in self.shards[split]])

    @cached_property
    def splits(self) -> dict[str, Tensor]:
        """The activations of each split as one tensor (in memory where several shards hold it)."""
        return {split: self.rows(split).whole() for split in self.shards}


def write_activations(
    splits: dict[str, Tensor],
    provenance: Provenance,
    dtype: str,
    path: Path,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> None:
    """Write shards and index.json into the new directory `path`; statistics are of the training rows, in float64.

    beside: {split: {"target" | "sequence" | "labels": tensor of as many rows}}.
    Raises ReseedError for non-finite values, an overflow of the chosen dtype, an arm of a model that no forward pass
    made, or training rows that do not vary.
    """
    forward = "forward pass of the "
    if provenance.arm in ("trained", "random_model") and not provenance.generator.startswith(forward):
        raise ReseedError(
            f"{path}: arm {provenance.arm!r} is a model's: found the generator {provenance.generator!r}, "
            f"allowed: one that begins with {forward!r}"
        )
    path.mkdir(parents=True)
    entries: dict[str, Any] = {}
    for split in SPLITS:
        rows = splits[split]
        if not rows.isfinite().all():
            raise ReseedError(f"{path}: split {split!r} holds NaN or infinite activations, allowed: finite numbers")
        stored = rows.to(DTYPES[dtype])
        if not stored.isfinite().all():
            largest = rows.abs().max().item()
            raise ReseedError(
                f"{path}: an activation of {largest:.4g} overflows {dtype}; set capture.dtype to bfloat16"
            )
        shards = []
        others = (beside or {}).get(split, {})
        for name, other in others.items():
            if len(other) != len(rows):
                raise ReseedError(f"{path}: split {split!r} has {len(rows)} rows, its {name!r} has {len(other)}")
        for i, block in enumerate(stored.split(rows_per_shard)):
            file = path / f"{split}-{i:05d}.safetensors"
            here = slice(i * rows_per_shard, i * rows_per_shard + len(block))
            write_tensors(file, {"activations": block} | {name: other[here] for name, other in others.items()})
            shards.append({"file": file.name, "rows": len(block), "sha256": sha256(file)})
        entries[split] = {"rows": len(rows), "shards": shards}
    train = splits["train"].double().flatten(0, -2)
    mean = train.mean(0)
    spectrum = torch.linalg.eigvalsh((train - mean).T @ (train - mean) / len(train)).clamp(min=0)
    if spectrum.sum() <= 1e-12 * train.square().sum(1).mean():
        raise ReseedError(f"{path}: the training activations are constant; check capture.hook_name and positions")
    share = spectrum[spectrum > 0] / spectrum.sum()
    write_json(
        path / "index.json",
        {
            "subject": provenance.subject,
            "arm": provenance.arm,
            "hook_name": provenance.hook_name,
            "positions": provenance.positions,
            "generator": provenance.generator,
            "model_sha256": provenance.model_sha256,
            "tokens_sha256": provenance.tokens_sha256,
            "dtype": dtype,
            "d_in": train.shape[1],
            "mean": mean.tolist(),
            "mean_norm": train.norm(dim=1).mean().item(),
            "variance": spectrum.sum().item(),
            # both count dimensions: exp of the spectrum's entropy, and the participation ratio (tr S)^2 / tr S^2
            "effective_rank": torch.exp(-(share * share.log()).sum()).item(),
            "effective_dimension": participation_ratio(spectrum),
            "splits": entries,
        }
        | ({"hook_name_out": provenance.hook_name_out} if provenance.hook_name_out else {}),
    )


def read_activations(path: Path) -> Activations:
    """Open the activations of one arm; raises ReseedError for a missing, truncated or edited shard."""
    index = read_json(path / "index.json")
    shards: dict[str, list[dict[str, Tensor]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for shard in index["splits"][split]["shards"]:
            check_sha256(path / shard["file"], shard["sha256"])
            shards[split].append(read_tensors(path / shard["file"]))
    return Activations(shards, index)


def participation_ratio(spectrum: Tensor) -> float:
    """Effective dimension (tr S)^2 / tr S^2 of a covariance with these eigenvalues [d]."""
    return (spectrum.sum().square() / spectrum.square().sum()).item()
