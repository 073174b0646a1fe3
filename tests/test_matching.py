import numpy as np
import pytest
from scipy.stats import ortho_group

from reseed.matching import assign, cosines, unit_rows


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
