"""Activation shards [rows, d_in] and the index that says what made them: the one way in and out of the activations."""

from __future__ import annotations

from dataclasses import dataclass
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
    hook_name: str
    positions: tuple[str, ...]
    generator: str
    model_sha256: str
    tokens_sha256: str


@dataclass(frozen=True)
class Activations:
    """The activations of one arm: rows [rows, d_in] by split, memory-mapped where one shard holds a split."""

    splits: dict[str, Tensor]
    index: dict[str, Any]

    @property
    def d_in(self) -> int:
        return int(self.index["d_in"])


def write_activations(splits: dict[str, Tensor], provenance: Provenance, dtype: str, path: Path) -> None:
    """Write shards and index.json into the new directory `path`; statistics are of the training rows, in float64.

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
        for i, block in enumerate(stored.split(ROWS_PER_SHARD)):
            file = path / f"{split}-{i:05d}.safetensors"
            write_tensors(file, {"activations": block})
            shards.append({"file": file.name, "rows": len(block), "sha256": sha256(file)})
        entries[split] = {"rows": len(rows), "shards": shards}
    train = splits["train"].double()
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
        },
    )


def read_activations(path: Path) -> Activations:
    """Open the activations of one arm; raises ReseedError for a missing, truncated or edited shard."""
    index = read_json(path / "index.json")
    splits = {}
    for split in SPLITS:
        blocks = []
        for shard in index["splits"][split]["shards"]:
            check_sha256(path / shard["file"], shard["sha256"])
            blocks.append(read_tensors(path / shard["file"])["activations"])
        splits[split] = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return Activations(splits, index)


def participation_ratio(spectrum: Tensor) -> float:
    """Effective dimension (tr S)^2 / tr S^2 of a covariance with these eigenvalues [d]."""
    return (spectrum.sum().square() / spectrum.square().sum()).item()
