"""What agreement of the same shape looks like when nothing was learned. Every null goes through `agreement` itself."""

from __future__ import annotations

import numpy as np
from scipy.integrate import quad
from scipy.special import betainc

from reseed.matching import Array, unit_rows
from reseed.stability.dictionaries import Dictionary

NULLS = ("isotropic", "covariance", "untrained")


def isotropic_mean_max_cos(n_a: int, n_b: int, d_in: int) -> float:
    """Exact expectation of mean_max_cos for independent uniform unit vectors.

    cos^2 of two such vectors is Beta(1/2, (d-1)/2), so the maximum of |cos| over m vectors has the distribution
    function I_{t^2}(1/2, (d-1)/2)^m and the mean of 1 minus its integral over [0, 1].
    """

    def expected_maximum(m: int) -> float:
        return float(quad(lambda t: 1 - betainc(0.5, (d_in - 1) / 2, t * t) ** m, 0, 1, limit=200)[0])

    return (expected_maximum(n_b) + expected_maximum(n_a)) / 2


def isotropic(like: Dictionary, random: np.random.Generator) -> Dictionary:
    """Uniform unit decoder rows, as many as `like` has, with the encoder equal to the decoder (a tied random SAE)."""
    rows = unit_rows(random.standard_normal(like.decoder.shape))
    return Dictionary(rows, rows, like.firing_counts)


def covariance(like: Dictionary, random: np.random.Generator) -> Dictionary:
    """Gaussian rows with the mean and covariance that the joint (decoder, encoder) rows of `like` have, made unit.

    This is the null for anisotropy: dictionaries that live in the same few dimensions agree by chance, and the
    isotropic floor does not know it. Drawing decoder and encoder jointly keeps their alignment.
    """
    joint = np.hstack([like.decoder, like.encoder])
    mean = joint.mean(axis=0)
    mixing = random.standard_normal((len(joint), len(joint))) / np.sqrt(len(joint))
    drawn: Array = mixing @ (joint - mean) + mean
    d_in = like.decoder.shape[1]
    return Dictionary(unit_rows(drawn[:, :d_in]), unit_rows(drawn[:, d_in:]), like.firing_counts)
