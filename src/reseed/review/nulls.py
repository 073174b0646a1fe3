"""What stands beside a figure of a metric file: what chance, an untrained SAE or another control gives there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.claims.figures import Content, at, has, record
from reseed.claims.gates import truth_margin
from reseed.claims.registry import Claim
from reseed.params import GAUSSIAN, RANDOM_MODEL, TRAINED

CONTROLS = (
    "null", "nulls", "peers", "untrained", "untrained_sae", "random_sae", "random_model_sae", "frozen_sae",
    "random_model", "gaussian", "control", "permuted", "isotropic", "covariance", "shuffled", "shuffled_decoder",
    "random", "random_direction", "random_latent", "neuron", "neurons", "model", "pca", "dense", "random_model_dense",
)  # fmt: skip
"""What the metric files call a null or a control, wherever it stands."""
OVER, RETAINED, MARGIN = "over_", "retained", "margin"
"""How differences to a control, and shares of such, are called: their control stands under its own name."""

KAPPA = (("value", ""), ("low", "_low"), ("high", "_high"))

Beside = tuple[str, str, Any, list[tuple[str, Any]]]
"""Metric file, figure, its value (None: not there), and the nulls with what they give."""


def nulls(root: Path, claim: Claim) -> list[Beside]:
    """Every figure that the tests and gates of a claim read, with its nulls and controls.

    Raises ReseedError for a file that is there and cannot be read.
    """
    found = []
    for pair in claim.speaks_of:
        for kind, figures in _figures(claim).items():
            path = f"metrics/{pair}/{kind}.json"
            content = read_json(root / path) if (root / path).is_file() else {}
            for name, statistic, arm in figures:
                held = (record(content, arm, statistic) or {}) if statistic else {}
                value = at(content, name, path) if has(content, name) else None
                others = list((held.get("nulls") or {}).items()) or beside(content, name)
                if statistic and "kappa" in (shown := value or {}):
                    others.append(
                        ("kappa (above the strictest)", {key: shown.get(f"kappa{end}") for key, end in KAPPA})
                    )
                found.append((path, name, value, others))
    return found


def _figures(claim: Claim) -> dict[str, list[tuple[str, str, str]]]:
    """Path, statistic and arm (empty for another figure) of what is read, by the kind of its file."""
    found: dict[str, dict[tuple[str, str, str], None]] = {}

    def read(named: str, statistic: str = "", arm: str = "") -> None:
        kind, _, path = named.partition(":")
        found.setdefault(kind, {})[path, statistic, arm] = None

    if claim.metric is not None:
        read(claim.metric)
    arms = {arm for test in claim.tests for arm in test.arms} if claim.statistic else set()
    arms |= {TRAINED} if {"random_dictionary", RANDOM_MODEL, GAUSSIAN} & set(claim.gates) else set()
    arms |= {RANDOM_MODEL, GAUSSIAN} & set(claim.gates)
    statistic = claim.statistic or "pw_mcc"
    for arm in sorted(arms, key=lambda arm: (arm != TRAINED, arm)):
        read(f"stability:{arm}/{statistic}", statistic, arm)
    if claim.benchmark is not None and {"benchmark", "frozen_decoder"} & set(claim.gates):
        read(claim.benchmark)
    if "ood" in claim.gates:
        read("ood:over_null")
        read("ood:retained")
    if "correctness" in claim.gates:
        if any(path.endswith("/truth.json") for path in claim.sources):
            read(f"truth:{truth_margin(claim)}")
        else:
            read(f"stability:{TRAINED}/recovery/gt_mcc")
    return {kind: list(figures) for kind, figures in found.items()}


def beside(content: Content, path: str) -> list[tuple[str, Any]]:
    """The nulls and controls of the figure at a path: in it, beside it, or in a table of a control further out."""
    *parents, last = path.split("/")
    found: dict[str, Any] = {}
    own, siblings = _place(content, [*parents, last]), _place(content, parents)
    # of the margin of a figure over its nulls, that figure and those
    if last == MARGIN and _is_figure(siblings):
        found["/".join(parents)] = siblings
    for one in (own, siblings) if last == MARGIN else (own,):
        if isinstance(one, Mapping):
            for name in (name for name in CONTROLS if name in one):
                label = f"{name} ({one['strictest_null']})" if name == "null" and "strictest_null" in one else name
                found |= dict(_flat("" if name == "nulls" else label, one[name]))
    for depth in range(len(parents), -1, -1):
        outer = _place(content, parents[:depth])
        if not isinstance(outer, Mapping):
            continue
        for name in (name for name in CONTROLS if name in outer and name not in parents[depth : depth + 1]):
            for inner in ("/".join([*parents[start:], last]) for start in range(depth, len(parents) + 1)):
                if isinstance(outer[name], Mapping) and has(outer[name], inner):
                    found.setdefault(f"{name}/{inner}", at(outer[name], inner, ""))
                    break
    if parents and isinstance(siblings, Mapping):
        names = (*CONTROLS, *(f"{last}_{name}" for name in CONTROLS))
        found |= {name: siblings[name] for name in names if name in siblings and _is_figure(siblings[name])}
    of_difference = "null" if last == RETAINED else last.removeprefix(OVER) if last.startswith(OVER) else ""
    if of_difference and isinstance(siblings, Mapping) and of_difference in siblings:
        found |= dict(_flat(of_difference, siblings[of_difference]))
    found.pop(last, None)
    return list(found.items())


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if _is_figure(value):
        yield name, value
    elif isinstance(value, Mapping):
        for inner, one in value.items():
            yield from _flat(f"{name}/{inner}".lstrip("/"), one)


def _place(content: Content, names: Sequence[str]) -> Any:
    """What stands at a path of names, None if it is not there."""
    path = "/".join(names)
    if not path:
        return content
    return at(content, path, "") if has(content, path) else None


def _is_figure(value: Any) -> bool:
    number = value.get("value") if isinstance(value, Mapping) else value
    return isinstance(number, int | float) and not isinstance(number, bool)


def said(value: Any) -> str:
    """A number, or a figure with its interval, as its file has it."""
    if isinstance(value, Mapping):
        figure, low, high = (value.get(key) for key in ("value", "low", "high"))
        return said(figure) + (f" [{low:.6g}, {high:.6g}]" if low is not None and high is not None else "")
    if value is None:
        return "not there"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReseedError(f"a figure: found {value!r}, allowed: a number")
    return f"{value:.6g}"
