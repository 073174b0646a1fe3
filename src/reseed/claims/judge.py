"""The judge: supported, not supported, or not testable. A pure function of a claim and the content of its evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from reseed import ReseedError
from reseed.claims.registry import Claim, Test
from reseed.stability.jackknife import Estimate, combine

SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable"


def judge(claim: Claim, evidence: dict[str, dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Verdict, the figures behind it, and the reasons, as the content of metrics/claims/<id>.json.

    evidence: path -> content of stability.json. A claim is not testable if its evidence lacks seeds, a figure, or a
    gate; it is supported if every test holds; else it is not supported, and a reason says whether the figure was
    refuted (its interval lies beyond the bound on the wrong side) or unresolved.
    """
    obstacles = _obstacles(claim, evidence)
    if obstacles:
        return {"verdict": NOT_TESTABLE, "tests_held": 0, "tests": [], "reasons": obstacles}
    outcomes = _outcomes(claim, evidence, "alive", confidence)
    all_latents = _outcomes(claim, evidence, "all", confidence)
    flipped = [
        f"{outcome['figure']}: {outcome['outcome']} over alive latents, {other['outcome']} over all"
        for outcome, other in zip(outcomes, all_latents, strict=True)
        if (outcome["outcome"] == "holds") != (other["outcome"] == "holds")
    ]
    if flipped:
        return {"verdict": NOT_TESTABLE, "tests_held": 0, "tests": outcomes, "reasons": flipped}
    held = sum(outcome["outcome"] == "holds" for outcome in outcomes)
    return {
        "verdict": SUPPORTED if held == len(outcomes) else NOT_SUPPORTED,
        "tests_held": held,
        "tests": outcomes,
        "reasons": [_sentence(outcome) for outcome in outcomes],
    }


def _obstacles(claim: Claim, evidence: dict[str, dict[str, Any]]) -> list[str]:
    """Everything that keeps the claim from being judged, in words; empty if nothing does."""
    found = []
    arms = sorted({arm for test in claim.tests for arm in test.arms}, key=lambda arm: (arm != "trained", arm))
    counts = {int(content.get("seeds", 0)) for content in evidence.values()}
    if len(counts) > 1:
        found.append(f"the evidence has different numbers of seeds: {sorted(counts)}")
    for path, k in claim.sources.items():
        content = evidence[path]
        if missing := {"k", "seeds", "records"} - content.keys():
            raise ReseedError(f"{path}: found no {sorted(missing)[0]!r}, allowed as evidence: a stability.json")
        if "quarantined" in content:
            raise ReseedError(
                f"{path}: the subject is quarantined ({content['quarantined']}), allowed as evidence: one that is not"
            )
        if content["k"] != k:
            found.append(f"{path}: k is {content['k']}, the claim speaks of {k}")
        if content["seeds"] < claim.minimum_seeds:
            found.append(f"{path}: {content['seeds']} seeds, the claim asks for {claim.minimum_seeds}")
        for arm in arms:
            if arm not in content:
                found.append(f"{path}: it has no arm {arm!r}")
                continue
            figures = content[arm][claim.statistic]
            if not figures["converged"]:
                seeds = f"{content[arm]['seeds_converged']} of {content['seeds']} seeds converged"
                change = f"it changed by {figures['plateau_change']:.3g} over the last doubling of steps"
                found.append(f"{path}: {claim.statistic} of the {arm} arm is not converged ({seeds}; {change})")
            found += [
                f"{path}: {claim.statistic} of the {arm} arm has no kappa over {latents} latents (its null is too high)"
                for latents in ("alive", "all")
                if "kappa" not in _record(content, arm, claim.statistic, latents)
            ]
    return found


def _outcomes(
    claim: Claim, evidence: dict[str, dict[str, Any]], latents: str, confidence: float
) -> list[dict[str, Any]]:
    return [
        _outcome(label, estimate, test, confidence)
        for test in claim.tests
        for label, estimate in _figures(claim, test, evidence, latents)
    ]


def _figures(claim: Claim, test: Test, evidence: dict[str, dict[str, Any]], latents: str) -> list[tuple[str, Estimate]]:
    """The figures that a test bounds: one a file, or the slope over all of them."""
    values = []
    for path in claim.sources:
        of_arms = [_kappa(_record(evidence[path], arm, claim.statistic, latents)) for arm in test.arms]
        values.append(combine([1.0, -1.0][: len(of_arms)], of_arms))
    if test.over == "each":
        return [(f"{test.figure}, {_variant(path)}", value) for path, value in zip(claim.sources, values, strict=True)]
    x = np.log2([float(k) for k in claim.sources.values()])
    weights = (x - x.mean()) / np.sum((x - x.mean()) ** 2)  # least squares
    return [(f"{test.figure}, slope per doubling of k", combine(list(weights), values))]


def _outcome(label: str, estimate: Estimate, test: Test, confidence: float) -> dict[str, Any]:
    low, high = estimate.interval(confidence)
    bound, sign = (test.above, 1) if test.above is not None else (test.below, -1)
    assert bound is not None
    near, far = sorted((sign * (low - bound), sign * (high - bound)))
    outcome = "holds" if near > 0 else "refuted" if far < 0 else "unresolved"
    wanted = f"{'above' if sign > 0 else 'below'} {bound:g}"
    return {"figure": label, "value": estimate.value, "low": low, "high": high, "bound": wanted, "outcome": outcome}


def _record(content: dict[str, Any], arm: str, statistic: str, latents: str) -> dict[str, Any]:
    key = {"arm": arm, "statistic": statistic, "latents": latents}
    return next(dict(record) for record in content["records"] if key.items() <= record.items())


def _kappa(record: dict[str, Any]) -> Estimate:
    estimate = Estimate(float(record["kappa"]), tuple(float(value) for value in record["kappa_deleted"]))
    assert math.isfinite(estimate.value)
    return estimate


def _sentence(outcome: dict[str, Any]) -> str:
    figures = f"{outcome['value']:.3f} [{outcome['low']:.3f}, {outcome['high']:.3f}]"
    return f"kappa of {outcome['figure']}: {figures}, to be {outcome['bound']}: {outcome['outcome']}"


def _variant(path: str) -> str:
    """metrics/<subject>/<variant>/stability.json -> <subject>/<variant>."""
    return "/".join(path.split("/")[1:-1])
