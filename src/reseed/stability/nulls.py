"""What agreement of the same shape looks like when nothing was learned. Every null goes through `agreement` itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.special import betainc

from reseed.matching import Array, unit_rows
from reseed.stability.dictionaries import Dictionary

NULLS = ("isotropic", "covariance", "untrained")
STRETCH_DRAWS, STRETCH_STEPS = 2000, 10


def isotropic_mean_max_cos(n_a: int, n_b: int, d_out: int) -> float:
    """Exact expectation of mean_max_cos for independent uniform unit vectors.

    cos^2 of two such vectors is Beta(1/2, (d-1)/2), so the maximum of |cos| over m vectors has the distribution
    function I_{t^2}(1/2, (d-1)/2)^m and the mean of 1 minus its integral over [0, 1].
    """

    def expected_maximum(m: int) -> float:
        return float(quad(lambda t: 1 - betainc(0.5, (d_out - 1) / 2, t * t) ** m, 0, 1, limit=200)[0])

    return (expected_maximum(n_b) + expected_maximum(n_a)) / 2


def isotropic(n: int, d_out: int, random: np.random.Generator) -> Dictionary:
    """n uniform unit decoder rows, with the encoder equal to the decoder (a tied random SAE).

    Tied is the strictest: an encoder of its own could only lower the share of latents that match under both.
    """
    rows = unit_rows(random.standard_normal((n, d_out)))
    return Dictionary(rows, rows, np.zeros(n, dtype=np.int64))


@dataclass(frozen=True)
class CovarianceNull:
    """Gaussian dictionaries whose rows, once unit, have the mean and covariance of the rows of all seeds together.

    This is the null for anisotropy: dictionaries that live in the same few dimensions agree by chance, and the
    isotropic floor does not know it. Decoder and encoder rows are drawn jointly, which keeps their alignment.
    Two things would make it too mild, and independent dictionaries seem to agree: a Gaussian of the same covariance,
    because making its rows unit flattens the spectrum again (hence `stretched`), and each seed's own covariance,
    whose sampling error the seeds do not share (hence all seeds together).
    """

    root: Array
    """[r, d_out + d_in]: its Gram matrix is the joint covariance of (decoder, encoder) rows before they are unit."""
    mean: Array
    d_out: int

    @classmethod
    def of(cls, seeds: list[Dictionary]) -> CovarianceNull:
        decoder, decoder_mean = stretched(np.vstack([seed.decoder for seed in seeds]))
        encoder, encoder_mean = stretched(np.vstack([seed.encoder for seed in seeds]))
        root = np.linalg.qr(np.hstack([decoder, encoder]), mode="r") / np.sqrt(len(decoder))
        return cls(root, np.concatenate([decoder_mean, encoder_mean]), len(decoder_mean))

    def draw(self, n: int, random: np.random.Generator) -> Dictionary:
        """A dictionary of n latents."""
        rows = random.standard_normal((n, len(self.root))) @ self.root + self.mean
        decoder, encoder = np.hsplit(rows, [self.d_out])
        return Dictionary(unit_rows(decoder), unit_rows(encoder), np.zeros(n, dtype=np.int64))


def stretched(rows: Array) -> tuple[Array, Array]:
    """Centred rows [n, d] and a mean [d] whose Gaussian has, made unit, mean and covariance of the unit rows [n, d].

    The fixed point of Tyler 1987 (Annals of Statistics 15, 234) for the shape of directional data, restricted to the
    eigenvectors of the covariance so that it exists for n < d, with the length of the mean matched as well.
    """
    mean = rows.mean(axis=0)
    U, singular, Vt = np.linalg.svd(rows - mean, full_matrices=False)
    kept = singular > 1e-6 * max(singular[0], 1e-12)
    U, singular, Vt = U[:, kept], singular[kept], Vt[kept]
    variance = singular**2 / len(rows)
    along = Vt @ mean
    across = max(0.0, float(mean @ mean - along @ along))  # squared length of the mean outside the span of the rows
    half = np.random.default_rng(0).standard_normal((STRETCH_DRAWS // 2, len(singular)))
    g = np.vstack([half, -half])
    stretch, pull = np.ones(len(singular)), 1.0
    for _ in range(STRETCH_STEPS):
        x = g * (np.sqrt(variance) * stretch) + pull * along
        length = np.sqrt(np.sum(x**2, axis=1, keepdims=True) + pull**2 * across)
        x /= length
        stretch *= np.sqrt(variance / x.var(axis=0))
        kept_mean = float(x.mean(axis=0) @ along) + pull * across * float(np.mean(1 / length))
        pull *= float(mean @ mean) / kept_mean if mean @ mean > 1e-12 else 1.0
    return (U * (singular * stretch)) @ Vt, pull * mean
