"""Matching of two dictionaries: cosines between unit rows, and the assignment that makes their sum largest."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from reseed import ReseedError
from reseed.assignment import BLOCK, Floats, Matching, full_precision, sparse_match

Array = NDArray[np.float64]

DENSE = 2048**2
"""Up to so many cosines, scipy's dense solver is as fast as candidates and prices."""


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


def match(a: Floats, b: Floats, tolerance: float = 1e-10, device: str = "cpu") -> Matching:
    """The one-to-one assignment of unit rows a [n_a, d] and b [n_b, d] with the largest sum of signed cosines.

    float32 or float64; a row may be zero. Small dictionaries go to scipy's exact solver, with a gap of 0 because it is
    exact; large ones, in memory O((n_a + n_b) d + n candidates), to `assignment.sparse_match`, which makes its blocks
    on `device` and proves its gap, until that is <= tolerance (per pair, in cosine). Raises ReseedError if d differs
    or a row has another norm.
    """
    _check(a, b)
    if len(a) * len(b) > DENSE:
        return sparse_match(np.ascontiguousarray(a), np.ascontiguousarray(b), tolerance=tolerance, device=device)
    similarity = cosines(np.asarray(a, np.float64), np.asarray(b, np.float64))
    rows, columns = assign(similarity)
    return Matching(rows, columns, similarity[rows, columns], 0.0)


def row_and_column_maxima(a: Floats, b: Floats, device: str = "cpu") -> tuple[Floats, Floats]:
    """The largest |cos| of each of the unit rows a [n_a, d] with b [n_b, d], and of each row of b with a.

    In the dtype of a and b, in blocks; n_a and n_b at least 1. Raises ReseedError as `match` does.
    """
    _check(a, b)
    if len(a) * len(b) <= DENSE:
        dense = np.abs(cosines(a, b))
        return dense.max(axis=1), dense.max(axis=0)
    other = torch.from_numpy(np.ascontiguousarray(b)).to(device)
    of_rows = torch.zeros(len(a), dtype=other.dtype, device=device)
    of_columns = torch.zeros(len(b), dtype=other.dtype, device=device)
    step = max(1, BLOCK // len(b))
    with full_precision():
        for start in range(0, len(a), step):
            block = torch.from_numpy(np.ascontiguousarray(a[start : start + step])).to(device)
            size = (block @ other.T).abs_()
            of_rows[start : start + step] = size.amax(1)
            of_columns = torch.maximum(of_columns, size.amax(0))
    return of_rows.cpu().numpy(), of_columns.cpu().numpy()


def _check(a: Floats, b: Floats) -> None:
    if a.shape[1] != b.shape[1]:
        raise ReseedError(f"dictionaries to match: found d_in {a.shape[1]} and {b.shape[1]}, allowed: the same")
    for name, rows in (("first", a), ("second", b)):
        norms = np.linalg.norm(rows, axis=1)
        wrong = np.flatnonzero(~((np.abs(norms - 1) < 1e-5) | (norms == 0)))
        if len(wrong):
            raise ReseedError(
                f"dictionaries to match: row {wrong[0]} of the {name} has the norm {norms[wrong[0]]:.6g}, "
                "allowed: 1, or 0"
            )
