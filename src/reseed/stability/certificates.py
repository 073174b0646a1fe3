"""Whether a convergence certificate was right: the same seeds, trained four times longer, must say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from reseed import ReseedError
from reseed.params import SaeTraining, Stability
from reseed.stability.arms import ArmReport, Certificate
from reseed.stability.dictionaries import SeedSet
from reseed.stability.jackknife import Estimate
from reseed.stability.report import with_interval

DOUBLINGS = 2  # four times longer
START_TOLERANCE = 1e-4

Verdict = Literal["holds", "broken", "not certified"]


@dataclass(frozen=True)
class Reading:
    """A figure (a statistic, or its kappa) of the short run and of the long one; None where the long run has none.

    inside: the long run's value lies in the short one's jackknife interval, the strict reading. inside_widened: in
    that interval widened on both sides by the plateau tolerance once a doubling, which is how far a certified figure
    may move by what its certificate says. A figure that no longer exists is outside of both.
    """

    short: Estimate
    long: Estimate | None

    def inside(self, confidence: float, slack: float = 0.0) -> bool:
        low, high = self.short.interval(confidence)
        return self.long is not None and low - slack <= self.long.value <= high + slack

    def inside_widened(self, options: Stability) -> bool:
        return self.inside(options.confidence, DOUBLINGS * options.plateau_tolerance)

    @property
    def moved(self) -> Estimate | None:
        """long - short, the same seed left out of both: they have their seeds in common."""
        return None if self.long is None else self.long - self.short


@dataclass(frozen=True)
class Check:
    """One statistic: what its certificate said, and what four times longer gave. kappa is None without a short one."""

    certificate: Certificate
    value: Reading
    kappa: Reading | None

    def verdict(self, options: Stability) -> Verdict:
        """By the strict reading, of the value and of its kappa where there is one: claims are made of either."""
        if not self.certificate.converged:
            return "not certified"
        readings = [self.value] if self.kappa is None else [self.value, self.kappa]
        return "holds" if all(reading.inside(options.confidence) for reading in readings) else "broken"


def four_times_longer(training: SaeTraining, seed_set: SeedSet) -> SaeTraining:
    """The training in which every seed takes four times the constant steps of the slowest one, and then its decay."""
    return training.at_steps(2**DOUBLINGS * max(int(metrics["constant_steps"]) for metrics in seed_set.metrics))


def check_same_run(short: SeedSet, long: SeedSet, place: str) -> None:
    """Raise ReseedError unless the long run has the seeds of the short one and began where that did."""
    if short.seeds != long.seeds:
        raise ReseedError(f"{place}: found the seeds {short.seeds}, the longer run has {long.seeds}")
    for seed, a, b in zip(short.seeds, short.initial(), long.initial(), strict=True):
        if a.decoder.shape != b.decoder.shape or not np.allclose(a.decoder, b.decoder, atol=START_TOLERANCE):
            raise ReseedError(
                f"{place}: seed {seed} began at another decoder than the longer run, so the two are not one run "
                "prolonged; train it again by this code and these parameters"
            )


def check_certificates(short: ArmReport, long: ArmReport) -> dict[str, Check]:
    """statistic -> check, for every statistic of the short run over its alive latents."""
    checks = {}
    for statistic, found in short.alive.items():
        longer = long.alive.get(statistic)
        checks[statistic] = Check(
            certificate=short.certificates[statistic],
            value=Reading(found.value, longer.value if longer else None),
            kappa=None if found.kappa is None else Reading(found.kappa, longer.kappa if longer else None),
        )
    return checks


def overall(checks: dict[str, Check], options: Stability) -> Verdict:
    """broken if one certificate was, else not certified if one statistic never was, else holds."""
    verdicts = {check.verdict(options) for check in checks.values()}
    return next(verdict for verdict in ("broken", "not certified", "holds") if verdict in verdicts)


def certificate_summary(
    checks: dict[str, Check], short: SeedSet, long: SeedSet, architecture: str, options: Stability
) -> dict[str, Any]:
    """The content of certificate.json."""
    return {
        "architecture": architecture,
        "verdict": overall(checks, options),
        "constant_steps": max(int(metrics["constant_steps"]) for metrics in short.metrics),
        "constant_steps_long": max(int(metrics["constant_steps"]) for metrics in long.metrics),
        "widened_by": DOUBLINGS * options.plateau_tolerance,
        **{statistic: _check(check, options) for statistic, check in checks.items()},
    }


def _check(check: Check, options: Stability) -> dict[str, Any]:
    certificate = check.certificate
    content: dict[str, Any] = {
        "verdict": check.verdict(options),
        "certified": int(certificate.converged),
        "seeds_converged": certificate.seeds_converged,
        "plateau_change": certificate.change,
        "value": _reading(check.value, options),
    }
    return content | ({} if check.kappa is None else {"kappa": _reading(check.kappa, options)})


def _reading(reading: Reading, options: Stability) -> dict[str, Any]:
    content: dict[str, Any] = {
        "short": with_interval(reading.short, options.confidence),
        "inside": int(reading.inside(options.confidence)),
        "inside_widened": int(reading.inside_widened(options)),
    }
    if reading.long is not None and reading.moved is not None:
        content["long"] = with_interval(reading.long, options.confidence)
        content["moved"] = with_interval(reading.moved, options.confidence)
    return content
