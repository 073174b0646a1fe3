"""The dictionaries of a seed set, read from disk and checked: decoder rows are latents, never guessed from a shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reseed import ReseedError
from reseed.artifacts import read_json, read_tensors
from reseed.matching import Array, unit_rows

UNIT_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Dictionary:
    """Unit decoder and encoder rows [n_latents, d_in] of one SAE, and on how many training rows each latent fires."""

    decoder: Array
    encoder: Array
    firing_counts: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> Dictionary:
        return Dictionary(self.decoder[mask], self.encoder[mask], self.firing_counts[mask])

    def alive(self, min_count: int) -> NDArray[np.bool_]:
        """True where a latent fires at least `min_count` times per pass over the training rows."""
        return self.firing_counts >= min_count


@dataclass(frozen=True)
class SeedSet:
    """All seeds of a variant on one arm. snapshots: one {step: Dictionary} a seed, the last step being the end."""

    seeds: tuple[int, ...]
    snapshots: list[dict[int, Dictionary]]
    metrics: list[dict[str, Any]]
    cfg: dict[str, Any]

    def at_constant_rate(self, step: int) -> list[Dictionary]:
        """Every seed's dictionary at its last snapshot up to `step` and before its learning rate decayed."""
        return [
            taken[max(s for s in taken if s <= min(step, int(metrics["constant_steps"])))]
            for taken, metrics in zip(self.snapshots, self.metrics, strict=True)
        ]

    def final(self) -> list[Dictionary]:
        return [taken[max(taken)] for taken in self.snapshots]

    def initial(self) -> list[Dictionary]:
        return [taken[0] for taken in self.snapshots]

    @property
    def constant_steps(self) -> list[int]:
        """All steps at which some seed has a snapshot before its learning rate decayed."""
        last = max(int(metrics["constant_steps"]) for metrics in self.metrics)
        return sorted({step for taken in self.snapshots for step in taken if step <= last})


def read_seed_set(path: Path, seeds: tuple[int, ...]) -> SeedSet:
    """Read models/<subject>/<variant>; raises ReseedError for a missing seed or an SAE unlike its config."""
    found = sorted(int(folder.name.removeprefix("seed_")) for folder in path.glob("seed_*"))
    if found != sorted(seeds):
        raise ReseedError(f"{path}: found the seeds {found}, params.yaml: train.seeds asks for {sorted(seeds)}")
    configs = [read_json(path / f"seed_{seed}" / "cfg.json") for seed in seeds]
    shapes = {(config["d_sae"], config["d_in"]) for config in configs}
    if len(shapes) > 1:
        raise ReseedError(f"{path}: its seeds have different shapes [d_sae, d_in]: {sorted(shapes)}")
    snapshots = []
    for seed, config in zip(seeds, configs, strict=True):
        folder = path / f"seed_{seed}"
        check_decoder(read_tensors(folder / "sae_weights.safetensors")["W_dec"], config, folder)
        snapshots.append(_read_snapshots(folder))
    return SeedSet(seeds, snapshots, [read_json(path / f"seed_{seed}" / "metrics.json") for seed in seeds], configs[0])


def check_decoder(W_dec: torch.Tensor, config: dict[str, Any], folder: Path) -> None:
    """Raise ReseedError unless W_dec is [d_sae, d_in] with unit rows, which a transposed decoder is not."""
    expected = (config["d_sae"], config["d_in"])
    if tuple(W_dec.shape) != expected:
        raise ReseedError(
            f"{folder}: W_dec has shape {list(W_dec.shape)}, cfg.json says [d_sae, d_in] = {list(expected)}"
        )
    worst = (W_dec.norm(dim=1) - 1).abs().max().item()
    if worst > UNIT_NORM_TOLERANCE:
        raise ReseedError(
            f"{folder}: a row of W_dec has norm off one by {worst:.3g}, allowed: {UNIT_NORM_TOLERANCE}; "
            "rows must be latents of unit norm (is it transposed?)"
        )


def _read_snapshots(folder: Path) -> dict[int, Dictionary]:
    tensors = read_tensors(folder / "snapshots.safetensors")
    steps = sorted({int(name.split("/")[0]) for name in tensors})
    return {
        step: Dictionary(
            decoder=unit_rows(tensors[f"{step:08d}/W_dec"].double().numpy()),
            encoder=unit_rows(tensors[f"{step:08d}/W_enc"].double().numpy().T),
            firing_counts=tensors[f"{step:08d}/firing_counts"].numpy(),
        )
        for step in steps
    }
