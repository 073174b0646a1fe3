"""Recovery of known features against SAELens and against figures that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from sae_lens.synthetic import compute_classification_metrics, feature_uniqueness, mean_correlation_coefficient

from reseed import ReseedError
from reseed.matching import Array, cosines, unit_rows
from reseed.params import Correctness
from reseed.stability.arms import Activity
from reseed.stability.jackknife import Estimate
from reseed.stability.recovery import classification, correctness_verdict, recover, recovery
from tests.stability.builders import dictionary, seed_set, stability_options

OPTIONS = stability_options(null_draws=4)
BARS = Correctness(stable_kappa=0.8, correct_gt_mcc=0.9)


def features(n: int = 24, d: int = 16, seed: int = 7) -> Array:
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))


def test_the_features_themselves_in_any_order_are_recovered_fully() -> None:
    found = recovery(features()[::-1].copy(), features())
    assert found == pytest.approx({"gt_mcc": 1, "recall": 1, "uniqueness": 1})


def test_against_saelens_where_signs_do_not_matter() -> None:
    random = np.random.default_rng(2)
    for n in (20, 30, 40):  # fewer latents than features, as many, more
        rows, truth = (unit_rows(np.abs(random.standard_normal((m, 6)))) for m in (n, 30))  # one orthant
        lens = mean_correlation_coefficient(torch.from_numpy(rows), torch.from_numpy(truth))
        assert recovery(rows, truth)["gt_mcc"] == pytest.approx(lens)
        assert recovery(rows, truth)["uniqueness"] == feature_uniqueness(
            torch.from_numpy(rows), torch.from_numpy(truth)
        )


def test_by_brute_force_over_all_assignments_with_signs() -> None:
    rows, truth = features(5, 4, 1), features(6, 4, 2)
    similarity = cosines(rows, truth)
    best = max(np.mean([similarity[i, j] for i, j in enumerate(order)]) for order in permutations(range(6), 5))
    assert recovery(rows, truth)["gt_mcc"] == pytest.approx(best)
    assert recovery(-truth, truth)["gt_mcc"] < 0.5
    assert recovery(-np.eye(4), np.eye(4)) == pytest.approx({"gt_mcc": 0, "recall": 0, "uniqueness": 1})


def test_recall_counts_features_and_uniqueness_latents() -> None:
    """Three latents at one feature, one at cosine 0.81 to another, none at the other two."""
    rows = np.eye(4)[[0, 0, 0, 1]]
    rows[3] = [0, 0.81, 0, np.sqrt(1 - 0.81**2)]
    found = recovery(rows, np.eye(4))
    assert found["recall"] == 0.5
    assert found["uniqueness"] == 0.5
    rows[3] = [0, 0.79, 0, np.sqrt(1 - 0.79**2)]
    assert recovery(rows, np.eye(4))["recall"] == 0.25


def test_classification_is_that_of_saelens_and_right_by_hand() -> None:
    """Latent 0 fires on 3 of the 4 rows of its feature and on 1 other, latent 1 never."""
    codes = np.array([[1, 0], [1, 0], [1, 1], [1, 0], [0, 1], [0, 0]], dtype=np.float32)
    acts = np.array([[2, 0], [2, 0], [2, 0], [0, 0], [2, 0], [0, 0]], dtype=np.float32)
    found = classification(np.eye(2), np.eye(2), acts, codes)
    assert found == pytest.approx({"precision": 0.75 / 2, "f1": 0.75 / 2})
    lens = compute_classification_metrics(*(torch.from_numpy(a) for a in (acts, codes, np.eye(2), np.eye(2))))
    assert found == {"precision": lens.precision, "f1": lens.f1_score}
    assert classification(np.eye(2), np.eye(2), codes, codes) == {"precision": 1, "f1": 1}


def sparse_codes(rows: int, n: int, seed: int, share: float = 0.1) -> Array:
    random = np.random.default_rng(seed)
    return (random.random((rows, n)) < share) * random.random((rows, n))


def test_a_perfect_arm_has_kappas_of_one_and_a_random_one_of_zero() -> None:
    truth, codes = features(), sparse_codes(500, 24, 0)
    random = np.random.default_rng(0)
    orders = [random.permutation(24) for _ in range(4)]
    activity = Activity([codes[:, order] for order in orders], [sparse_codes(500, 24, seed) for seed in range(4)])
    perfect = seed_set([dictionary(truth[order]) for order in orders], random)
    report = recover(perfect, truth, OPTIONS, "perfect", activity, codes).figures
    assert set(report) == {"gt_mcc", "recall", "uniqueness", "precision", "f1"}
    for figure in report.values():
        assert figure.value.value == pytest.approx(1)
        assert figure.value.interval(0.95) == pytest.approx((1, 1))
        assert all(null < 0.75 for null in figure.nulls.values())
    for name in ("gt_mcc", "recall"):
        kappa = report[name].kappa
        assert kappa is not None
        assert kappa.value == pytest.approx(1)
        assert kappa.deleted == pytest.approx((1, 1, 1, 1))
        assert set(report[name].nulls) == {"isotropic", "covariance", "untrained"}
    # latents that fire on a share p of the rows, at random, meet a feature of the share p by chance: precision and F1 p
    assert report["f1"].nulls["untrained"] == pytest.approx(0.1, abs=0.03)
    assert report["precision"].nulls["untrained"] == pytest.approx(0.1, abs=0.03)
    # exchanged decoder rows stand at their own place once in n
    assert report["f1"].nulls["permuted"] == pytest.approx(0.1 + 0.9 / 24, abs=0.04)

    chance = seed_set([dictionary(random.standard_normal((24, 16))) for _ in range(5)], random)
    report = recover(chance, truth, OPTIONS, "chance").figures
    assert set(report) == {"gt_mcc", "recall", "uniqueness"}
    kappa = report["gt_mcc"].kappa
    assert kappa is not None
    assert abs(kappa.value) < 0.06
    assert kappa.interval(0.95)[0] < 0


def test_the_isotropic_null_of_gt_mcc_is_the_signed_hungarian_floor() -> None:
    """0.455 for 32 unit vectors in 16 dimensions (Song et al. 2025 print 0.448 to 0.456 at step 0)."""
    truth, random = features(32, 16), np.random.default_rng(3)
    arm = seed_set([dictionary(random.standard_normal((32, 16))) for _ in range(4)], random)
    found = recover(arm, truth, stability_options(null_draws=20), "floor").figures["gt_mcc"]
    assert found.nulls["isotropic"] == pytest.approx(0.455, abs=0.01)
    assert found.nulls["untrained"] == pytest.approx(0.455, abs=0.04)  # one draw a seed


def test_saes_that_were_never_trained_stand_at_their_null() -> None:
    random = np.random.default_rng(4)
    arm = seed_set([dictionary(random.standard_normal((24, 16))) for _ in range(3)], random)
    still = replace(arm, snapshots=[dict.fromkeys(taken, taken[0]) for taken in arm.snapshots])
    figures = recover(still, features(), OPTIONS, "still").figures
    assert all(figure.nulls["untrained"] == figure.value.value for figure in figures.values())
    kappa = figures["gt_mcc"].kappa
    assert kappa is not None
    assert kappa.value <= 0


def test_dead_latents_and_other_seeds_do_not_count_and_a_seed_is_left_out_whole() -> None:
    truth, random = features(), np.random.default_rng(5)
    worse = unit_rows(truth + 0.15 * random.standard_normal(truth.shape))
    dead = np.vstack([worse, random.standard_normal((10, 16))])
    finals = [dictionary(truth), dictionary(truth), dictionary(dead, [1000] * 24 + [9] * 10)]
    found = recover(seed_set(finals, random), truth, OPTIONS, "dead").figures["gt_mcc"].value
    third = recovery(worse, truth)["gt_mcc"]
    assert found.value == pytest.approx((2 + third) / 3)
    assert found.deleted == pytest.approx(((1 + third) / 2, (1 + third) / 2, 1))


def test_coupled_seeds_are_left_out_together() -> None:
    truth, random = features(), np.random.default_rng(6)
    finals = [dictionary(truth + s * random.standard_normal(truth.shape)) for s in (0, 0, 0.1, 0.1, 0.2, 0.2)]
    found = recover(seed_set(finals, random, group_size=2), truth, OPTIONS, "coupled").figures["gt_mcc"].value
    each = [recovery(one.decoder, truth)["gt_mcc"] for one in finals]
    assert found.deleted == pytest.approx((np.mean(each[2:]), np.mean(each[:2] + each[4:]), np.mean(each[:4])))


def test_codes_of_other_rows_are_refused() -> None:
    random = np.random.default_rng(0)
    arm = seed_set([dictionary(features()) for _ in range(3)], random)
    acts = [sparse_codes(50, 24, 0)] * 3
    with pytest.raises(ReseedError, match="x: found codes of 40 rows and activations of 50, allowed: the same rows"):
        recover(arm, features(), OPTIONS, "x", Activity(acts, acts), sparse_codes(40, 24, 0))


def test_the_figures_over_the_steps_end_where_training_does() -> None:
    truth, random = features(), np.random.default_rng(8)
    arm = seed_set([dictionary(truth) for _ in range(3)], random)
    rows = [row for row in recover(arm, truth, OPTIONS, "steps").steps if row["statistic"] == "gt_mcc"]
    assert [row["step"] for row in rows] == [0, 100, 200, 400, 800]
    assert rows[0]["value"] == pytest.approx(0.45, abs=0.1)
    assert [row["value"] for row in rows[1:]] == pytest.approx([1, 1, 1, 1])
    assert all(0.3 < float(row["null"]) < 0.7 for row in rows)


def test_the_report_depends_on_its_key_and_on_nothing_else() -> None:
    random = np.random.default_rng(9)
    arm = seed_set([dictionary(random.standard_normal((24, 16))) for _ in range(3)], random)
    assert recover(arm, features(), OPTIONS, "a") == recover(arm, features(), OPTIONS, "a")
    assert recover(arm, features(), OPTIONS, "b") != recover(arm, features(), OPTIONS, "a")


def near(value: float, spread: float = 0.001) -> Estimate:
    return Estimate(value, (value - spread, value, value + spread))


@pytest.mark.parametrize(
    ("kappa", "gt_mcc", "verdict"),
    [
        (near(0.9), near(0.95), "stable and correct"),
        (near(0.99), near(0.7), "stable and wrong"),
        (near(0.5), near(0.95), "unstable and correct"),
        (near(0.5), near(0.7), "unstable and wrong"),
        (near(0.81, 0.05), near(0.95), "undecided"),
        (near(0.99), near(0.89, 0.05), "undecided"),
        (near(0.8), near(0.7), "undecided"),
    ],
)
def test_the_verdict_takes_whole_intervals(kappa: Estimate, gt_mcc: Estimate, verdict: str) -> None:
    assert correctness_verdict(kappa, gt_mcc, BARS, 0.95) == verdict
