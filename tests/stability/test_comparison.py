"""The permutation of seeds: its floor, its level and its power; Holm against a worked example."""

from math import comb

import numpy as np
import pytest

from reseed.stability.arms import analyse
from reseed.stability.comparison import compare_arms, holm, permutation_test
from tests.stability.builders import dictionary, seed_set, stability_options

OPTIONS = stability_options(null_draws=2)


def agreements(n: int, within: tuple[float, float], between: float, noise: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    h = np.full((2 * n, 2 * n), between)
    h[:n, :n], h[n:, n:] = within
    jitter = random.standard_normal((2 * n, 2 * n)) * noise
    return h + jitter + jitter.T


@pytest.mark.parametrize("n", [3, 4, 5])
def test_the_strongest_difference_reaches_the_floor_and_no_more(n: int) -> None:
    found = permutation_test(agreements(n, (0.9, 0.2), 0.1, 0.0, 0))
    assert found.floor == pytest.approx(2 / comb(2 * n, n))
    assert found.p == pytest.approx(found.floor)
    assert found.paired_floor == pytest.approx(2 / 2**n)
    assert found.paired_p == pytest.approx(found.paired_floor)


def test_the_floors_are_those_of_the_literature() -> None:
    floors = {n: permutation_test(agreements(n, (0.9, 0.2), 0.1, 0.0, 0)).floor for n in (3, 4, 5)}
    assert floors == pytest.approx({3: 0.10, 4: 0.0286, 5: 0.0079}, abs=5e-4)


def test_under_the_null_p_is_uniform_although_pairs_share_seeds() -> None:
    random = np.random.default_rng(0)
    ps = []
    for _ in range(600):
        a = random.standard_normal(10)
        e = 0.3 * random.standard_normal((10, 10))
        ps.append(permutation_test(a[:, None] + a[None, :] + e + e.T).p)
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(np.array(ps) <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_many_seeds_are_sampled_and_the_same_way_each_time() -> None:
    h = agreements(12, (0.9, 0.5), 0.4, 0.05, 1)
    found = permutation_test(h, seed=3)
    assert found == permutation_test(h, seed=3)
    assert found.p == found.floor == 1 / 20_000
    assert found.paired_p == 2 / 2**12


def test_unequal_or_tiny_arms_are_refused() -> None:
    with pytest.raises(ValueError, match="found 5 units, allowed: two arms of equally many"):
        permutation_test(np.eye(5))
    with pytest.raises(ValueError, match="found 2 units"):
        permutation_test(np.eye(2))


def test_holm_against_a_worked_example() -> None:
    # Holm 1979: sorted p times the number of hypotheses left, made monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_a_stable_arm_against_one_of_chance() -> None:
    random = np.random.default_rng(0)
    common = random.standard_normal((40, 32))
    stable = seed_set([dictionary(common[random.permutation(40)]) for _ in range(4)], random)
    chance = seed_set([dictionary(random.standard_normal((40, 32))) for _ in range(4)], random)
    reports = analyse(stable, OPTIONS, "a"), analyse(chance, OPTIONS, "b")
    found = compare_arms((stable, chance), reports, OPTIONS, "a-b")["pw_mcc"]
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(1, abs=0.08)  # the null arm is at 0 up to its spread
    assert found.test.p == pytest.approx(2 / 70)
    same = compare_arms((chance, chance), (reports[1], reports[1]), OPTIONS, "b-b")["pw_mcc"]
    assert same.kappa is not None
    assert same.kappa.value == 0
    assert same.test.p == 1
    coupled = seed_set([dictionary(common) for _ in range(4)], random, group_size=2)
    with pytest.raises(ValueError, match="arms of different seeds"):
        compare_arms((stable, coupled), reports, OPTIONS, "x")


def test_groups_are_permuted_whole() -> None:
    """Six coupled seeds in three groups are three units: the floor is that of three against three."""
    random = np.random.default_rng(1)
    rows = [random.standard_normal((20, 16)) for _ in range(3)]
    coupled = seed_set([dictionary(rows[i // 2]) for i in range(6)], random, group_size=2)
    report = analyse(coupled, OPTIONS, "a")
    found = compare_arms((coupled, coupled), (report, report), OPTIONS, "a")
    assert found["pw_mcc"].test.floor == pytest.approx(0.1)
