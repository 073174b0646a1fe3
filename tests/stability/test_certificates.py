"""A certificate is held to what it promised: one planted case for each verdict, and a real run prolonged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import write_json
from reseed.params import Convergence, SaeTraining
from reseed.saes.train import train_saes
from reseed.stability.arms import ArmReport, Certificate, StatisticReport, analyse
from reseed.stability.certificates import (
    Check,
    Reading,
    certificate_summary,
    check_certificates,
    check_same_run,
    four_times_longer,
    overall,
)
from reseed.stability.dictionaries import SeedSet
from reseed.stability.jackknife import Estimate
from reseed.stability.retrained import seed_set_of
from tests.conftest import train_of, variant_of
from tests.stability.builders import dictionary, seed_set, stability_options

OPTIONS = stability_options()  # a plateau tolerance of 0.03, so a widening of 0.06
VARIANT = variant_of(architecture="topk", d_sae=24, k=2)
SETTLED = Certificate(seeds_converged=3, seeds=3, change=0.01, tolerance=0.03)
MOVING = replace(SETTLED, change=0.05)


@pytest.fixture(autouse=True)
def _one_thread(_deterministic: None) -> None:
    """The data here are too small for a second thread."""
    torch.set_num_threads(1)


def estimate(value: float) -> Estimate:
    """A 0.95 interval of half-width 0.0497: t(2) = 4.303 times the jackknife error sqrt(2/3 * 2) / 100."""
    return Estimate(value, (value - 0.01, value, value + 0.01))


@pytest.mark.parametrize(
    ("long", "certificate", "inside", "widened", "verdict"),
    [
        (0.84, SETTLED, True, True, "holds"),
        (0.90, SETTLED, False, True, "broken"),
        (0.70, SETTLED, False, True, "broken"),
        (0.92, SETTLED, False, False, "broken"),
        (None, SETTLED, False, False, "broken"),
        (0.80, MOVING, True, True, "not certified"),
        (0.92, MOVING, False, False, "not certified"),
        (0.80, replace(SETTLED, seeds_converged=2), True, True, "not certified"),
    ],
)
def test_each_verdict_has_its_case(
    long: float | None, certificate: Certificate, inside: bool, widened: bool, verdict: str
) -> None:
    reading = Reading(estimate(0.8), None if long is None else estimate(long))
    assert reading.inside(OPTIONS.confidence) is inside
    assert reading.inside_widened(OPTIONS) is widened
    check = Check(certificate, reading, None)
    assert check.verdict(OPTIONS) == verdict
    # a kappa that left breaks the certificate of a value that stayed
    stayed = Reading(estimate(0.8), estimate(0.8))
    assert Check(certificate, stayed, reading).verdict(OPTIONS) == verdict
    assert Check(certificate, stayed, None).verdict(OPTIONS) == ("holds" if certificate.converged else "not certified")


def test_one_broken_certificate_breaks_the_whole() -> None:
    stayed, left = (Reading(estimate(0.8), estimate(long)) for long in (0.8, 0.95))
    checks = {"a": Check(SETTLED, stayed, None), "b": Check(MOVING, left, None)}
    assert overall(checks, OPTIONS) == "not certified"
    assert overall(checks | {"c": Check(SETTLED, left, None)}, OPTIONS) == "broken"
    assert overall({"a": checks["a"]}, OPTIONS) == "holds"


def arm(seed: int, shared: int) -> tuple[SeedSet, ArmReport]:
    """Three seeds of 64 latents in 32 dimensions, `shared` of them common."""
    random = np.random.default_rng(seed)
    common = random.standard_normal((shared, 32))
    finals = [dictionary(np.vstack([common, random.standard_normal((64 - shared, 32))])) for _ in range(3)]
    made = seed_set(finals, random)
    return made, analyse(made, OPTIONS, "planted")


def test_a_statistic_that_moves_after_the_certificate_is_found(tmp_path: Path) -> None:
    """Certified on snapshots that stand still, with 48 of 64 latents shared; the longer run shares 60."""
    short, certified = arm(0, 48)
    for seed, shared, verdict in ((1, 48, "holds"), (2, 60, "broken")):
        long, report = arm(seed, shared)
        checks = check_certificates(certified, report)
        assert checks["shared_fraction"].certificate.converged
        assert checks["shared_fraction"].verdict(OPTIONS) == verdict
        moved = checks["pw_mcc"].value.moved
        assert moved is not None
        gain = report.alive["pw_mcc"].value.value - certified.alive["pw_mcc"].value.value
        assert moved.value == pytest.approx(gain)
        content = certificate_summary(checks, short, long, "topk", OPTIONS)
        assert content["shared_fraction"]["verdict"] == verdict
        assert content["widened_by"] == pytest.approx(0.06)
        write_json(tmp_path / "certificate.json", content)


def test_a_statistic_that_the_longer_run_has_not_is_outside() -> None:
    _, certified = arm(0, 48)
    gone = replace(certified, alive={name: one for name, one in certified.alive.items() if name != "shared_fraction"})
    check = check_certificates(certified, gone)["shared_fraction"]
    assert check.verdict(OPTIONS) == "broken"
    found: StatisticReport = replace(certified.alive["pw_mcc"], kappa=None)
    without = replace(certified, alive=certified.alive | {"pw_mcc": found})
    assert check_certificates(certified, without)["pw_mcc"].verdict(OPTIONS) == "broken"
    assert check_certificates(without, certified)["pw_mcc"].kappa is None


def test_a_real_run_is_prolonged_four_times(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    """The same start and the same way: up to where the short run let its rate fall, both stand at one decoder."""
    train = train_of((0, 1, 2), tolerance)
    brief = sae_training.model_copy(update={"min_steps": 100, "max_steps": 250})
    short = seed_set_of(train_saes(VARIANT, brief, train, activations, torch.device("cpu")), VARIANT, activations)
    slowest = max(metrics["constant_steps"] for metrics in short.metrics)
    longer = four_times_longer(brief, short)
    assert longer.min_steps == 4 * slowest
    assert longer.last_constant_step == 4 * slowest
    long = seed_set_of(train_saes(VARIANT, longer, train, activations, torch.device("cpu")), VARIANT, activations)
    assert [metrics["constant_steps"] for metrics in long.metrics] == [4 * slowest] * 3
    check_same_run(short, long, "models/x")
    first = min(metrics["constant_steps"] for metrics in short.metrics)
    step = max(step for step in short.snapshots[0] if step <= first and step in long.snapshots[0])
    assert step >= 100
    for a, b in zip(short.snapshots, long.snapshots, strict=True):
        np.testing.assert_allclose(a[step].decoder, b[step].decoder, atol=1e-3)
        assert not np.allclose(a[max(a)].decoder, b[max(b)].decoder, atol=1e-2)
    checks = check_certificates(*(analyse(one, OPTIONS, "real") for one in (short, long)))
    assert set(checks) >= {"pw_mcc", "mean_max_cos", "shared_fraction"}
    expected = "not certified" if not all(m["converged"] for m in short.metrics) else checks["pw_mcc"].verdict(OPTIONS)
    assert checks["pw_mcc"].verdict(OPTIONS) == expected
    with pytest.raises(ReseedError, match=r"models/x: found the seeds \(0, 1, 2\), the longer run has \(0, 1\)"):
        check_same_run(short, replace(long, seeds=(0, 1)), "models/x")
    other = replace(long, snapshots=[long.snapshots[i] for i in (0, 2, 1)])
    with pytest.raises(ReseedError, match="models/x: seed 1 began at another decoder than the longer run"):
        check_same_run(short, other, "models/x")
