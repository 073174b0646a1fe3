"""Variants of one subject beside each other, each against its controls and a baseline, corrected for how many."""

from __future__ import annotations

import math
from typing import Any

from scipy.stats import t

from reseed import ReseedError
from reseed.stability.comparison import holm
from reseed.stability.jackknife import Estimate, combine

STATISTIC = "pw_mcc"
ACCEPTED, REJECTED, NOT_TESTABLE = "accepted", "not accepted", "not testable"
NOT_COMPARABLE = "not comparable"


def compare_variants(
    evidence: dict[str, dict[str, Any]],
    baseline: str,
    gain: float,
    drop: float,
    confidence: float,
    l0_tolerance: float | None = None,
) -> dict[str, Any]:
    """The content of metrics/comparisons/<name>.json from {variant: content of its stability.json}.

    A variant is `accepted` over the baseline if its kappa of pw_mcc lies above the baseline's by more than `gain`, by
    the whole interval at the level corrected for the number of variants compared, and its held-out explained variance
    falls by no more than `drop`, by its whole interval; it is `not testable` if one of the two has no kappa or is not
    converged. With an `l0_tolerance` it is `not comparable` first, if its held-out L0 differs from the baseline's by a
    larger share, or if its seeds took another number of steps. p-values are Holm's over the variants (Holm 1979): of
    the difference to the baseline, by jackknife-t, and of each difference to a control arm, by permutation of seeds.
    """
    for name, content in evidence.items():
        _check_units(name, content)
    others = [name for name in evidence if name != baseline]
    level = 1 - (1 - confidence) / max(1, len(others))
    rows = {name: _row(content) for name, content in evidence.items()}
    differences = {name: _difference(evidence[name], evidence[baseline], level) for name in others}
    adjusted = _holm_of({name: found["p"] for name, found in differences.items() if found})
    for name in others:
        rows[name]["against_baseline"] = _verdict(
            evidence[name], evidence[baseline], differences[name], adjusted.get(name), gain, drop, confidence
        )
        if l0_tolerance is not None and not _comparable(evidence[name], evidence[baseline], l0_tolerance):
            rows[name]["against_baseline"]["verdict"] = NOT_COMPARABLE
    controls = sorted({key for content in evidence.values() for key in content if key.startswith("trained - ")})
    for control in controls:
        tests = {name: content[control][STATISTIC] for name, content in evidence.items() if control in content}
        corrected = _holm_of({name: test["p"] for name, test in tests.items()})
        for name, test in tests.items():
            floor = min(1.0, test["p_floor"] * len(tests))
            rows[name][control] = {**test, "p_holm": corrected[name], "p_holm_floor": floor}
    tolerance = {} if l0_tolerance is None else {"l0_tolerance": l0_tolerance}
    return {"baseline": baseline, "corrected_confidence": level, **tolerance, "variants": rows}


def _check_units(name: str, content: dict[str, Any]) -> None:
    """Pairs of seeds share seeds: as many values as pairs would make every interval too narrow."""
    for record in content["records"]:
        left_out = len(record.get("kappa_deleted", range(content["seeds"])))
        if left_out != content["seeds"]:
            raise ReseedError(
                f"{name}/stability.json: {record['statistic']}: found {left_out} left-out values for "
                f"{content['seeds']} independent seeds, allowed: one for each; pairs of seeds are no observations"
            )


def _comparable(one: dict[str, Any], other: dict[str, Any], l0_tolerance: float) -> bool:
    a, b = one["trained"], other["trained"]
    return bool(abs(a["l0"]["value"] / b["l0"]["value"] - 1) <= l0_tolerance and a["steps"] == b["steps"])


def _row(content: dict[str, Any]) -> dict[str, Any]:
    trained = content["trained"]
    kept = ("steps", "explained_variance", "l0", "alive_fraction", STATISTIC, "shared_fraction", "recovery")
    named = ("architecture", "artefacts", "d_sae", "k", "seeds")
    shape = {name: content[name] for name in named if name in content}
    return shape | {name: trained[name] for name in kept if name in trained}


def _kappa(content: dict[str, Any]) -> Estimate | None:
    wanted = {"arm": "trained", "statistic": STATISTIC, "latents": "alive"}
    record = next(record for record in content["records"] if wanted.items() <= record.items())
    return Estimate(record["kappa"], tuple(record["kappa_deleted"])) if "kappa" in record else None


def _difference(one: dict[str, Any], other: dict[str, Any], level: float) -> dict[str, float]:
    """Difference of the kappas with its interval and p; empty if one has none.

    The seeds are left out of both together where both have the same number of units; else the two are independent
    (Welch's degrees of freedom).
    """
    a, b = _kappa(one), _kappa(other)
    if a is None or b is None:
        return {}
    if len(a.deleted) == len(b.deleted):
        paired = combine([1.0, -1.0], [a, b])
        value, error, freedom = paired.value, paired.error, float(len(a.deleted) - 1)
    else:
        value, (error, freedom) = a.value - b.value, _welch((a.error, len(a.deleted)), (b.error, len(b.deleted)))
    return {"value": value, **_judged(value, error, freedom, level)}


def _welch(a: tuple[float, int], b: tuple[float, int]) -> tuple[float, float]:
    """Standard error and degrees of freedom of the difference of two independent figures (error, units)."""
    squares = [a[0] ** 2, b[0] ** 2]
    total = sum(squares)
    below = sum(s**2 / (n - 1) for s, (_, n) in zip(squares, (a, b), strict=True))
    return math.sqrt(total), total**2 / below if below else float(min(a[1], b[1]) - 1)


def _judged(value: float, error: float, freedom: float, level: float) -> dict[str, float]:
    half = float(t.ppf(0.5 + level / 2, freedom)) * error
    p = float(2 * t.sf(abs(value) / error, freedom)) if error else float(value == 0)
    return {"low": value - half, "high": value + half, "p": p}


def _holm_of(p: dict[str, float]) -> dict[str, float]:
    return dict(zip(p, holm(list(p.values())), strict=True))


def _verdict(
    one: dict[str, Any],
    baseline: dict[str, Any],
    difference: dict[str, float],
    p_holm: float | None,
    gain: float,
    drop: float,
    confidence: float,
) -> dict[str, Any]:
    lost = _fall(one, baseline, confidence)
    found: dict[str, Any] = {"explained_variance_fall": lost}
    if not difference or p_holm is None:
        return {**found, "verdict": NOT_TESTABLE}
    found["kappa_difference"] = difference | {"p_holm": p_holm}
    if not all(content["trained"][STATISTIC]["converged"] for content in (one, baseline)):
        return {**found, "verdict": NOT_TESTABLE}
    accepted = difference["low"] > gain and lost["high"] <= drop
    return {**found, "verdict": ACCEPTED if accepted else REJECTED}


def _fall(one: dict[str, Any], baseline: dict[str, Any], confidence: float) -> dict[str, float]:
    """By how much the held-out explained variance of a variant is below the baseline's, as of independent seeds."""
    parts: list[tuple[float, float, int]] = []
    for content in (baseline, one):
        figures, seeds = content["trained"]["explained_variance"], int(content["seeds"])
        half = (figures["high"] - figures["low"]) / 2
        parts.append((figures["value"], half / float(t.ppf(0.5 + confidence / 2, seeds - 1)), seeds))
    value = parts[0][0] - parts[1][0]
    error, freedom = _welch(parts[0][1:], parts[1][1:])
    judged = _judged(value, error, freedom, confidence)
    return {"value": value, "low": judged["low"], "high": judged["high"]}
