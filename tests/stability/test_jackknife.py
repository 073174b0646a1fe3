"""The interval over seeds: exact for a mean, and of the right coverage for a mean over pairs."""

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


@pytest.mark.parametrize(("n", "sigma_seed", "sigma_pair"), [(5, 1.0, 0.3), (5, 1.0, 1.0), (8, 1.0, 0.3)])
def test_coverage_over_dependent_pairs(n: int, sigma_seed: float, sigma_pair: float) -> None:
    """Pairs share seeds: h_ij = a_i + a_j + e_ij. A bootstrap of the pairs covers 0.51 to 0.62 of a nominal 0.95."""
    random = np.random.default_rng(n)
    pairs = list(combinations(range(n), 2))
    replicates, jackknife, naive = 800, 0, 0
    for _ in range(replicates):
        a = random.standard_normal(n) * sigma_seed
        h = {(i, j): a[i] + a[j] + sigma_pair * random.standard_normal() for i, j in pairs}
        estimate = leave_one_out(lambda m, h=h: float(np.mean([h[p] for p in combinations(m, 2)])), n)
        assert estimate is not None
        low, high = estimate.interval(0.95)
        jackknife += low <= 0 <= high
        low, high = stats.t.interval(0.95, len(pairs) - 1, estimate.value, stats.sem(list(h.values())))
        naive += low <= 0 <= high
    assert 0.92 <= jackknife / replicates <= 0.995
    assert naive / replicates < 0.8


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
