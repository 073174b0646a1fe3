"""claims.yaml is read as registered, and a claim without a clear bound cannot be registered."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from reseed import ReseedError
from reseed.claims.registry import Registry, load_claim
from reseed.params import load, load_params, load_study
from tests.conftest import ROOT


def test_the_registered_claims_speak_of_the_parameters_as_they_are() -> None:
    params = load_params(ROOT / "params.yaml")
    study = load_study(ROOT / "study.yaml")
    known = {f"metrics/{pair.subject}/{pair.variant}/stability.json": pair.variant for pair in study.pairs.values()}
    for claim in load(Registry, ROOT / "claims.yaml").claims.values():
        assert claim.minimum_seeds <= len(params.train.seeds)
        for path, k in claim.sources.items():
            assert params.variant(known[path]).k == k


def test_an_unknown_claim_names_the_known_ones() -> None:
    with pytest.raises(ReseedError, match=r"claims.yaml: claims: found no 'x'; known: low-l0-agreement, "):
        load_claim(ROOT / "claims.yaml", "x")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"above": 0, "below": 0}, "exactly one of above and below"),
        ({"above": None}, "exactly one of above and below"),
        ({"figure": "trained + random_model"}, "String should match pattern"),
        ({"over": "k"}, "found 'k', allowed: 'each' or 'log2_k'"),
    ],
)
def test_a_bound_that_says_nothing_is_refused(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "claims.yaml").read_text())
    content["claims"]["low-l0-agreement"]["tests"][0] |= change
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ReseedError) as caught:
        load_claim(path, "low-l0-agreement")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("gates", ["alive"], "gates"),
        ("gates", ["alive", "converged"], "allowed: 'converged'"),
        ("k", [4, 4, 4, 8], "one k a file"),
    ],
)
def test_a_claim_cannot_leave_out_a_gate_or_contradict_itself(
    key: str, value: list[Any], sentence: str, tmp_path: Path
) -> None:
    content = yaml.safe_load((ROOT / "claims.yaml").read_text())
    content["claims"]["low-l0-agreement"][key] = value
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ReseedError, match=sentence):
        load_claim(path, "low-l0-agreement")
