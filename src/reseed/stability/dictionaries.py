"""The dictionaries of a seed set, read from disk and checked: decoder rows are latents, never guessed from a shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reseed import ReseedError
from reseed.artifacts import SIGNIFICANT_DIGITS, read_json, read_tensors
from reseed.matching import Array, unit_rows
from reseed.params import Variant
from reseed.stability.jackknife import Groups

UNIT_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Dictionary:
    """Unit decoder rows [n_latents, d_out] and encoder rows [n_latents, d_in] of one SAE, and how often each fires.

    d_out is d_in, but for a transcoder. A latent with a decoder row in each of n_layers layers has them end to end,
    divided by sqrt(n_layers): [n_latents, n_layers * d_in], where a cosine is the mean of the cosines of the layers.
    firing_counts [n_latents]: training rows.
    """

    decoder: Array
    encoder: Array
    firing_counts: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> Dictionary:
        return Dictionary(self.decoder[mask], self.encoder[mask], self.firing_counts[mask])

    def leading(self, rank: int) -> Array:
        """The `rank` leading orthonormal directions [<= rank, d_out] of the decoder rows, uncentred."""
        return self._directions[:rank]

    @cached_property
    def _directions(self) -> Array:
        if len(self.decoder) < self.decoder.shape[1]:
            return np.asarray(np.linalg.svd(self.decoder, full_matrices=False)[2])
        return np.asarray(np.linalg.eigh(self.decoder.T @ self.decoder)[1].T[::-1])

    def alive(self, min_count: int) -> NDArray[np.bool_]:
        """True where a latent fires at least `min_count` times per pass over the training rows."""
        return self.firing_counts >= min_count


@dataclass(frozen=True)
class SeedSet:
    """All seeds of a variant on one arm. snapshots: one {step: Dictionary} a seed, the last step being the end.

    group_size: how many consecutive seeds trained together.
    """

    seeds: tuple[int, ...]
    snapshots: list[dict[int, Dictionary]]
    metrics: list[dict[str, Any]]
    group_size: int = 1

    @property
    def groups(self) -> Groups:
        return Groups(len(self.seeds), self.group_size)

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

    Raises ReseedError for a missing seed, seeds that are not 3 whole groups or more, an SAE of another seed, variant
    or arm than its place says, or one whose snapshots are not those of its weights.
    """
    found = sorted(int(folder.name.removeprefix("seed_")) for folder in path.glob("seed_*"))
    if found != sorted(seeds):
        raise ReseedError(f"{path}: found the seeds {found}, params.yaml: train.seeds asks for {sorted(seeds)}")
    size = variant.group_size
    if len(seeds) % size or len(seeds) < 3 * size:
        raise ReseedError(
            f"{path}: found {len(seeds)} seeds in groups of {size} (objectives.consistency.group_size), allowed: 3 "
            "whole groups or more, since only groups are independent"
        )
    snapshots, metrics = [], []
    for place, seed in enumerate(seeds):
        folder = path / f"seed_{seed}"
        config = read_json(folder / "cfg.json")
        first = place - place % size
        _check_identity(config, variant, arm, seed, list(seeds[first : first + size]), folder)
        taken = _read_snapshots(folder, config)
        W_dec = read_tensors(folder / "sae_weights.safetensors")["W_dec"]
        check_decoder(W_dec, config, folder)
        if not np.allclose(taken[max(taken)].decoder, _latent_rows(W_dec), atol=1e-5):
            raise ReseedError(f"{folder}: the last decoder of snapshots.safetensors is not that of the weights")
        snapshots.append(taken)
        metrics.append(read_json(folder / "metrics.json"))
    return SeedSet(seeds, snapshots, metrics, size)


def _check_identity(
    config: dict[str, Any], variant: Variant, arm: str, seed: int, group: list[int], folder: Path
) -> None:
    metadata = config.get("metadata", {})
    found = _flat(metadata.get("reseed_variant", {}))
    asked = _flat(variant.model_dump(mode="json", exclude_defaults=True))
    compared = [
        ("seed", metadata.get("reseed_seed"), seed),
        ("the seeds trained together", metadata.get("reseed_group"), group),
        ("arm", metadata.get("reseed_arm"), arm),
        ("d_sae", config.get("d_sae"), variant.d_sae),
        *((name, found.get(name), asked.get(name)) for name in asked | found),
    ]
    wrong = dict.fromkeys(f"{name}: found {_said(a)}, asked: {_said(b)}" for name, a, b in compared if a != b)
    if wrong:
        raise ReseedError(f"{folder}/cfg.json: {'; '.join(wrong)}")


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their dotted names, floats as JSON has them; what is at its default is left out."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            is_float = isinstance(value, float)
            flat[prefix + name] = float(f"{value:.{SIGNIFICANT_DIGITS}g}") if is_float else value
    return flat


def _said(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def check_decoder(W_dec: torch.Tensor, config: dict[str, Any], folder: Path) -> None:
    """Raise ReseedError unless W_dec has the shape of its config and unit rows, which a transposed decoder has not.

    The shape is [d_sae, d_in], of a transcoder [d_sae, d_out], of a decoder per layer [n_layers, d_sae, d_in].
    """
    layers = ["n_layers"] if _per_layer(config) else []
    names = [*layers, "d_sae", "d_out" if "d_out" in config else "d_in"]
    expected = [config[name] for name in names]
    if list(W_dec.shape) != expected:
        raise ReseedError(
            f"{folder}: W_dec has shape {list(W_dec.shape)}, cfg.json says [{', '.join(names)}] = {expected}"
        )
    worst = (W_dec.norm(dim=-1) - 1).abs().max().item()
    if worst > UNIT_NORM_TOLERANCE:
        raise ReseedError(
            f"{folder}: a row of W_dec has norm off one by {worst:.3g}, allowed: {UNIT_NORM_TOLERANCE}; "
            "rows must be latents of unit norm (is it transposed?)"
        )


def _per_layer(config: dict[str, Any]) -> bool:
    return config.get("decoder") == "per_layer"


def _latent_rows(W_dec: torch.Tensor) -> Array:
    """Unit rows, one a latent, of W_dec [d_sae, d_out] or [n_layers, d_sae, d_in]."""
    layers = [unit_rows(layer.double().numpy()) for layer in (W_dec if W_dec.ndim == 3 else [W_dec])]
    stacked: Array = np.hstack(layers) / np.sqrt(len(layers))
    return stacked


def _read_snapshots(folder: Path, config: dict[str, Any]) -> dict[int, Dictionary]:
    tensors = read_tensors(folder / "snapshots.safetensors")
    taken = {}
    for step in sorted({int(name.split("/")[0]) for name in tensors}):
        W_dec, W_enc = tensors[f"{step:08d}/W_dec"], tensors[f"{step:08d}/W_enc"]
        place = folder / f"snapshots.safetensors step {step}"
        if _per_layer(config) and len(W_dec) == config["n_layers"] * config["d_sae"]:
            W_dec = W_dec.unflatten(0, (config["n_layers"], config["d_sae"]))  # the layers lie under each other
        check_decoder(W_dec, config, place)
        if list(W_enc.shape) != [config["d_in"], config["d_sae"]]:
            raise ReseedError(
                f"{place}: W_enc has shape {list(W_enc.shape)}, cfg.json says [d_in, d_sae] = "
                f"{[config['d_in'], config['d_sae']]}"
            )
        taken[step] = Dictionary(
            decoder=_latent_rows(W_dec),
            encoder=unit_rows(W_enc.double().numpy().T),
            firing_counts=tensors[f"{step:08d}/firing_counts"].numpy(),
        )
    return taken
