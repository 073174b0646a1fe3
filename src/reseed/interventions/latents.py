"""Which latent speaks for a concept, in a trained SAE and in those that are its controls; chosen on training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from scipy.stats import chisquare
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.matching import Array
from reseed.stability.activity import encode
from reseed.stability.statistics import standardised

NEIGHBOURS = 8
"""A random latent of equal frequency is one of so many that fire nearly as often."""
DRAWN, LEAST_P = 10, 1e-6


@dataclass(frozen=True)
class Chosen:
    """A latent and its numbers on training rows: sigma, the standard deviation of its activation over all rows;
    on_value, its mean activation where the concept is on; correlation, with the concept."""

    sae: SAE[Any]
    latent: int
    sigma: float
    on_value: float
    correlation: float

    @property
    def direction(self) -> Tensor:
        """Its decoder row [d_in]."""
        row: Tensor = self.sae.W_dec[self.latent]
        return row


@dataclass(frozen=True)
class Candidates:
    """An SAE's latents on training rows: acts [rows, d_sae], and which of them are alive [d_sae]."""

    sae: SAE[Any]
    acts: Array
    alive: NDArray[np.bool_]

    @classmethod
    def of(cls, sae: SAE[Any], x: Tensor, alive: NDArray[np.bool_] | None = None) -> Candidates:
        """alive None: those that fire on any of the rows x [rows, d_in]."""
        acts = encode(sae, x)
        return cls(sae, acts, np.asarray((acts > 0).any(axis=0)) if alive is None else alive)

    def best(self, on: Tensor, known: Tensor) -> Chosen | None:
        """The alive latent that correlates most with a concept, on [rows] bool, over the rows `known`; None if no
        correlation is above zero."""
        acts = self.acts[known.numpy()]
        correlations = standardised(acts).T @ standardised(on[known].numpy()[:, None])[:, 0]
        correlations[~self.alive] = 0
        latent = int(np.argmax(correlations))
        if correlations[latent] <= 0:
            return None
        return Chosen(
            self.sae,
            latent,
            float(self.acts[:, latent].std()),
            float(acts[on[known].numpy(), latent].mean()),
            float(correlations[latent]),
        )

    def as_frequent(self, latent: int, draws: int, random: torch.Generator) -> Tensor:
        """Decoder rows [draws, d_in] of other alive latents that fire nearly as often."""
        fires = (self.acts > 0).mean(axis=0)
        others = np.flatnonzero(self.alive & (np.arange(len(fires)) != latent))
        near = others[np.argsort(np.abs(fires[others] - fires[latent]), kind="stable")[: max(NEIGHBOURS, draws)]]
        return self._drawn(near, draws, random)

    def shuffled(self, latent: int, draws: int, random: torch.Generator) -> Tensor:
        """Decoder rows [draws, d_in] of any other alive latents: what a shuffled decoder has in its place."""
        return self._drawn(np.flatnonzero(self.alive & (np.arange(len(self.alive)) != latent)), draws, random)

    def _drawn(self, among: NDArray[np.intp], draws: int, random: torch.Generator) -> Tensor:
        if not len(among):
            return torch.zeros(draws, self.sae.W_dec.shape[1])
        rows: Tensor = self.sae.W_dec[drawn(among, draws, random)]
        return rows


def drawn(among: NDArray[np.intp], draws: int, random: torch.Generator) -> list[int]:
    """So many of some latents, each equally likely and none twice before all have been."""
    order = torch.randperm(len(among), generator=random)
    return [int(among[order[i % len(among)]]) for i in range(draws)]


def check_drawing() -> None:
    """Raise ReseedError if `drawn` prefers some latents: a test against chosen controls says nothing of others.

    Pearson's chi-square test of a thousand first draws, whose outcome is the same at every run.
    """
    random = generator("causal", "drawing")
    counts = np.bincount([drawn(np.arange(DRAWN), 1, random)[0] for _ in range(100 * DRAWN)], minlength=DRAWN)
    if (p := float(chisquare(counts).pvalue)) < LEAST_P:
        raise ReseedError(
            f"random latents: {DRAWN} of them are drawn {counts.tolist()} times (p {p:.2g}), allowed: each about 100 "
            f"times (p {LEAST_P:g} or more)"
        )
