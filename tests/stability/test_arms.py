"""The report of an arm: a planted agreement is found, a null is not, and what did not settle is not certified."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reseed import ReseedError
from reseed.params import Stability, Variant
from reseed.stability.arms import analyse
from reseed.stability.report import summary
from tests.stability.builders import STEPS, dictionary, seed_set

OPTIONS = Stability(alive_min_count=10, shared_cosine=0.7, null_draws=4, confidence=0.95, plateau_tolerance=0.03)
SPREAD = np.concatenate([np.full(6, 1.0), np.full(26, 0.3)])  # anisotropic: the covariance null is the strictest


def draw(random: np.random.Generator, n: int = 64) -> np.ndarray:
    return random.standard_normal((n, 32)) * SPREAD


def test_independent_dictionaries_have_a_kappa_of_zero() -> None:
    random = np.random.default_rng(0)
    report = analyse(seed_set([dictionary(draw(random)) for _ in range(5)], random), OPTIONS, "null")
    figures = report.alive["pw_mcc"]
    assert figures.strictest == "covariance"
    assert figures.nulls["covariance"] > figures.nulls["isotropic"] + 0.1
    assert figures.kappa is not None
    assert abs(figures.kappa.value) < 0.03
    assert figures.kappa.interval(0.95)[0] < 0


def test_a_shared_dictionary_has_the_kappa_that_was_planted() -> None:
    """Half of the latents are common to all seeds, half are each seed's own: pw_mcc = (1 + own) / 2."""
    random = np.random.default_rng(0)
    common = draw(random, 32)
    finals = [dictionary(np.vstack([common, draw(random, 32)])[random.permutation(64)]) for _ in range(5)]
    report = analyse(seed_set(finals, random), OPTIONS, "planted")
    figures = report.alive["pw_mcc"]
    assert figures.kappa is not None
    low, high = figures.kappa.interval(0.95)
    assert 0.35 < low < figures.kappa.value < high < 0.65
    assert report.alive["shared_fraction"].value.value == pytest.approx(0.5, abs=0.1)
    assert report.certificates["pw_mcc"].converged


def test_dead_latents_do_not_count() -> None:
    random = np.random.default_rng(1)
    common = draw(random, 40)
    counts = [1000] * 40 + [9] * 24
    finals = [dictionary(np.vstack([common, draw(random, 24)]), counts) for _ in range(3)]
    report = analyse(seed_set(finals, random), OPTIONS, "dead")
    assert report.alive["pw_mcc"].value.value == pytest.approx(1)
    assert report.all_latents["pw_mcc"].value.value < 0.9
    assert report.alive_fraction.value == pytest.approx(40 / 64)
    nothing = [dictionary(draw(random), [0] * 64) for _ in range(3)]
    with pytest.raises(ReseedError, match="dead: seed 0 has no alive latent"):
        analyse(seed_set(nothing, random), OPTIONS, "dead")


def test_saes_that_never_left_their_initialisation_are_at_the_untrained_null() -> None:
    random = np.random.default_rng(2)
    still = seed_set([dictionary(draw(random)) for _ in range(4)], random)
    still = replace(still, snapshots=[dict.fromkeys(STEPS, taken[0]) for taken in still.snapshots])
    figures = analyse(still, OPTIONS, "still").alive["pw_mcc"]
    assert figures.nulls["untrained"] == pytest.approx(figures.value.value)
    assert figures.kappa is not None
    assert figures.kappa.value <= 1e-12


def test_a_statistic_on_the_move_is_not_certified() -> None:
    random = np.random.default_rng(3)
    common, own = draw(random), [draw(random) for _ in range(3)]
    moving = seed_set([dictionary(common) for _ in own], random)
    taken = [{step: dictionary((1 - step / 1600) * mine + step / 1600 * common) for step in STEPS} for mine in own]
    report = analyse(replace(moving, snapshots=taken), OPTIONS, "moving")
    certificate = report.certificates["pw_mcc"]
    values = [row["value"] for row in report.steps if row["statistic"] == "pw_mcc"]
    assert certificate.change >= values[-1] - values[-2] > 0.03  # 400 to 800 is the last doubling
    assert certificate.seeds_converged == 3
    assert not certificate.converged
    settled = analyse(seed_set([dictionary(common) for _ in own], random, converged=False), OPTIONS, "unconverged")
    assert settled.certificates["pw_mcc"].change == 0
    assert not settled.certificates["pw_mcc"].converged


def test_a_seed_that_stopped_early_does_not_make_the_others_seem_settled() -> None:
    """All move until 400, then one stops: the plateau is judged where all still train."""
    random = np.random.default_rng(8)
    common, own = draw(random), [draw(random) for _ in range(3)]
    uneven = seed_set([dictionary(common) for _ in own], random)
    taken = [
        {step: dictionary((1 - min(step, 400) / 800) * mine + min(step, 400) / 800 * common) for step in STEPS}
        for mine in own
    ]
    del taken[0][800]
    metrics = [{**uneven.metrics[0], "constant_steps": stop} for stop in (400, 800, 800)]
    report = analyse(replace(uneven, snapshots=taken, metrics=metrics), OPTIONS, "uneven")
    assert not report.certificates["pw_mcc"].converged


def test_without_room_above_the_null_there_is_no_kappa() -> None:
    random = np.random.default_rng(4)
    line = np.outer(np.ones(40), np.eye(32)[0]) + 0.01 * random.standard_normal((40, 32))
    report = analyse(seed_set([dictionary(line) for _ in range(3)], random), OPTIONS, "line")
    assert report.alive["pw_mcc"].kappa is None
    content = summary(
        "v", Variant(architecture="topk", d_sae=40, k=4), {"trained": report}, {"trained": 1.0}, OPTIONS, 3
    )
    assert "kappa" not in content["trained"]["pw_mcc"]
    assert all("kappa" not in r for r in content["records"] if r["statistic"] == "pw_mcc")


def test_the_nulls_do_not_depend_on_the_order_of_work() -> None:
    random = np.random.default_rng(5)
    seeds = seed_set([dictionary(draw(random)) for _ in range(3)], random)
    first, again = analyse(seeds, OPTIONS, "a"), analyse(seeds, OPTIONS, "a")
    assert first.alive == again.alive
    assert first.histogram == again.histogram
    assert analyse(seeds, OPTIONS, "b").alive["pw_mcc"].nulls != first.alive["pw_mcc"].nulls


def test_the_summary_holds_what_claims_read() -> None:
    random = np.random.default_rng(6)
    report = analyse(seed_set([dictionary(draw(random)) for _ in range(3)], random), OPTIONS, "a")
    content = summary(
        "v", Variant(architecture="topk", d_sae=64, k=4), {"trained": report}, {"trained": 9.0}, OPTIONS, 3
    )
    assert content["k"] == 4
    assert content["trained"]["activation_dimension"] == 9.0
    assert len(content["records"]) == 6  # three statistics, alive and all latents
    record = content["records"][0]
    assert len(record["kappa_deleted"]) == 3
    low, high = report.alive[record["statistic"]].kappa.interval(0.95)  # type: ignore[union-attr]
    assert (record["kappa_low"], record["kappa_high"]) == (low, high)
    shares = [row["share"] for row in report.histogram if row["series"] == "SAEs"]
    assert sum(float(share) for share in shares) == pytest.approx(1)
