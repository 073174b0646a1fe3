"""What is refused before a figure is made: rows, SAEs and seeds that are not what they are counted as."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations, Rows
from reseed.artifacts import read_json
from reseed.params import RANDOM_MODEL, SPLITS, Train, Variant
from reseed.saes.checks import EXACT_STATES
from reseed.saes.export import evaluate
from reseed.saes.rows import blocks, seen_by
from reseed.stability.dictionaries import SeedSet

REPEATED_SHARE = 0.5
"""Largest share of a held-out split that may be rows of another split; a language has tokens that begin many texts."""
RECORDED = ("explained_variance", "mse", "l0")
RECORDED_TOLERANCE = 1e-3
"""Relative, of the variance for what is explained of it; another processor rounds otherwise, and sends a pre-activation
near a threshold to its other side."""


def check_rows(activations: Activations, folder: Path) -> None:
    """Raise ReseedError for a held-out split whose rows are those of another split, unless they are states of a world,
    of which there are few: what is found there carries its share of repeated rows, and no claim rests on it.

    folder: where these activations are.
    """
    if str(activations.index.get("generator", "")).startswith(EXACT_STATES):
        return
    digests = {split: _digests(activations.rows(split)) for split in SPLITS}
    for other, split in combinations(SPLITS, 2):
        share = torch.isin(digests[split], digests[other]).double().mean().item()
        if share > REPEATED_SHARE:
            raise ReseedError(
                f"{folder}: {share:.1%} of the rows of the split {split!r} are rows of {other!r}, allowed: at most "
                f"{REPEATED_SHARE:.0%}; what is fitted or chosen on one split is reported on another"
            )


def held_out_report(activations: Activations) -> dict[str, int | float]:
    """How many test and training rows there are, and the share of test rows that are also training rows, bit for bit.

    A row that was trained on is not held out, whatever its split is called; the gate `held_out` of a claim reads this.
    """
    train, test = (_digests(activations.rows(split)) for split in ("train", "test"))
    return {"rows": len(test), "training_rows": len(train), "repeated": torch.isin(test, train).double().mean().item()}


def check_control(trained: Mapping[str, Any], index: Mapping[str, Any], folder: Path) -> None:
    """Raise ReseedError if the index of the arm of random weights names the model that the trained arm's names."""
    if index["arm"] == RANDOM_MODEL and index["model_sha256"] == trained["model_sha256"]:
        raise ReseedError(
            f"{folder / 'index.json'}: model_sha256: found {index['model_sha256'][:12]}…, that of the trained arm, "
            "allowed: the hash of a model with random weights"
        )


def _digests(rows: Rows) -> Tensor:
    """One int64 a row: equal for rows of equal bits, practically never for others."""
    width = torch.Size(rows.shape[1:]).numel()
    random = torch.Generator().manual_seed(0)
    factors = torch.randint(-(1 << 62), 1 << 62, (width,), generator=random) | 1
    found = []
    for block in blocks(rows):
        bits = block.flatten(1).contiguous().view({2: torch.int16, 4: torch.int32}[block.element_size()])
        found.append((bits.long() * factors).sum(1))
    return torch.cat(found)


def check_recorded(path: Path, variant: Variant, seeds: tuple[int, ...], activations: Activations) -> None:
    """Evaluate every SAE of models/<subject>/<variant> again, as SAELens loads it, and compare with its metrics.json.

    Raises ReseedError if explained variance, MSE or L0 on the test rows is another, or the L0 is not below d_in.
    """
    seen = seen_by(variant, activations)
    for seed in seeds:
        folder = path / f"seed_{seed}"
        sae = SAE.load_from_disk(folder, device="cpu").requires_grad_(False)
        found, recorded = evaluate(sae, seen), read_json(folder / "metrics.json")
        for name in RECORDED:
            whole = 1.0 if name == "explained_variance" else max(abs(found[name]), abs(recorded[name]))
            if abs(found[name] - recorded[name]) > RECORDED_TOLERANCE * whole:
                raise ReseedError(
                    f"{folder}: the SAE as loaded has {name} {found[name]:.4g} on the test rows, its metrics.json says "
                    f"{recorded[name]:.4g}, allowed: the same; it was not written, loaded or measured as it was trained"
                )
        if found["l0"] >= activations.d_in:
            raise ReseedError(
                f"{folder}: L0 is {found['l0']:.4g} on the test rows, allowed: less than d_in ({activations.d_in}); an "
                "SAE with L0 >= d_in is an identity"
            )


def check_apart(seed_set: SeedSet, train: Train, path: Path) -> None:
    """Raise ReseedError if two seeds began from the same decoder though the initialisation is what a seed changes."""
    if train.vary == "order":
        return
    for (one, first), (other, second) in combinations(zip(seed_set.seeds, seed_set.initial(), strict=True), 2):
        if np.array_equal(first.decoder, second.decoder):
            raise ReseedError(
                f"{path}: the seeds {one} and {other} began from the same decoder, allowed: each from its own "
                "(train.vary); they are one run, and agree for that reason"
            )
