"""The tracked summary of a (subject, variant): headline figures for a reader, records for claims, rows for plots."""

from __future__ import annotations

from typing import Any

from reseed.params import TRAINED, Stability, Variant
from reseed.stability.arms import ArmReport, StatisticReport
from reseed.stability.comparison import ArmDifference
from reseed.stability.jackknife import Estimate
from reseed.stability.latents import Latents
from reseed.stability.recovery import RecoveryReport, correctness_verdict
from reseed.stability.statistics import STATISTICS


def summary(
    name: str,
    variant: Variant,
    arms: dict[str, ArmReport],
    activation_dimensions: dict[str, float],
    options: Stability,
    seeds: int,
    differences: dict[str, dict[str, ArmDifference]] | None = None,
    recovered: RecoveryReport | None = None,
) -> dict[str, Any]:
    """The content of stability.json: nested figures by arm, and `records`, a list that `dvc metrics show` leaves out.

    A record holds, for one (arm, statistic, latents), value and kappa with every seed left out in turn, so that a
    claim over several variants can be judged with its seeds left out together. `seeds` counts independent seeds: where
    an objective couples them it is the number of groups, each of `group_size` seeds of the `seeds` given.
    differences: name of a control arm -> statistic -> the trained arm against it. recovered: what the trained arm
    recovers of known features; with it stands the verdict on agreement and correctness together.
    """
    content: dict[str, Any] = {
        "architecture": variant.architecture,
        "d_sae": variant.d_sae,
        **({} if (k := getattr(variant, "k", None)) is None else {"k": k}),
        "seeds": seeds // variant.group_size,
        **({"group_size": variant.group_size} if variant.group_size > 1 else {}),
        **({"coupled_by": "objectives.consistency"} if variant.objectives.consistency else {}),
        "alive_min_count": options.alive_min_count,
        **{arm: _arm(report, activation_dimensions[arm], options.confidence) for arm, report in arms.items()},
        **{f"trained - {arm}": _difference(found, options.confidence) for arm, found in (differences or {}).items()},
        "records": [
            {"variant": name, "arm": arm, "statistic": statistic, "latents": latents}
            | {"converged": int(report.certificates[statistic].converged)}
            | _record(figures[statistic], options.confidence)
            for arm, report in arms.items()
            for latents, figures in (("alive", report.alive), ("all", report.all_latents))
            for statistic in figures
        ],
    }
    if recovered is not None:
        trained = arms[TRAINED]
        content[TRAINED]["recovery"] = _recovery(recovered, options.confidence)
        gt_mcc, kappa = recovered.figures["gt_mcc"].value, trained.alive["pw_mcc"].kappa
        if kappa is not None and trained.certificates["pw_mcc"].converged:
            content["verdict"] = correctness_verdict(kappa, gt_mcc, options.correctness, options.confidence)
        else:
            content["verdict"] = "not testable: " + ("no kappa" if kappa is None else "not converged")
    return content


def _recovery(report: RecoveryReport, confidence: float) -> dict[str, Any]:
    content = {}
    for name, found in report.figures.items():
        shown = with_interval(found.value, confidence)
        shown |= {"null": found.nulls[found.strictest], "strictest_null": found.strictest}
        if found.kappa is not None:
            low, high = found.kappa.interval(confidence)
            shown |= {"kappa": found.kappa.value, "kappa_low": low, "kappa_high": high}
        content[name] = shown
    return content


def _arm(report: ArmReport, activation_dimension: float, confidence: float) -> dict[str, Any]:
    return {
        "steps": report.max_steps,
        "seeds_converged": report.certificates[STATISTICS[0]].seeds_converged,
        "activation_dimension": activation_dimension,
        "subspace_rank": report.rank,
        **{
            name: with_interval(estimate, confidence)
            for name, estimate in {
                "alive_fraction": report.alive_fraction,
                "cosine_to_init": report.cosine_to_init,
                "decoder_dimension": report.decoder_dimension,
                **report.held_out,
                "reappear_always": report.latents.always,
                "reappear_never": report.latents.never,
            }.items()
        },
        **_overlap(report.latents, confidence),
        **{statistic: _statistic(report, statistic, confidence) for statistic in report.alive},
    }


def _overlap(latents: Latents, confidence: float) -> dict[str, Any]:
    if latents.c_dec is None:
        return {}
    return {"c_dec": with_interval(latents.c_dec, confidence) | {"null": latents.isotropic_c_dec}}


def _statistic(report: ArmReport, name: str, confidence: float) -> dict[str, Any]:
    figures, certificate = report.alive[name], report.certificates[name]
    shown: dict[str, Any] = with_interval(figures.value, confidence)
    shown |= {"null": figures.nulls[figures.strictest], "strictest_null": figures.strictest}
    shown |= {"converged": int(certificate.converged), "plateau_change": certificate.change}
    if figures.kappa is not None:
        low, high = figures.kappa.interval(confidence)
        shown |= {"kappa": figures.kappa.value, "kappa_low": low, "kappa_high": high}
        shown["minimum_detectable_kappa"] = figures.kappa.minimum_detectable(confidence)
    return shown


def _difference(found: dict[str, ArmDifference], confidence: float) -> dict[str, Any]:
    content = {}
    for statistic, difference in found.items():
        test = difference.test
        shown: dict[str, Any] = {"p": test.p, "p_floor": test.floor}
        shown |= {"paired_p": test.paired_p, "paired_p_floor": test.paired_floor}
        if difference.kappa is not None:
            low, high = difference.kappa.interval(confidence)
            shown |= {"kappa": difference.kappa.value, "kappa_low": low, "kappa_high": high}
            shown["minimum_detectable_kappa"] = difference.kappa.minimum_detectable(confidence)
        content[statistic] = shown
    return content


def _record(report: StatisticReport, confidence: float) -> dict[str, Any]:
    record: dict[str, Any] = {
        "nulls": report.nulls,
        "strictest_null": report.strictest,
        "value": report.value.value,
        "value_deleted": report.value.deleted,
    }
    if report.kappa is not None:
        low, high = report.kappa.interval(confidence)
        record |= {"kappa": report.kappa.value, "kappa_low": low, "kappa_high": high}
        record["kappa_deleted"] = report.kappa.deleted
    return record


def with_interval(estimate: Estimate, confidence: float) -> dict[str, Any]:
    """Value, low and high, as every figure over seeds stands in a metrics file."""
    low, high = estimate.interval(confidence)
    return {"value": estimate.value, "low": low, "high": high}
