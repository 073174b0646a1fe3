"""What an SAE keeps out of distribution: all of it on the same rows, none of it on rows that it cannot see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sae_lens import SAE

from reseed import ReseedError
from reseed.activations.store import Activations, read_activations, write_activations
from reseed.params import SPLITS
from reseed.stability.jackknife import Groups
from reseed.stability.ood import check_same_model, ood_summary
from tests.conftest import provenance
from tests.stability.builders import exact_sae

GROUPS = Groups(3)
SEES, SEES_NOTHING = [0], [3]
"""Of which of four dimensions an SAE gives back the rows."""


def rows_of(path: Path, scales: list[float], arm: str = "trained") -> Activations:
    """Test rows of mean zero whose dimensions have these sizes."""
    x = torch.cat([torch.eye(4), -torch.eye(4)]) * torch.tensor(scales).repeat(2)[:, None]
    write_activations(dict.fromkeys(SPLITS, x), provenance(arm), "float32", path)
    return read_activations(path)


def summary(inside: Activations, outside: Activations, trained: list[int], untrained: list[int]) -> dict[str, dict]:
    saes = [(exact_sae(4, trained), exact_sae(4, untrained))] * 3
    return ood_summary(saes, {"in": inside, "ood": outside}, GROUPS, 0.95)


def test_the_same_rows_are_kept_whole_and_unseen_ones_not_at_all(tmp_path: Path) -> None:
    inside = rows_of(tmp_path / "in", [2, 1, 0, 0])  # of a variance of 2^2 + 1, the first dimension has 4 / 5
    same = summary(inside, inside, SEES, SEES_NOTHING)
    for name in ("in", "ood"):
        assert same["explained_variance"][name] == pytest.approx({"value": 0.8, "low": 0.8, "high": 0.8})
        assert same["null"][name]["value"] == pytest.approx(0, abs=1e-9)
    assert same["retained"]["value"] == pytest.approx(1)
    assert same["over_null"]["value"] == pytest.approx(0.8)
    assert same["rows"] == {"in": 8, "ood": 8}

    unseen = summary(inside, rows_of(tmp_path / "unseen", [0, 1, 1, 0]), SEES, SEES_NOTHING)
    assert unseen["explained_variance"]["in"]["value"] == pytest.approx(0.8)
    assert unseen["retained"]["value"] == pytest.approx(0, abs=1e-9)
    assert unseen["over_null"]["value"] == pytest.approx(0, abs=1e-9)

    half = summary(inside, rows_of(tmp_path / "half", [1, 1, 1, 0]), SEES, [1])
    # gains: 4 / 5 - 1 / 5 in distribution, 1 / 3 - 1 / 3 out of it: what the untrained SAE does too is not kept
    assert half["retained"]["value"] == pytest.approx(0, abs=1e-9)
    third = summary(inside, rows_of(tmp_path / "third", [1, 1, 1, 0]), SEES, SEES_NOTHING)
    assert third["retained"]["value"] == pytest.approx((1 / 3) / (4 / 5))


def test_an_sae_that_never_trained_keeps_nothing(tmp_path: Path) -> None:
    inside = rows_of(tmp_path / "in", [2, 1, 0, 0])
    for outside in (inside, rows_of(tmp_path / "ood", [1, 1, 1, 1])):
        found = summary(inside, outside, SEES, SEES)
        assert found["over_null"] == {"value": 0, "low": 0, "high": 0}
        assert found["retained"] == {"value": 0, "low": 0, "high": 0}


def test_the_interval_is_that_of_the_seeds(tmp_path: Path) -> None:
    inside = rows_of(tmp_path / "in", [1, 1, 1, 1])
    saes: list[tuple[SAE, SAE]] = [(exact_sae(4, list(range(n))), exact_sae(4, [])) for n in (1, 2, 3)]
    found = ood_summary(saes, {"in": inside, "ood": inside}, GROUPS, 0.95)["over_null"]
    # a mean of 1/4, 2/4, 3/4: standard error 0.25 / sqrt(3), t(2) at 0.975 is 4.302653
    half = 4.302653 * 0.25 / 3**0.5
    assert found == pytest.approx({"value": 0.5, "low": 0.5 - half, "high": 0.5 + half})


def test_rows_of_another_model_or_arm_are_refused(tmp_path: Path) -> None:
    inside, outside = rows_of(tmp_path / "in", [1, 1, 1, 1]), rows_of(tmp_path / "ood", [1, 1, 1, 1], "ood")
    check_same_model(inside, outside)
    with pytest.raises(ReseedError, match=r"data/modular/activations/ood: arm: found 'trained', allowed: 'ood'"):
        check_same_model(inside, inside)
    other = Activations(outside.shards, outside.index | {"model_sha256": "x" * 64})
    with pytest.raises(ReseedError, match=r"model_sha256: found 'x+', allowed: 'm+'"):
        check_same_model(inside, other)
