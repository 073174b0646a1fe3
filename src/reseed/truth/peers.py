"""What an SAE must be better than to be worth its name: neurons, principal and independent components."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning

from reseed.artifacts import derive_seed
from reseed.matching import Array, unit_rows
from reseed.truth.detection import Firing

RATES = np.geomspace(0.5, 0.005, 18)
"""A peer has no threshold of its own: it fires on one of these shares of the training rows, chosen there."""
RANK_TOLERANCE = 1e-5
"""Components with a smaller share of the largest singular value are rounding, and whitening would blow them up."""


@dataclass(frozen=True)
class Peer:
    """Units that no sparse training made. atoms [n, d_in], unit rows, and the coordinates [rows, n] of rows in them."""

    atoms: Array
    train: Array
    test: Array

    @property
    def dictionary(self) -> Array:
        """Both signs of every atom, as a latent has one sign."""
        return np.vstack([self.atoms, -self.atoms])

    def firing(self) -> Firing:
        """Both signs of every unit, at every one of RATES."""
        train, test = (np.hstack([found, -found]) for found in (self.train, self.test))
        cuts = np.quantile(train, 1 - RATES, axis=0)  # [levels, n]
        return Firing(_above(train, cuts), _above(test, cuts), len(RATES))


def _above(values: Array, cuts: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.asarray((values[:, :, None] > cuts.T[None]).reshape(len(values), -1))


def peers(train: Array, test: Array, key: str) -> dict[str, Peer]:
    """neurons (the dimensions themselves), pca and ica (FastICA), fitted on training rows [rows, d_in].

    As many components as the rows have dimensions; `key` seeds FastICA, whose last iterate counts if it never settles.
    """
    mean = train.mean(axis=0)
    train, test = train - mean, test - mean
    spectrum = np.linalg.svd(train, compute_uv=False)
    rank = int((spectrum > RANK_TOLERANCE * spectrum[0]).sum())
    pca = PCA(rank, svd_solver="full").fit(train)
    ica = FastICA(rank, whiten="unit-variance", max_iter=100, tol=1e-3, random_state=derive_seed("ica", key) % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ica.fit(train)
    return {
        "neurons": Peer(np.eye(train.shape[1]), train, test),
        "pca": Peer(pca.components_, pca.transform(train), pca.transform(test)),
        "ica": Peer(unit_rows(ica.mixing_.T), ica.transform(train), ica.transform(test)),
    }


def explained_by_components(train: Array, test: Array, count: int) -> float:
    """Held-out explained variance of the `count` leading principal components: the dense peer of an SAE of that L0."""
    pca = PCA(max(1, min(count, *train.shape)), svd_solver="full").fit(train)
    left = test - pca.inverse_transform(pca.transform(test))
    return float(1 - np.square(left).sum() / np.square(test - test.mean(axis=0)).sum())
