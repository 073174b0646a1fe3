"""Intervals with the seed as the unit: pairs of seeds share seeds, so pairs are never counted as observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t


@dataclass(frozen=True)
class Estimate:
    """A figure of a seed set, and the same figure with each seed left out in turn (in the order of the seeds)."""

    value: float
    deleted: tuple[float, ...]

    def interval(self, confidence: float) -> tuple[float, float]:
        """Delete-one-seed jackknife interval with t(n-1) (Tukey 1958; for U-statistics Arvesen 1969)."""
        n = len(self.deleted)
        spread = np.asarray(self.deleted) - np.mean(self.deleted)
        error = float(np.sqrt((n - 1) / n * np.sum(spread**2)))
        half = float(t.ppf(0.5 + confidence / 2, n - 1)) * error
        return self.value - half, self.value + half

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two figures whose seeds are left out together (seed i from both)."""
        return combine([1.0, -1.0], [self, other])


def leave_one_out(figure: Callable[[Sequence[int]], float | None], n: int) -> Estimate | None:
    """Evaluate `figure` on the members 0..n-1 and on each set of n-1; None if it is undefined on any of them."""
    value = figure(range(n))
    deleted = [figure([i for i in range(n) if i != left_out]) for left_out in range(n)]
    if value is None or any(figure is None for figure in deleted):
        return None
    return Estimate(value, tuple(figure for figure in deleted if figure is not None))


def combine(weights: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """A linear combination of figures over the same seeds; raises ValueError if their numbers of seeds differ."""
    counts = {len(estimate.deleted) for estimate in estimates}
    if len(counts) != 1:
        raise ValueError(f"figures over different numbers of seeds: {sorted(counts)}")
    return Estimate(
        float(np.dot(weights, [estimate.value for estimate in estimates])),
        tuple(float(figure) for figure in np.dot(weights, [estimate.deleted for estimate in estimates])),
    )
