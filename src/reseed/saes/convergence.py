"""The per-seed convergence rule: two figures of one seed's own run, never anything that compares seeds."""

from __future__ import annotations

from dataclasses import dataclass

from reseed.params import Convergence


@dataclass(frozen=True)
class Verdict:
    """What the rule saw at one check; all figures are of the last doubling of steps."""

    converged: bool
    loss_fall: float
    cosine_change: float
    cosine_to_init: float


def judge(steps: list[int], losses: list[float], cosines: list[float], tolerance: Convergence) -> Verdict | None:
    """Judge a seed from its held-out losses and cosines to its own initialisation at increasing steps.

    With T the last step, the means over (3T/4, T] are compared with those over (3T/8, T/2], exactly one doubling
    earlier; means, because a single check is noisy. `loss_fall` is the relative fall of the loss and may be negative.
    Returns None while a window holds no check.
    """
    last = steps[-1]
    recent = [i for i, step in enumerate(steps) if step > 0.75 * last]
    earlier = [i for i, step in enumerate(steps) if 0.375 * last < step <= 0.5 * last]
    if not recent or not earlier:
        return None

    def mean(values: list[float], chosen: list[int]) -> float:
        return sum(values[i] for i in chosen) / len(chosen)

    loss_fall = 1 - mean(losses, recent) / mean(losses, earlier)
    cosine_change = abs(mean(cosines, recent) - mean(cosines, earlier))
    converged = (
        -tolerance.loss_rise_tolerance <= loss_fall <= tolerance.loss_tolerance
        and cosine_change <= tolerance.cosine_tolerance
        and cosines[-1] <= tolerance.max_cosine_to_init
    )
    return Verdict(converged, loss_fall, cosine_change, cosines[-1])
