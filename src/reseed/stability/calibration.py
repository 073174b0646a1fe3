"""The k that the data ask for: tried on a grid by seeds of the search alone, chosen by a criterion stated here.

c_dec, the mean |cosine| of two latents of one decoder, is smallest where k is the number of features that are on: with
fewer a latent mixes correlated features, with more there are latents to spare (Chanin and Garriga-Alonso 2025,
arXiv 2508.16560). On language models, where c_dec falls steeply and then stays flat, the paper takes the elbow just
before c_dec jumps at low L0. `elbow` makes one rule of both, and the k that it gives is the k chosen. The k that is
most stable for certain is reported beside it, because the two need not agree. Explained variance decides nothing: it
grows with k beyond the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reseed import ReseedError
from reseed.matching import Array
from reseed.params import BaseVariant, Calibration, SaeTraining, Stability
from reseed.stability.arms import ArmReport, StatisticReport, alive_masks, analyse
from reseed.stability.dictionaries import SeedSet
from reseed.stability.jackknife import Estimate, mean_over_seeds
from reseed.stability.report import with_interval

STATISTIC = "pw_mcc"
ELBOW_SHARE = 0.1
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Tried:
    """What one k gave, over its seeds and alive latents. The kappa of pw_mcc is None without room above its null."""

    k: int
    c_dec: Estimate
    explained_variance: Estimate
    alive_fraction: Estimate
    agreement: StatisticReport
    converged: bool
    seeds_converged: int
    plateau_change: float

    @classmethod
    def of(cls, k: int, seed_set: SeedSet, options: Stability, key: str) -> Tried:
        """Raises ReseedError if a seed has fewer than two alive latents."""
        report: ArmReport = analyse(seed_set, options, key)
        certificate = report.certificates[STATISTIC]
        masks = alive_masks(seed_set, options, key)
        return cls(
            k=k,
            c_dec=mean_over_seeds(
                [
                    decoder_cosine(dictionary.select(mask).decoder, f"{key} seed {seed}")
                    for seed, dictionary, mask in zip(seed_set.seeds, seed_set.final(), masks, strict=True)
                ],
                seed_set.groups,
            ),
            explained_variance=report.held_out["explained_variance"],
            alive_fraction=report.alive_fraction,
            agreement=report.alive[STATISTIC],
            converged=certificate.converged,
            seeds_converged=certificate.seeds_converged,
            plateau_change=certificate.change,
        )


def decoder_cosine(decoder: Array, place: str) -> float:
    """c_dec of unit decoder rows [n, d]: the mean of |cos| over their n (n - 1) / 2 pairs (arXiv 2508.16560).

    Raises ReseedError, naming `place`, for fewer than two rows.
    """
    n = len(decoder)
    if n < 2:
        raise ReseedError(f"{place}: found {n} alive latents, allowed: at least 2, which have a cosine")
    total = sum(
        float(np.abs(decoder[start : start + BLOCK_ROWS] @ decoder.T).sum()) for start in range(0, n, BLOCK_ROWS)
    )
    return (total - float(np.sum(decoder**2))) / (n * (n - 1))


def elbow(ks: Sequence[int], c_dec: Sequence[float]) -> int:
    """The smallest of the ascending ks whose c_dec is within ELBOW_SHARE of the jump above the smallest c_dec.

    The jump is from the smallest c_dec up to the largest at a k below the one that has it. Where c_dec is U-shaped
    that gives the minimum or a k next to it, where it falls and stays flat the last k before the jump.
    """
    lowest = int(np.argmin(c_dec))
    bar = c_dec[lowest] + ELBOW_SHARE * (max(c_dec[: lowest + 1]) - c_dec[lowest])
    return next(k for k, value in zip(ks, c_dec, strict=True) if value <= bar)


def most_stable(tried: Sequence[Tried], floor: float, confidence: float) -> int | None:
    """The k with the largest lower bound of kappa of those whose explained variance is above the floor for certain.

    None if the lower bound of the explained variance of no k that has a kappa reaches the floor.
    """
    eligible = [
        (one.agreement.kappa.interval(confidence)[0], -one.k)
        for one in tried
        if one.agreement.kappa is not None and one.explained_variance.interval(confidence)[0] >= floor
    ]
    return -max(eligible)[1] if eligible else None


def check_calibration(calibration: Calibration, variant: BaseVariant, seeds: tuple[int, ...]) -> None:
    """Raise ReseedError for search seeds that judge the k they chose, or a variant whose seeds are not independent."""
    if common := sorted(set(calibration.search_seeds) & set(seeds)):
        raise ReseedError(
            f"params.yaml: calibration.search_seeds: found {common} among the seeds of the variant too, allowed: "
            "others, because a k is judged by seeds that had no part in choosing it"
        )
    if variant.group_size > 1:
        raise ReseedError(
            f"params.yaml: variants: found seeds in groups of {variant.group_size} (objectives.consistency), allowed: "
            "independent ones"
        )


def equal_budget(training: SaeTraining) -> SaeTraining:
    """The training in which every seed of every k takes all the steps, so that what is compared saw the same rows."""
    return training.model_copy(update={"min_steps": training.last_constant_step})


def calibration_summary(
    variant: str,
    searched: Sequence[Tried],
    chosen: dict[str, int],
    retrained: dict[int, Tried],
    calibration: Calibration,
    options: Stability,
) -> dict[str, Any]:
    """The content of calibration.json.

    searched: ascending in k. chosen: criterion -> k, `c_dec` and, where a k qualifies, `stability`. retrained: by k,
    those chosen and the control, on the seeds of the variant. A chosen k that ends the grid is not bracketed by it.
    """
    confidence, control = options.confidence, retrained[calibration.control_k]
    ks = [one.k for one in searched]
    content: dict[str, Any] = {
        "variant": variant,
        "k": chosen["c_dec"],
        "criterion": "c_dec",
        "criteria_agree": int(chosen["c_dec"] == chosen.get("stability")),
        "lowest_c_dec_k": min(searched, key=lambda one: one.c_dec.value).k,
        "most_explained_variance_k": max(searched, key=lambda one: one.explained_variance.value).k,
        "explained_variance_floor": calibration.explained_variance_floor,
        "searched": {f"k{one.k}": _tried(one, confidence) for one in searched},
        "control": {"k": control.k} | _tried(control, confidence),
    }
    for criterion, k in chosen.items():
        content[f"by_{criterion}"] = (
            {"k": k, "inside_the_grid": int(ks[0] < k < ks[-1])}
            | _tried(retrained[k], confidence)
            | ({} if k == control.k else {"minus_control": _difference(retrained[k], control, confidence)})
        )
    return content


def _tried(one: Tried, confidence: float) -> dict[str, Any]:
    found = one.agreement
    agreement: dict[str, Any] = with_interval(found.value, confidence)
    agreement |= {"null": found.nulls[found.strictest], "strictest_null": found.strictest}
    if found.kappa is not None:
        low, high = found.kappa.interval(confidence)
        agreement |= {"kappa": found.kappa.value, "kappa_low": low, "kappa_high": high}
    return {
        STATISTIC: agreement,
        "c_dec": with_interval(one.c_dec, confidence),
        "explained_variance": with_interval(one.explained_variance, confidence),
        "alive_fraction": with_interval(one.alive_fraction, confidence),
        "converged": int(one.converged),
        "seeds_converged": one.seeds_converged,
        "plateau_change": one.plateau_change,
    }


def _difference(one: Tried, control: Tried, confidence: float) -> dict[str, Any]:
    """The same seed left out of both; `converged` where both are, since the difference is no better than either."""
    content: dict[str, Any] = {
        STATISTIC: with_interval(one.agreement.value - control.agreement.value, confidence),
        "c_dec": with_interval(one.c_dec - control.c_dec, confidence),
        "explained_variance": with_interval(one.explained_variance - control.explained_variance, confidence),
        "converged": int(one.converged and control.converged),
    }
    if one.agreement.kappa is not None and control.agreement.kappa is not None:
        content["kappa"] = with_interval(one.agreement.kappa - control.agreement.kappa, confidence)
    return content
