"""Matching of two dictionaries: cosines between unit rows, and the assignment that makes their sum largest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float64]


def unit_rows(rows: Array) -> Array:
    """Rows [n, d] divided by their norms; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def cosines(a: Array, b: Array) -> Array:
    """Signed cosines [n_a, n_b] between the rows of a [n_a, d] and b [n_b, d]; raises ValueError if d differs."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"dictionaries of different d_in: {a.shape[1]} and {b.shape[1]}")
    return unit_rows(a) @ unit_rows(b).T


def assign(similarity: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The one-to-one assignment of min(n_a, n_b) pairs with the largest sum of similarity [n_a, n_b] (Hungarian)."""
    return linear_sum_assignment(similarity, maximize=True)
