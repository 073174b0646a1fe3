"""What the SAEs of a seed set do on held-out rows, as SAELens loads them, and what they did before training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE

from reseed.activations.store import Activations
from reseed.matching import Array
from reseed.params import SaeTraining, Train, Variant
from reseed.saes.train import initial_weights
from reseed.stability.arms import Activity

MOST_ROWS = 4096


def held_out_activity(
    path: Path, variant: Variant, training: SaeTraining, train: Train, activations: Activations
) -> Activity:
    """Activations [rows, d_sae] of every seed of models/<subject>/<variant>, trained and not, on the same rows.

    They are test rows, evenly spread.
    """
    x = held_out_rows(activations)
    found = [
        (_encode(sae, x), _encode(start, x))
        for sae, start in with_untrained(path, variant, training, train, activations)
    ]
    return Activity([acts for acts, _ in found], [acts for _, acts in found])


def with_untrained(
    path: Path, variant: Variant, training: SaeTraining, train: Train, activations: Activations
) -> Iterator[tuple[SAE[Any], SAE[Any]]]:
    """Every seed's SAE of models/<subject>/<variant>, beside the untrained SAE of the same shape.

    The untrained SAE of a seed has the weights it trained from, its threshold calibrated as at the end.
    """
    for seed in train.seeds:
        sae = SAE.load_from_disk(path / f"seed_{seed}", device="cpu").requires_grad_(False)
        start = type(sae)(sae.cfg).requires_grad_(False)
        start.load_state_dict(initial_weights(variant, training, train, seed, activations))
        yield sae, start


def held_out_rows(activations: Activations) -> torch.Tensor:
    """At most MOST_ROWS test rows, evenly spread: all seeds and nulls are read on the same ones."""
    rows = activations.rows("test")
    return rows.take(held_out_places(len(rows))).float()


def held_out_places(rows: int) -> torch.Tensor:
    """Which of so many test rows are read: the places [<= MOST_ROWS] of `held_out_rows`."""
    return torch.linspace(0, rows - 1, min(MOST_ROWS, rows), dtype=torch.float64).round().long()


def held_out_report(activations: Activations) -> dict[str, int | float]:
    """How many test rows there are, and the share that also stand among the training rows, bit for bit.

    A row that was trained on is not held out, whatever its split is called.
    """
    train, test = (_row_hashes(activations.rows(split).whole()) for split in ("train", "test"))
    return {"rows": len(test), "repeated": float(np.isin(test, train).mean())}


def _row_hashes(rows: torch.Tensor) -> NDArray[np.uint64]:
    """A 64-bit linear hash [rows] of the bits of every row: equal rows have equal ones, others do by chance 2^-64."""
    bits = rows.reshape(len(rows), -1).contiguous().view(torch.uint8).numpy()
    weights = np.random.default_rng(0).integers(0, 2**63, bits.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(bits), dtype=np.uint64)
    for start in range(0, len(bits), 8192):  # a wider copy of all rows would not fit beside them
        block = bits[start : start + 8192].astype(np.uint64) + 1
        hashes[start : start + 8192] = (block * weights).sum(axis=1, dtype=np.uint64)
    return hashes


@torch.no_grad()
def _encode(sae: SAE[Any], x: torch.Tensor) -> Array:
    return np.asarray(sae.encode(x).float().numpy())
