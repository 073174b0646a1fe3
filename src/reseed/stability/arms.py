"""The stability of one arm: every statistic with its nulls, its kappa, its interval and its convergence certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reseed import ReseedError
from reseed.artifacts import derive_seed
from reseed.matching import Array, cosines
from reseed.params import Stability
from reseed.stability.dictionaries import Dictionary, SeedSet
from reseed.stability.jackknife import Estimate, Groups, leave_one_out
from reseed.stability.nulls import NULLS, CovarianceNull, isotropic, isotropic_mean_max_cos
from reseed.stability.statistics import STATISTICS, agreement, best_matches

MIN_ROOM = 0.1
HISTOGRAM_BINS = np.linspace(0, 1, 41)


@dataclass(frozen=True)
class StatisticReport:
    """One statistic over all pairs of independent seeds. kappa = (value - null) / (1 - null), of the strictest null.

    Seeds of one group are no pair, and a group is left out whole. With a seed (a group) left out, value and nulls are
    means over the pairs that are left; the covariance null of a pair is drawn once, from the covariance of all seeds
    (that of the seeds left moves it by 0.006 or less here). kappa is None where the strictest null leaves less than
    0.1 of room, there or with a seed left out.
    """

    value: Estimate
    nulls: dict[str, float]
    kappa: Estimate | None

    @property
    def strictest(self) -> str:
        return max(self.nulls, key=lambda name: self.nulls[name])


@dataclass(frozen=True)
class Certificate:
    """Whether a figure may be used: all seeds converged by their own rule, and the statistic has settled.

    seeds: independent ones, so coupled seeds count once a group, and as converged if all of the group are.
    change: by how much the statistic or its kappa (whichever moved more) changed over the last doubling of steps
    before the learning rate decayed.
    """

    seeds_converged: int
    seeds: int
    change: float
    tolerance: float

    @property
    def converged(self) -> bool:
        return self.seeds_converged == self.seeds and self.change <= self.tolerance


@dataclass(frozen=True)
class ArmReport:
    """Everything that stability says about one arm.

    alive and all_latents: statistic -> report over the alive latents (the figure) and over all (the check on it).
    steps: one row a snapshot and statistic, value beside the covariance null. histogram: densities of the best-match
    |cos| of alive latents and of the covariance null, one row a bin.
    """

    alive: dict[str, StatisticReport]
    all_latents: dict[str, StatisticReport]
    certificates: dict[str, Certificate]
    alive_fraction: Estimate
    decoder_dimension: Estimate
    held_out: dict[str, Estimate]
    cosine_to_init: Estimate
    max_steps: int
    steps: list[dict[str, float | str]]
    histogram: list[dict[str, float | str]]


Tables = dict[str, dict[str, Array]]
Draw = Callable[[int, np.random.Generator], Dictionary]


def analyse(seed_set: SeedSet, options: Stability, key: str) -> ArmReport:
    """Judge one arm; `key` names it, so that its nulls have generators of their own.

    Raises ReseedError if a seed has no alive latent.
    """
    final, initial = seed_set.final(), seed_set.initial()
    masks = [dictionary.alive(options.alive_min_count) for dictionary in final]
    for seed, mask in zip(seed_set.seeds, masks, strict=True):
        if not mask.any():
            raise ReseedError(f"{key}: seed {seed} has no alive latent (stability.alive_min_count)")
    alive = [dictionary.select(mask) for dictionary, mask in zip(final, masks, strict=True)]
    untrained = [dictionary.select(mask) for dictionary, mask in zip(initial, masks, strict=True)]
    groups = seed_set.groups
    reports = _reports(_tables(alive, untrained, groups, options, f"{key}/alive"), groups)
    steps = _over_steps(seed_set, options, key)
    per_seed = seed_set.metrics
    together = min(int(metrics["constant_steps"]) for metrics in per_seed)
    return ArmReport(
        alive=reports,
        all_latents=_reports(_tables(final, initial, groups, options, f"{key}/all"), groups),
        certificates={
            statistic: Certificate(
                seeds_converged=sum(
                    all(per_seed[seed]["converged"] for seed in groups.members([group])) for group in range(len(groups))
                ),
                seeds=len(groups),
                change=_change_over_last_doubling(
                    [row for row in steps if row["statistic"] == statistic and float(row["step"]) <= together]
                ),
                tolerance=options.plateau_tolerance,
            )
            for statistic in STATISTICS
        },
        alive_fraction=_mean_over_seeds([float(mask.mean()) for mask in masks], groups),
        decoder_dimension=_mean_over_seeds([_effective_dimension(dictionary.decoder) for dictionary in alive], groups),
        held_out={
            name: _mean_over_seeds([float(metrics[name]) for metrics in per_seed], groups)
            for name in ("explained_variance", "mse", "l0")
        },
        cosine_to_init=_mean_over_seeds([float(metrics["cosine_to_init"]) for metrics in per_seed], groups),
        max_steps=max(int(metrics["steps"]) for metrics in per_seed),
        steps=steps,
        histogram=_histogram(alive, groups, options, key),
    )


def _tables(final: list[Dictionary], initial: list[Dictionary], groups: Groups, options: Stability, key: str) -> Tables:
    """statistic -> {"value" or a null -> symmetric matrix [seeds, seeds]}, NaN within a group."""
    n = len(final)
    tables: Tables = {s: {name: np.full((n, n), np.nan) for name in ("value", *NULLS)} for s in STATISTICS}
    gaussian = CovarianceNull.of(final)
    for i, j in groups.all_pairs():
        (n_a, d_out), n_b = final[i].decoder.shape, len(final[j].decoder)
        random = np.random.default_rng(derive_seed("null", key, i, j))
        pair = {
            "value": agreement(final[i], final[j], options.shared_cosine),
            "untrained": agreement(initial[i], initial[j], options.shared_cosine),
            "covariance": _mean_agreement(gaussian.draw, n_a, n_b, options, options.null_draws, random),
            "isotropic": _mean_agreement(
                lambda size, random, d_out=d_out: isotropic(size, d_out, random),  # type: ignore[misc]
                n_a, n_b, options, options.null_draws, random,
            ),
        }  # fmt: skip
        pair["isotropic"]["mean_max_cos"] = isotropic_mean_max_cos(n_a, n_b, d_out)
        for name, figures in pair.items():
            for statistic in STATISTICS:
                tables[statistic][name][i, j] = tables[statistic][name][j, i] = figures[statistic]
    return tables


def _mean_agreement(
    draw: Draw, n_a: int, n_b: int, options: Stability, draws: int, random: np.random.Generator
) -> dict[str, float]:
    """The mean of every statistic over independent draws of a null of these numbers of latents."""
    figures = [agreement(draw(n_a, random), draw(n_b, random), options.shared_cosine) for _ in range(draws)]
    return {statistic: float(np.mean([figure[statistic] for figure in figures])) for statistic in STATISTICS}


def _reports(tables: Tables, groups: Groups) -> dict[str, StatisticReport]:
    reports = {}
    for statistic, table in tables.items():
        value = leave_one_out(
            lambda left, t=table: _mean_over_pairs(t["value"], groups.pairs(left)),  # type: ignore[misc]
            len(groups),
        )
        kappa = leave_one_out(lambda left, t=table: _kappa(t, groups.pairs(left)), len(groups))  # type: ignore[misc]
        assert value is not None
        nulls = {name: _mean_over_pairs(table[name], groups.all_pairs()) for name in NULLS}
        reports[statistic] = StatisticReport(value, nulls, kappa)
    return reports


def _mean_over_pairs(matrix: Array, pairs: Sequence[tuple[int, int]]) -> float:
    return float(np.mean([matrix[i, j] for i, j in pairs]))


def _kappa(table: dict[str, Array], pairs: Sequence[tuple[int, int]]) -> float | None:
    null = max(_mean_over_pairs(table[name], pairs) for name in NULLS)
    if 1 - null < MIN_ROOM:
        return None
    return (_mean_over_pairs(table["value"], pairs) - null) / (1 - null)


def _over_steps(seed_set: SeedSet, options: Stability, key: str) -> list[dict[str, float | str]]:
    """Value and covariance null of every statistic at every snapshot before the decay, over the latents alive then."""
    rows: list[dict[str, float | str]] = []
    pairs = seed_set.groups.all_pairs()
    for step in seed_set.constant_steps:
        taken = seed_set.at_constant_rate(step)
        alive = [dictionary.select(dictionary.alive(options.alive_min_count)) for dictionary in taken]
        values = [agreement(alive[i], alive[j], options.shared_cosine) for i, j in pairs]
        gaussian = CovarianceNull.of(alive)
        random = np.random.default_rng(derive_seed("null", key, step))
        sizes = [(len(alive[i].decoder), len(alive[j].decoder)) for i, j in pairs]
        nulls = [_mean_agreement(gaussian.draw, *size, options, 2, random) for size in sizes]
        for statistic in STATISTICS:
            value = float(np.mean([figures[statistic] for figures in values]))
            null = float(np.mean([figures[statistic] for figures in nulls]))
            rows.append({"step": step, "statistic": statistic, "value": value, "null": null})
    return rows


def _change_over_last_doubling(rows: list[dict[str, float | str]]) -> float:
    """The larger change, of the value or of its kappa, over the last doubling of steps at a constant learning rate.

    The rows end where the first seed stops: later it stands still, and the statistic would seem to settle. The decay
    is left out, because it lowers the noise and not the distance still to go. Snapshots stand on a log scale, so the
    figure at half of the steps is interpolated in the logarithm of the step.
    """
    steps = np.log2([max(float(row["step"]), 1) for row in rows])
    values = np.array([float(row["value"]) for row in rows])
    nulls = np.array([float(row["null"]) for row in rows])
    kappas = (values - nulls) / np.maximum(1 - nulls, MIN_ROOM)
    return max(float(abs(figures[-1] - np.interp(steps[-1] - 1, steps, figures))) for figures in (values, kappas))


def _histogram(alive: list[Dictionary], groups: Groups, options: Stability, key: str) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    pairs = groups.all_pairs()
    random = np.random.default_rng(derive_seed("histogram", key))
    gaussian = CovarianceNull.of(alive)
    drawn = [
        (gaussian.draw(len(alive[i].decoder), random), gaussian.draw(len(alive[j].decoder), random))
        for i, j in pairs
        for _ in range(options.null_draws)
    ]
    for series, couples in (("SAEs", [(alive[i], alive[j]) for i, j in pairs]), ("covariance null", drawn)):
        matches = np.concatenate([np.concatenate(best_matches(cosines(a.decoder, b.decoder))) for a, b in couples])
        share, edges = np.histogram(np.clip(matches, 0, 1), bins=HISTOGRAM_BINS)
        for count, edge in zip(share, edges, strict=False):
            rows.append({"series": series, "cosine": float(edge), "share": float(count / len(matches))})
    return rows


def _effective_dimension(decoder: Array) -> float:
    """Participation ratio (tr S)^2 / tr S^2 of the covariance of decoder rows."""
    centred = decoder - decoder.mean(axis=0)
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2
    return float(spectrum.sum() ** 2 / np.sum(spectrum**2)) if spectrum.sum() > 0 else 0.0


def _mean_over_seeds(figures: list[float], groups: Groups) -> Estimate:
    estimate = leave_one_out(lambda left: float(np.mean([figures[i] for i in groups.members(left)])), len(groups))
    assert estimate is not None
    return estimate
