"""What the SAEs of a seed set do on held-out rows, as SAELens loads them, and what they did before training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
        (encode(sae, x), encode(start, x)) for sae, start in with_untrained(path, variant, training, train, activations)
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


@torch.no_grad()
def encode(sae: SAE[Any], x: torch.Tensor) -> Array:
    """Activations [rows, d_sae] of an SAE on rows x, as SAELens computes them."""
    return np.asarray(sae.encode(x).float().numpy())
