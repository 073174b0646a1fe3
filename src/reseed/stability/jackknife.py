"""Intervals with the seed as the unit: pairs of seeds share seeds, so pairs are never counted as observations.

Seeds that an objective pulled together are one observation: their group is the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import t


@dataclass(frozen=True)
class Groups:
    """The independent units of seeds 0..seeds-1: every `size` consecutive seeds are one group, a group of one a seed.

    Raises ValueError for a last group that is not whole.
    """

    seeds: int
    size: int = 1

    def __post_init__(self) -> None:
        if self.seeds % self.size:
            raise ValueError(f"{self.seeds} seeds in groups of {self.size}")

    def __len__(self) -> int:
        return self.seeds // self.size

    def members(self, groups: Sequence[int]) -> list[int]:
        """The seeds of some groups."""
        return [group * self.size + place for group in groups for place in range(self.size)]

    def pairs(self, groups: Sequence[int]) -> list[tuple[int, int]]:
        """The pairs of seeds (i < j) from two different of some ascending groups: all that are independent."""
        return [(i, j) for i, j in combinations(self.members(groups), 2) if i // self.size != j // self.size]

    def all_pairs(self) -> list[tuple[int, int]]:
        return self.pairs(range(len(self)))


@dataclass(frozen=True)
class Estimate:
    """A figure of a seed set, and the same figure with each unit (a seed, or a group) left out in turn, in order."""

    value: float
    deleted: tuple[float, ...]

    def interval(self, confidence: float) -> tuple[float, float]:
        """Delete-one-unit jackknife interval with t(n-1) (Tukey 1958; for U-statistics Arvesen 1969)."""
        n = len(self.deleted)
        half = float(t.ppf(0.5 + confidence / 2, n - 1)) * self.error
        return self.value - half, self.value + half

    @property
    def error(self) -> float:
        """The jackknife standard error."""
        n = len(self.deleted)
        return float(np.sqrt((n - 1) / n * np.sum((np.asarray(self.deleted) - np.mean(self.deleted)) ** 2)))

    def minimum_detectable(self, confidence: float, power: float = 0.8) -> float:
        """The smallest true distance from a bound that an interval of these units excludes with this power.

        (t(1 - alpha/2, n-1) + t(power, n-1)) times the standard error, two-sided (Bloom 1995, Evaluation Review 19).
        """
        n = len(self.deleted)
        return float(t.ppf(0.5 + confidence / 2, n - 1) + t.ppf(power, n - 1)) * self.error

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two figures whose units are left out together (unit i from both)."""
        return combine([1.0, -1.0], [self, other])


def leave_one_out(figure: Callable[[Sequence[int]], float | None], n: int) -> Estimate | None:
    """Evaluate `figure` on the units 0..n-1 and on each set of n-1; None if it is undefined on any of them."""
    value = figure(range(n))
    deleted = [figure([i for i in range(n) if i != left_out]) for left_out in range(n)]
    if value is None or any(figure is None for figure in deleted):
        return None
    return Estimate(value, tuple(figure for figure in deleted if figure is not None))


def mean_over_seeds(figures: Sequence[float], groups: Groups) -> Estimate:
    """The mean of one figure a seed, with the groups left out in turn."""
    estimate = leave_one_out(lambda left: float(np.mean([figures[i] for i in groups.members(left)])), len(groups))
    assert estimate is not None
    return estimate


def combine(weights: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """A linear combination of figures over the same units; raises ValueError if their numbers of units differ."""
    counts = {len(estimate.deleted) for estimate in estimates}
    if len(counts) != 1:
        raise ValueError(f"figures over different numbers of seeds: {sorted(counts)}")
    return Estimate(
        float(np.dot(weights, [estimate.value for estimate in estimates])),
        tuple(float(figure) for figure in np.dot(weights, [estimate.deleted for estimate in estimates])),
    )
