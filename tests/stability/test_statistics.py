"""The three statistics against closed forms, SAELens and brute force."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sae_lens.synthetic.evals import mean_correlation_coefficient

from reseed.matching import cosines
from reseed.stability.dictionaries import Dictionary
from reseed.stability.statistics import agreement
from tests.stability.builders import dictionary


def test_a_permuted_copy_agrees_fully_and_signs_count() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 8))
    copy = dictionary(rows[::-1])
    assert agreement(dictionary(rows), copy, 0.7) == pytest.approx(
        {"pw_mcc": 1, "mean_max_cos": 1, "shared_fraction": 1}
    )
    flipped = agreement(dictionary(np.eye(3)), dictionary(-np.eye(3)), 0.7)
    assert flipped == pytest.approx({"pw_mcc": 0, "mean_max_cos": 1, "shared_fraction": 0})


def test_by_brute_force_over_all_assignments() -> None:
    random = np.random.default_rng(1)
    a, b = dictionary(random.standard_normal((6, 4))), dictionary(random.standard_normal((6, 4)))
    similarity = cosines(a.decoder, b.decoder)
    best = max(sum(similarity[i, j] for i, j in enumerate(order)) for order in permutations(range(6))) / 6
    found = agreement(a, b, 0.7)
    assert found["pw_mcc"] == pytest.approx(best)
    size = np.abs(similarity)
    assert found["mean_max_cos"] == pytest.approx((size.max(1).mean() + size.max(0).mean()) / 2)


def test_against_saelens_where_signs_do_not_matter() -> None:
    random = np.random.default_rng(2)
    rows = np.abs(random.standard_normal((30, 6)))  # one orthant: every cosine is positive
    other = np.abs(random.standard_normal((30, 6)))
    lens = mean_correlation_coefficient(torch.tensor(rows), torch.tensor(other))
    assert agreement(dictionary(rows), dictionary(other), 0.7)["pw_mcc"] == pytest.approx(float(lens), abs=1e-5)


def test_unequal_counts_divide_by_the_larger() -> None:
    rows = np.eye(6)
    found = agreement(dictionary(rows[:3]), dictionary(rows), 0.7)
    assert found == pytest.approx({"pw_mcc": 0.5, "mean_max_cos": 0.75, "shared_fraction": 0.5})


def test_shared_needs_the_encoder_too() -> None:
    rows = np.eye(4)
    other = Dictionary(rows, np.vstack([rows[:2], rows[[3, 2]]]), np.full(4, 1000))
    assert agreement(dictionary(rows), other, 0.7)["shared_fraction"] == 0.5
    assert agreement(dictionary(rows), other, 0.7)["pw_mcc"] == 1


def test_an_empty_dictionary_agrees_in_nothing() -> None:
    rows = dictionary(np.eye(3))
    assert set(agreement(rows, rows.select(np.zeros(3, dtype=bool)), 0.7).values()) == {0.0}
