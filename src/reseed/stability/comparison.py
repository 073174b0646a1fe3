"""Two arms against each other: the difference of their kappas, and a test that permutes seeds, never pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb

import numpy as np
from numpy.typing import NDArray

from reseed.artifacts import derive_seed
from reseed.matching import Array
from reseed.params import Stability
from reseed.stability.arms import ArmReport, alive_masks
from reseed.stability.dictionaries import SeedSet
from reseed.stability.jackknife import Estimate, Groups
from reseed.stability.statistics import STATISTICS, agreement

MOST_RELABELLINGS = 20_000


@dataclass(frozen=True)
class PermutationTest:
    """Two-sided p of the difference between two arms' mean agreement, and the smallest p that these seeds can give.

    p: every way of giving n of the 2n seeds to one arm (a sample of them above MOST_RELABELLINGS); arms independent.
    paired_p: the labels swapped within a seed (at most the first 14), for arms whose seeds share initialisation and
    order of the rows.
    Both ask whether the arms' dictionaries could have changed places, which also fails where they differ in kind.
    """

    p: float
    floor: float
    paired_p: float
    paired_floor: float


@dataclass(frozen=True)
class ArmDifference:
    """One statistic of two arms: the difference of kappas, None where one has none, and the test of its values."""

    kappa: Estimate | None
    test: PermutationTest


def compare_arms(
    sets: tuple[SeedSet, SeedSet], reports: tuple[ArmReport, ArmReport], options: Stability, key: str
) -> dict[str, ArmDifference]:
    """statistic -> the first arm minus the second, over alive latents; raises ValueError if their groups differ."""
    if sets[0].groups != sets[1].groups:
        raise ValueError(f"{key}: arms of different seeds: {sets[0].groups} and {sets[1].groups}")
    masks = [alive_masks(seed_set, options, key) for seed_set in sets]
    alive = [
        dictionary.select(mask)
        for seed_set, chosen in zip(sets, masks, strict=True)
        for dictionary, mask in zip(seed_set.final(), chosen, strict=True)
    ]
    n = len(alive)
    both = Groups(n, sets[0].group_size)
    tables = {statistic: np.full((n, n), np.nan) for statistic in STATISTICS}
    for i, j in both.all_pairs():
        figures = agreement(alive[i], alive[j], options.shared_cosine, reports[0].rank)
        for statistic, table in tables.items():
            table[i, j] = table[j, i] = figures[statistic]
    found = {}
    for statistic, table in tables.items():
        one, other = (report.alive[statistic].kappa for report in reports)
        test = permutation_test(_between_groups(table, both), derive_seed("permutation", key, statistic))
        found[statistic] = ArmDifference(None if one is None or other is None else one - other, test)
    return found


def _between_groups(table: Array, groups: Groups) -> Array:
    """Mean agreement [units, units] of the groups of a matrix [seeds, seeds]."""
    size = groups.size
    blocks = table.reshape(len(groups), size, len(groups), size).mean(axis=(1, 3))
    np.fill_diagonal(blocks, 0)
    return np.asarray(blocks)


def permutation_test(agreements: Array, seed: int = 0) -> PermutationTest:
    """Test of |mean agreement within the first half - within the second| of a symmetric matrix [2n, 2n].

    The statistic is recomputed for every relabelling of the 2n units (Good 2005, Permutation, Parametric and
    Bootstrap Tests of Hypotheses, ch. 3), so that the dependence of pairs that share a unit is in the null. Floors:
    2 / C(2n, n) and 2 / 2^n. Raises ValueError for an odd number of units or fewer than two an arm.
    """
    if len(agreements) % 2 or len(agreements) < 4:
        raise ValueError(f"found {len(agreements)} units, allowed: two arms of equally many, at least two")
    n = len(agreements) // 2
    if comb(2 * n, n) <= MOST_RELABELLINGS:
        free = np.array([_indicator(chosen, 2 * n) for chosen in combinations(range(2 * n), n)])
        floor = 2 / comb(2 * n, n)
    else:
        random = np.random.default_rng(seed)
        drawn = [_indicator(random.permutation(2 * n)[:n], 2 * n) for _ in range(MOST_RELABELLINGS - 1)]
        free = np.array([_indicator(range(n), 2 * n), *drawn])
        floor = 1 / MOST_RELABELLINGS
    swaps = np.array(list(product((False, True), repeat=min(n, 14))))
    swaps = np.pad(swaps, ((0, 0), (0, n - swaps.shape[1])))
    paired = np.hstack([~swaps, swaps])
    observed = _differences(agreements, _indicator(range(n), 2 * n)[None])[0]
    return PermutationTest(
        p=_share_as_large(_differences(agreements, free), observed),
        floor=floor,
        paired_p=_share_as_large(_differences(agreements, paired), observed),
        paired_floor=2 / len(swaps),
    )


def _indicator(chosen: Sequence[int] | NDArray[np.intp], n: int) -> NDArray[np.bool_]:
    mask = np.zeros(n, dtype=bool)
    mask[list(chosen)] = True
    return mask


def _differences(agreements: Array, first: NDArray[np.bool_]) -> Array:
    """|mean over pairs within the first arm - within the second| for each relabelling [r, 2n]."""
    off = agreements - np.diag(np.diag(agreements))
    n = agreements.shape[0] // 2
    sums = [
        np.einsum("ri,ij,rj->r", arm, off, arm, optimize=True) for arm in (first.astype(float), (~first).astype(float))
    ]
    return np.asarray(np.abs(sums[0] - sums[1]) / (n * (n - 1)))


def _share_as_large(differences: Array, observed: float) -> float:
    return float(np.mean(differences >= observed - 1e-12))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values for as many comparisons (Holm 1979, Scand. J. Statist. 6, 65)."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate([min(1.0, (len(p) - place) * p[i]) for place, i in enumerate(order)])
    adjusted = np.empty(len(p))
    adjusted[order] = steps
    return [float(value) for value in adjusted]
