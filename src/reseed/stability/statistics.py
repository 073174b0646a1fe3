"""The statistics of agreement between two dictionaries. Each keeps its own name; none stands in for another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reseed.matching import Array, match, row_and_column_maxima
from reseed.stability.dictionaries import Dictionary

STATISTICS = ("pw_mcc", "mean_max_cos", "shared_fraction", "matching_agreement", "subspace_overlap")


@dataclass(frozen=True)
class Matched:
    """The one-to-one assignment of two dictionaries that makes the sum of their signed decoder cosines largest.

    rows and columns [n]: latents of the first and of the second; decoder and encoder [n]: their cosines. gap: by how
    much the mean cosine could be larger at most (see `assignment.Matching`), 0 for dictionaries of ordinary size.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    decoder: Array
    encoder: Array
    gap: float

    def shared(self, bar: float) -> NDArray[np.bool_]:
        """True for the pairs whose decoder and encoder cosines both exceed `bar`."""
        return (self.decoder > bar) & (self.encoder > bar)


def matched(a: Dictionary, b: Dictionary) -> Matched:
    """Match the latents of two dictionaries, of unequal numbers if need be."""
    found = match(a.decoder, b.decoder)
    encoder = np.einsum("nd,nd->n", a.encoder[found.rows], b.encoder[found.columns])
    return Matched(found.rows, found.columns, np.asarray(found.cosines, float), encoder, found.gap)


def agreement(
    a: Dictionary, b: Dictionary, shared_cosine: float, rank: int, known: Matched | None = None
) -> dict[str, float]:
    """All statistics of two dictionaries with n_a and n_b latents.

    pw_mcc: sum of signed decoder cosines over the Hungarian assignment / max(n_a, n_b) (Song et al. 2025,
    arXiv 2505.20254, there for equal n). mean_max_cos: the mean of the row maxima and of the column maxima of |cos|,
    averaged (what HUSAI calls PWMCC). shared_fraction: the share of assigned pairs whose decoder and encoder cosines
    both exceed `shared_cosine`, of max(n_a, n_b) (Paulo and Belrose 2025, arXiv 2501.16615). matching_agreement: the
    share of max(n_a, n_b) latents to which the decoders' assignment and the encoders' own give the same partner (the
    looser criterion of the same paper). subspace_overlap: mean squared cosine of the principal angles between the
    spans of the `rank` leading directions of the two decoders.
    `known` is their matching where there is one already. Empty dictionaries agree in nothing: 0.
    """
    larger = max(len(a.decoder), len(b.decoder))
    if min(len(a.decoder), len(b.decoder)) == 0:
        return dict.fromkeys(STATISTICS, 0.0)
    found = known or matched(a, b)
    best = row_and_column_maxima(a.decoder, b.decoder)
    return {
        "pw_mcc": float(found.decoder.sum() / larger),
        "mean_max_cos": float((best[0].mean() + best[1].mean()) / 2),
        "shared_fraction": float(found.shared(shared_cosine).sum() / larger),
        "matching_agreement": _same_partner(a, b, found) / larger,
        "subspace_overlap": overlap(a.leading(rank), b.leading(rank)),
    }


def overlap(a: Array, b: Array) -> float:
    """Mean squared cosine of the principal angles between the row spaces of orthonormal a [r, d] and b [s, d].

    1 if the smaller span lies within the larger; for a fixed and a uniformly random span r / d if r >= s.
    """
    return float(np.sum((a @ b.T) ** 2) / min(len(a), len(b)))


def _same_partner(a: Dictionary, b: Dictionary, found: Matched) -> int:
    if a.encoder is a.decoder and b.encoder is b.decoder:  # tied, as the isotropic null is
        return len(found.rows)
    by_encoder = match(a.encoder, b.encoder)
    partner = np.full(len(a.encoder), -1)
    partner[by_encoder.rows] = by_encoder.columns
    return int((partner[found.rows] == found.columns).sum())


def matched_correlations(a: Array, b: Array, found: Matched) -> Array:
    """Pearson correlations [n] of matched latents, of their `standardised` activations a [rows, n_a] and b [rows, n_b].

    A latent that does not vary on these rows correlates with nothing: 0.
    """
    return np.asarray(np.einsum("rn,rn->n", a[:, found.rows], b[:, found.columns]))


def mean_correlation(a: Array, b: Array) -> float:
    """The mean over all n_a * n_b pairs of latents, of `standardised` activations: a matching at random expects it."""
    return float(a.sum(axis=1) @ b.sum(axis=1) / (a.shape[1] * b.shape[1]))


def standardised(activations: Array) -> Array:
    """Columns [rows, n] centred and of norm one, so that a product of two is their correlation; constant ones are 0."""
    activations = activations.astype(float)
    centred = activations - activations.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    varies = norms > 1e-6 * np.sqrt(len(activations)) * np.abs(activations).max(axis=0, initial=0)
    return np.asarray(centred / np.where(varies & (norms > 0), norms, np.inf))
