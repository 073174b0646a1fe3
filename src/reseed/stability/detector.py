"""Stable and wrong, told without the truth: seed sets that were planted to agree for no good reason, and honest ones.

The score is of what every seed set has: agreement, how far its decoder rows overlap beyond random
directions (Chanin and Garriga-Alonso 2025, arXiv 2508.16560), what it leaves unexplained, how encoder and decoder
align.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from reseed import ReseedError
from reseed.params import TRAINED
from reseed.stability.planted import HONEST, PLANTED
from reseed.stability.reliability import LatentSet, Logistic, fit

SET_SIGNALS = ("pw_mcc", "overlap", "unexplained", "encoder_decoder_cosine")
"""pw_mcc; log of c_dec over that of random directions; 1 - held-out explained variance; mean over latents. Not the
kappa of pw_mcc, which a dictionary whose rows all point the same way has not."""

MOSTLY = 0.5
"""Share of correct latents below which a seed set is wrong."""


@dataclass(frozen=True)
class SetFigures:
    """One seed set: what made it (`control`), SET_SIGNALS, and the share of its latents that is correct."""

    family: str
    name: str
    control: str
    signals: dict[str, float]
    correct: float
    kappa: float | None
    """Of pw_mcc; None where its null leaves no room, and nobody can call the set stable."""

    @property
    def planted(self) -> bool:
        """Whether a fault was planted and took: a pull towards a reference that is right makes nothing wrong."""
        return self.control in PLANTED and self.correct < MOSTLY

    @property
    def honest(self) -> bool:
        """Whether nothing was planted, and most latents are correct."""
        return self.control not in PLANTED and self.correct >= MOSTLY


def figures_of_summary(stability: Mapping[str, Any], latents: LatentSet) -> SetFigures | None:
    """The figures of an honest seed set from its stability.json and latents; None where a seed has one alive latent."""
    trained = stability[TRAINED]
    if "c_dec" not in trained:
        return None
    signals = set_signals(
        trained["pw_mcc"]["value"],
        trained["c_dec"]["value"] / trained["c_dec"]["null"],
        trained["explained_variance"]["value"],
        float(latents.latents["encoder_decoder_cosine"].mean()),
    )
    correct = float(latents.latents["correct"].mean()) if "correct" in latents.latents else float("nan")
    return SetFigures(latents.family, latents.name, HONEST, signals, correct, trained["pw_mcc"].get("kappa"))


def figures_of_planted(planted: Mapping[str, Any], family: str, name: str) -> list[SetFigures]:
    """Those of the controls of one planted.json."""
    return [
        SetFigures(
            family,
            f"{name}/{control}",
            control,
            set_signals(
                one["pw_mcc"],
                one["c_dec"] / one["isotropic_c_dec"],
                one["explained_variance"],
                one["encoder_decoder_cosine"],
            ),
            one["correct"],
            one.get("kappa"),
        )
        for control, one in planted.items()
    ]


def set_signals(
    pw_mcc: float, overlap: float, explained_variance: float, encoder_decoder_cosine: float
) -> dict[str, float]:
    """SET_SIGNALS from pw_mcc, c_dec over that of random directions, and means over latents."""
    values = (pw_mcc, float(np.log(max(overlap, 1e-3))), 1 - explained_variance, encoder_decoder_cosine)
    return dict(zip(SET_SIGNALS, values, strict=True))


@dataclass(frozen=True)
class Detector:
    """P(honest) of a seed set, and the alarm: a P below the lowest of the honest sets that it was fitted on."""

    model: Logistic
    threshold: float

    @classmethod
    def fit(cls, sets: Sequence[SetFigures]) -> Detector:
        """From honest and planted sets, families alike; those that are wrong without a plant take no part."""
        used = [one for one in sets if one.planted or one.honest]
        rows = [pd.DataFrame([one.signals | {"correct": int(not one.planted)}]) for one in used]
        model = fit([LatentSet(one.family, one.name, row) for one, row in zip(used, rows, strict=True)], SET_SIGNALS)
        honest = pd.concat([row for one, row in zip(used, rows, strict=True) if one.honest])
        return cls(model, float(model.probability(honest).min()))

    def alarms(self, one: SetFigures) -> bool:
        return bool(self.model.probability(pd.DataFrame([one.signals]))[0] < self.threshold)


def detection(sets: Sequence[SetFigures], stable_kappa: float, confidence: float = 0.95) -> dict[str, Any]:
    """What detectors do on families that they were not fitted on: counts over planted and honest sets, by control.

    Rates have exact binomial intervals (Clopper and Pearson 1934), which take the sets as independent; those of one
    family are not, so they are too narrow rather than too wide.
    passed: planted sets of a kappa above `stable_kappa` without an alarm, which would be believed. idle: sets in which
    the fault that was planted left most latents correct; they count nowhere. Raises ReseedError for fewer than 2
    families with planted sets.
    """
    families = sorted({one.family for one in sets if one.planted})
    if len(families) < 2:
        raise ReseedError(f"detector: found planted sets of the families {families}, allowed: 2 families or more")
    outcomes: list[tuple[SetFigures, bool]] = []
    for family in sorted({one.family for one in sets}):
        detector = Detector.fit([one for one in sets if one.family != family])
        outcomes += [(one, detector.alarms(one)) for one in sets if one.family == family]

    def count(chosen: Sequence[tuple[SetFigures, bool]]) -> dict[str, Any]:
        alarms = sum(alarm for _, alarm in chosen)
        counted: dict[str, Any] = {"sets": len(chosen), "alarms": alarms}
        if chosen:
            interval = binomtest(alarms, len(chosen)).proportion_ci(confidence, method="exact")
            counted["rate"] = {"value": alarms / len(chosen), "low": interval.low, "high": interval.high}
        return counted

    planted, honest = ([pair for pair in outcomes if getattr(pair[0], kind)] for kind in ("planted", "honest"))
    wrong = [pair for pair in outcomes if pair[0].control not in PLANTED and not pair[0].honest]
    passed = [one for one, alarm in planted if not alarm and (one.kappa or 0) > stable_kappa]
    idle = sum(one.control in PLANTED and not one.planted for one in sets)
    final = Detector.fit(sets)
    return {
        "detected": count(planted) | {"passed": len(passed), "idle": idle},
        "false_alarms": count(honest),
        "wrong_without_a_plant": count(wrong),
        "controls": {name: count([pair for pair in planted if pair[0].control == name]) for name in PLANTED},
        "sets": {
            one.name: one.signals | {"alarm": int(alarm), "control": one.control, "correct": one.correct}
            for one, alarm in outcomes
        },
        "model": final.model.as_json(),
        "threshold": final.threshold,
    }


def judge_set(artefact: Mapping[str, Any], found: SetFigures) -> dict[str, Any]:
    """The shipped detector on a seed set, beside its rates on families that it was not fitted on."""
    detector = Detector(Logistic.of_json(artefact["model"]), artefact["threshold"])
    return {
        "p_honest": float(detector.model.probability(pd.DataFrame([found.signals]))[0]),
        "threshold": detector.threshold,
        "alarm": int(detector.alarms(found)),
        "detection_rate": artefact["detected"]["rate"],
        "false_alarm_rate": artefact["false_alarms"]["rate"],
    }
