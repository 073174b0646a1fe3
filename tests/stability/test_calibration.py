"""The k is chosen by the rule that is written down, and on known features the rule finds the number that is on."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from reseed import ReseedError
from reseed.activations.store import Activations, read_activations, write_activations
from reseed.artifacts import write_json
from reseed.matching import unit_rows
from reseed.params import Calibration, Convergence, SaeTraining
from reseed.saes.train import train_saes
from reseed.stability.arms import StatisticReport
from reseed.stability.calibration import (
    Tried,
    calibration_summary,
    check_calibration,
    decoder_cosine,
    elbow,
    equal_budget,
    most_stable,
)
from reseed.stability.jackknife import Estimate
from reseed.stability.retrained import seed_set_of
from tests.conftest import provenance, train_of, unit, variant_of
from tests.stability.builders import stability_options

OPTIONS = stability_options(null_draws=2)
CALIBRATION = Calibration(ks=(2, 5, 10, 18), search_seeds=(7, 8, 9), explained_variance_floor=0.5, control_k=18)


@pytest.fixture(autouse=True)
def _one_thread(_deterministic: None) -> None:
    """The data here are too small for a second thread."""
    torch.set_num_threads(1)


def test_c_dec_is_the_mean_over_pairs() -> None:
    rows = unit_rows(np.random.default_rng(0).standard_normal((9, 4)))
    by_pairs = np.mean([abs(float(rows[i] @ rows[j])) for i, j in combinations(range(9), 2)])
    assert decoder_cosine(rows, "here") == pytest.approx(by_pairs)
    assert decoder_cosine(np.eye(5), "here") == pytest.approx(0, abs=1e-12)
    assert decoder_cosine(np.array([[1.0, 0.0], [-1.0, 0.0]]), "here") == pytest.approx(1)
    with pytest.raises(ReseedError, match="here: found 1 alive latents, allowed: at least 2"):
        decoder_cosine(rows[:1], "here")


@pytest.mark.parametrize(
    ("c_dec", "chosen"),
    [
        # the simulation of the reference on known features, true L0 10: the minimum
        ([0.091, 0.072, 0.048, 0.013, 0.054], 10),
        # as on language models: a jump at low L0 and a flat rest, whose noise must not move the choice
        ([0.5, 0.11, 0.105, 0.1, 0.102], 3),
        # a tenth of the jump of 0.4 is 0.04
        ([0.5, 0.141, 0.139, 0.12, 0.1], 5),
        # a rise on the right, however large, widens nothing
        ([0.2, 0.15, 0.1, 0.3, 9.0], 5),
        # no jump in the grid: its first k
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2),
    ],
)
def test_the_elbow_by_hand(c_dec: list[float], chosen: int) -> None:
    assert elbow((2, 3, 5, 10, 18), c_dec) == chosen


def tried(k: int, kappa: float | None, explained: float, width: float = 0.01, c_dec: float = 0.1) -> Tried:
    def around(value: float, width: float = 0.01) -> Estimate:
        return Estimate(value, (value - width, value, value + width))

    agreement = StatisticReport(around(0.8), {"covariance": 0.4}, None if kappa is None else around(kappa, width))
    return Tried(
        k=k, c_dec=around(c_dec), explained_variance=around(explained), alive_fraction=around(1.0),
        agreement=agreement, converged=True, seeds_converged=3, plateau_change=0.01,
    )  # fmt: skip


def test_the_most_stable_k_is_by_its_lower_bound() -> None:
    # 0.9 with a half-width of 0.05 ends at 0.85, 0.95 with one of 0.5 at 0.45
    table = [tried(2, 0.7, 0.9), tried(5, 0.9, 0.9), tried(10, 0.95, 0.9, width=0.1), tried(18, None, 0.9)]
    assert most_stable(table, 0.5, 0.95) == 5
    assert most_stable([tried(5, 0.9, 0.9), tried(2, 0.9, 0.9)], 0.5, 0.95) == 2  # the sparser of equals


def test_a_k_that_explains_too_little_cannot_be_chosen() -> None:
    # the lower bound of an explained variance of 0.54 is 0.49
    table = [tried(2, 0.99, 0.3), tried(5, 0.95, 0.54), tried(10, 0.6, 0.8)]
    assert most_stable(table, 0.5, 0.95) == 10
    assert most_stable(table, 0.49, 0.95) == 5
    assert most_stable(table, 0.9, 0.95) is None


def test_the_search_must_not_judge_itself() -> None:
    variant = variant_of(architecture="topk", d_sae=24, k=2)
    check_calibration(CALIBRATION, variant, (0, 1, 2))
    with pytest.raises(ReseedError, match=r"calibration.search_seeds: found \[7, 9\] among the seeds of the variant"):
        check_calibration(CALIBRATION, variant, (0, 9, 7))
    pulled = {"consistency": {"partner": "nearest", "coefficient": 1.0, "group_size": 2}}
    coupled = variant_of(architecture="topk", d_sae=24, k=2, objectives=pulled)
    with pytest.raises(ReseedError, match="found seeds in groups of 2"):
        check_calibration(CALIBRATION, coupled, (0, 1, 2, 3, 4, 5))


def test_the_summary_reports_both_choices_beside_the_control(tmp_path: Path) -> None:
    searched = [tried(2, 0.9, 0.8, c_dec=0.3), tried(5, 0.7, 0.9, c_dec=0.1), tried(10, 0.5, 0.95, c_dec=0.11)]
    again = {2: tried(2, 0.85, 0.8), 5: tried(5, 0.75, 0.9), 18: tried(18, 0.25, 0.99)}
    content = calibration_summary("v", searched, {"c_dec": 5, "stability": 2}, again, CALIBRATION, OPTIONS)
    write_json(tmp_path / "calibration.json", content)
    assert (content["k"], content["criteria_agree"], content["most_explained_variance_k"]) == (5, 0, 10)
    assert content["by_c_dec"]["minus_control"]["kappa"]["value"] == pytest.approx(0.5)
    # all three units move alike in both, so that nothing is left of their spread
    assert content["by_c_dec"]["minus_control"]["kappa"]["low"] == pytest.approx(0.5)
    assert content["by_c_dec"]["inside_the_grid"] == 1
    assert content["by_stability"]["inside_the_grid"] == 0
    assert content["by_stability"]["pw_mcc"]["kappa"] == 0.85
    none = calibration_summary("v", searched, {"c_dec": 5}, again, CALIBRATION, OPTIONS)
    assert "by_stability" not in none
    assert none["criteria_agree"] == 0
    itself = calibration_summary("v", searched, {"c_dec": 18, "stability": 18}, again, CALIBRATION, OPTIONS)
    assert "minus_control" not in itself["by_c_dec"]
    assert itself["criteria_agree"] == 1


def correlated_rows(rows: int, features: torch.Tensor, on: int, seed: int) -> torch.Tensor:
    """Each feature is on with probability on / n, of a Gaussian copula of correlation 0.4, with about unit weight."""
    random, n = torch.Generator().manual_seed(seed), len(features)
    common = torch.randn(rows, 1, generator=random)
    copula = 0.4**0.5 * common + 0.6**0.5 * torch.randn(rows, n, generator=random)
    fires = copula > -float(ndtri(on / n))
    weights = fires * (1 + 0.2 * torch.randn(rows, n, generator=random)).clamp(min=0)
    return weights @ features


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Activations:
    """Twenty-five orthonormal features in fifty dimensions, five on in the mean."""
    features = torch.linalg.qr(unit(50, 50, seed=1))[0][:25]
    sizes = {"train": 8192, "validation": 1024, "test": 1024}
    path = tmp_path_factory.mktemp("toy") / "trained"
    splits = {split: correlated_rows(n, features, 5, i) for i, (split, n) in enumerate(sizes.items())}
    write_activations(splits, provenance(), "float32", path)
    return read_activations(path)


def test_c_dec_finds_the_l0_that_explained_variance_does_not(
    toy: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    """Chanin and Garriga-Alonso 2025: the smallest c_dec is at the true L0; what explains most has more."""
    ks = (1, 2, 3, 5, 8, 12)
    variant = variant_of(architecture="batchtopk", d_sae=25, k=2)
    training = sae_training.model_copy(update={"max_steps": 1500, "min_steps": 1200, "lr": 0.003})
    train = train_of((0, 1, 2), tolerance)
    saes = train_saes(variant, training, train, toy, torch.device("cpu"), ks=ks)
    table = [
        Tried.of(k, seed_set_of([sae for sae in saes if sae.k == k], variant, toy), OPTIONS, f"toy/k{k}") for k in ks
    ]
    found: Any = {one.k: (one.c_dec.value, one.explained_variance.value) for one in table}
    assert abs(ks.index(elbow(ks, [found[k][0] for k in ks])) - ks.index(5)) <= 1, found
    assert max(ks, key=lambda k: found[k][1]) > 8, found


def test_a_budget_is_the_same_for_every_k(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    variant = variant_of(architecture="topk", d_sae=24, k=2)
    training = sae_training.model_copy(update={"max_steps": 600, "min_steps": 100})
    easy = tolerance.model_copy(update={"loss_tolerance": 0.5, "cosine_tolerance": 0.9, "max_cosine_to_init": 0.999})
    train = train_of((0, 1, 2), easy)
    free = train_saes(variant, training, train, activations, torch.device("cpu"), ks=(1, 4))
    assert len({sae.steps for sae in free}) > 1 or free[0].steps < 600
    equal = train_saes(variant, equal_budget(training), train, activations, torch.device("cpu"), ks=(1, 4))
    assert {sae.steps for sae in equal} == {equal[0].steps}
    assert equal[0].constant_steps == training.last_constant_step
    assert any(sae.converged for sae in equal)
