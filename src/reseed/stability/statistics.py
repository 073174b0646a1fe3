"""The three statistics of agreement between two dictionaries. Each keeps its own name; none stands in for another."""

from __future__ import annotations

import numpy as np

from reseed.matching import Array, assign, cosines
from reseed.stability.dictionaries import Dictionary

STATISTICS = ("pw_mcc", "mean_max_cos", "shared_fraction")


def agreement(a: Dictionary, b: Dictionary, shared_cosine: float) -> dict[str, float]:
    """All three statistics of two dictionaries with n_a and n_b latents.

    pw_mcc: sum of signed decoder cosines over the Hungarian assignment / max(n_a, n_b) (Song et al. 2025,
    arXiv 2505.20254, there for equal n). mean_max_cos: the mean of the row maxima and of the column maxima of |cos|,
    averaged (what HUSAI calls PWMCC). shared_fraction: the share of assigned pairs whose decoder and encoder cosines
    both exceed `shared_cosine`, of max(n_a, n_b) (Paulo and Belrose 2025, arXiv 2501.16615).
    Empty dictionaries agree in nothing: 0.
    """
    larger = max(len(a.decoder), len(b.decoder))
    if min(len(a.decoder), len(b.decoder)) == 0:
        return dict.fromkeys(STATISTICS, 0.0)
    decoder = cosines(a.decoder, b.decoder)
    rows, columns = assign(decoder)
    encoder = np.einsum("nd,nd->n", a.encoder[rows], b.encoder[columns])
    shared = (decoder[rows, columns] > shared_cosine) & (encoder > shared_cosine)
    matches = best_matches(decoder)
    return {
        "pw_mcc": float(decoder[rows, columns].sum() / larger),
        "mean_max_cos": float((matches[0].mean() + matches[1].mean()) / 2),
        "shared_fraction": float(shared.sum() / larger),
    }


def best_matches(decoder_cosines: Array) -> tuple[Array, Array]:
    """The largest |cos| of each row and of each column."""
    size = np.abs(decoder_cosines)
    return size.max(axis=1), size.max(axis=0)
