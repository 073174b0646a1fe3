"""The statistics against closed forms, SAELens, scipy and brute force."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sae_lens.synthetic.evals import mean_correlation_coefficient
from scipy.linalg import subspace_angles

from reseed.matching import cosines
from reseed.stability.dictionaries import Dictionary
from reseed.stability.statistics import (
    STATISTICS,
    agreement,
    matched,
    matched_correlations,
    mean_correlation,
    overlap,
    standardised,
)
from tests.stability.builders import dictionary

RANK = 3


def test_a_permuted_copy_agrees_fully_and_signs_count() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 8))
    copy = dictionary(rows[::-1])
    assert agreement(dictionary(rows), copy, 0.7, RANK) == pytest.approx(dict.fromkeys(STATISTICS, 1))
    flipped = agreement(dictionary(np.eye(3)), dictionary(-np.eye(3)), 0.7, RANK)
    assert flipped["pw_mcc"] == pytest.approx(0)
    assert flipped["mean_max_cos"] == pytest.approx(1)
    assert flipped["shared_fraction"] == 0
    assert flipped["subspace_overlap"] == pytest.approx(1)  # a span has no sign


def test_by_brute_force_over_all_assignments() -> None:
    random = np.random.default_rng(1)
    a, b = dictionary(random.standard_normal((6, 4))), dictionary(random.standard_normal((6, 4)))
    similarity = cosines(a.decoder, b.decoder)
    best = max(sum(similarity[i, j] for i, j in enumerate(order)) for order in permutations(range(6))) / 6
    found = agreement(a, b, 0.7, RANK)
    assert found["pw_mcc"] == pytest.approx(best)
    size = np.abs(similarity)
    assert found["mean_max_cos"] == pytest.approx((size.max(1).mean() + size.max(0).mean()) / 2)


def test_against_saelens_where_signs_do_not_matter() -> None:
    random = np.random.default_rng(2)
    rows = np.abs(random.standard_normal((30, 6)))  # one orthant: every cosine is positive
    other = np.abs(random.standard_normal((30, 6)))
    lens = mean_correlation_coefficient(torch.tensor(rows), torch.tensor(other))
    assert agreement(dictionary(rows), dictionary(other), 0.7, RANK)["pw_mcc"] == pytest.approx(float(lens), abs=1e-5)


def test_unequal_counts_divide_by_the_larger() -> None:
    rows = np.eye(6)
    found = agreement(dictionary(rows[:3]), dictionary(rows), 0.7, RANK)
    expected = {"pw_mcc": 0.5, "mean_max_cos": 0.75, "shared_fraction": 0.5, "matching_agreement": 0.5}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_shared_needs_the_encoder_too() -> None:
    rows = np.eye(4)
    other = Dictionary(rows, np.vstack([rows[:2], rows[[3, 2]]]), np.full(4, 1000))
    assert agreement(dictionary(rows), other, 0.7, RANK)["shared_fraction"] == 0.5
    assert agreement(dictionary(rows), other, 0.7, RANK)["pw_mcc"] == 1


def test_an_empty_dictionary_agrees_in_nothing() -> None:
    rows = dictionary(np.eye(3))
    assert set(agreement(rows, rows.select(np.zeros(3, dtype=bool)), 0.7, RANK).values()) == {0.0}


def test_encoders_that_match_otherwise_are_no_agreement_of_the_matchings() -> None:
    rows = np.eye(4)
    other = Dictionary(rows, rows[[1, 0, 2, 3]], np.full(4, 1000))
    assert agreement(dictionary(rows), other, 0.7, RANK)["matching_agreement"] == 0.5


def test_the_overlap_of_spans_is_that_of_scipys_principal_angles() -> None:
    random = np.random.default_rng(3)
    a, b = dictionary(random.standard_normal((40, 12))), dictionary(random.standard_normal((8, 12)))
    spans = [np.linalg.svd(one.decoder)[2][:5] for one in (a, b)]
    angles = subspace_angles(spans[0].T, spans[1].T)
    assert agreement(a, b, 0.7, 5)["subspace_overlap"] == pytest.approx(np.mean(np.cos(angles) ** 2))


def test_two_random_spans_overlap_by_r_over_d() -> None:
    random = np.random.default_rng(4)
    spans = [np.linalg.qr(random.standard_normal((60, 6)))[0].T for _ in range(400)]
    found = np.mean([overlap(a, b) for a, b in zip(spans[::2], spans[1::2], strict=True)])
    assert found == pytest.approx(6 / 60, abs=0.005)
    assert overlap(spans[0][:2], spans[0]) == pytest.approx(1)  # within the larger


def test_correlations_of_matched_latents_are_pearsons() -> None:
    random = np.random.default_rng(5)
    rows = random.standard_normal((4, 6))
    match = matched(dictionary(rows), dictionary(rows[[2, 0, 1, 3]]))
    a, b = random.random((50, 4)), random.random((50, 4))
    b[:, 3] = 7.0  # never varies
    x, y = standardised(a), standardised(b)
    found = dict(zip(match.rows.tolist(), matched_correlations(x, y, match), strict=True))
    for latent, place in ((2, 0), (0, 1), (1, 2)):
        assert found[latent] == pytest.approx(np.corrcoef(a[:, latent], b[:, place])[0, 1])
    assert found[3] == 0
    every = [np.corrcoef(a[:, i], b[:, j])[0, 1] for i in range(4) for j in range(3)]
    assert mean_correlation(x, y) == pytest.approx(np.sum(every) / 16)
    best = np.mean([matched_correlations(x, x, matched(dictionary(rows), dictionary(rows)))])
    assert best == pytest.approx(1)
