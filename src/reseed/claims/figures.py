"""Figures of evidence files as estimates with intervals, and how to plant another value in one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from reseed import ReseedError
from reseed.claims.evidence import check_interval
from reseed.params import TRAINED
from reseed.stability.jackknife import Estimate

Content = dict[str, Any]


@dataclass(frozen=True)
class Bounds:
    """A figure with its interval, of which the single deleted values are not known."""

    value: float
    low: float
    high: float
    units: int
    """Independent seeds, or groups of them."""
    confidence: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """The interval at another level: half its width is t(n-1) times the standard error."""
        if confidence == self.confidence:
            return self.low, self.high
        widths = [float(stdtrit(self.units - 1, 0.5 + level / 2)) for level in (self.confidence, confidence)]
        half = (self.high - self.low) / 2 * widths[1] / widths[0]
        middle = (self.high + self.low) / 2
        return middle - half, middle + half


Figure = Estimate | Bounds


def at(content: Content, path: str, where: str) -> Any:
    """The value at a path whose names are separated by `/`; raises ReseedError that says what is known there."""
    place: Any = content
    for name in path.split("/"):
        if not isinstance(place, dict) or name not in place:
            known = ", ".join(sorted(place)) if isinstance(place, dict) else "nothing"
            raise ReseedError(f"{where}: found no {name!r} of {path!r}; known there: {known}")
        place = place[name]
    return place


def has(content: Content, path: str) -> bool:
    place: Any = content
    for name in path.split("/"):
        if not isinstance(place, dict) or name not in place:
            return False
        place = place[name]
    return True


def bounds(content: Content, path: str, where: str, units: int, confidence: float) -> Bounds:
    """The figure {value, low, high} at a path; raises ReseedError for anything else."""
    found = at(content, path, where)
    check_interval(found, path, where)
    return Bounds(float(found["value"]), float(found["low"]), float(found["high"]), units, confidence)


def record(content: Content, arm: str, statistic: str, latents: str = "alive") -> Content | None:
    """The record of a statistic with its deleted values, None if the file has none."""
    key = {"arm": arm, "statistic": statistic, "latents": latents}
    return next((dict(one) for one in content.get("records", []) if key.items() <= one.items()), None)


def kappa(content: Content, arm: str, statistic: str, latents: str = "alive") -> Estimate | None:
    """Chance-corrected agreement of an arm, None where it is undefined (its null is too high)."""
    found = record(content, arm, statistic, latents)
    if found is None or "kappa" not in found:
        return None
    return Estimate(float(found["kappa"]), tuple(float(value) for value in found["kappa_deleted"]))


def sentence(figure: Figure, confidence: float) -> str:
    low, high = figure.interval(confidence)
    return f"{figure.value:.3f} [{low:.3f}, {high:.3f}]"


def planted(content: Content, path: str, value: Any) -> Content:
    """A copy of the content with another value at a path; a figure keeps the width of its interval."""
    changed = copy.deepcopy(content)
    *parents, last = path.split("/")
    place = changed
    for name in parents:
        place = place.setdefault(name, {})
    now = place.get(last)
    if isinstance(now, dict) and "low" in now and not isinstance(value, dict):
        half = (now["high"] - now["low"]) / 2
        value = now | {"value": value, "low": value - half, "high": value + half}
    place[last] = value
    return changed


def planted_kappa(content: Content, statistic: str, value: float, arm: str = TRAINED) -> Content:
    """A copy of the content in which the kappas of an arm lie elsewhere, with the same spread over deleted seeds."""
    changed = copy.deepcopy(content)
    for one in changed.get("records", []):
        if one["arm"] == arm and one["statistic"] == statistic and "kappa" in one:
            shift = value - one["kappa"]
            one["kappa"] = value
            one["kappa_deleted"] = [deleted + shift for deleted in one["kappa_deleted"]]
    return changed
