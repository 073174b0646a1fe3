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
from reseed.params import Variant

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


def read_seed_set(path: Path, variant: Variant, arm: str, seeds: tuple[int, ...]) -> SeedSet:
    """Read models/<subject>/<variant>.

    Raises ReseedError for a missing seed, an SAE of another seed, variant or arm than its place says, or one whose
    snapshots are not those of its weights.
    """
    found = sorted(int(folder.name.removeprefix("seed_")) for folder in path.glob("seed_*"))
    if found != sorted(seeds):
        raise ReseedError(f"{path}: found the seeds {found}, params.yaml: train.seeds asks for {sorted(seeds)}")
    snapshots, metrics = [], []
    for seed in seeds:
        folder = path / f"seed_{seed}"
        config = read_json(folder / "cfg.json")
        _check_identity(config, variant, arm, seed, folder)
        taken = _read_snapshots(folder, config)
        W_dec = read_tensors(folder / "sae_weights.safetensors")["W_dec"]
        check_decoder(W_dec, config, folder)
        if not np.allclose(taken[max(taken)].decoder, unit_rows(W_dec.double().numpy()), atol=1e-5):
            raise ReseedError(f"{folder}: the last decoder of snapshots.safetensors is not that of the weights")
        snapshots.append(taken)
        metrics.append(read_json(folder / "metrics.json"))
    return SeedSet(seeds, snapshots, metrics)


def _check_identity(config: dict[str, Any], variant: Variant, arm: str, seed: int, folder: Path) -> None:
    asked = {
        "reseed_seed": seed,
        "reseed_architecture": variant.architecture,
        "reseed_k": variant.k,
        "reseed_arm": arm,
        "d_sae": variant.d_sae,
    }
    given = config | config.get("metadata", {})
    for name, wanted in asked.items():
        if given.get(name) != wanted:
            raise ReseedError(
                f"{folder}/cfg.json: {name.removeprefix('reseed_')}: found {given.get(name)!r}, asked: {wanted!r}"
            )


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


def _read_snapshots(folder: Path, config: dict[str, Any]) -> dict[int, Dictionary]:
    tensors = read_tensors(folder / "snapshots.safetensors")
    taken = {}
    for step in sorted({int(name.split("/")[0]) for name in tensors}):
        W_dec, W_enc = tensors[f"{step:08d}/W_dec"], tensors[f"{step:08d}/W_enc"]
        check_decoder(W_dec, config, folder / f"snapshots.safetensors step {step}")
        taken[step] = Dictionary(
            decoder=unit_rows(W_dec.double().numpy()),
            encoder=unit_rows(W_enc.double().numpy().T),
            firing_counts=tensors[f"{step:08d}/firing_counts"].numpy(),
        )
    return taken
