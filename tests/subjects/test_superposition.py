"""Worlds with known features: how many are on, how they correlate and how large they are, against closed forms."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, lognorm, multivariate_normal, norm

from reseed import ReseedError
from reseed.activations.store import read_activations, read_truth
from reseed.artifacts import activations_dir
from reseed.params import SPLITS, Rows, Superposition, load_sae_training, load_world
from reseed.subjects.superposition import Drawn, draw, features_sha256, parameters_sha256
from stages.synthesise import synthesise
from tests.conftest import ROOT

FEATURES, D_IN, L0, TRAIN = 20, 12, 4.0, 20000


def world(**change: Any) -> Superposition:
    fields: dict[str, Any] = {
        "generator": "superposition", "n_features": FEATURES, "d_in": D_IN, "l0": L0, "seed": 0,
        "rows": Rows(train=TRAIN, validation=300, test=200),
    }  # fmt: skip
    return Superposition.model_validate(fields | change)


def on(drawn: Drawn) -> np.ndarray:
    return (drawn.codes["train"] > 0).double().numpy()


def test_rows_are_sums_of_unit_features_times_their_codes() -> None:
    drawn = draw(world(magnitude_std=0.3))
    assert drawn.directions.shape == (FEATURES, D_IN)
    assert drawn.directions.norm(dim=1) == pytest.approx(1, abs=1e-6)
    for split, rows in {"train": TRAIN, "validation": 300, "test": 200}.items():
        codes = drawn.codes[split]
        assert codes.shape == (rows, FEATURES)
        assert codes.dtype == drawn.rows[split].dtype == torch.float32
        assert codes.min() == 0
        row = sum(float(codes[7, i]) * drawn.directions[i] for i in range(FEATURES))
        assert torch.allclose(drawn.rows[split][7], row, atol=1e-5)


def test_random_features_have_the_cosines_of_random_directions_and_orthogonal_ones_have_none() -> None:
    for orthogonal, expected in ((False, 1 / 64), (True, 0)):  # the square of a cosine has the mean 1 / d
        f = draw(world(n_features=40, d_in=64, orthogonal=orthogonal)).directions.double()
        squares = (f @ f.T)[~torch.eye(40, dtype=torch.bool)].square()
        assert squares.mean().item() == pytest.approx(expected, abs=0.003)
    assert squares.max() < 1e-8


def test_features_fire_independently_l0_a_row_on_average() -> None:
    fires = on(draw(world()))
    p = L0 / FEATURES
    assert fires.sum(1).mean() == pytest.approx(L0, abs=4 * np.sqrt(FEATURES * p * (1 - p) / TRAIN))
    np.testing.assert_allclose(fires.mean(0), p, atol=4.5 * np.sqrt(p * (1 - p) / TRAIN))
    assert fires.sum(1).var() == pytest.approx(FEATURES * p * (1 - p), rel=0.05)  # binomial
    off_diagonal = np.corrcoef(fires.T)[~np.eye(FEATURES, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(TRAIN)


@pytest.mark.parametrize("correlation", [0.1, 0.4])
def test_firing_correlates_as_the_gaussian_copula_says(correlation: float) -> None:
    """Of two bits, not of their normals: (P(both) - p^2) / (p - p^2), P(both) by scipy's bivariate normal."""
    fires = on(draw(world(correlation=correlation)))
    p = L0 / FEATURES
    covariance = [[1, correlation], [correlation, 1]]
    both = multivariate_normal([0, 0], covariance).cdf([norm.ppf(p)] * 2)
    expected = (both - p * p) / (p - p * p)
    assert 0 < expected < correlation
    found = np.corrcoef(fires.T)[~np.eye(FEATURES, dtype=bool)]
    assert found.mean() == pytest.approx(expected, abs=0.006)
    assert np.abs(found - expected).max() < 0.04  # every pair: the error of one is 0.008
    spread = FEATURES * (p - p * p) * (1 + (FEATURES - 1) * expected)
    assert fires.sum(1).mean() == pytest.approx(L0, abs=4 * np.sqrt(spread / TRAIN))


def test_noise_is_normal_on_every_dimension_and_leaves_the_codes_alone() -> None:
    plain, noisy = draw(world()), draw(world(noise_std=0.3))
    assert torch.equal(plain.codes["train"], noisy.codes["train"])
    noise = (noisy.rows["train"] - noisy.codes["train"] @ noisy.directions).double()
    assert noise.std().item() == pytest.approx(0.3, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.003)
    assert np.abs(np.corrcoef(noise.T.numpy())[~np.eye(D_IN, dtype=bool)]).max() < 5 / np.sqrt(TRAIN)
    other = (noisy.rows["test"] - noisy.codes["test"] @ noisy.directions)[:100]
    assert not torch.allclose(other, noise[:100].float())


def test_features_of_two_groups_fire_independently_and_of_one_together() -> None:
    fires = on(draw(world(correlation=0.4, groups=4)))
    found = np.corrcoef(fires.T)
    group = np.arange(FEATURES) // (FEATURES // 4)
    same = group[:, None] == group
    assert np.abs(found[~same]).max() < 5 / np.sqrt(TRAIN)
    p = L0 / FEATURES
    both = multivariate_normal([0, 0], [[1, 0.4], [0.4, 1]]).cdf([norm.ppf(p)] * 2)
    within = found[same & ~np.eye(FEATURES, dtype=bool)]
    assert within.mean() == pytest.approx((both - p * p) / (p - p * p), abs=0.01)


def test_exactly_means_exactly_and_uniformly() -> None:
    fires = on(draw(world(l0=3, exactly=True)))
    assert (fires.sum(1) == 3).all()
    p = 3 / FEATURES
    np.testing.assert_allclose(fires.mean(0), p, atol=4.5 * np.sqrt(p * (1 - p) / TRAIN))
    # a choice without replacement makes pairs correlate by -1 / (n - 1)
    found = np.corrcoef(fires.T)[~np.eye(FEATURES, dtype=bool)]
    assert found.mean() == pytest.approx(-1 / (FEATURES - 1), abs=0.001)


@pytest.mark.parametrize(("mean", "std"), [(1.0, 0.2), (0.0, 1.0), (2.0, 0.0)])
def test_magnitudes_are_folded_normals(mean: float, std: float) -> None:
    codes = draw(world(magnitude_mean=mean, magnitude_std=std)).codes["train"]
    sizes = codes[codes > 0].double()
    second = mean**2 + std**2
    first = mean if std == 0 else std * np.sqrt(2 / np.pi) * np.exp(-(mean**2) / 2 / std**2)
    if std:
        first += mean * (1 - 2 * norm.cdf(-mean / std))
    assert sizes.mean().item() == pytest.approx(first, abs=0.01)
    assert sizes.square().mean().item() == pytest.approx(second, abs=0.02)


def test_log_normal_magnitudes_have_the_moments_of_scipy() -> None:
    codes = draw(world(magnitudes="log_normal", magnitude_mean=0.0, magnitude_std=0.25)).codes["train"]
    sizes = codes[codes > 0].double().numpy()
    law = lognorm(s=0.25)
    assert sizes.mean() == pytest.approx(law.mean(), abs=0.005)
    assert sizes.std() == pytest.approx(law.std(), rel=0.02)
    assert kstest(sizes[::8], law.cdf).pvalue > 0.01
    constant = draw(world(magnitudes="log_normal", magnitude_mean=0.0)).codes["train"]
    assert set(constant.unique().tolist()) == {0.0, 1.0}


def test_worlds_of_before_keep_the_hash_that_they_had() -> None:
    """As in the metrics of the study `synthetic`, which were made before there were other laws."""
    index = {path: load_world(path, ROOT / "subjects").data for path in ("song", "superposition")}
    dumped = {
        path: data.model_dump(mode="json", exclude={"magnitudes", "zipf", "children", "child_probability"})
        for path, data in index.items()
    }
    for path, data in index.items():
        assert parameters_sha256(data) == sha256(json.dumps(dumped[path], sort_keys=True).encode()).hexdigest()
    changed = index["song"].model_copy(update={"magnitudes": "log_normal"})
    assert parameters_sha256(changed) != parameters_sha256(index["song"])


def test_korznikovs_world_is_that_of_the_paper() -> None:
    data = load_world("korznikov", ROOT / "subjects").data
    assert isinstance(data, Superposition)
    assert (data.n_features, data.d_in, data.l0 / data.n_features) == (3200, 100, 0.00625)
    assert (data.magnitudes, data.magnitude_mean, data.magnitude_std) == ("log_normal", 0, 0.25)
    small = data.model_copy(update={"rows": Rows(train=2000, validation=9, test=9)})
    drawn = draw(small)
    fires = (drawn.codes["train"] > 0).double().sum(1)
    assert fires.mean().item() == pytest.approx(20, abs=4 * np.sqrt(20 / 2000))
    assert drawn.directions.norm(dim=1) == pytest.approx(1, abs=1e-6)


def test_the_draw_depends_on_its_parameters_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(world(correlation=0.2, magnitude_std=0.1, orthogonal=True))
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    again = draw(world(correlation=0.2, magnitude_std=0.1, orthogonal=True))
    assert again.directions.equal(first.directions)
    assert all(again.codes[split].equal(first.codes[split]) for split in SPLITS)
    other = draw(world(correlation=0.2, magnitude_std=0.1, orthogonal=True, seed=1))
    assert not other.directions.isclose(first.directions).any(1).all()
    assert features_sha256(other.directions) != features_sha256(first.directions) == features_sha256(again.directions)
    assert parameters_sha256(world(seed=1)) != parameters_sha256(world()) == parameters_sha256(world())


def test_no_row_stands_in_two_splits() -> None:
    rows = draw(world(magnitude_std=0.2)).rows
    seen = [{row.numpy().tobytes() for row in rows[split] if row.any()} for split in SPLITS]
    assert not seen[0] & seen[1]
    assert not (seen[0] | seen[1]) & seen[2]


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"l0": 20}, "below n_features"),
        ({"l0": 2.5, "exactly": True}, "exactly with a whole l0 and no correlation"),
        ({"correlation": 0.2, "exactly": True}, "exactly with a whole l0 and no correlation"),
        ({"magnitude_mean": 0}, "a magnitude_mean or a magnitude_std above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, Any], allowed: str, tmp_path: Path) -> None:
    song = (ROOT / "subjects" / "song.yaml").read_text()
    data = {"generator": "superposition", "n_features": 20, "d_in": 12, "l0": 4, "seed": 0,
            "rows": {"train": 9, "validation": 9, "test": 9}} | change  # fmt: skip
    (tmp_path / "world.yaml").write_text(f"data: {data}\nsae:{song.split('sae:')[1]}")
    with pytest.raises(ReseedError, match=rf"world\.yaml: data(\.\w+)?: found .*allowed: {allowed}"):
        load_world("world", tmp_path)


def test_songs_world_is_that_of_the_paper() -> None:
    data = load_world("song", ROOT / "subjects").data
    assert (data.n_features, data.d_in, data.l0, data.exactly, data.rows.train) == (32, 16, 3, True, 50_000)
    assert (data.magnitude_mean, data.magnitude_std) == (0, 1)
    assert load_sae_training("song", ROOT / "subjects").batch_size


def test_the_stage_writes_rows_and_truth_with_what_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "subjects").mkdir()
    song = (ROOT / "subjects" / "song.yaml").read_text()
    (tmp_path / "subjects" / "song.yaml").write_text(song.replace("train: 50000", "train: 500"))
    monkeypatch.chdir(tmp_path)
    synthesise("song")
    path = activations_dir("song", "trained")
    activations, truth = read_activations(path), read_truth(path)
    drawn = draw(load_world("song").data)
    assert truth is not None
    assert truth.codes.equal(drawn.codes["test"])
    assert torch.allclose(activations.splits["test"], truth.codes @ truth.directions, atol=1e-5)
    index = activations.index
    assert (index["subject"], index["hook_name"], index["positions"]) == ("song", "synthetic", ["row"])
    assert index["generator"].startswith("synthetic features drawn by sae_lens.synthetic 6.")
    assert index["model_sha256"] == features_sha256(truth.directions)
    assert index["tokens_sha256"] == parameters_sha256(load_world("song").data)


def test_children_are_on_only_where_their_parent_is_and_frequencies_fall_as_zipf_says() -> None:
    """Five parents of three children: each probability from its definition, the children independent of each other."""
    data = world(l0=2, zipf=0.7, children=3, child_probability=0.4)
    fires = on(draw(data)).reshape(TRAIN, 5, 4)
    parents, children = fires[..., 0], fires[..., 1:]
    assert children[parents == 0].max() == 0
    weights = np.arange(1, 6) ** -0.7
    p = 2 / (1 + 3 * 0.4) * weights / weights.sum()
    np.testing.assert_allclose(parents.mean(0), p, atol=4.5 * np.sqrt(p.max() * (1 - p.max()) / TRAIN))
    given = children[parents == 1]
    np.testing.assert_allclose(given.mean(0), 0.4, atol=4.5 * np.sqrt(0.24 / len(given)))
    assert np.abs(np.corrcoef(given.T)[~np.eye(3, dtype=bool)]).max() < 5 / np.sqrt(len(given))
    assert fires.sum((1, 2)).mean() == pytest.approx(2, abs=0.05)
    found = np.corrcoef(parents.T)[~np.eye(5, dtype=bool)]
    assert np.abs(found).max() < 5 / np.sqrt(TRAIN)
    assert parameters_sha256(data) != parameters_sha256(data.model_copy(update={"child_probability": 0.5}))


def test_zipf_alone_leaves_features_independent() -> None:
    fires = on(draw(world(l0=3.5, zipf=1.0)))
    p = 3.5 / (1 / np.arange(1, FEATURES + 1)).sum() / np.arange(1, FEATURES + 1)
    assert p[0] > 0.9
    np.testing.assert_allclose(fires.mean(0), p, atol=4.5 * np.sqrt(0.25 / TRAIN))
    assert np.abs(np.corrcoef(fires.T)[~np.eye(FEATURES, dtype=bool)]).max() < 5 / np.sqrt(TRAIN)


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"children": 2}, "number of children that, one added, divides n_features"),
        ({"children": 3, "correlation": 0.3}, "zipf and children without exactly and correlation"),
        ({"zipf": 1.0, "l0": 3, "exactly": True}, "zipf and children without exactly and correlation"),
        ({"zipf": 2.0}, "at which no feature is always on; the first would be at 2.51"),
    ],
)
def test_hierarchies_that_cannot_be_drawn_are_refused(change: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        world(**change)
