"""Writing a claim down before its evidence, with the power that its seeds give it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from scipy.special import stdtrit

from reseed import ReseedError
from reseed.artifacts import read_json, writing
from reseed.claims.figures import bounds, has, kappa
from reseed.claims.registry import SLOTS, Registry, Test, promise, unit_of
from reseed.params import Study, load, load_params, load_study
from reseed.review.check import Chain, claims_files, load_registries
from reseed.review.history import History
from reseed.stability.jackknife import combine
from reseed.sweeps import locks

LINE = 120


@dataclass(frozen=True)
class Power:
    """What a claim can find out with its seeds."""

    seeds: int
    confidence: float
    in_errors: float
    """The minimum detectable distance from the bound, in standard errors of the figure, at a power of 0.8."""
    detectable: float | None
    """The same in units of the figure, from its errors in the seed sets that are there; None without any."""
    attainable_p: float
    """The smallest two-sided p of a permutation of as many seeds against as many: 2 / C(2n, n)."""
    known: str = ""
    """Evidence that was there before the claim, which is then exploratory; empty if there is none."""


def power(seeds: int, confidence: float, errors: Sequence[float] = ()) -> Power:
    """(t(1 - alpha/2, n-1) + t(0.8, n-1)) standard errors (Bloom 1995, Evaluation Review 19), and 2 / C(2n, n)."""
    factor = float(stdtrit(seeds - 1, 0.5 + confidence / 2) + stdtrit(seeds - 1, 0.8))
    detectable = factor * float(np.median(errors)) if len(errors) else None
    return Power(seeds, confidence, factor, detectable, 2 / comb(2 * seeds, seeds))


def register(root: Path, file: str, name: str, asked: dict[str, Any]) -> Power:
    """Add a claim to a claims file, whose other lines stay as they are, and return its power.

    asked: the keys of the claim but `evidence`, `unit` and `registered`, which follow from them. Raises ReseedError for
    an id that is taken, a seed set that the study does not have, or whatever a claim may not be; nothing is written.
    """
    path, study_path = root / file, (root / file).with_name("study.yaml")
    if file not in claims_files(root):
        found = "a file of another name" if path.is_file() else "the file does not exist"
        raise ReseedError(f"{file}: {found}, allowed: {', '.join(claims_files(root))}")
    for other, registry in load_registries(root).items():
        if name in registry.claims:
            raise ReseedError(f"{other}: claims: found {name!r} already, allowed: an id that is not taken")
    params, study = load_params(root / "params.yaml"), load_study(study_path)
    pairs = {f"{pair.subject}/{pair.variant}": pair.variant for pair in study.pairs.values()}
    evidence = []
    for pair, values in asked["speaks_of"].items():
        if pair not in pairs:
            raise ReseedError(
                f"{file}: claims.{name}: speaks_of: found {pair!r}, allowed: {', '.join(pairs) or 'no seed set'} (the "
                f"pairs of {study_path.relative_to(root)})"
            )
        _check_values(root, file, name, pair, values)
        kinds = ["stability", *_read_by_gates(study, asked["gates"], pair, f"{file}: claims.{name}")]
        kinds += [figure.partition(":")[0] for figure in (asked.get("metric"), asked.get("benchmark")) if figure]
        evidence += [f"metrics/{pair}/{kind}.json" for kind in kinds]
    evidence = list(dict.fromkeys([*evidence, *_transcoder_comparison(study, asked)]))
    if len(evidence) > SLOTS:
        raise ReseedError(f"{file}: claims.{name}: evidence: found {len(evidence)} files, allowed: at most {SLOTS}")
    head = locks.git(root, "rev-parse", "HEAD").decode().strip()
    try:
        unit = "kappa" if "metric" not in asked else unit_of(asked["metric"])
    except ValueError as error:
        raise ReseedError(f"{file}: claims.{name}: metric: found {asked['metric']!r}, allowed: {error}") from error
    made = Chain(root).by_output
    for one in evidence:
        if one not in made:
            kinds = sorted(Path(other).stem for other in made if other.startswith(f"{Path(one).parent}/"))
            raise ReseedError(
                f"{file}: claims.{name}: evidence: found {one}, which no stage makes, allowed there: "
                f"{', '.join(kinds) or 'nothing'}"
            )
    content = {
        **asked, "unit": unit, "evidence": evidence + [evidence[-1]] * (SLOTS - len(evidence)), "registered": head,
    }  # fmt: skip
    history = History(root)
    figures = promise(content)["figures"]
    known = next((path for path in figures if history.first(path, head) or (root / path).is_file()), "")
    if known:
        content["standing"] = "exploratory"
    with writing(path) as partial:
        partial.write_text(_with_claim(path.read_text(), name, content))
        try:
            load(Registry, partial)
        except ReseedError as error:
            raise ReseedError(str(error).replace(str(partial), file)) from error
    seeds = min(len(params.seeds(params.variant(pairs[pair]))) for pair in asked["speaks_of"])
    errors = _errors(root, list(pairs), asked, params.stability.confidence)
    confidence = 1 - (1 - params.stability.confidence) / asked.get("tried", 1)
    return replace(power(seeds, confidence, errors), known=known)


def _with_claim(text: str, name: str, content: dict[str, Any]) -> str:
    """The text of a claims file with one more claim at the end of them; every other line stays as it is."""
    flowing = {
        "tests": [_flow(CommentedMap(test)) for test in content["tests"]],
        "speaks_of": {pair: _flow(CommentedMap(values)) for pair, values in content["speaks_of"].items()},
        "gates": _flow(CommentedSeq(content["gates"])),
    }
    dumper, into = YAML(), io.StringIO()
    dumper.width = LINE - 2
    dumper.indent(mapping=2, sequence=4, offset=2)
    dumper.dump({name: content | flowing}, into)
    new = [f"  {line.rstrip()}" for line in into.getvalue().splitlines()]
    lines, root = text.splitlines(), yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)  # the registry was read from it
    key, claims = next((key, value) for key, value in root.value if key.value == "claims")
    if not claims.value:
        return "\n".join([*lines[: key.start_mark.line], "claims:", *new, *lines[claims.end_mark.line + 1 :]]) + "\n"
    end = claims.end_mark.line if claims.end_mark.column == 0 else len(lines)
    while not lines[end - 1].strip() or lines[end - 1].startswith("#"):  # what stands before the next key is its own
        end -= 1
    return "\n".join([*lines[:end], "", *new, *lines[end:]]) + "\n"


def _flow(value: Any) -> Any:
    value.fa.set_flow_style()
    return value


def _check_values(root: Path, file: str, name: str, pair: str, values: dict[str, Any]) -> None:
    variant = load_params(root / "params.yaml").variant(pair.rpartition("/")[2])
    for key, value in values.items():
        if getattr(variant, key, None) != value:
            raise ReseedError(
                f"{file}: claims.{name}: speaks_of.{pair}.{key}: found {value!r}, allowed: "
                f"{getattr(variant, key, 'no such key')!r}, which params.yaml gives the variant"
            )


def _read_by_gates(study: Study, gates: Sequence[str], pair: str, where: str) -> list[str]:
    """The kinds of evidence that gates read beside stability.json; raises ReseedError for one that no stage writes."""
    outside, scored = (
        {f"{one.subject}/{one.variant}" for one in table.values()} for table in (study.outside, study.scored)
    )
    if "ood" in gates and pair not in outside:
        raise ReseedError(
            f"{where}: gates: found 'ood' for {pair}, allowed for {', '.join(sorted(outside)) or 'no seed set'} "
            "(outside in the study file)"
        )
    return ["ood"] * ("ood" in gates) + ["truth"] * ("correctness" in gates and pair in scored)


def _transcoder_comparison(study: Study, asked: dict[str, Any]) -> list[str]:
    if "transcoder" not in asked["gates"]:
        return []
    variants = {pair.rpartition("/")[2] for pair in asked["speaks_of"]}
    return [f"metrics/comparisons/{name}.json" for name, one in study.comparisons.items() if one.baseline in variants]


def _errors(root: Path, pairs: Sequence[str], asked: dict[str, Any], confidence: float) -> list[float]:
    """Standard errors over seeds of the figure that is asked for, in the seed sets that are known.

    Of a slope over k, with the errors of one seed set each and none in common.
    """
    test, figure = Test.model_validate(asked["tests"][0]), asked.get("metric")
    found = []
    for pair in pairs:
        if not (path := root / "metrics" / pair / "stability.json").is_file():
            continue
        stability = read_json(path)
        if figure is None:
            arms = [kappa(stability, arm, asked["statistic"]) for arm in test.arms]
            known = [arm for arm in arms if arm is not None]
            if len(known) == len(arms):
                found.append(combine([1.0, -1.0][: len(arms)], known).error)
            continue
        kind, _, inner = figure.partition(":")
        if (path := path.with_name(f"{kind}.json")).is_file() and has(content := read_json(path), inner):
            one = bounds(content, inner, str(path.relative_to(root)), int(stability["seeds"]), confidence)
            found.append((one.high - one.low) / 2 / float(stdtrit(one.units - 1, 0.5 + confidence / 2)))
    if test.over == "log2_k":
        x = np.log2([float(values["k"]) for values in asked["speaks_of"].values()])
        found = [error / float(np.linalg.norm(x - x.mean())) for error in found]
    return found
