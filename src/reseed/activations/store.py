"""Activation shards and the index that says what made them: the one way in and out of the activations.

A shard holds `activations` [rows, d_in], or [rows, n_layers, d_in] of several hook points, and beside them what some
SAEs need: `target` [rows, d_out] (where a transcoder writes), `sequence` [rows] (which sequence a row is from; rows of
one sequence follow each other) and `labels` [rows] (a class, -1 where there is none).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from reseed import ReseedError
from reseed.activations.writer import ROWS_PER_SHARD, ActivationWriter
from reseed.artifacts import check_sha256, read_json, read_tensors, sha256, write_tensors
from reseed.params import SPLITS

SYNTHETIC_HOOK = "synthetic"
"""The hook point of rows that no model made."""
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FEATURES_FILE = "features.safetensors"


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
        """The rows at `indices` [n], in that order; raises IndexError for one outside the rows."""
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= len(self)):
            raise IndexError(f"rows {int(indices.min())} to {int(indices.max())} of {len(self)}")
        taken = self.blocks[0].new_empty((len(indices), *self.shape[1:]))
        into, wanted = _as_bits(taken), indices.numpy()
        shard = torch.bucketize(indices, self.starts[1:], right=True).numpy()
        for i in np.unique(shard).tolist():
            _gather(_as_bits(self.blocks[i]), wanted, int(self.starts[i]), np.flatnonzero(shard == i), into)
        return taken

    def whole(self) -> Tensor:
        return self.blocks[0] if len(self.blocks) == 1 else torch.cat(self.blocks)


def _as_bits(rows: Tensor) -> Any:
    """The rows as numpy integers [rows, d] in the same memory: numba knows neither bfloat16 nor float16."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:])).view(BITS[rows.element_size()]).numpy()


@njit(cache=True, nogil=True)
def _gather(block: Any, wanted: Any, start: int, places: Any, into: Any) -> None:
    """into[p] = block[wanted[p] - start] for p in places: one copy, where torch's indexing would make two slow ones."""
    for p in places:
        row = wanted[p] - start
        for j in range(into.shape[1]):
            into[p, j] = block[row, j]


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
    index = new_index(provenance, path) | ({"quarantine": quarantine} if quarantine else {})
    with ActivationWriter(path, index, dtype, rows_per_shard) as writer:
        for split in SPLITS:
            writer.append(split, splits[split], (beside or {}).get(split))
        if truth:
            writer.index |= _write_truth(truth, path)
        writer.finish()


def new_index(provenance: Provenance, path: Path) -> dict[str, Any]:
    """What the index in `path` will say of what made the rows.

    Raises ReseedError for rows of a hook point that no forward pass made (or of the hook "synthetic" that one made).
    """
    _check_generator(provenance, path)
    index = {
        "subject": provenance.subject,
        "arm": provenance.arm,
        "hook_name": provenance.hook_name,
        "positions": provenance.positions,
        "generator": provenance.generator,
        "model_sha256": provenance.model_sha256,
        "tokens_sha256": provenance.tokens_sha256,
    }
    return index | ({"hook_name_out": provenance.hook_name_out} if provenance.hook_name_out else {})


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
