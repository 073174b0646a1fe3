"""Seed sets whose agreement is known, without training."""

from __future__ import annotations

import numpy as np
import torch
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

from reseed.matching import Array, unit_rows
from reseed.params import Correctness, Stability
from reseed.stability.dictionaries import Dictionary, SeedSet

STEPS = (0, 100, 200, 400, 800)


def dictionary(rows: Array, counts: list[int] | None = None) -> Dictionary:
    fires = np.full(len(rows), 1000) if counts is None else np.array(counts)
    return Dictionary(unit_rows(rows), unit_rows(rows), fires.astype(np.int64))


def seed_set(
    finals: list[Dictionary], random: np.random.Generator, converged: bool = True, group_size: int = 1
) -> SeedSet:
    """Seeds that start from random rows and stand at their final dictionary from step 100 on."""
    snapshots = []
    for final in finals:
        start = dictionary(random.standard_normal(final.decoder.shape))
        snapshots.append({step: final if step else start for step in STEPS})
    metrics = [
        {
            "converged": int(converged), "steps": 800, "constant_steps": 800, "cosine_to_init": 0.2,
            "explained_variance": 0.9, "mse": 1.0, "l0": 4.0,
        }
        for _ in finals
    ]  # fmt: skip
    return SeedSet(tuple(range(len(finals))), snapshots, metrics, group_size)


def stability_options(null_draws: int = 4) -> Stability:
    """As in params.yaml, with fewer draws."""
    correctness = Correctness(stable_kappa=0.8, correct_gt_mcc=0.9)
    return Stability(
        alive_min_count=10, shared_cosine=0.7, null_draws=null_draws, confidence=0.95, plateau_tolerance=0.03,
        correctness=correctness,
    )  # fmt: skip


def exact_sae(d_in: int, dimensions: list[int]) -> StandardSAE:
    """A ReLU SAE that gives back these dimensions of a row and zero in the others.

    Latent i is the positive part of dimension i, latent d_in + i the negative one; those of other dimensions are dead.
    """
    seen = torch.zeros(d_in, d_in)
    seen[dimensions, dimensions] = 1
    sae = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=2 * d_in, apply_b_dec_to_input=False, device="cpu"))
    rows = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    weights = {
        "W_enc": torch.cat([seen, -seen], dim=1), "b_enc": torch.zeros(2 * d_in), "W_dec": rows,
        "b_dec": torch.zeros(d_in),
    }  # fmt: skip
    sae.load_state_dict(weights)
    return sae.requires_grad_(False)
