"""A site's project of which every number is known: tables of latents, their examples and their partners, by rule."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from reseed.artifacts import write_parquet

VARIANTS = ("modular/topk-k4", "modular/topk-k8", "gsm8k-gpt/gpt-topk-16", "superposition/even-topk-12")
WITH_TABLES = "modular/topk-k4"
SEEDS, LATENTS = (0, 1, 2), 60
CLAIM = "low-l0-agreement"
CACHED = shutil.ignore_patterns("tables", "examples", "saebench", "evals", "sae_probes")
"""What DVC caches, which a clone may or may not have."""


def planted_tables(folder: Path) -> None:
    """Tables of latents, examples and partners whose every number is known by rule."""
    seeds, latents = (column.ravel() for column in np.meshgrid(SEEDS, np.arange(LATENTS), indexing="ij"))
    alive = latents < 50
    table = pd.DataFrame(
        {
            "seed": seeds, "latent": latents, "firing_count": np.where(alive, 100 * (latents + 1), 0), "alive": alive,
            "reappearance": np.where(alive, (latents % 3) / 2, np.nan),
            "partner_cosine": np.where(alive, latents / 50, np.nan),
        }
    )  # fmt: skip
    arms = [table.assign(arm=arm) for arm in ("trained", "random_model", "gaussian")]
    write_parquet(folder / "tables" / "latents.parquet", pd.concat(arms))
    living = table[table.alive]
    examples = [
        {"seed": seed, "latent": latent, "row": 10 * latent + i, "activation": 3.5 - i, "before": f"{latent} + {i} ",
         "token": "=", "after": f" {latent + i} <&>"}
        for seed, latent in living[["seed", "latent"]].itertuples(index=False) for i in range(3)
    ]  # fmt: skip
    write_parquet(folder / "examples" / "examples.parquet", pd.DataFrame(examples))
    partners = [
        {"seed": seed, "latent": latent, "other_seed": other, "partner": 49 - latent, "decoder_cosine": 0.875,
         "encoder_cosine": 0.625}
        for seed, latent in living[["seed", "latent"]].itertuples(index=False) for other in SEEDS if other != seed
    ]  # fmt: skip
    write_parquet(folder / "examples" / "partners.parquet", pd.DataFrame(partners))
