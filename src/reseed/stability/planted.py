"""Seed sets that agree and are wrong, planted on a world whose features are known, beside their honest twins.

What tells "stable and wrong" from "stable and right" without the truth is measured on these. Nothing here can be asked
for as a variant: the faults are planted by feeding the trainer rows or seeds that are not what they are said to be, and
by editing what it made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations, Provenance, read_activations, write_activations
from reseed.artifacts import generator
from reseed.matching import Array, assign, cosines, unit_rows
from reseed.params import TRAINED, Consistency, Objectives, SaeTraining, Stability, Train, Variant
from reseed.saes.run import TrainedSae
from reseed.saes.train import train_saes
from reseed.stability.arms import analyse
from reseed.stability.dictionaries import SeedSet
from reseed.stability.recovery import RECOVERED_COSINE
from reseed.stability.retrained import seed_set_of, with_k

HONEST, WRONG_L0 = "honest", "wrong_l0"
"""Seeds that were trained apart: at the variant's own k, and at a third of it."""
PLANTED = ("pulled", "shared_reference", "label_leak")
"""pulled: seeds at the wrong k that the consistency objective held together, presented as independent;
shared_reference: those of wrong_l0, each moved to one more of them; label_leak: honest seeds on rows that hold their
own label."""
PULL = 1.0
"""Coefficient of consistency, in units of a coordinate's mean squared error; ten times as much makes all rows one."""
REFERENCE = 10.0
"""Weight of the shared reference against a row's own direction (the assignment loss of HUSAI took lambda = 10)."""
STEPS = 1500
"""At a constant rate: the faults show early, and the honest twins take as many."""
LEAK = 2.0
"""Norm of the label's direction, in units of the mean magnitude of a feature that is on."""


@dataclass(frozen=True)
class World:
    """Unit features [n_features, d_in], and by split their codes [rows, n_features] and the rows [rows, d_in]."""

    directions: Tensor
    codes: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How SAEs are trained; every control takes the same."""

    variant: Variant
    training: SaeTraining
    train: Train
    device: torch.device

    def saes(self, activations: Activations, variant: Variant, seeds: tuple[int, ...]) -> list[TrainedSae]:
        train = self.train.model_copy(update={"seeds": seeds})
        return train_saes(variant, self.training, train, activations, self.device)


def plant(world: World, recipe: Recipe, folder: Path) -> dict[str, SeedSet]:
    """Every control by name; `folder` is a new directory for the rows, plain and leaked.

    Raises ReseedError for a variant without a k of 3 or more, whose third is a wrong one.
    """
    variant, seeds = recipe.variant, recipe.train.seeds
    k = getattr(variant, "k", 0)
    if k < 3:
        raise ReseedError(f"planted: found a variant of k {k or 'unknown'}, allowed: a k of 3 or more")
    rows = activations_of(dict(world.rows), folder / "rows")
    leaked = activations_of(leak(world), folder / "leaked")
    wrong = with_k(variant, k // 3)
    # one seed more is the reference; coupled seeds are asked for in three groups, of which each passes for independent
    apart = recipe.saes(rows, wrong, (*seeds, max(seeds) + 1))
    pull = Consistency(partner="assigned", coefficient=PULL * rows.d_in, group_size=len(seeds))
    coupled = wrong.model_copy(update={"objectives": Objectives(consistency=pull)})
    together = recipe.saes(rows, coupled, tuple(range(max(seeds) + 2, max(seeds) + 2 + 3 * len(seeds))))
    return {
        HONEST: seed_set_of(recipe.saes(rows, variant, seeds), variant, rows),
        WRONG_L0: seed_set_of(apart[:-1], wrong, rows),
        "pulled": seed_set_of(together[: len(seeds)], wrong, rows),
        "shared_reference": seed_set_of([moved(sae, apart[-1]) for sae in apart[:-1]], wrong, rows),
        "label_leak": seed_set_of(recipe.saes(leaked, variant, seeds), variant, leaked),
    }


def leak(world: World) -> dict[str, Tensor]:
    """The rows with their label in them: which feature is the strongest, as a random direction of its own."""
    labels = unit_rows(torch.randn(world.directions.shape, generator=generator("planted", "labels")).double().numpy())
    codes = world.codes["train"]
    directions = LEAK * float(codes[codes > 0].mean()) * torch.from_numpy(labels).float()
    return {split: rows + directions[world.codes[split].argmax(1)] for split, rows in world.rows.items()}


def moved(sae: TrainedSae, reference: TrainedSae) -> TrainedSae:
    """The SAE with its decoder and encoder rows moved to those of the reference that they match best, one to one.

    A row becomes the direction of (row + 10 * reference), its norm kept, at every step but the first.
    """

    def towards(W_dec: Tensor, W_enc: Tensor) -> tuple[Tensor, Tensor]:
        own, other = W_dec.double().numpy(), reference.weights["W_dec"].double().numpy()
        mine, theirs = assign(cosines(own, other))
        order = np.empty(len(own), dtype=np.intp)
        order[mine] = theirs
        encoder, of_reference = W_enc.double().numpy().T, reference.weights["W_enc"].double().numpy().T[order]
        return _mixed(own, other[order]), _mixed(encoder, of_reference).T

    snapshots = {
        step: taken if step == 0 else (*towards(taken[0], taken[1]), taken[2]) for step, taken in sae.snapshots.items()
    }
    W_dec, W_enc = towards(sae.weights["W_dec"], sae.weights["W_enc"])
    return replace(sae, weights=sae.weights | {"W_dec": W_dec, "W_enc": W_enc}, snapshots=snapshots)


def _mixed(rows: Array, others: Array) -> Tensor:
    directions = unit_rows(unit_rows(rows) + REFERENCE * unit_rows(others))
    return torch.from_numpy(directions * np.linalg.norm(rows, axis=1, keepdims=True)).float()


def activations_of(rows: dict[str, Tensor], path: Path) -> Activations:
    """The rows as activations, written into `path`."""
    of = Provenance("planted", TRAINED, "synthetic", ("row",), "synthetic rows of a planted control", "", "")
    write_activations(rows, of, "float32", path)
    return read_activations(path)


def judged(controls: Mapping[str, SeedSet], directions: Array, options: Stability, key: str) -> dict[str, Any]:
    """By control: kappa of its pw_mcc (absent where its null leaves no room), c_dec beside that of random directions,
    explained variance, the mean cosine of encoder and decoder, and the share of alive latents that is correct.

    Correct: the best signed cosine of the decoder row to a feature [m, d_in] is above 0.8.
    """
    content = {}
    for control, found in controls.items():
        report = analyse(found, options, f"{key}/{control}")
        agreed, latents = report.alive["pw_mcc"], report.latents
        alive = latents.table["alive"].to_numpy()
        best = np.concatenate([cosines(one.decoder, directions).max(axis=1) for one in found.final()])
        assert latents.c_dec is not None
        content[control] = {
            "pw_mcc": agreed.value.value,
            **({} if agreed.kappa is None else {"kappa": agreed.kappa.value}),
            "c_dec": latents.c_dec.value,
            "isotropic_c_dec": latents.isotropic_c_dec,
            "explained_variance": report.held_out["explained_variance"].value,
            "encoder_decoder_cosine": float(latents.table["encoder_decoder_cosine"][alive].mean()),
            "reappearance": float(latents.table["reappearance"][alive].mean()),
            "correct": float((best[alive] > RECOVERED_COSINE).mean()),
            "latents": int(alive.sum()),
        }
    return content
