"""Evidence that is not what it should be is refused in one sentence, before any gate reads a number of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from reseed import ReseedError
from reseed.claims.evidence import check_evidence, check_interval
from reseed.claims.judge import judge
from tests.claims.builders import ABOVE_NULL, OPTIONS, PAIRS, PATHS, claim, evidence

PATH = PATHS[0]
TWICE = {"arm": "trained", "statistic": "pw_mcc", "latents": "alive", "kappa": 0.99, "kappa_deleted": [1.0]}


def changed(where: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(evidence()[PATH])
    *parents, last = where.split("/")
    place: Any = content
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return content


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("trained/pw_mcc/plateau_change", "nan"),
        ("trained/pw_mcc/plateau_change", float("nan")),
        ("trained/pw_mcc/plateau_change", None),
        ("trained/pw_mcc/converged", "no"),
        ("trained/pw_mcc/converged", 2),
        ("trained/pw_mcc", None),
        ("trained", 1),
        ("trained/cosine_to_init", 0.2),
        ("trained/cosine_to_init/high", float("nan")),
        ("trained/cosine_to_init/low", 0.9),
        ("trained/seeds_converged", None),
        ("seeds", "5"),
        ("seeds", 5.5),
        ("seeds", None),
        ("group_size", 0),
        ("group_size", "x"),
        ("held_out/repeated", -1.0),
        ("held_out/repeated", "x"),
        ("artefacts", "x"),
        ("records", "x"),
        ("records", [1]),
        ("records/0/kappa", True),
        ("records/0/kappa", "0.9"),
        ("records/0/kappa", float("inf")),
        ("records/0/kappa_deleted", None),
        ("records/0/kappa_deleted", 0.9),
        ("records/0/kappa_deleted/0", float("nan")),
        ("records/1", TWICE),
    ],
)
def test_a_malformed_file_supports_nothing_and_breaks_nothing(where: str, value: Any) -> None:
    with pytest.raises(ReseedError, match=rf"^{PATH}: ") as caught:
        judge(claim(ABOVE_NULL, pairs=PAIRS[:1]), {PATH: changed(where, value)}, OPTIONS)
    assert "\n" not in str(caught.value)


def test_a_file_that_names_no_saes_is_not_testable() -> None:
    content = evidence()[PATH] | {"artefacts": {"data/modular/activations/trained": "b" * 64}}
    verdict = judge(claim(ABOVE_NULL, pairs=PAIRS[:1]), {PATH: content}, OPTIONS)
    assert verdict["verdict"] == "not testable"
    assert verdict["reasons"] == [f"{PATH} does not say by hash which models/{PAIRS[0]} it is of: run its stage again"]


def test_the_kappa_that_is_shown_is_the_one_that_is_judged() -> None:
    content = changed("trained/pw_mcc/kappa", 0.99)
    with pytest.raises(ReseedError, match=r"trained\.pw_mcc\.kappa: found 0\.99, allowed: 0\.9, as its record says"):
        check_evidence("stability", content, PATH, "pw_mcc")


@pytest.mark.parametrize(
    "figure", [{"value": 1.0, "low": 0.99, "high": 0.1}, {"value": 1.0, "low": 0.9, "high": float("inf")}, 0.5, {}]
)
def test_an_interval_that_is_none_is_refused(figure: Any) -> None:
    with pytest.raises(ReseedError, match=r"^x\.json: "):
        check_interval(figure, "a/b", "x.json")


@pytest.mark.parametrize("content", [{}, {"baseline": "a"}, {"baseline": "a", "variants": {"b": 1}}])
def test_a_comparison_without_its_parts_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ReseedError, match=r"^c\.json: "):
        check_evidence("comparison", content, "c.json", "pw_mcc")
