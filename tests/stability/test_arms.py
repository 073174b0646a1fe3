"""The report of an arm: a planted agreement is found, a null is not, and what did not settle is not certified."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from reseed import ReseedError
from reseed.stability.arms import analyse
from reseed.stability.dictionaries import Dictionary
from reseed.stability.report import summary
from reseed.stability.statistics import STATISTICS, agreement
from tests.conftest import variant_of
from tests.stability.builders import STEPS, dictionary, seed_set, stability_options

OPTIONS = stability_options(null_draws=4)
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
        "v", variant_of(architecture="topk", d_sae=40, k=4), {"trained": report}, {"trained": 1.0}, OPTIONS, 3
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
        "v", variant_of(architecture="topk", d_sae=64, k=4), {"trained": report}, {"trained": 9.0}, OPTIONS, 3
    )
    assert content["k"] == 4
    assert content["seeds"] == 3
    assert "group_size" not in content
    assert content["trained"]["activation_dimension"] == 9.0
    assert len(content["records"]) == 2 * (
        len(STATISTICS) + 1
    )  # the overlap of the unstable too; alive and all latents
    record = content["records"][0]
    assert len(record["kappa_deleted"]) == 3
    low, high = report.alive[record["statistic"]].kappa.interval(0.95)  # type: ignore[union-attr]
    assert (record["kappa_low"], record["kappa_high"]) == (low, high)
    shares = [row["share"] for row in report.histogram if row["series"] == "SAEs"]
    assert sum(float(share) for share in shares) == pytest.approx(1)


def test_seeds_that_nothing_couples_are_all_compared() -> None:
    random = np.random.default_rng(7)
    finals = [dictionary(draw(random)) for _ in range(4)]
    found = analyse(seed_set(finals, random), OPTIONS, "a").alive["pw_mcc"].value
    values = {(i, j): agreement(finals[i], finals[j], 0.7, 8)["pw_mcc"] for i, j in combinations(range(4), 2)}
    assert found.value == np.mean(list(values.values()))
    assert found.deleted == tuple(np.mean([v for pair, v in values.items() if left not in pair]) for left in range(4))


COUPLED = {"consistency": {"partner": "nearest", "coefficient": 1.0, "group_size": 2}}


def in_twos(groups: list[np.ndarray]) -> list[Dictionary]:
    """Two seeds a group, with the same dictionary in another order."""
    return [dictionary(rows[order]) for rows in groups for order in (slice(None), slice(None, None, -1))]


def test_seeds_that_an_objective_made_equal_are_no_agreement() -> None:
    random = np.random.default_rng(0)
    own = [draw(random) for _ in range(3)]
    finals = in_twos(own)
    assert agreement(finals[0], finals[1], 0.7, 8)["pw_mcc"] == pytest.approx(1)
    coupled = seed_set(finals, random, group_size=2)
    report = analyse(coupled, OPTIONS, "coupled")
    figures = report.alive["pw_mcc"]
    assert figures.kappa is not None
    assert abs(figures.kappa.value) < 0.03
    assert figures.kappa.interval(0.95)[0] < 0
    assert report.alive["shared_fraction"].kappa is not None
    assert abs(report.alive["shared_fraction"].kappa.value) < 0.05
    alone = analyse(seed_set([dictionary(rows) for rows in own], random), OPTIONS, "alone").alive["pw_mcc"].value
    assert figures.value.value == pytest.approx(alone.value)
    assert figures.value.deleted == pytest.approx(alone.deleted)
    naive = analyse(replace(coupled, group_size=1), OPTIONS, "coupled").alive["pw_mcc"]
    assert naive.kappa is not None
    assert naive.kappa.interval(0.95)[0] > 0.1  # 3 of its 15 pairs are of one group
    for series in ("SAEs", "covariance null"):
        near = [row["share"] for row in report.histogram if row["series"] == series and float(row["cosine"]) > 0.96]
        assert sum(map(float, near)) < 0.01


def test_what_groups_have_in_common_is_agreement() -> None:
    random = np.random.default_rng(0)
    common = draw(random, 32)
    finals = in_twos([np.vstack([common, draw(random, 32)]) for _ in range(4)])
    figures = analyse(seed_set(finals, random, group_size=2), OPTIONS, "planted").alive["pw_mcc"]
    assert figures.kappa is not None
    low, high = figures.kappa.interval(0.95)
    assert 0.3 < low < figures.kappa.value < high < 0.65
    assert len(figures.kappa.deleted) == 4


def test_the_plateau_is_that_of_the_agreement_between_groups() -> None:
    """The two of each group drift together until the end, while the groups stand where they are."""
    random = np.random.default_rng(3)
    own, start = [draw(random, 24) for _ in range(3)], [draw(random, 24) for _ in range(3)]
    drifting = seed_set(in_twos(own), random, group_size=2)
    second = [
        {step: dictionary((1 - step / 800) * far + step / 800 * near) for step in STEPS}
        for near, far in zip(own, start, strict=True)
    ]
    snapshots = [taken for pair in zip(drifting.snapshots[::2], second, strict=True) for taken in pair]
    drifting = replace(drifting, snapshots=snapshots)
    assert analyse(drifting, OPTIONS, "drift").certificates["pw_mcc"].converged
    assert analyse(replace(drifting, group_size=1), OPTIONS, "drift").certificates["pw_mcc"].change > 0.05


def test_a_group_has_converged_if_all_of_its_seeds_have_and_counts_once() -> None:
    random = np.random.default_rng(4)
    coupled = seed_set(in_twos([draw(random) for _ in range(3)]), random, group_size=2)
    figures = [{**metrics, "explained_variance": 0.1 * i} for i, metrics in enumerate(coupled.metrics)]
    figures[3]["converged"] = 0
    report = analyse(replace(coupled, metrics=figures), OPTIONS, "a")
    certificate = report.certificates["pw_mcc"]
    assert (certificate.seeds_converged, certificate.seeds, certificate.converged) == (2, 3, False)
    assert report.held_out["explained_variance"].deleted == pytest.approx((0.35, 0.25, 0.15))
    variant = variant_of(architecture="topk", d_sae=64, k=4, objectives=COUPLED)
    content = summary("v", variant, {"trained": report}, {"trained": 9.0}, OPTIONS, 6)
    assert (content["seeds"], content["group_size"], content["trained"]["seeds_converged"]) == (3, 2, 2)
    assert all(len(record["value_deleted"]) == 3 for record in content["records"])
