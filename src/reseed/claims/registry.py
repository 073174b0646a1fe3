"""The registered claims and the phases that they decide: claims.yaml, typed and checked."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, model_validator

from reseed import ReseedError
from reseed.params import Count, Disallowed, Strict, load, lookup

Statistic = Literal["pw_mcc", "mean_max_cos", "shared_fraction"]
GateName = Literal[
    "converged", "alive", "held_out", "between_groups", "multiplicity",
    "random_dictionary", "random_model", "gaussian", "frozen_decoder", "benchmark", "ood", "transcoder", "correctness",
]  # fmt: skip
Unit = Literal["kappa", "cosine", "correlation", "fraction", "accuracy", "nats", "latents", "concepts", "score"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
UNITS: dict[str, Unit] = {
    **dict.fromkeys(("pw_mcc", "mean_max_cos", "gt_mcc", "cosine_to_init", "encoder_decoder_cosine"), "cosine"),
    **dict.fromkeys(("shared_fraction", "alive_fraction", "explained_variance", "reappear_always"), "fraction"),
    **dict.fromkeys(("reappear_never", "recall", "frac_alive", "retained"), "fraction"),
    **dict.fromkeys(("ood", "over_null", "worst_answer", "wraps", "does_not_wrap", "brittle"), "fraction"),
    **dict.fromkeys(
        ("worst_value", "worst_part", "steps", "outside_steps", "numbers", "words", "early", "late"), "fraction"
    ),
    **dict.fromkeys(("coverage", "purity", "enrichment", "monosemanticity", "correct", "fidelity"), "fraction"),
    **dict.fromkeys(("absorption", "planes", "fourier_r2", "precision", "uniqueness", "l0_over_d_in"), "fraction"),
    **dict.fromkeys(("detection_rate", "false_alarm_rate", "accuracy_kept", "monotone"), "fraction"),
    **dict.fromkeys(("f1_best_2", "f1_best_5", "brier", "ece"), "score"),
    **dict.fromkeys(("absorbed_concepts", "split_concepts"), "concepts"),
    "plane_cosine": "cosine",
    **dict.fromkeys(("latents_per_concept", "latents_per_plane"), "latents"),
    "accuracy": "accuracy",
    **dict.fromkeys(("relabelling", "correlation"), "correlation"),
    **dict.fromkeys(("ce_loss_score", "kl_div_score", "model_behavior_preservation.kl_div_score"), "score"),
    **dict.fromkeys(("model_performance_preservation.ce_loss_score",), "score"),
    **dict.fromkeys(("reconstruction_quality.explained_variance",), "fraction"),
    **dict.fromkeys(("top_1", "top_2", "top_5", "top_16", "auc", "acc", "f1", "over_random_sae"), "accuracy"),
    **dict.fromkeys(("ce_loss_with_sae", "loss"), "nats"),
    **dict.fromkeys(("l0", "decoder_dimension"), "latents"),
}
"""The unit of a figure, by the last name of its path; a margin over its nulls has the unit of its figure."""
ALWAYS: tuple[GateName, ...] = ("converged", "alive", "held_out", "between_groups", "multiplicity")
"""The gates of every claim; they are written in it so that its reader sees them."""
SLOTS = 8
"""Evidence files of a claim: DVC wants a fixed number, so that the last is repeated."""


class Test(Strict):
    """One bound that must hold: the whole interval of the figure lies above, or below, a number fixed beforehand."""

    figure: str = Field(
        "value", pattern=r"^(value|(trained|random_model|gaussian)( - (trained|random_model|gaussian))?)$"
    )
    """Of a statistic: the arm whose kappa is bounded, or a difference of two arms. Of a metric: its value."""
    over: Literal["each", "log2_k"] = "each"
    """each: every seed set by itself; log2_k: the slope per doubling of k over all of them."""
    above: Finite | None = None
    below: Finite | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("exactly one of above and below")
        return self

    @property
    def arms(self) -> list[str]:
        """The arm that the figure reads, or the two that it subtracts; none of a metric."""
        return [] if self.figure == "value" else self.figure.split(" - ")


class Claim(Strict):
    """A statement and the figures that must hold for it, written down before they are known."""

    statement: Annotated[str, Field(min_length=1)]
    statistic: Statistic | None = None
    """Agreement between seeds, whose kappa (chance-corrected) the tests bound."""
    metric: Annotated[str, Field(pattern=r"^[a-z_]+:[^:]+$")] | None = None
    """Another figure, as KIND:PATH: in every evidence file KIND.json, PATH is its value with low and high. Names in a
    path are separated by `/`."""
    unit: Unit
    tests: tuple[Test, ...] = Field(min_length=1)
    evidence: Annotated[tuple[str, ...], Field(min_length=SLOTS, max_length=SLOTS)]
    speaks_of: Annotated[dict[str, dict[str, int | float | str]], Field(min_length=1)]
    """Every seed set (subject/variant) that the statement is about, with the parameter values that it names."""
    minimum_seeds: Annotated[int, Field(ge=3)]
    gates: tuple[GateName, ...] = Field(min_length=1)
    benchmark: Annotated[str, Field(pattern=r"^[a-z_]+:[^:]+$")] | None = None
    """The external figure, as KIND:PATH, that the gates `benchmark` and `frozen_decoder` read beside its controls."""
    tried: Count = 1
    """How many settings its seed sets were run with; intervals are at the level corrected for as many."""
    registered: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """The revision that was checked out when it was written down."""
    standing: Literal["confirmatory", "exploratory"] = "confirmatory"
    """exploratory: its bounds were written down, or changed, when its evidence was known. The history must agree."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.statistic is None) == (self.metric is None):
            raise Disallowed("metric", "exactly one of statistic and metric")
        if self.metric is not None and self.metric.rpartition("/")[2] in get_args(Statistic):
            raise Disallowed("metric", "a statistic for agreement between seeds, whose kappa is corrected for chance")
        try:
            wanted = "kappa" if self.metric is None else unit_of(self.metric)
        except ValueError as error:
            raise Disallowed("metric", str(error)) from error
        if self.unit != wanted:
            raise Disallowed("unit", f"{wanted}, which is that of {self.metric or 'a statistic'}")
        for i, test in enumerate(self.tests):
            if (test.figure == "value") != (self.metric is not None):
                raise Disallowed(f"tests.{i}.figure", "of a statistic an arm or a difference of two, of a metric none")
        if len(set(self.gates)) < len(self.gates):
            raise Disallowed("gates", "every gate once")
        if missing := [gate for gate in ALWAYS if gate not in self.gates]:
            raise Disallowed("gates", f"{missing[0]!r} among them, which every claim needs")
        if self.benchmark is None and {"benchmark", "frozen_decoder"} & set(self.gates):
            raise Disallowed("benchmark", "a figure as KIND:PATH, which one of its gates reads")
        for pair in self.speaks_of:
            if f"metrics/{pair}/stability.json" not in self.evidence:
                raise Disallowed("evidence", f"metrics/{pair}/stability.json among it, of which the claim speaks")
        for i, test in enumerate(self.tests):
            below_chance = test.over == "each" and len(test.arms) == 1 and (test.above or 0) < 0
            if below_chance and "random_dictionary" not in self.gates:
                raise Disallowed(f"tests.{i}.above", "from 0 (chance) on, lower with the gate 'random_dictionary'")
        for pair, values in self.speaks_of.items():
            if any(test.over == "log2_k" for test in self.tests) and not isinstance(values.get("k"), int):
                raise Disallowed("speaks_of", f"the k of {pair}, over which a test takes the slope")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The distinct evidence files, in the order of the claim."""
        return tuple(dict.fromkeys(self.evidence))


class Criterion(Strict):
    """What a phase must show: a claim with the verdict that it needs."""

    claim: str
    verdict: Literal["supported", "not supported"] = "supported"


class Coverage(Strict):
    """A part of a subject's domain, and the figure (KIND:PATH of a seed set) by which the evidence covers it."""

    domain: str
    covered_by: str
    """A file of metrics/ and the path in it, as FILE:PATH."""
    at_least: Finite


class Phase(Strict):
    """A step of the research: what it takes for granted, what it leaves open, when it stops, whether it goes on."""

    question: str
    assumptions: tuple[str, ...]
    open_questions: tuple[str, ...]
    stop_rules: tuple[str, ...] = Field(min_length=1)
    criteria: dict[str, Criterion] = Field(min_length=1)
    """By a name that stays: a criterion that failed cannot be renamed or dropped (`reseed claims check`)."""
    coverage: tuple[Coverage, ...] = ()
    verdict: Literal["go", "no-go"]
    """What is declared; it must be what the criteria give."""


class Registry(Strict):
    claims: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Claim]
    phases: Annotated[dict[str, Phase], Field(default_factory=dict)]

    @model_validator(mode="after")
    def _criteria_are_claims(self) -> Self:
        for name, phase in self.phases.items():
            for of, criterion in phase.criteria.items():
                if criterion.claim not in self.claims:
                    raise Disallowed(f"phases.{name}.criteria.{of}.claim", "a registered claim")
        return self


def unit_of(metric: str) -> Unit:
    """The unit of a metric path; raises ValueError for one whose unit is not known."""
    name = metric.removesuffix("/margin").rpartition("/")[2].rpartition(":")[2]
    if name not in UNITS:
        raise ValueError(f"a metric whose unit is known ({', '.join(sorted(UNITS))})")
    return UNITS[name]


def kind_of(path: str) -> tuple[str, str]:
    """The kind of an evidence file and the seed set it is of: metrics/<subject>/<variant>/<kind>.json.

    A comparison (metrics/comparisons/<name>.json) is of no seed set. Raises ReseedError for any other path.
    """
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).as_posix() != path or ".." in parts:
        parts = ()
    if len(parts) == 4 and parts[0] == "metrics" and parts[3].endswith(".json"):
        return parts[3].removesuffix(".json"), f"{parts[1]}/{parts[2]}"
    if len(parts) == 3 and parts[:2] == ("metrics", "comparisons") and parts[2].endswith(".json"):
        return "comparison", ""
    raise ReseedError(
        f"claims: evidence: found {path!r}, allowed: metrics/<subject>/<variant>/<kind>.json or "
        "metrics/comparisons/<name>.json"
    )


def load_registry(path: Path) -> Registry:
    """Every claim and phase; raises ReseedError for the first fault of the file, an id that stands twice included."""
    check_ids(path)
    return load(Registry, path)


def load_claim(path: Path, name: str) -> Claim:
    """The claim called `name`; raises ReseedError for an unknown one or the first fault of the file."""
    return lookup(load_registry(path).claims, name, f"{path}: claims")


def check_ids(path: Path) -> None:
    """Raise ReseedError for an id that stands twice: YAML would silently keep the last."""
    if not path.is_file():
        raise ReseedError(f"{path}: the file does not exist")
    try:
        node = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ReseedError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(value, yaml.MappingNode):
                names = [inner.value for inner, _ in value.value]
                for name in names:
                    if names.count(name) > 1:
                        raise ReseedError(f"{path}: {key.value}.{name}: found twice, allowed: every id once")


def promise(raw: dict[str, Any]) -> dict[str, Any]:
    """What a claim of claims.yaml, in any of its past forms, lets a reader expect; what may only become stricter.

    Whatever cannot be read, because it was no claim then, promises nothing.
    """
    evidence = [path for path in _list(raw.get("evidence")) if isinstance(path, str)]
    pairs = {path: "/".join(path.split("/")[1:3]) for path in evidence if path.endswith("/stability.json")}
    speaks_of = raw.get("speaks_of")
    if not isinstance(speaks_of, dict):  # as it was first written: a k for every file
        speaks_of = {
            pairs[path]: {"k": k} for path, k in zip(evidence, _list(raw.get("k")), strict=False) if path in pairs
        }
    metric, benchmark = raw.get("metric"), raw.get("benchmark")
    kinds = {"stability" if metric is None else str(metric).partition(":")[0]}
    if {"benchmark", "frozen_decoder"} & set(_list(raw.get("gates"))):
        kinds.add(str(benchmark).partition(":")[0])
    if "ood" in _list(raw.get("gates")):
        kinds.add("ood")
    return {
        "statement": raw.get("statement"),
        "figure": raw.get("statistic") or metric,
        "tests": sorted(
            (
                {"figure": "value", "over": "each"} | {key: test[key] for key in sorted(test)}
                for test in _list(raw.get("tests"))
                if isinstance(test, dict)
            ),
            key=str,
        ),
        "seed_sets": sorted(set(pairs)),
        "comparisons": sorted({path for path in evidence if path.startswith("metrics/comparisons/")}),
        "figures": sorted(f"metrics/{pair}/{kind}.json" for pair in speaks_of for kind in kinds),
        "speaks_of": {pair: values if isinstance(values, dict) else {} for pair, values in speaks_of.items()},
        "minimum_seeds": raw.get("minimum_seeds", 0),
        "gates": sorted(map(str, _list(raw.get("gates")))),
        "tried": raw.get("tried", 1),
        "benchmark": benchmark,
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def keeps(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a promise asks for no less than an earlier one: the same words, figures and bounds, as many gates."""
    same = ("statement", "figure", "tests", "seed_sets")
    return (
        all(now[key] == before[key] for key in same)
        and now["speaks_of"].keys() == before["speaks_of"].keys()
        and all(values.items() <= now["speaks_of"][pair].items() for pair, values in before["speaks_of"].items())
        and set(now["comparisons"]) >= set(before["comparisons"])
        and set(now["gates"]) >= set(before["gates"])
        and _at_least(now["minimum_seeds"], before["minimum_seeds"])
        and _at_least(now["tried"], before["tried"])
        and before["benchmark"] in (None, now["benchmark"])
    )


def _at_least(now: Any, before: Any) -> bool:
    return isinstance(now, int) and (not isinstance(before, int) or now >= before)
