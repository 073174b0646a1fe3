"""Figures of correctness beside what they must exceed, and the go/no-go table over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reseed.params import Rule
from reseed.stability.arms import StatisticReport
from reseed.stability.jackknife import Estimate, Groups, mean_over_seeds
from reseed.stability.report import with_interval


@dataclass(frozen=True)
class Figure:
    """A figure over seeds. nulls: what it must exceed; peers: what else reaches which value on the same rows.

    more_is_better: False of a count of faults, which must lie below its nulls.
    """

    value: Estimate
    nulls: dict[str, Estimate] = field(default_factory=dict)
    peers: dict[str, float] = field(default_factory=dict)
    more_is_better: bool = True

    def margins(self) -> dict[str, Estimate]:
        """By how much it is better than each null; units are left out of the figure and of its null together."""
        better = (self.value - null if self.more_is_better else null - self.value for null in self.nulls.values())
        return dict(zip(self.nulls, better, strict=True))

    def exceeds_nulls(self, confidence: float) -> bool:
        """Whether the interval of its margin over every null lies above 0; False without a null."""
        lows = [margin.interval(confidence)[0] for margin in self.margins().values()]
        return bool(lows) and min(lows) > 0

    def shown(self, confidence: float) -> dict[str, Any]:
        """As it stands in truth.json."""
        content = with_interval(self.value, confidence)
        if self.nulls:
            content["nulls"] = {name: null.value for name, null in self.nulls.items()}
            over, margin = min(self.margins().items(), key=lambda one: one[1].interval(confidence)[0])
            content["margin"] = with_interval(margin, confidence) | {"over": over}
            content["exceeds_nulls"] = int(self.exceeds_nulls(confidence))
            if not self.more_is_better:
                content["fewer_is_better"] = 1
        return content | ({"peers": self.peers} if self.peers else {})


def constant(value: float, groups: Groups) -> Estimate:
    """A figure that no seed has a part in."""
    return Estimate(value, (value,) * len(groups))


def figure(
    values: Sequence[float],
    groups: Groups,
    nulls: Mapping[str, Sequence[float]],
    peers: Mapping[str, float] | None = None,
    more_is_better: bool = True,
) -> Figure:
    """Means over the seeds of a figure and of its nulls, one value a seed."""
    known = {name: mean_over_seeds(of_seeds, groups) for name, of_seeds in nulls.items()}
    return Figure(mean_over_seeds(values, groups), known, dict(peers or {}), more_is_better)


def of_report(report: StatisticReport, groups: Groups, peers: Mapping[str, float] | None = None) -> Figure:
    """A figure of `stability.recovery` with its simulated nulls."""
    return Figure(
        report.value, {name: constant(null, groups) for name, null in report.nulls.items()}, dict(peers or {})
    )


def decide(
    rules: Mapping[Rule, float],
    figures: Mapping[str, Figure],
    l0_over_d_in: float,
    confidence: float,
    supervised: bool = False,
) -> dict[str, Any]:
    """The go/no-go table: every committed rule beside what was found, and `go`.

    A rule is met if the low end of the figure's interval reaches its bound and the figure exceeds its nulls; a figure
    that was not measured, or has no null, meets nothing. go is 1 only if there are rules, all are met, and the L0 is
    below d_in: with as many latents as dimensions everything is reconstructed and nothing is shown. supervised: the
    SAEs were trained with labels of the truth, so that to find it shows nothing either.
    """
    table: dict[str, dict[str, Any]] = {}
    for rule, bound in rules.items():
        row: dict[str, Any] = {"bound": bound, "met": 0}
        if (found := figures.get(rule)) is not None:
            low, _ = found.value.interval(confidence)
            exceeds = found.exceeds_nulls(confidence)
            row |= {"found": found.value.value, "low": low, "exceeds_nulls": int(exceeds)}
            row["met"] = int(low >= bound and exceeds)
        table[rule] = row
    sparse = l0_over_d_in < 1
    return {
        "rules": table,
        "sparse": int(sparse),
        "supervised": int(supervised),
        "go": int(bool(table) and sparse and not supervised and all(row["met"] for row in table.values())),
    }
