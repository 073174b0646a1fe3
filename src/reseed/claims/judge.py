"""The judge: supported, not supported, or not testable. A pure function of a claim and the content of its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reseed import ReseedError
from reseed.claims.evidence import check_evidence
from reseed.claims.figures import Content, Figure, bounds, kappa
from reseed.claims.gates import FAILED, GATES, PASSED, Case, Options, Ruling, rule
from reseed.claims.registry import Claim, Test, kind_of
from reseed.stability.jackknife import Estimate, combine

SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable"


def judge(claim: Claim, evidence: Mapping[str, Content], options: Options) -> dict[str, Any]:
    """Verdict, the figures behind it, what each gate says, and the reasons, as metrics/claims/<id>.json holds them.

    evidence: path -> content of a metric file. A claim is not testable if its evidence lacks a seed set, a figure or a
    gate, is not of one set of artefacts, or a gate on how it was measured fails; it is not supported if a gate that
    holds it against a control fails, or a bound does not hold (refuted: the interval lies beyond it on the wrong side;
    else unresolved); else it is supported. Raises ReseedError for a file that is no evidence of its kind.
    """
    cases = _cases(claim, evidence, options)
    obstacles = [*_obstacles(claim, cases), *_unbound(cases)]
    if obstacles:
        return _verdict(NOT_TESTABLE, obstacles, [], [], cases)
    rulings = [rule(name, case) for name in GATES if name in claim.gates for case in cases]
    tests = _outcomes(claim, cases, "alive")
    rulings.append(_alive(claim, cases, tests))
    closed = [ruling for ruling in rulings if ruling.outcome != PASSED]
    invalid = [ruling for ruling in closed if ruling.outcome != FAILED or not _substantial(ruling.gate)]
    if invalid:
        return _verdict(NOT_TESTABLE, [f"{one.of}: {one.gate}: {one.reason}" for one in invalid], tests, rulings, cases)
    reasons = [_said(outcome, claim) for outcome in tests]
    reasons += [f"{one.of}: {one.gate}: {one.reason}" for one in closed]
    held = not closed and all(outcome["outcome"] == "holds" for outcome in tests)
    return _verdict(SUPPORTED if held else NOT_SUPPORTED, reasons, tests, rulings, cases)


def _verdict(
    verdict: str, reasons: list[str], tests: list[Content], rulings: list[Ruling], cases: list[Case]
) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "standing": cases[0].claim.standing,
        "tests": tests,
        "tests_held": sum(outcome["outcome"] == "holds" for outcome in tests) if verdict != NOT_TESTABLE else 0,
        "gates": [ruling.as_dict() for ruling in rulings],
        "gates_passed": sum(ruling.outcome == PASSED for ruling in rulings),
        "reasons": reasons,
        "artefacts": {path: digest for case in cases for path, digest in case.stability.get("artefacts", {}).items()},
    }


def _cases(claim: Claim, evidence: Mapping[str, Content], options: Options) -> list[Case]:
    """One case a seed set; raises ReseedError for a file that cannot be evidence."""
    files: dict[str, dict[str, Content]] = {}
    comparisons = {}
    for path in claim.sources:
        kind, pair = kind_of(path)
        content = evidence[path]
        if "quarantined" in content:
            raise ReseedError(
                f"{path}: the subject is quarantined ({content['quarantined']}), allowed as evidence: one that is not"
            )
        check_evidence(kind, content, path, claim.statistic or "pw_mcc")
        if kind == "comparison":
            comparisons[path] = content
            continue
        files.setdefault(pair, {})[kind] = content
    for pair in files:
        if pair not in claim.speaks_of:
            raise ReseedError(f"claims: evidence of {pair}, of which speaks_of says nothing; name it there")
    confidence = 1 - (1 - options.stability.confidence) / claim.tried
    return [Case(claim, pair, files[pair], comparisons, options, confidence) for pair in claim.speaks_of]


def _obstacles(claim: Claim, cases: list[Case]) -> list[str]:
    """What keeps the claim from being judged before any gate is asked, in words."""
    found = []
    counts = {int(case.stability["seeds"]) for case in cases}
    if len(counts) > 1:
        found.append(f"the evidence has different numbers of seeds: {sorted(counts)}")
    for case in cases:
        content, where = case.stability, case.where("stability")
        for name, value in claim.speaks_of[case.pair].items():
            if content.get(name) != value:
                found.append(f"{where}: {name} is {content.get(name, 'absent')}, the claim speaks of {value}")
        if content["seeds"] < claim.minimum_seeds:
            found.append(f"{where}: {content['seeds']} seeds, the claim asks for {claim.minimum_seeds}")
        for one in content["records"]:
            if len(one.get("kappa_deleted", range(content["seeds"]))) != content["seeds"]:
                found.append(
                    f"{where}: {one['statistic']} of the {one['arm']} arm has {len(one['kappa_deleted'])} left-out "
                    f"values for {content['seeds']} seeds: pairs of seeds share seeds and are no observations"
                )
        for arm in case.arms:
            if arm not in content:
                found.append(f"{where}: it has no arm {arm!r}")
            elif claim.statistic is not None and any(arm in test.arms for test in claim.tests):
                found += [
                    f"{where}: {claim.statistic} of the {arm} arm has no kappa over {latents} latents (its null is "
                    "too high)"
                    for latents in ("alive", "all")
                    if kappa(content, arm, claim.statistic, latents) is None
                ]
        if claim.metric is not None and (kind := claim.metric.partition(":")[0]) not in case.files:
            found.append(f"{case.where(kind)} is not among the evidence")
    return found


def _unbound(cases: list[Case]) -> list[str]:
    """Files of one seed set that were not computed from the same SAEs and activations, by their content."""
    found = []
    for case in cases:
        own = case.stability.get("artefacts") or {}
        subject = case.pair.partition("/")[0]
        if missing := {f"models/{case.pair}", f"data/{subject}/activations/trained"} - own.keys():
            found.append(
                f"{case.where('stability')} does not say by hash which {sorted(missing)[0]} it is of: run its stage "
                "again"
            )
            continue
        for kind, content in case.files.items():
            others = content.get("artefacts", {})
            if not others:
                found.append(f"{case.where(kind)} does not say by hash which artefacts it is of: run its stage again")
            found += [
                f"{case.where(kind)} is of {path} {others.get(path, 'unknown')[:12]}, and "
                f"{case.where('stability')} of {digest[:12]}: they are not of the same run"
                for path, digest in own.items()
                if others and others.get(path) != digest
            ]
        for path, content in case.comparisons.items():
            variant = case.pair.rpartition("/")[2]
            row = content["variants"].get(variant)
            if row is not None and row.get("artefacts") != own:
                found.append(f"{path} compares another {variant} than {case.where('stability')} is of: run it again")
    return found


def _substantial(gate: str) -> bool:
    return gate in GATES and GATES[gate].substantial


def _alive(claim: Claim, cases: list[Case], tests: list[Content]) -> Ruling:
    """The gate `alive`: no outcome changes when dead latents are counted too.

    Its null is agreement over all latents that puts the first figure on the other side of its bound, its positive
    agreement over all latents that is that over the alive ones.
    """
    of = ", ".join(claim.speaks_of)
    if claim.metric is not None:
        return Ruling("alive", of, PASSED, "the figure is not one over latents")
    if not _flipped(tests, _outcomes(claim, _counted(claim, cases, _other_side(claim.tests[0], tests[0])), "all")):
        return Ruling("alive", of, NOT_TESTABLE, "the gate passes a planted null")
    if flipped := _flipped(tests, _outcomes(claim, _counted(claim, cases, 0.0), "all")):
        return Ruling("alive", of, NOT_TESTABLE, f"the gate does not pass a planted positive ({flipped})")
    if flipped := _flipped(tests, _outcomes(claim, cases, "all")):
        return Ruling("alive", of, FAILED, flipped)
    return Ruling("alive", of, PASSED, "no outcome changes when dead latents are counted")


def _flipped(tests: list[Content], over_all: list[Content]) -> str:
    """The figures whose outcome over all latents is another one, in words."""
    return "; ".join(
        f"{outcome['figure']}: {outcome['outcome']} over alive latents, {other['outcome']} over all"
        for outcome, other in zip(tests, over_all, strict=True)
        if (outcome["outcome"] == "holds") != (other["outcome"] == "holds")
    )


def _other_side(test: Test, outcome: Content) -> float:
    """What takes the whole interval of a figure to the other side of its bound, by more than its width."""
    bound, sign = (test.above, 1) if test.above is not None else (test.below, -1)
    assert bound is not None
    beyond = 1 + outcome["high"] - outcome["low"]
    return float(bound - outcome["value"] - (1 if outcome["outcome"] == "holds" else -1) * sign * beyond)


def _counted(claim: Claim, cases: list[Case], by: float) -> list[Case]:
    """The cases with the kappas over alive latents as those over all of them; the first figure moved by `by`."""
    test = claim.tests[0]
    found = []
    for case in cases:
        step = by if test.over == "each" else by * float(np.log2(float(claim.speaks_of[case.pair]["k"])))
        records = [one for one in case.stability["records"] if one["latents"] == "alive" and "kappa" in one]
        counted = [_moved(one, step if one["arm"] == test.arms[0] else 0.0) | {"latents": "all"} for one in records]
        found.append(case.with_file("stability", case.stability | {"records": records + counted}))
    return found


def _moved(record: Content, by: float) -> Content:
    return record | {"kappa": record["kappa"] + by, "kappa_deleted": [one + by for one in record["kappa_deleted"]]}


def _outcomes(claim: Claim, cases: list[Case], latents: str) -> list[Content]:
    return [
        _outcome(label, figure, test, cases[0].confidence)
        for test in claim.tests
        for label, figure in _figures(claim, test, cases, latents)
    ]


def _figures(claim: Claim, test: Test, cases: list[Case], latents: str) -> list[tuple[str, Figure]]:
    """The figures that a test bounds: one a seed set, or the slope over all of them."""
    values: list[tuple[str, Figure]] = []
    for case in cases:
        if claim.metric is not None:
            kind, _, path = claim.metric.partition(":")
            content, where = case.files[kind], case.where(kind)
            units, level = int(case.stability["seeds"]), case.options.stability.confidence
            values.append((f"{path}, {case.pair}", bounds(content, path, where, units, level)))
            continue
        assert claim.statistic is not None
        arms = [kappa(case.stability, arm, claim.statistic, latents) for arm in test.arms]
        figure = combine([1.0, -1.0][: len(arms)], [arm for arm in arms if arm is not None])
        values.append((f"{test.figure}, {case.pair}", figure))
    if test.over == "each":
        return values
    estimates = [figure for _, figure in values if isinstance(figure, Estimate)]
    if len(estimates) < len(values) or len(values) < 2:
        raise ReseedError("claims: tests: found over log2_k, allowed: for a statistic of two or more seed sets")
    x = np.log2([float(values["k"]) for values in claim.speaks_of.values()])
    weights = (x - x.mean()) / np.sum((x - x.mean()) ** 2)  # least squares
    return [(f"{test.figure}, slope per doubling of k", combine(list(weights), estimates))]


def _outcome(label: str, figure: Figure, test: Test, confidence: float) -> Content:
    low, high = figure.interval(confidence)
    bound, sign = (test.above, 1) if test.above is not None else (test.below, -1)
    assert bound is not None
    near, far = sorted((sign * (low - bound), sign * (high - bound)))
    outcome = "holds" if near > 0 else "refuted" if far < 0 else "unresolved"
    wanted = f"{'above' if sign > 0 else 'below'} {bound:g}"
    return {"figure": label, "value": figure.value, "low": low, "high": high, "bound": wanted, "outcome": outcome}


def _said(outcome: Content, claim: Claim) -> str:
    figures = f"{outcome['value']:.3f} [{outcome['low']:.3f}, {outcome['high']:.3f}]"
    of = "kappa of " if claim.statistic else ""
    return f"{of}{outcome['figure']}: {figures}, to be {outcome['bound']}: {outcome['outcome']}"
