"""claims.yaml is read as registered, and a claim without a clear bound cannot be registered."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from reseed import ReseedError
from reseed.claims.registry import ALWAYS, Registry, keeps, kind_of, load_claim, load_registry, promise
from reseed.params import load, load_params, load_study
from tests.conftest import ROOT

CLAIM = "low-l0-agreement"


def changed(folder: Path, change: dict[str, Any]) -> Path:
    content = yaml.safe_load((ROOT / "claims.yaml").read_text())
    content["claims"][CLAIM] |= change
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_registered_claims_speak_of_the_parameters_as_they_are() -> None:
    params = load_params(ROOT / "params.yaml")
    study = load_study(ROOT / "study.yaml")
    known = {f"{pair.subject}/{pair.variant}": pair.variant for pair in study.pairs.values()}
    for claim in load(Registry, ROOT / "claims.yaml").claims.values():
        assert claim.minimum_seeds <= len(params.train.seeds)
        for pair, values in claim.speaks_of.items():
            for key, value in values.items():
                assert getattr(params.variant(known[pair]), key) == value


def test_an_unknown_claim_names_the_known_ones() -> None:
    with pytest.raises(ReseedError, match=r"claims.yaml: claims: found no 'x'; known: low-l0-agreement, "):
        load_claim(ROOT / "claims.yaml", "x")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"above": 0, "below": 0}, "exactly one of above and below"),
        ({"above": None}, "exactly one of above and below"),
        ({"figure": "trained + random_model"}, "tests.0.figure: found 'trained + random_model', allowed: text that "),
        ({"over": "k"}, "found 'k', allowed: 'each' or 'log2_k'"),
        ({"figure": "value"}, "tests.0.figure: found 'value', allowed: of a statistic an arm or"),
    ],
)
def test_a_bound_that_says_nothing_is_refused(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    test = yaml.safe_load((ROOT / "claims.yaml").read_text())["claims"][CLAIM]["tests"][0]
    with pytest.raises(ReseedError) as caught:
        load_claim(changed(tmp_path, {"tests": [test | change]}), CLAIM)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"gates": ["alive", "held_out"]},
            "gates: found ['alive', 'held_out'], allowed: 'converged' among them, which every",
        ),
        ({"gates": ["alive", "converged", "alive"]}, "'alive'], allowed: every gate once"),
        ({"gates": ["alive", "converged", "vibes"]}, "gates.2: found 'vibes', allowed: 'converged', 'alive'"),
        ({"gates": [*ALWAYS, "benchmark"]}, "benchmark: found nothing, allowed: a figure as KIND:PATH, which"),
        ({"unit": "cosine"}, "unit: found 'cosine', allowed: kappa, which is that of a statistic"),
        ({"statistic": None}, "metric: found nothing, allowed: exactly one of statistic and metric"),
        (
            {"statistic": None, "metric": "stability:trained/l0"},
            "unit: found 'kappa', allowed: latents, which is that of stability:trained/l0",
        ),
        (
            {"statistic": None, "metric": "stability:trained/pw_mcc", "unit": "cosine"},
            "metric: found 'stability:trained/pw_mcc', allowed: a statistic for agreement",
        ),
        (
            {"statistic": None, "metric": "stability:trained/vibes"},
            "'stability:trained/vibes', allowed: a metric whose",
        ),
        ({"speaks_of": {"modular/topk-k8": {}}}, "allowed: metrics/modular/topk-k8/stability.json among it, of which"),
        (
            {"evidence": ["metrics/modular/topk-k4/stability.json"]},
            "'metrics/modular/topk-k4/stability.json'], allowed: at least 8 items",
        ),
        ({"minimum_seeds": 2}, "greater than or equal to 3"),
        ({"registered": "HEAD"}, "registered: found 'HEAD', allowed: text that matches ^[0-9a-f]{40}$"),
    ],
)
def test_a_claim_cannot_leave_out_a_gate_or_contradict_itself(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ReseedError) as caught:
        load_claim(changed(tmp_path, change), CLAIM)
    assert sentence in str(caught.value)


def test_an_id_that_stands_twice_is_refused_where_yaml_would_keep_the_last(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    text = (ROOT / "claims.yaml").read_text()
    path.write_text(text.replace("  above-random-weights:", "  agreement-falls-with-k:"))
    with pytest.raises(ReseedError, match=r"claims\.agreement-falls-with-k: found twice, allowed: every id once"):
        load_registry(path)


def test_a_phase_has_criteria_that_are_claims(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "claims.yaml").read_text())
    content["phases"]["agreement"]["criteria"]["x"] = {"claim": "no-such-claim"}
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(
        ReseedError, match=r"phases\.agreement\.criteria\.x\.claim: found 'no-such-claim', allowed: a registered"
    ):
        load_registry(path)


def test_what_may_be_evidence() -> None:
    assert kind_of("metrics/modular/topk-k4/saebench.json") == ("saebench", "modular/topk-k4")
    assert kind_of("metrics/comparisons/modular-k.json") == ("comparison", "")
    for path in (
        "./metrics/modular/topk-k4/stability.json",
        "metrics//modular/topk-k4/stability.json",
        "README.md",
        "metrics/a/b/c/d.json",
    ):
        with pytest.raises(ReseedError, match=r"allowed: metrics/<subject>/<variant>/<kind>\.json"):
            kind_of(path)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"gates": ["converged", "alive", "held_out"]}, True),
        ({"tried": 16}, True),
        ({"minimum_seeds": 8}, True),
        ({"statement": "Other words."}, False),
        ({"speaks_of": {"modular/topk-k4": {}}}, False),
        ({"speaks_of": {"modular/topk-k4": {"k": 4, "d_sae": 128}}}, True),
        ({"minimum_seeds": 3}, False),
        ({"gates": ["converged"]}, False),
        ({"tests": [{"figure": "trained", "over": "each", "above": -0.1}]}, False),
        ({"statistic": "mean_max_cos"}, False),
        ({"evidence": ["metrics/modular/topk-k8/stability.json"]}, False),
    ],
)
def test_a_promise_may_only_become_stricter(change: dict[str, Any], kept: bool) -> None:
    before = {
        "statistic": "pw_mcc", "tests": [{"figure": "trained", "over": "each", "above": 0}],
        "evidence": ["metrics/modular/topk-k4/stability.json"], "minimum_seeds": 5, "gates": ["converged", "alive"],
        "statement": "Words.", "k": [4],
    }  # fmt: skip
    assert keeps(promise(before | change), promise(before)) is kept
