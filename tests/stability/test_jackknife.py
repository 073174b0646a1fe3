"""The interval over seeds: exact for a mean, and of the right coverage for a mean over pairs."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from reseed.stability.jackknife import Estimate, Groups, combine, leave_one_out


def test_for_a_mean_it_is_the_t_interval() -> None:
    x = np.random.default_rng(0).standard_normal(7)
    estimate = leave_one_out(lambda members: float(np.mean(x[list(members)])), 7)
    assert estimate is not None
    expected = stats.t.interval(0.9, 6, x.mean(), stats.sem(x))
    assert estimate.interval(0.9) == pytest.approx(expected)


# Coverage of a nominal 95 % interval, by simulation of h_ij = a_i + a_j + e_ij with 2,000 replicates: delete-one-seed
# jackknife with t(n-1), and t over the pairs as if they were independent.
COVERAGE = [
    (3, 1.0, 0.3, 0.956, 0.85), (5, 1.0, 0.3, 0.954, 0.61), (5, 1.0, 1.0, 0.972, 0.73), (5, 0.3, 1.0, 0.980, 0.91),
    (8, 1.0, 0.3, 0.942, 0.49), (10, 1.0, 0.3, 0.948, 0.45),
]  # fmt: skip


@pytest.mark.parametrize(("n", "sigma_seed", "sigma_pair", "expected", "expected_naive"), COVERAGE)
def test_coverage_over_dependent_pairs(
    n: int, sigma_seed: float, sigma_pair: float, expected: float, expected_naive: float
) -> None:
    random = np.random.default_rng(n)
    pairs = list(combinations(range(n), 2))
    first, second = np.array(pairs).T
    replicates, jackknife, naive = 1000, 0, 0
    for _ in range(replicates):
        a = random.standard_normal(n) * sigma_seed
        h = a[first] + a[second] + sigma_pair * random.standard_normal(len(pairs))

        def mean_left(left: Sequence[int], h: np.ndarray = h) -> float:
            return float(h[np.isin(first, list(left)) & np.isin(second, list(left))].mean())

        estimate = leave_one_out(mean_left, n)
        assert estimate is not None
        low, high = estimate.interval(0.95)
        jackknife += low <= 0 <= high
        low, high = stats.t.interval(0.95, len(pairs) - 1, estimate.value, stats.sem(h))
        naive += low <= 0 <= high
    assert jackknife / replicates == pytest.approx(expected, abs=0.025)
    assert naive / replicates == pytest.approx(expected_naive, abs=0.05)


def test_what_can_be_detected_is_what_excludes_the_bound_four_times_in_five() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal(6)
    found = leave_one_out(lambda left: float(np.mean(x[list(left)])), 6)
    assert found is not None
    assert found.minimum_detectable(0.95) == pytest.approx((stats.t.ppf(0.975, 5) + stats.t.ppf(0.8, 5)) * found.error)
    effect, excluded = (stats.t.ppf(0.975, 5) + stats.t.ppf(0.8, 5)) / np.sqrt(6), 0
    for _ in range(2000):
        x = random.standard_normal(6) + effect
        excluded += stats.t.interval(0.95, 5, x.mean(), stats.sem(x))[0] > 0
    assert excluded / 2000 == pytest.approx(0.8, abs=0.06)


def test_an_undefined_figure_stays_undefined() -> None:
    assert leave_one_out(lambda members: None if 2 not in members else 1.0, 4) is None
    assert leave_one_out(lambda _: None, 4) is None


def test_combinations_leave_seeds_out_together() -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 6))
    one, two = (leave_one_out(lambda m, z=z: float(np.mean(z[list(m)])), 6) for z in (x, y))
    both = leave_one_out(lambda m: float(np.mean(x[list(m)] - 2 * y[list(m)])), 6)
    assert one is not None
    assert two is not None
    assert both is not None
    assert combine([1, -2], [one, two]).interval(0.95) == pytest.approx(both.interval(0.95))
    assert (one - two).value == pytest.approx(x.mean() - y.mean())
    with pytest.raises(ValueError, match=r"different numbers of seeds: \[5, 6\]"):
        combine([1, 1], [one, leave_one_out(lambda _: 0.0, 5)])  # type: ignore[list-item]


def test_groups_pair_with_other_groups_only() -> None:
    assert Groups(6, 2).pairs([0, 2]) == [(0, 4), (0, 5), (1, 4), (1, 5)]
    assert len(Groups(6, 2)) == 3
    assert len(Groups(6, 2).all_pairs()) == 12  # of 15
    assert Groups(5).all_pairs() == list(combinations(range(5), 2))
    assert Groups(5).pairs([0, 3, 4]) == [(0, 3), (0, 4), (3, 4)]
    with pytest.raises(ValueError, match="7 seeds in groups of 2"):
        Groups(7, 2)


def over_pairs(matrix: np.ndarray, groups: Groups) -> Estimate:
    estimate = leave_one_out(lambda left: float(np.mean([matrix[p] for p in groups.pairs(left)])), len(groups))
    assert estimate is not None
    return estimate


def test_the_jackknife_over_groups_is_that_of_their_means() -> None:
    random = np.random.default_rng(0)
    x, groups = random.standard_normal(12), Groups(12, 3)
    estimate = leave_one_out(lambda left: float(np.mean(x[groups.members(left)])), len(groups))
    assert estimate is not None
    means = x.reshape(4, 3).mean(axis=1)
    assert estimate.interval(0.9) == pytest.approx(stats.t.interval(0.9, 3, means.mean(), stats.sem(means)))
    h = random.standard_normal((12, 12))
    blocks = (h + h.T).reshape(4, 3, 4, 3).mean(axis=(1, 3))
    one, other = over_pairs(h + h.T, groups), over_pairs(blocks, Groups(4))
    assert one.value == pytest.approx(other.value)
    assert one.deleted == pytest.approx(other.deleted)


def test_coverage_over_groups_of_coupled_seeds() -> None:
    """h_ij = a_group(i) + a_group(j) + e_ij: five groups of three seeds are five observations, not fifteen."""
    random = np.random.default_rng(0)
    replicates, grouped, as_if_independent = 500, 0, 0
    for _ in range(replicates):
        a = np.repeat(random.standard_normal(5), 3)
        h = a[:, None] + a[None, :] + 0.3 * random.standard_normal((15, 15))
        low, high = over_pairs(h, Groups(15, 3)).interval(0.95)
        grouped += low <= 0 <= high
        low, high = over_pairs(h, Groups(15)).interval(0.95)
        as_if_independent += low <= 0 <= high
    assert 0.92 <= grouped / replicates <= 0.995
    assert as_if_independent / replicates < 0.8
