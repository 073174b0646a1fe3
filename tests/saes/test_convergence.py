"""The convergence rule on curves whose verdict is known."""

import pytest

from reseed.params import Convergence
from reseed.saes.convergence import judge

RULE = Convergence(loss_tolerance=0.02, loss_rise_tolerance=0.1, cosine_tolerance=0.03, max_cosine_to_init=0.9)
STEPS = list(range(100, 8001, 100))


def test_a_settled_seed_is_converged() -> None:
    verdict = judge(STEPS, [0.1] * 80, [0.2] * 80, RULE)
    assert verdict is not None
    assert verdict.converged
    assert verdict.loss_fall == pytest.approx(0)


@pytest.mark.parametrize(
    ("losses", "cosines"),
    [
        ([1 / step for step in STEPS], [0.2] * 80),  # the loss still halves with every doubling
        ([0.1] * 80, [1 - step / 10_000 for step in STEPS]),  # the decoder is still on its way
        ([step / 1e5 for step in STEPS], [0.2] * 80),  # the loss doubles with every doubling: it diverges
        ([0.1 + step / 1e6 for step in STEPS], [1 - step / 10_000 for step in STEPS]),  # a slow rise hides no motion
        ([0.1] * 80, [0.95] * 80),  # it never left its initialisation: the fault of stopping after 120 steps
    ],
)
def test_an_unsettled_seed_is_not(losses: list[float], cosines: list[float]) -> None:
    verdict = judge(STEPS, losses, cosines, RULE)
    assert verdict is not None
    assert not verdict.converged


def test_the_fall_is_that_of_one_doubling() -> None:
    verdict = judge(STEPS, [step**-0.5 for step in STEPS], [0.2] * 80, RULE)
    assert verdict is not None
    assert verdict.loss_fall == pytest.approx(1 - 2**-0.5, abs=0.005)
    assert not verdict.converged


def test_a_slowly_rising_loss_is_settled_and_the_rule_needs_two_windows() -> None:
    assert judge([100], [0.1], [0.2], RULE) is None
    verdict = judge(STEPS, [0.1 + step / 1e6 for step in STEPS], [0.2] * 80, RULE)  # 0.1044 to 0.1070
    assert verdict is not None
    assert verdict.loss_fall == pytest.approx(-0.034, abs=0.002)
    assert verdict.converged
