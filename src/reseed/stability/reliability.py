"""P(correct | signals): what the figures that exist for every latent say of its being right, and how well that travels.

What is correct is defined by the worlds whose truth is known, before any fit. The signals are of weights, activations
and other seeds; the configuration (architecture, widths, k, names) is never among them. A model that is fitted on some
families of worlds is worth what it says about a family that it has not seen, so that is the only error shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from reseed import ReseedError
from reseed.artifacts import SIGNIFICANT_DIGITS, read_json
from reseed.matching import Array
from reseed.stability.jackknife import Estimate, Groups, mean_over_seeds
from reseed.stability.report import with_interval

ARTEFACT = Path(__file__).parents[1] / "reliability.json"
"""The model that is shipped: a copy of the metric of the study that made it, or empty. Outside this room, because only
the stage `stability` reads it, and all that read the room would have to run again."""

MEASURED = ("reappearance", "encoder_decoder_cosine", "c_dec")
"""Signals that are columns of the table of latents as they stand."""
SIGNALS = ("reappearance", "log_frequency", "encoder_decoder_cosine", "c_dec", "converged")
"""log_frequency: log10 of the share of training rows that a latent fires on; converged: of pw_mcc of its seed set, 0 or
1. The others are columns of the table of latents."""
ALONE = ("reappearance",)
"""The model that all signals together must beat."""

C = 1.0
"""Inverse strength of the L2 penalty on standardised coefficients, the loss being a mean times `LATENTS`."""
LATENTS = 1000.0
"""What the weights of all latents sum to, however many there are: latents of one seed set are no independent sample."""
BINS = 10
MIN_FAMILIES = 3


@dataclass(frozen=True)
class LatentSet:
    """Alive latents of one arm of one seed set: a table with the columns seed, *SIGNALS and correct (0, 1).

    Of noise with the covariance of the activations no latent is correct: there are no features in it. A model that had
    seen no SAE of noise would take one for a good one, if its encoder and decoder rows agree.
    """

    family: str
    name: str
    latents: pd.DataFrame

    def without_seed(self, place: int, places: int) -> LatentSet:
        """Without the seeds of one place, where the seeds in order are dealt to so many places."""
        seeds = sorted(set(self.latents["seed"]))
        left = [seed for i, seed in enumerate(seeds) if i % places != place]
        return LatentSet(self.family, self.name, self.latents[self.latents["seed"].isin(left)])


@dataclass(frozen=True)
class Logistic:
    """P = expit(intercept + sum of coefficient * (signal - mean) / scale); without signals a constant."""

    signals: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float

    def probability(self, latents: pd.DataFrame) -> Array:
        """P(correct) [n] of a table with these signals."""
        standardised = (latents[list(self.signals)].to_numpy(np.float64) - np.array(self.mean)) / np.array(self.scale)
        return np.asarray(expit(self.intercept + standardised @ np.array(self.coefficients)))

    def as_json(self) -> dict[str, Any]:
        rows = zip(self.signals, self.mean, self.scale, self.coefficients, strict=True)
        return {
            "intercept": self.intercept,
            "signals": {name: {"mean": m, "scale": s, "coefficient": c} for name, m, s, c in rows},
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Logistic:
        signals = content["signals"]
        mean, scale, coefficients = (
            tuple(float(one[key]) for one in signals.values()) for key in ("mean", "scale", "coefficient")
        )
        return cls(tuple(signals), mean, scale, coefficients, float(content["intercept"]))


def signals_of(table: pd.DataFrame, training_rows: int, converged: bool, where: str) -> pd.DataFrame:
    """seed, latent and SIGNALS of the alive latents of one arm's table of latents, in its order and with its index.

    Raises ReseedError, naming `where`, for a table without one of the signals (a transcoder has no cosine of encoder
    and decoder) or a missing value of an alive latent.
    """
    alive = table[table["alive"]]
    if missing := [name for name in MEASURED if name not in alive]:
        raise ReseedError(f"{where}: found no column {missing[0]!r}, allowed: a table with {', '.join(MEASURED)}")
    found = alive[["seed", "latent", *MEASURED]].copy()
    found["log_frequency"] = np.log10(alive["firing_count"] / training_rows)
    found["converged"] = float(converged)
    wrong = [name for name in SIGNALS if not np.isfinite(found[name]).all()]
    if wrong:
        raise ReseedError(f"{where}: {wrong[0]}: found a missing value, allowed: a number for every alive latent")
    return found[["seed", "latent", *SIGNALS]]


def with_correctness(signals: pd.DataFrame, truth: pd.DataFrame, where: str) -> pd.DataFrame:
    """The signals of latents beside `correct` of the truth's table (seed, latent, correct, ...).

    Raises ReseedError, naming `where`, unless the truth has each of these latents once, with 0 or 1.
    """
    judged = truth[["seed", "latent", "correct"]]
    found = signals.merge(judged, on=["seed", "latent"], how="left", validate="many_to_one")
    if not found["correct"].isin([0, 1]).all():
        raise ReseedError(f"{where}: correct: found no 0 or 1 for some alive latent, allowed: one for each")
    return found[["seed", *SIGNALS, "correct"]].astype({"correct": int})


def of_noise(signals: pd.DataFrame) -> pd.DataFrame:
    """The signals of latents that were trained on Gaussian noise, none of them correct."""
    return signals[["seed", *SIGNALS]].assign(correct=0)


def weights(sets: Sequence[LatentSet]) -> Array:
    """One weight a latent, sets end to end: families weigh the same, in a family its sets, in a set its latents.

    They sum to one.
    """
    families = [one.family for one in sets]
    of_set = [1 / (len(set(families)) * families.count(one.family) * len(one.latents)) for one in sets]
    return np.repeat(of_set, [len(one.latents) for one in sets])


def fit(sets: Sequence[LatentSet], signals: tuple[str, ...]) -> Logistic:
    """Logistic regression of `correct` on standardised signals, weighted by `weights`; without signals the base rate.

    Raises ReseedError if all latents are correct, or none is.
    """
    latents, weight = pd.concat([one.latents for one in sets]), weights(sets)
    correct = latents["correct"].to_numpy()
    rate = float(weight @ correct)
    if not 0 < correct.mean() < 1:
        names = ", ".join(sorted({one.family for one in sets}))
        raise ReseedError(f"reliability: of the families {names}: found latents that are all correct, or all wrong")
    if not signals:
        return Logistic((), (), (), (), float(np.log(rate / (1 - rate))))
    x = latents[list(signals)].to_numpy(np.float64)
    mean = weight @ x
    scale = np.sqrt(weight @ (x - mean) ** 2)
    scale[scale < 1e-9] = 1  # a signal that does not vary here gets a coefficient of zero
    model = LogisticRegression(C=C, tol=1e-8, max_iter=1000)
    model.fit((x - mean) / scale, correct, sample_weight=LATENTS * weight)
    means, scales, coefficients = (tuple(float(v) for v in values) for values in (mean, scale, model.coef_[0]))
    return Logistic(signals, means, scales, coefficients, float(model.intercept_[0]))


def brier(p: Array, correct: Array, weight: Array) -> float:
    """The weighted mean of (p - correct)^2 (Brier 1950)."""
    return float(np.average((p - correct) ** 2, weights=weight))


def calibration(p: Array, correct: Array, weight: Array) -> list[dict[str, float]]:
    """Bins of equal width that hold a latent: mean prediction, share that is correct, share of the weight, latents."""
    places = np.minimum((p * BINS).astype(int), BINS - 1)
    rows = []
    for place in np.unique(places):
        of_bin = places == place
        predicted, observed = (float(np.average(v[of_bin], weights=weight[of_bin])) for v in (p, correct))
        share = float(weight[of_bin].sum() / weight.sum())
        rows.append({"predicted": predicted, "observed": observed, "share": share, "latents": int(of_bin.sum())})
    return rows


def calibration_error(p: Array, correct: Array, weight: Array) -> float:
    """Expected calibration error: the mean |predicted - observed| of the bins, weighted (Naeini et al. 2015)."""
    return float(sum(row["share"] * abs(row["predicted"] - row["observed"]) for row in calibration(p, correct, weight)))


@dataclass(frozen=True)
class Score:
    """Of one model on one family that it was not fitted on. skill: of its Brier score above that of the base rate of
    the training families; bins: the rows of `calibration`."""

    brier: float
    ece: float
    skill: float
    bins: list[dict[str, float]]


@dataclass(frozen=True)
class HeldOut:
    """What MODELS that were fitted on all other families say about one family; correct: its share, sets alike."""

    family: str
    latents: int
    correct: float
    scores: dict[str, Score]


MODELS: dict[str, tuple[str, ...]] = {"signals": SIGNALS, "reappearance": ALONE, "constant": ()}
"""All signals, what they must beat, and the base rate of the training families."""


def held_out(sets: Sequence[LatentSet], family: str) -> HeldOut:
    """Fit on the other families, judge on this one; raises ReseedError as `fit` does."""
    own = [one for one in sets if one.family == family]
    others = [one for one in sets if one.family != family]
    latents, weight = pd.concat([one.latents for one in own]), weights(own)
    correct = latents["correct"].to_numpy(np.float64)
    said = {name: fit(others, signals).probability(latents) for name, signals in MODELS.items()}
    errors = {name: brier(p, correct, weight) for name, p in said.items()}
    scores = {
        name: Score(
            errors[name],
            calibration_error(p, correct, weight),
            1 - errors[name] / errors["constant"],
            calibration(p, correct, weight),
        )
        for name, p in said.items()
    }
    return HeldOut(family, len(latents), float(weight @ correct), scores)


def figures_of(every: Sequence[HeldOut]) -> dict[str, float]:
    """Means over held-out families: Brier score and calibration error of every model, and two Brier skills of each.

    A skill is 1 - mean Brier score / that of the reference: 1 perfect, 0 no more, negative less.
    """
    means = {name: float(np.mean([one.scores[name].brier for one in every])) for name in MODELS}
    return {
        **{f"{name}.brier": mean for name, mean in means.items()},
        **{f"{name}.ece": float(np.mean([one.scores[name].ece for one in every])) for name in MODELS},
        "signals.skill_above_constant": 1 - means["signals"] / means["constant"],
        "signals.skill_above_reappearance": 1 - means["signals"] / means["reappearance"],
        "reappearance.skill_above_constant": 1 - means["reappearance"] / means["constant"],
    }


@dataclass(frozen=True)
class Transfer:
    """Every family held out in turn. Figures with a family (refitted without it) and with a seed left out in turn.

    A seed left out is left out of every set; the reappearance of the others' latents stays that over all seeds.
    """

    families: list[HeldOut]
    skills: dict[tuple[str, str], Estimate]
    """Of every family and model its skill, with a seed left out in turn."""
    over_families: dict[str, Estimate]
    over_seeds: dict[str, Estimate]

    @property
    def skill(self) -> Estimate:
        """Of all signals above reappearance alone."""
        return self.over_families["signals.skill_above_reappearance"]

    @property
    def best(self) -> str:
        """The model to ship: all signals only if they tell more than reappearance alone.

        A choice between two and no claim: what may be said of it is `verdict`, which asks for the whole interval.
        """
        return "signals" if self.skill.value > 0 else "reappearance"

    def worst(self, model: str) -> HeldOut:
        """The family of which the model tells least, beyond the base rate of the others."""
        return min(self.families, key=lambda one: (one.scores[model].skill, -one.scores[model].brier))


def transfer(sets: Sequence[LatentSet]) -> Transfer:
    """Hold out every family; raises ReseedError for fewer than 3 families or 3 seeds, and as `fit` does."""
    families = sorted({one.family for one in sets})
    if len(families) < MIN_FAMILIES:
        raise ReseedError(
            f"reliability: found {len(families)} families ({', '.join(families)}), allowed: {MIN_FAMILIES} or more"
        )
    places = min(one.latents["seed"].nunique() for one in sets)
    if places < 3:
        raise ReseedError(f"reliability: found a set of {places} seeds with alive latents, allowed: 3 or more")
    every = _every(sets)
    values = figures_of(every)
    without_family = [figures_of(_every([one for one in sets if one.family != family])) for family in families]
    fewer = [_every([one.without_seed(i, places) for one in sets]) for i in range(places)]
    without_seed = [figures_of(left) for left in fewer]
    skills = {
        (one.family, name): Estimate(score.skill, tuple(left[place].scores[name].skill for left in fewer))
        for place, one in enumerate(every)
        for name, score in one.scores.items()
    }
    over_families, over_seeds = (
        {name: Estimate(value, tuple(left[name] for left in deleted)) for name, value in values.items()}
        for deleted in (without_family, without_seed)
    )
    return Transfer(every, skills, over_families, over_seeds)


def _every(sets: Sequence[LatentSet]) -> list[HeldOut]:
    return [held_out(sets, family) for family in sorted({one.family for one in sets})]


def verdict(skill: Estimate, confidence: float) -> str:
    """What the Brier skill of all signals above reappearance alone, on held-out families, allows to say."""
    low, _ = skill.interval(confidence)
    if low > 0:
        return "on held-out families the signals together tell more than reappearance alone"
    if skill.value > 0:
        return "no skill above reappearance alone is shown: over families its interval holds 0"
    return (
        "no skill above reappearance alone: on held-out families the signals together tell no more, or less; the model "
        "is that of reappearance alone"
    )


def content(sets: Sequence[LatentSet], version: int, confidence: float) -> dict[str, Any]:
    """The metric of a reliability study, a copy of which is the shipped artefact.

    The model fitted on every family, its errors on held-out ones beside those of the others, and the hash of what it
    was fitted on. Raises ReseedError as `transfer` does.
    """
    moved = transfer(sets)
    shown: dict[str, Any] = {name: {} for name in MODELS}
    for name, estimate in moved.over_families.items():
        model, _, figure = name.partition(".")
        low, high = moved.over_seeds[name].interval(confidence)
        shown[model][figure] = with_interval(estimate, confidence) | {"seeds_low": low, "seeds_high": high}
    for name in MODELS:
        worst = moved.worst(name)
        shown[name]["worst_family"] = {"name": worst.family} | _plain(worst.scores[name])
    return {
        "version": version,
        "verdict": verdict(moved.skill, confidence),
        "shipped": moved.best,
        "model": fit(sets, MODELS[moved.best]).as_json(),
        "all_signals": fit(sets, SIGNALS).as_json(),
        "transfer": shown,
        "held_out": {
            one.family: {"latents": one.latents, "correct": one.correct}
            | {
                name: _plain(score)
                | {"skill_above_constant": with_interval(moved.skills[one.family, name], confidence)}
                for name, score in one.scores.items()
            }
            for one in moved.families
        },
        "fitted_on": {
            "sha256": fitted_on_sha256(sets),
            "sets": {one.name: {"family": one.family, "latents": len(one.latents)} for one in sets},
        },
    }


def _plain(score: Score) -> dict[str, float]:
    return {"brier": score.brier, "ece": score.ece, "skill_above_constant": score.skill}


def diagram(sets: Sequence[LatentSet]) -> list[dict[str, Any]]:
    """Rows of the reliability diagram, one a model, held-out family and bin: predicted and observed share correct."""
    return [
        {"model": name, "family": one.family} | row
        for name in ("signals", "reappearance")
        for one in _every(sets)
        for row in one.scores[name].bins
    ]


def fitted_on_sha256(sets: Sequence[LatentSet]) -> str:
    """Of the signals and correctness of every latent, by family and set."""
    digest = hashlib.sha256()
    for one in sorted(sets, key=lambda one: (one.family, one.name)):
        digest.update(f"{one.family}/{one.name}\n".encode())
        digest.update(one.latents.to_csv(index=False, float_format=f"%.{SIGNIFICANT_DIGITS}g").encode())
    return digest.hexdigest()


def shipped(path: Path = ARTEFACT) -> dict[str, Any] | None:
    """The shipped artefact, None where there is none; raises ReseedError for one that is not JSON."""
    return read_json(path) or None


@dataclass(frozen=True)
class Judged:
    """What the artefact says of one seed set: the content of `reliability` in stability.json, and by arm P(correct) of
    every alive latent, by the index of its table of latents."""

    summary: dict[str, Any]
    probabilities: dict[str, pd.Series]


def judge(
    artefact: Mapping[str, Any], signals: Mapping[str, pd.DataFrame], groups: Groups, confidence: float
) -> Judged:
    """Apply the artefact to `signals_of` each arm, that of the trained one first; the others' means stand beside it.

    No mean stands without the error of the model on families of worlds that it had not seen, nor without what it is
    above the strictest of the other arms (`margin`).
    """
    model = Logistic.of_json(artefact["model"])
    found = {arm: pd.Series(model.probability(of), of.index, name="p_correct") for arm, of in signals.items()}
    means = {
        arm: mean_over_seeds([float(p[of == seed].mean()) for seed in of.unique()], groups)
        for arm, p in found.items()
        for of in [signals[arm]["seed"]]
    }
    (_, mean), *controls = means.items()
    margins = {arm: mean - other for arm, other in controls}
    least = min(margins, key=lambda arm: margins[arm].interval(confidence)[0], default=None)
    margin = {} if least is None else {"margin": with_interval(margins[least], confidence) | {"over": least}}
    moved = artefact["transfer"][artefact["shipped"]]
    return Judged(
        {
            "mean_p_correct": with_interval(mean, confidence) | {arm: other.value for arm, other in controls} | margin,
            "transfer": {  # no skill above reappearance alone where that is the model
                name: {of: one[of] for of in ("low", "high", "value")}
                for name, one in moved.items()
                if name != "worst_family"
            }
            | {"worst_family": moved["worst_family"]},
            "verdict": artefact["verdict"],
            "version": artefact["version"],
            "fitted_on": artefact["fitted_on"]["sha256"],
        },
        found,
    )
