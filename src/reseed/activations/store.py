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
SYNTHETIC_HOOK = "synthetic"
"""The hook point of rows that no model made."""
FEATURES_FILE = "features.safetensors"
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


@dataclass(frozen=True)
class Truth:
    """What rows are made of: directions [n_features, d_in], unit, and codes [test rows, n_features], 0 where off."""

    directions: Tensor
    codes: Tensor


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

    def without_target(self) -> Activations:
        """The same rows as an SAE of the first hook point sees them."""
        shards = {
            split: [{name: tensor for name, tensor in shard.items() if name != "target"} for shard in files]
            for split, files in self.shards.items()
        }
        return Activations(shards, self.index)

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
    quarantine: str | None = None,
    truth: Truth | None = None,
) -> None:
    """Write shards and index.json into the new directory `path`; statistics are of the training rows, in float64.

    beside: {split: {"target" | "sequence" | "labels": tensor of as many rows}}. quarantine: the fault of the subject,
    which the index then names so that no claim rests on it. truth: the features, where they are known.
    Raises ReseedError for non-finite values, an overflow of the chosen dtype, rows of a hook point that no forward pass
    made (or of the hook "synthetic" that one made), or training rows that do not vary.
    """
    _check_generator(provenance, path)
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
        | ({"hook_name_out": provenance.hook_name_out} if provenance.hook_name_out else {})
        | ({"quarantine": quarantine} if quarantine else {})
        | (_write_truth(truth, path) if truth else {}),
    )


def _check_generator(provenance: Provenance, path: Path) -> None:
    """A real model's hook point stands only on a forward pass, and a world's rows only under the hook "synthetic"."""
    synthetic = provenance.hook_name == SYNTHETIC_HOOK
    allowed = "synthetic " if synthetic else "forward pass of the "
    if provenance.arm in ("trained", "random_model") and not provenance.generator.startswith(allowed):
        made_of = f"rows of the hook {SYNTHETIC_HOOK!r}" if synthetic else "a model's"
        raise ReseedError(
            f"{path}: arm {provenance.arm!r} is {made_of}: found the generator {provenance.generator!r}, "
            f"allowed: one that begins with {allowed!r}"
        )


def _write_truth(truth: Truth, path: Path) -> dict[str, str]:
    write_tensors(path / FEATURES_FILE, {"directions": truth.directions, "test": truth.codes})
    return {"features_sha256": sha256(path / FEATURES_FILE)}


def read_truth(path: Path) -> Truth | None:
    """The known features behind the activations in `path`, None if there are none.

    Raises ReseedError for a missing, truncated or edited file.
    """
    expected = read_json(path / "index.json").get("features_sha256")
    if expected is None:
        return None
    check_sha256(path / FEATURES_FILE, expected)
    tensors = read_tensors(path / FEATURES_FILE)
    return Truth(tensors["directions"], tensors["test"])


def read_activations(path: Path) -> Activations:
    """Open the activations of one arm; raises ReseedError for a missing, truncated or edited shard."""
    index = read_json(path / "index.json")
    shards: dict[str, list[dict[str, Tensor]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for shard in index["splits"][split]["shards"]:
            check_sha256(path / shard["file"], shard["sha256"])
            shards[split].append(read_tensors(path / shard["file"]))
    return Activations(shards, index)


def provenance_of(activations: Activations) -> Provenance:
    """What made these activations, from their index."""
    index = activations.index
    hook_name = index["hook_name"]
    return Provenance(
        subject=index["subject"],
        arm=index["arm"],
        hook_name=hook_name if isinstance(hook_name, str) else tuple(hook_name),
        positions=tuple(index["positions"]),
        generator=index["generator"],
        model_sha256=index["model_sha256"],
        tokens_sha256=index["tokens_sha256"],
        hook_name_out=index.get("hook_name_out"),
    )


def participation_ratio(spectrum: Tensor) -> float:
    """Effective dimension (tr S)^2 / tr S^2 of a covariance with these eigenvalues [d]."""
    return (spectrum.sum().square() / spectrum.square().sum()).item()
