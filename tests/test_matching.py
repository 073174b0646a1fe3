import tracemalloc

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group

from reseed import ReseedError, assignment, matching
from reseed.assignment import Floats, Matching, sparse_match
from reseed.matching import assign, cosines, match, row_and_column_maxima, unit_rows


def test_a_permuted_dictionary_is_matched_back() -> None:
    random = np.random.default_rng(0)
    rows = ortho_group.rvs(16, random_state=0)
    order = random.permutation(16)
    _, columns = assign(cosines(rows, 3 * rows[order]))
    assert (order[columns] == np.arange(16)).all()


def test_the_assignment_is_the_best_and_not_the_greedy_one() -> None:
    similarity = np.array([[0.9, 0.8], [0.8, 0.0]])  # greedy takes 0.9 + 0.0
    rows, columns = assign(similarity)
    assert similarity[rows, columns].sum() == pytest.approx(1.6)


def test_unequal_numbers_match_the_smaller() -> None:
    rows, columns = assign(np.random.default_rng(0).random((3, 7)))
    assert len(rows) == len(set(columns)) == 3


def test_zero_rows_stay_zero_and_shapes_must_agree() -> None:
    assert unit_rows(np.zeros((2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="different d_in: 3 and 4"):
        cosines(np.zeros((2, 3)), np.zeros((2, 4)))


def dictionaries(kind: str, n: int = 400, d: int = 48) -> tuple[Floats, Floats]:
    random = np.random.default_rng(0)
    a, b = unit_rows(random.standard_normal((n, d))), unit_rows(random.standard_normal((n, d)))
    if kind == "shared":
        b[: n // 2] = a[: n // 2] + 0.75 * b[: n // 2]
    elif kind == "wide":
        a = a[: n // 3]
    elif kind == "tall":
        b = b[: n // 3]
    elif kind == "hubs":  # a direction that all rows share, each to its own degree
        a, b = a + np.abs(random.standard_normal((n, 1))) * a[0], b + np.abs(random.standard_normal((n, 1))) * a[0]
    elif kind == "clusters":  # more rows of a than of b in each of half the clusters
        a, b = a + a[random.integers(0, n // 16, n)], b + a[random.integers(0, n // 32, n)]
    elif kind == "duplicates":
        a, b = a[random.integers(0, n // 8, n)], a[random.integers(0, n // 8, n)]
    elif kind == "opposed":  # all cosines negative
        a, b = 2 * a[0] + a, -2 * a[0] + b
    elif kind == "zeros":
        a[: n // 4], b[n // 2 :] = 0, 0
    return unit_rows(a), unit_rows(b)[random.permutation(len(b))]


KINDS = ("random", "shared", "wide", "tall", "hubs", "clusters", "duplicates", "opposed", "zeros")


def best_sum(a: Floats, b: Floats) -> float:
    similarity = a.astype(float) @ b.T.astype(float)
    return float(similarity[linear_sum_assignment(similarity, maximize=True)].sum())


def check_pairs(found: Matching, a: Floats, b: Floats) -> None:
    assert len(found.rows) == len(set(found.rows)) == len(set(found.columns)) == min(len(a), len(b))
    assert (np.diff(found.rows) > 0).all()
    np.testing.assert_allclose(found.cosines, np.sum(a[found.rows] * b[found.columns], axis=1), atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_and_prices_find_the_sum_of_the_dense_solver(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "BLOCK", 1 << 14)  # some ten blocks
    a, b = dictionaries(kind)
    found = sparse_match(a, b, candidates=8)
    check_pairs(found, a, b)
    assert found.cosines.sum() == pytest.approx(best_sum(a, b), abs=1e-7)
    assert 0 <= found.gap <= 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_gap_bounds_the_distance_to_the_best_sum(kind: str, rounds: int) -> None:
    a, b = dictionaries(kind)
    found = sparse_match(a, b, candidates=1, rounds=rounds)
    check_pairs(found, a, b)
    missing = best_sum(a, b) - found.cosines.sum()
    assert missing <= found.gap * len(found.rows) + 1e-10
    if rounds == 1 and kind != "duplicates":
        assert missing > 0.1  # starved, and says so


def test_pairs_that_no_row_ranks_high_are_priced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = dictionaries("hubs")
    optimum = best_sum(a, b)
    starved = sparse_match(a, b, candidates=1, rounds=1)

    def only_candidates(*arguments: object) -> tuple[Floats, Floats, Floats]:
        rows = np.asarray(arguments[2])
        return np.empty(0, np.int64), np.empty(0), np.full(len(rows), -np.inf)

    monkeypatch.setattr(assignment, "best_offers", only_candidates)
    blind = sparse_match(a, b, candidates=1, rounds=1)
    assert blind.cosines.sum() == starved.cosines.sum() < optimum
    assert blind.gap < 1e-10  # what a bound over the candidates alone would claim


def test_rounding_that_the_blocks_cannot_resolve_is_settled_in_float64() -> None:
    # rows nearer to each other than float32 can tell: the optimum is known, as cosines fall with the angle
    angles = np.arange(300) * 1e-6
    a = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    b = a[np.random.default_rng(0).permutation(300)]
    found = sparse_match(a, b, candidates=4)
    assert 300 - found.cosines.sum() <= found.gap * 300 + 1e-12
    assert found.gap <= 1e-10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_planted_permutation_of_4096_latents_is_found(dtype: type) -> None:
    random = np.random.default_rng(0)
    a = unit_rows(random.standard_normal((4096, 64))).astype(dtype)
    order = random.permutation(4096)
    noisy = unit_rows(a + 0.05 * random.standard_normal(a.shape).astype(dtype))[order]
    found = match(a, noisy)
    assert (order[found.columns] == found.rows).all()
    assert found.gap <= 1e-10


def test_the_bound_holds_though_the_caller_allows_coarse_products() -> None:
    a, b = (rows.astype(np.float32) for rows in dictionaries("random"))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = sparse_match(a, b, candidates=8)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.cosines.sum() == pytest.approx(best_sum(a, b), abs=1e-7)


def test_memory_grows_with_the_candidates_and_not_with_all_pairs() -> None:
    n = 6000
    a, b = (rows.astype(np.float32) for rows in dictionaries("random", n, 16))
    sparse_match(a[:50], b[:50])  # compiled before memory is counted
    tracemalloc.start()
    sparse_match(a, b, candidates=16)
    peak = tracemalloc.get_traced_memory()[1]  # of numpy; torch holds the rows and blocks of at most BLOCK
    tracemalloc.stop()
    assert peak < n * n  # bytes: an eighth of the float64 cosines


def test_small_dictionaries_go_to_the_dense_solver() -> None:
    a, b = dictionaries("shared")
    found = match(a, b)
    rows, columns = assign(cosines(a, b))
    assert (found.rows == rows).all()
    assert (found.columns == columns).all()
    assert found.gap == 0


def test_the_margin_covers_the_rounding_of_float32_and_little_more() -> None:
    random = np.random.default_rng(0)
    a, b = (unit_rows(random.random((200, 2000))) for _ in range(2))  # all products positive: errors do not cancel
    price = random.random(200)
    single = a.astype(np.float32) @ b.T.astype(np.float32) - price.astype(np.float32)
    one_by_one = np.cumsum((a[0] * b[0]).astype(np.float32), dtype=np.float32)[-1]
    margin = assignment.margin(2000, price, torch.float32)
    assert np.abs(single - (a @ b.T - price)).max() < margin < 1e-3
    assert 0 < abs(one_by_one - a[0] @ b[0]) < margin


def test_a_match_is_the_same_every_time() -> None:
    a, b = dictionaries("duplicates")
    first, second = sparse_match(a, b, candidates=16), sparse_match(a, b, candidates=16)
    assert (first.columns == second.columns).all()


def test_rows_that_are_not_unit_or_not_finite_are_refused() -> None:
    a, b = dictionaries("random")
    with pytest.raises(ReseedError, match=r"row 0 of the second has the norm 2, allowed: 1, or 0"):
        match(a, 2 * b)
    with pytest.raises(ReseedError, match="has the norm nan"):
        match(a * np.nan, b)
    with pytest.raises(ReseedError, match="found d_in 48 and 47"):
        match(a, b[:, :47])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocked_maxima_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    monkeypatch.setattr(matching, "DENSE", 0)
    monkeypatch.setattr(matching, "BLOCK", 5000)
    a, b = (rows.astype(dtype) for rows in dictionaries("wide"))
    size = np.abs(cosines(a, b))
    of_rows, of_columns = row_and_column_maxima(a, b)
    np.testing.assert_allclose(of_rows, size.max(axis=1), rtol=1e-6 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(of_columns, size.max(axis=0), rtol=1e-6 if dtype == np.float32 else 1e-13)
