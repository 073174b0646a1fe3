"""The table says what its sources say: every cell from a planted figure, the corrected ones by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from reseed import ReseedError
from reseed.artifacts import read_json, write_json
from reseed.replication.husai import SETTINGS, TRANSPOSED, Measured
from reseed.replication.song import SongL1
from reseed.replication.table import CORRECTED, SYNTHETIC, Table, husai_rows, song_rows
from reseed.stability.jackknife import Estimate

LEAK = {
    "quarantine": "it copies",
    "refusal": "label leak: 100%",
    "validation_accuracy": [0.5, 1.0],
    "randomised_accuracy": 1.0,
    "copied": 1.0,
    "answer_variance": 0.98,
}


def estimate(value: float, step: float = 0.001) -> Estimate:
    return Estimate(value, (value - step, value, value + step))


L1 = SongL1(estimate(0.62, 0.01), estimate(0.45), estimate(0.66), estimate(15.0), estimate(6.5))


@cache
def measured() -> dict[str, Measured]:
    """Settings whose every figure is another number."""
    found = {}
    for i, name in enumerate([*SETTINGS, "d64-k32" + TRANSPOSED]):
        base = 0.2 + i / 100
        figures = [estimate(base + j / 1000) for j in range(3)]
        rest = [estimate(0.4 + i / 100 + j / 1000) for j in range(4)]
        found[name] = Measured(SETTINGS[name.removesuffix(TRANSPOSED)], 120 + i, figures[2], 0.002, *figures[:2], *rest)
    return found


def stability(value: float, converged: int = 1, kappa: bool = True) -> dict[str, Any]:
    """stability.json with the records of one variant; the figures over all latents are others."""
    records = [
        {
            "variant": "v", "arm": arm, "statistic": statistic, "latents": latents, "converged": converged,
            "value": value + shift, "value_deleted": [value + shift - 0.01, value + shift, value + shift + 0.01],
            "nulls": {"covariance": 0.45, "isotropic": 0.2, "untrained": 0.44}, "strictest_null": "covariance",
            **({"kappa": value / 2, "kappa_deleted": [value / 2 - 0.01, value / 2, value / 2 + 0.01]} if kappa else {}),
        }
        for arm, statistic, latents, shift in [
            ("random_model", "mean_max_cos", "alive", 0.3), ("trained", "pw_mcc", "alive", 0.2),
            ("trained", "mean_max_cos", "all", 0.1), ("trained", "pw_mcc", "all", 0.05),
            ("trained", "mean_max_cos", "alive", 0.0),
        ]
    ]  # fmt: skip
    return {"trained": {}, "records": records}


def table(**changed: dict[str, Any]) -> Table:
    values = dict(zip(CORRECTED, (0.35, 0.7, 0.5, 0.75, 0.45), strict=True))
    ours = {name: stability(value) for name, value in values.items()} | changed
    song = {name: stability(0.9) for name in SYNTHETIC}
    return Table(husai_rows(measured(), ours, 0.95) + song_rows(song, L1), measured(), L1, LEAK, 128, 0.95)


def test_the_figures_are_those_of_their_settings_and_variants(tmp_path: Path) -> None:
    write_json(tmp_path / "replication.json", table().content())
    content = read_json(tmp_path / "replication.json")
    figures, found = content["figures"], measured()
    assert content["quarantined"] == "it copies"  # no claim may rest on this file
    assert figures["trained_is_random"]["reproduced"]["value"] == pytest.approx(found["d1024-k32"].trained.value)
    transposed, right = found["d64-k32" + TRANSPOSED], found["d64-k32"]
    few = figures["few_latents"]
    assert few["reproduced"]["value"] == pytest.approx(transposed.trained.value - transposed.floor.value)
    assert few["signs"]["delta_right_way_up"]["value"] == pytest.approx(right.trained.value - right.floor.value)
    assert few["signs"]["untrained_delta"]["value"] == pytest.approx(
        transposed.untrained.value - right.floor.value, abs=0.1
    )
    assert figures["low_k"]["corrected"]["value"] == 0.7
    assert figures["low_k"]["corrected"]["null"] == 0.45
    assert figures["low_k"]["corrected"]["kappa"]["value"] == 0.35
    assert figures["few_latents"]["corrected"]["value"] == 0.5
    assert len(content["settings"]) == len(SETTINGS) + 1


def test_a_difference_leaves_the_same_seed_out_of_both_and_converges_only_if_both_do() -> None:
    low = stability(0.75)
    figure = table(**{"topk-k4": low}).content()["figures"]["low_l0"]["corrected"]
    assert figure["value"] == pytest.approx(0.3)
    assert figure["high"] - figure["low"] == pytest.approx(0, abs=1e-9)  # both move together when a seed is left out
    assert figure["kappa"]["value"] == pytest.approx(0.15)
    assert figure["converged"] == 1
    assert "null" not in figure
    half = table(**{"topk-k4": stability(0.75, converged=0)}).content()["figures"]["low_l0"]["corrected"]
    assert half["converged"] == 0


def test_agreement_is_with_the_published_value() -> None:
    assert table().content()["figures"]["trained_is_random"]["agrees"] == 0
    wide = replace(measured()["d1024-k32"], trained=estimate(0.3))
    rows = husai_rows(measured() | {"d1024-k32": wide}, {name: stability(0.5) for name in CORRECTED}, 0.95)
    assert Table(rows, measured(), L1, LEAK, 128, 0.95).content()["figures"]["trained_is_random"]["agrees"] == 1


def test_song_is_reproduced_over_all_latents_and_corrected_over_the_alive() -> None:
    figure = table().content()["figures"]["song_topk"]
    assert figure["published"] == 0.951
    assert figure["reproduced"]["value"] == pytest.approx(0.95)
    assert figure["agrees"] == 1
    assert figure["corrected"]["value"] == pytest.approx(1.1)
    assert figure["corrected"]["statistic"] == "pw_mcc"
    figure = table().content()["figures"]["song_l1"]
    assert figure["published"] == 0.609
    assert figure["reproduced"]["value"] == 0.62  # by its own recipe, not by ours
    assert figure["signs"]["l0"]["value"] == 15.0
    assert figure["corrected"]["value"] == pytest.approx(1.1)


def test_the_page_is_one_table_with_what_did_not_converge_in_bold() -> None:
    page = table(**{"topk-k8": stability(0.7, converged=0), "topk-d64-k32": stability(0.5, kappa=False)}).page()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 6
    assert [row.count("|") for row in rows] == [5] * 7
    assert [row for row in rows if "not converged" in row] == [rows[2]]
    assert "no κ" in rows[3]
    assert "uniform unit vectors 0.2988" in page.replace("\n", " ")  # the closed form, computed
    assert not re.search(r"\{\w*\}|nan", page)


def test_a_report_without_the_figure_is_named() -> None:
    broken = stability(0.5) | {"records": []}
    with pytest.raises(ReseedError, match=r"stability\.json of topk-k8: records: found none with .*mean_max_cos"):
        table(**{"topk-k8": broken})
