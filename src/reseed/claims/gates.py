"""The gates that evidence must pass before a figure counts, each tried on a null and on a positive first.

A gate looks at the numbers of one seed set (subject/variant) and says passed, failed or not testable, in one sentence.
Before its word counts it must fail a null planted in that very evidence (agreement of chance, an SAE as good as an
untrained one, a loss that still falls) and pass a positive of the same spread: a gate that seeds are too few for, or
that passes everything, opens to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from reseed.claims.figures import (
    Bounds,
    Content,
    Figure,
    at,
    bounds,
    has,
    kappa,
    planted,
    planted_kappa,
    sentence,
)
from reseed.claims.registry import Claim
from reseed.params import GAUSSIAN, RANDOM_MODEL, TRAINED, Convergence, Stability

PASSED, FAILED, NOT_TESTABLE = "passed", "failed", "not testable"
MOST_REPEATED = 0.05
"""The share of held-out rows that may stand among the training rows, bit for bit. A language model gives the same row
wherever the context is the same, as at the first position."""
ROUNDING = 1e-9
"""A difference that is zero but for the rounding of its sums is zero."""
FAR = 0.95
"""Where a planted positive puts a figure whose largest value is 1."""
WITHOUT_MARK = ("saebench", "sae_probes", "ce_bench")
"""Benchmarks that may all gate; of any other, each eval says whether it may."""
TRANSCODERS = ("transcoder", "skip_transcoder")


@dataclass(frozen=True)
class Options:
    """The committed parameters by which evidence is judged."""

    stability: Stability
    convergence: Convergence


@dataclass(frozen=True)
class Case:
    """The evidence of one seed set of a claim: the content of its metric files by kind."""

    claim: Claim
    pair: str
    files: Mapping[str, Content]
    comparisons: Mapping[str, Content]
    options: Options
    confidence: float
    """Corrected for the settings that were tried."""

    @property
    def stability(self) -> Content:
        return self.files["stability"]

    @property
    def statistic(self) -> str:
        return self.claim.statistic or "pw_mcc"

    @property
    def arms(self) -> list[str]:
        """The arms that the claim reads, the trained one first."""
        read = {arm for test in self.claim.tests for arm in test.arms} | {TRAINED}
        read |= {arm for arm in (RANDOM_MODEL, GAUSSIAN) if arm in self.claim.gates}
        return sorted(read, key=lambda arm: (arm != TRAINED, arm))

    def where(self, kind: str) -> str:
        return f"metrics/{self.pair}/{kind}.json"

    def with_file(self, kind: str, content: Content) -> Case:
        return replace(self, files={**self.files, kind: content})


@dataclass(frozen=True)
class Ruling:
    """What a gate says of a seed set."""

    gate: str
    of: str
    outcome: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        return {"gate": self.gate, "of": self.of, "outcome": self.outcome, "reason": self.reason}


Look = Callable[[Case], tuple[str, str]]
Plant = Callable[[Case], Case]


@dataclass(frozen=True)
class Gate:
    """look: outcome and reason. null, positive: the case with evidence that must fail, and that must pass.

    substantial: failing it speaks against the claim (not supported); failing another leaves it not testable.
    """

    look: Look
    null: Plant
    positive: Plant
    substantial: bool


def rule(name: str, case: Case) -> Ruling:
    """What the gate of that name says, once it has failed its null and passed its positive."""
    gate = GATES[name]
    outcome, reason = gate.look(case)
    if outcome != NOT_TESTABLE:
        null, why_null = gate.look(gate.null(case))
        positive, why_positive = gate.look(gate.positive(case))
        if null == PASSED:
            outcome, reason = NOT_TESTABLE, f"the gate passes a planted null ({why_null})"
        elif positive != PASSED:
            outcome, reason = NOT_TESTABLE, f"the gate does not pass a planted positive ({why_positive})"
    return Ruling(name, case.pair, outcome, reason)


def _beyond(figure: Figure, bound: float, case: Case, what: str) -> tuple[str, str]:
    low, _ = figure.interval(case.confidence)
    said = f"{what}: {sentence(figure, case.confidence)}, to be above {bound:g}"
    return (PASSED if low > bound + ROUNDING else FAILED), said


def _without(kind: str, case: Case) -> tuple[str, str]:
    return NOT_TESTABLE, f"{case.where(kind)} is not among its evidence"


def _converged(case: Case) -> tuple[str, str]:
    """From the numbers and not from the flag beside them, which must agree."""
    content, options = case.stability, case.options
    seeds = int(content["seeds"]) * int(content.get("group_size", 1))
    for arm in case.arms:
        if arm not in content:
            return NOT_TESTABLE, f"{case.where('stability')} has no arm {arm!r}"
        figures, of = content[arm], f"{case.statistic} of the {arm} arm"
        if not figures["cosine_to_init"]["high"] <= options.convergence.max_cosine_to_init:
            return FAILED, (
                f"the decoder of the {arm} arm is at cosine {figures['cosine_to_init']['value']:.3f} to its own "
                f"initialisation, allowed: at most {options.convergence.max_cosine_to_init:g}: it was not trained"
            )
        if figures["seeds_converged"] != seeds:
            return FAILED, f"{of} is not converged ({figures['seeds_converged']} of {seeds} seeds converged)"
        change = float(figures[case.statistic]["plateau_change"])
        if not (abs(change) <= options.stability.plateau_tolerance and figures[case.statistic]["converged"] == 1):
            return FAILED, (
                f"{of} is not converged ({figures['seeds_converged']} of {seeds} seeds converged; it changed by "
                f"{change:.3g} over the last doubling of steps)"
            )
    return PASSED, "every seed and the statistic have converged"


def _still_moving(case: Case) -> Case:
    moved = 2 * case.options.stability.plateau_tolerance
    return case.with_file("stability", planted(case.stability, f"{TRAINED}/{case.statistic}/plateau_change", moved))


def _settled(case: Case) -> Case:
    content = case.stability
    seeds = int(content["seeds"]) * int(content.get("group_size", 1))
    for arm in case.arms:
        for path, value in (
            ("seeds_converged", seeds),
            (f"{case.statistic}/plateau_change", 0.0),
            (f"{case.statistic}/converged", 1),
            ("cosine_to_init", 0.0),
        ):
            content = planted(content, f"{arm}/{path}", value)
        content = planted(content, f"{arm}/cosine_to_init/high", 0.0)
    return case.with_file("stability", content)


def _held_out(case: Case) -> tuple[str, str]:
    if not has(case.stability, "held_out/repeated"):
        return NOT_TESTABLE, f"{case.where('stability')} does not say how many held-out rows repeat training rows"
    share = float(at(case.stability, "held_out/repeated", case.where("stability")))
    said = f"{share:.2%} of the held-out rows stand among the training rows, allowed: at most {MOST_REPEATED:.0%}"
    return (PASSED if share <= MOST_REPEATED else FAILED), said


def _repeated(share: float) -> Plant:
    return lambda case: case.with_file("stability", planted(case.stability, "held_out/repeated", share))


def _between_groups(case: Case) -> tuple[str, str]:
    content = case.stability
    if "coupled_by" not in content:
        return PASSED, "no objective couples its seeds"
    if int(content.get("group_size", 1)) < 2:
        return FAILED, f"{content['coupled_by']} couples its seeds, and they are scored as independent"
    said = f"{content['coupled_by']} couples seeds, scored between {content['seeds']} independent groups"
    return (PASSED if content["seeds"] >= 3 else FAILED), said


def _coupled(case: Case) -> Case:
    content = {name: value for name, value in case.stability.items() if name != "group_size"}
    return case.with_file("stability", content | {"coupled_by": "an objective"})


def _grouped(case: Case) -> Case:
    return case.with_file("stability", case.stability | {"coupled_by": "an objective", "group_size": 2})


def _multiplicity(case: Case) -> tuple[str, str]:
    least = 1 - (1 - case.options.stability.confidence) / case.claim.tried
    said = f"intervals at {100 * case.confidence:.4g} % for {case.claim.tried} settings tried"
    return (PASSED if case.confidence >= least else FAILED), said


def _uncorrected(case: Case) -> Case:
    return replace(case, claim=case.claim.model_copy(update={"tried": 2 * case.claim.tried}))


def _random_dictionary(case: Case) -> tuple[str, str]:
    found = kappa(case.stability, TRAINED, case.statistic)
    if found is None:
        return NOT_TESTABLE, f"{case.where('stability')}: {case.statistic} has no kappa (its null is too high)"
    return _beyond(found, 0, case, f"kappa of {case.statistic} above the strictest null")


def _kappa_at(value: float) -> Plant:
    return lambda case: case.with_file("stability", planted_kappa(case.stability, case.statistic, value))


def _above_arm(arm: str) -> Look:
    def look(case: Case) -> tuple[str, str]:
        found, control = (kappa(case.stability, one, case.statistic) for one in (TRAINED, arm))
        if found is None or control is None:
            missing = TRAINED if found is None else arm
            return NOT_TESTABLE, f"{case.where('stability')}: {case.statistic} of the {missing} arm has no kappa"
        return _beyond(found - control, 0, case, f"kappa of {case.statistic} less that of the {arm} arm")

    return look


def _as_arm(arm: str) -> Plant:
    def plant(case: Case) -> Case:
        control = kappa(case.stability, arm, case.statistic)
        assert control is not None
        return _kappa_at(control.value)(case)

    return plant


def _arm_at_chance(arm: str) -> Plant:
    def plant(case: Case) -> Case:
        content = planted_kappa(case.stability, case.statistic, 0.0, arm)
        return case.with_file("stability", planted_kappa(content, case.statistic, FAR))

    return plant


def _external(case: Case) -> tuple[str, str]:
    """Kind and path of the benchmark figure of the claim."""
    assert case.claim.benchmark is not None
    kind, _, path = case.claim.benchmark.partition(":")
    return kind, path


def _over(control: str) -> Look:
    def look(case: Case) -> tuple[str, str]:
        kind, path = _external(case)
        if kind not in case.files:
            return _without(kind, case)
        content, where = case.files[kind], case.where(kind)
        table = path.partition("/")[0]
        if at(content, table, where).get("may_gate", int(kind in WITHOUT_MARK)) != 1:
            return NOT_TESTABLE, f"{where}: {table} is not marked as one that may gate: it moves with the seed alone"
        if not has(content, f"{path}/over_{control}"):
            return NOT_TESTABLE, f"{where}: {path} stands beside no {control}, the control that this gate needs"
        difference = bounds(
            content, f"{path}/over_{control}", where, int(case.stability["seeds"]), case.options.stability.confidence
        )
        return _beyond(difference, 0, case, f"{kind}: {path} less that of the {control}")

    return look


def _over_at(control: str, value: float) -> Plant:
    def plant(case: Case) -> Case:
        kind, path = _external(case)
        return case.with_file(kind, planted(case.files[kind], f"{path}/over_{control}", value))

    return plant


def _ood(case: Case) -> tuple[str, str]:
    """Relative to what an untrained SAE of the same shape does there: two bad numbers are no small difference."""
    if "ood" not in case.files:
        return _without("ood", case)
    where = case.where("ood")
    found = bounds(
        case.files["ood"], "retained", where, int(case.stability["seeds"]), case.options.stability.confidence
    )
    own = bounds(case.files["ood"], "over_null", where, int(case.stability["seeds"]), case.options.stability.confidence)
    if own.interval(case.confidence)[0] <= 0:
        return FAILED, (
            f"explained variance out of distribution less that of an untrained SAE there: "
            f"{sentence(own, case.confidence)}, to be above 0"
        )
    return _beyond(found, 0.5, case, "share of the gain over an untrained SAE that is kept out of distribution")


def _retained(value: float) -> Plant:
    def plant(case: Case) -> Case:
        content = planted(case.files["ood"], "retained", value)
        return case.with_file("ood", planted(content, "over_null", value))

    return plant


def _transcoder(case: Case) -> tuple[str, str]:
    """The SAE must agree more than every transcoder of equal compute: a competitor that is ahead speaks against it."""
    rivals = _transcoders(case)
    if not rivals:
        return NOT_TESTABLE, "no comparison among its evidence holds it against a transcoder"
    outcome, sentences = PASSED, []
    for name, matched, row in rivals:
        difference = row.get("kappa_difference")
        if not matched:
            return NOT_TESTABLE, f"against {name} nothing says that L0 and steps are equal (no l0_tolerance)"
        if difference is None or row["verdict"] in ("not testable", "not comparable"):
            return NOT_TESTABLE, f"against {name} it is {row['verdict']}: equal L0, steps and convergence are needed"
        # the comparison is of the transcoder against the SAE, at the level of all that it compares
        figure = Bounds(
            -difference["value"], -difference["high"], -difference["low"], int(case.stability["seeds"]),
            case.options.stability.confidence,
        )  # fmt: skip
        verdict, said = _beyond(figure, 0, case, f"kappa of pw_mcc less that of {name}")
        outcome = PASSED if (outcome, verdict) == (PASSED, PASSED) else FAILED
        sentences.append(said)
    return outcome, "; ".join(sentences)


def _transcoders(case: Case) -> list[tuple[str, bool, Content]]:
    """Every transcoder that a comparison holds against the SAE: its name, whether L0 was matched, the difference."""
    variant = case.pair.rpartition("/")[2]
    return [
        (name, content.get("l0_tolerance") is not None, row["against_baseline"])
        for content in case.comparisons.values()
        if content["baseline"] == variant
        for name, row in content["variants"].items()
        if row["architecture"] in TRANSCODERS and "against_baseline" in row
    ]


def _transcoder_at(value: float) -> Plant:
    def plant(case: Case) -> Case:
        changed = {}
        for path, content in case.comparisons.items():
            new = content
            for name, row in content["variants"].items():
                if row["architecture"] in TRANSCODERS and "kappa_difference" in row.get("against_baseline", {}):
                    base = f"variants/{name}/against_baseline"
                    new = planted(new, f"{base}/kappa_difference", value)
            changed[path] = new
        return replace(case, comparisons=changed)

    return plant


def _correctness(case: Case) -> tuple[str, str]:
    """Against the truth of its subject: known features, or a figure of truth.json beyond its strictest null."""
    options, units = case.options.stability, int(case.stability["seeds"])
    if "truth" in case.files:
        content, where, path = case.files["truth"], case.where("truth"), truth_margin(case.claim)
        if not has(content, path):
            return NOT_TESTABLE, f"{where}: it has no {path}: the figure stands beside no null"
        margin = bounds(content, path, where, units, options.confidence)
        figure, over = path.split("/")[1], at(content, f"{path}/over", where)
        said = f"{figure} less that of its strictest null ({over})"
        if has(content, f"figures/{figure}/fewer_is_better"):
            said = f"{figure} of its strictest null ({over}) less its own"
        return _beyond(margin, 0, case, f"truth: {said}")
    if not has(case.stability, f"{TRAINED}/recovery/gt_mcc"):
        return NOT_TESTABLE, f"{case.where('stability')}: the features of this subject are not known"
    found = bounds(
        case.stability, f"{TRAINED}/recovery/gt_mcc", case.where("stability"), units, options.confidence
    )  # fmt: skip
    return _beyond(found, options.correctness.correct_gt_mcc, case, "gt_mcc, similarity to the true features")


def truth_margin(claim: Claim) -> str:
    """Where truth.json has the margin of the figure that a claim bounds, or else of the share of correct latents."""
    kind, _, path = (claim.metric or "").partition(":")
    return f"figures/{path.split('/')[1] if kind == 'truth' and '/' in path else 'correct'}/margin"


def _truth_at_null(case: Case) -> Case:
    if "truth" in case.files:
        return case.with_file("truth", planted(case.files["truth"], truth_margin(case.claim), 0.0))
    null = float(at(case.stability, f"{TRAINED}/recovery/gt_mcc/null", case.where("stability")))
    return case.with_file("stability", planted(case.stability, f"{TRAINED}/recovery/gt_mcc", null))


def _truth_found(case: Case) -> Case:
    if "truth" in case.files:
        return case.with_file("truth", planted(case.files["truth"], truth_margin(case.claim), FAR))
    return case.with_file("stability", planted(case.stability, f"{TRAINED}/recovery/gt_mcc", 1.0))


GATES: dict[str, Gate] = {
    "converged": Gate(_converged, _still_moving, _settled, substantial=False),
    "held_out": Gate(_held_out, _repeated(1.0), _repeated(0.0), substantial=False),
    "between_groups": Gate(_between_groups, _coupled, _grouped, substantial=False),
    "multiplicity": Gate(_multiplicity, _uncorrected, lambda case: case, substantial=False),
    "random_dictionary": Gate(_random_dictionary, _kappa_at(0.0), _kappa_at(FAR), substantial=True),
    "random_model": Gate(_above_arm(RANDOM_MODEL), _as_arm(RANDOM_MODEL), _arm_at_chance(RANDOM_MODEL), True),
    "gaussian": Gate(_above_arm(GAUSSIAN), _as_arm(GAUSSIAN), _arm_at_chance(GAUSSIAN), True),
    "benchmark": Gate(_over("random_sae"), _over_at("random_sae", 0.0), _over_at("random_sae", FAR), True),
    "frozen_decoder": Gate(_over("frozen_sae"), _over_at("frozen_sae", 0.0), _over_at("frozen_sae", FAR), True),
    "ood": Gate(_ood, _retained(0.0), _retained(FAR), True),
    "transcoder": Gate(_transcoder, _transcoder_at(0.0), _transcoder_at(-FAR), True),
    "correctness": Gate(_correctness, _truth_at_null, _truth_found, True),
}
"""Every gate that looks at one seed set; `alive` looks at the tests of the claim and is the judge's, with its null."""
