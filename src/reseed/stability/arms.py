"""The stability of one arm: every statistic with its nulls, its kappa, its interval and its convergence certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reseed import ReseedError
from reseed.artifacts import derive_seed
from reseed.matching import Array, row_and_column_maxima
from reseed.params import Stability
from reseed.stability.dictionaries import Dictionary, SeedSet
from reseed.stability.jackknife import Estimate, Groups, leave_one_out, mean_over_seeds
from reseed.stability.latents import Latents
from reseed.stability.nulls import NULLS, CovarianceNull, isotropic, isotropic_mean_max_cos
from reseed.stability.statistics import (
    STATISTICS,
    Matched,
    agreement,
    matched,
    matched_correlations,
    mean_correlation,
    overlap,
    standardised,
)

MIN_ROOM = 0.1
ACTIVATION_CORRELATION, UNSTABLE_OVERLAP = "activation_correlation", "unstable_overlap"
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

    alive and all_latents: statistic -> report over the alive latents (the figure) and over all (the check on it):
    STATISTICS, with held-out activations ACTIVATION_CORRELATION, and UNSTABLE_OVERLAP if every pair has latents that
    are not shared. rank: dimensions of the spans compared, the mean effective dimension of the decoders.
    pairs: one row a pair of seeds and statistic, value beside its nulls. latents: what is known of every latent.
    steps: one row a snapshot and statistic, value beside the covariance null. histogram: densities of the best-match
    |cos| of alive latents and of the covariance null, one row a bin.
    """

    alive: dict[str, StatisticReport]
    all_latents: dict[str, StatisticReport]
    certificates: dict[str, Certificate]
    rank: int
    pairs: list[dict[str, float | str]]
    latents: Latents
    alive_fraction: Estimate
    decoder_dimension: Estimate
    held_out: dict[str, Estimate]
    cosine_to_init: Estimate
    max_steps: int
    steps: list[dict[str, float | str]]
    histogram: list[dict[str, float | str]]


@dataclass(frozen=True)
class Activity:
    """What the SAEs of a seed set do on the same held-out rows: one array [rows, d_sae] a seed, in its order.

    untrained: by the SAE that the seed trained from.
    """

    trained: list[Array]
    untrained: list[Array]

    def of(self, masks: list[NDArray[np.bool_]]) -> Activity:
        """That of some latents only, by one mask [d_sae] a seed."""
        trained, untrained = (
            [acts[:, mask] for acts, mask in zip(every, masks, strict=True)] for every in (self.trained, self.untrained)
        )
        return Activity(trained, untrained)

    def standardised(self) -> Activity:
        """Every latent centred and of norm one over the rows, in float64."""
        trained, untrained = ([standardised(acts) for acts in every] for every in (self.trained, self.untrained))
        return Activity(trained, untrained)


Tables = dict[str, dict[str, Array]]
Draw = Callable[[int, np.random.Generator], Dictionary]


def analyse(seed_set: SeedSet, options: Stability, key: str, activity: Activity | None = None) -> ArmReport:
    """Judge one arm; `key` names it, so that its nulls have generators of their own.

    Raises ReseedError if a seed has no alive latent.
    """
    final, initial, groups = seed_set.final(), seed_set.initial(), seed_set.groups
    masks = alive_masks(seed_set, options, key)
    alive = [dictionary.select(mask) for dictionary, mask in zip(final, masks, strict=True)]
    untrained = [dictionary.select(mask) for dictionary, mask in zip(initial, masks, strict=True)]
    dimension = mean_over_seeds([effective_dimension(dictionary.decoder) for dictionary in alive], groups)
    rank = max(1, round(dimension.value))
    if activity is not None:
        activity = activity.standardised()
    tables, matches = _tables(alive, untrained, activity and activity.of(masks), groups, rank, options, f"{key}/alive")
    # with every latent alive the check on the alive latents would be the same figures with other draws of the nulls
    if all(mask.all() for mask in masks):
        all_tables = tables
    else:
        all_tables, _ = _tables(final, initial, activity, groups, rank, options, f"{key}/all")
    steps = _over_steps(seed_set, options, rank, key)
    per_seed = seed_set.metrics
    together = min(int(metrics["constant_steps"]) for metrics in per_seed)
    certificates = {
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
    }
    # snapshots hold no activations, and what is unstable is told by the matching: both settle when pw_mcc has
    certificates |= dict.fromkeys((ACTIVATION_CORRELATION, UNSTABLE_OVERLAP), certificates["pw_mcc"])
    return ArmReport(
        alive=_reports(tables, groups),
        all_latents=_reports(all_tables, groups),
        certificates=certificates,
        rank=rank,
        pairs=_pair_rows(tables, matches, seed_set.seeds),
        latents=Latents.of(seed_set, masks, matches, activity.trained if activity else None, options.shared_cosine),
        alive_fraction=mean_over_seeds([float(mask.mean()) for mask in masks], groups),
        decoder_dimension=dimension,
        held_out={
            name: mean_over_seeds([float(metrics[name]) for metrics in per_seed], groups)
            for name in ("explained_variance", "mse", "l0")
        },
        cosine_to_init=mean_over_seeds([float(metrics["cosine_to_init"]) for metrics in per_seed], groups),
        max_steps=max(int(metrics["steps"]) for metrics in per_seed),
        steps=steps,
        histogram=_histogram(alive, groups, options, key),
    )


def alive_masks(seed_set: SeedSet, options: Stability, key: str) -> list[NDArray[np.bool_]]:
    """Which latents [d_sae] of every seed are alive; raises ReseedError if a seed has none."""
    masks = [dictionary.alive(options.alive_min_count) for dictionary in seed_set.final()]
    for seed, mask in zip(seed_set.seeds, masks, strict=True):
        if not mask.any():
            raise ReseedError(f"{key}: seed {seed} has no alive latent (stability.alive_min_count)")
    return masks


def _tables(
    final: list[Dictionary],
    initial: list[Dictionary],
    activity: Activity | None,
    groups: Groups,
    rank: int,
    options: Stability,
    key: str,
) -> tuple[Tables, dict[tuple[int, int], Matched]]:
    """statistic -> {"value" or a null -> symmetric matrix [seeds, seeds]}, NaN within a group; and the matchings.

    activity: of the same latents, standardised, or None.
    """
    pairs = groups.all_pairs()
    matches = {(i, j): matched(final[i], final[j]) for i, j in pairs}
    gaussian = CovarianceNull.of(final)
    found = [_agreements(final, initial, (i, j), matches[i, j], gaussian, rank, options, key) for i, j in pairs]
    tables = {
        statistic: _table([{name: of_pair[name][statistic] for name in of_pair} for of_pair in found], groups)
        for statistic in STATISTICS
    }
    if activity is not None:
        starts = {(i, j): matched(initial[i], initial[j]) for i, j in pairs}
        tables[ACTIVATION_CORRELATION] = _table(
            [_correlations(activity, (i, j), matches[i, j], starts[i, j]) for i, j in pairs], groups
        )
    unstable = [_unstable(final, initial, (i, j), matches[i, j], rank, options, key) for i, j in pairs]
    if all(unstable):
        tables[UNSTABLE_OVERLAP] = _table(unstable, groups)
    return tables, matches


def _table(of_pairs: list[dict[str, float]], groups: Groups) -> dict[str, Array]:
    n = len(groups) * groups.size
    table = {name: np.full((n, n), np.nan) for name in of_pairs[0]}
    for (i, j), figures in zip(groups.all_pairs(), of_pairs, strict=True):
        for name, figure in figures.items():
            table[name][i, j] = table[name][j, i] = figure
    return table


def _agreements(
    final: list[Dictionary],
    initial: list[Dictionary],
    pair: tuple[int, int],
    found: Matched,
    gaussian: CovarianceNull,
    rank: int,
    options: Stability,
    key: str,
) -> dict[str, dict[str, float]]:
    """ "value" or a null -> the statistics of one pair."""
    i, j = pair
    (n_a, d_out), n_b = final[i].decoder.shape, len(final[j].decoder)
    random = np.random.default_rng(derive_seed("null", key, i, j))
    figures = {
        "value": agreement(final[i], final[j], options.shared_cosine, rank, found),
        "untrained": agreement(initial[i], initial[j], options.shared_cosine, rank),
        "covariance": _mean_agreement(gaussian.draw, n_a, n_b, options, rank, options.null_draws, random),
        "isotropic": _mean_agreement(
            lambda n, random: isotropic(n, d_out, random), n_a, n_b, options, rank, options.null_draws, random
        ),
    }
    figures["isotropic"]["mean_max_cos"] = isotropic_mean_max_cos(n_a, n_b, d_out)
    return figures


def _correlations(activity: Activity, pair: tuple[int, int], found: Matched, start: Matched) -> dict[str, float]:
    """Mean correlation of matched latents on held-out rows, unmatched ones counting 0. activity: standardised.

    Its nulls: the untrained SAEs with a matching of their own, and the trained ones with a matching at random (in
    expectation, exactly). A random dictionary has no activations, so the isotropic and covariance nulls do not exist.
    """
    a, b = (activity.trained[seed] for seed in pair)
    before = [activity.untrained[seed] for seed in pair]
    larger, smaller = max(a.shape[1], b.shape[1]), min(a.shape[1], b.shape[1])
    return {
        "value": matched_correlations(a, b, found).sum() / larger,
        "untrained": matched_correlations(before[0], before[1], start).sum() / larger,
        "permuted": mean_correlation(a, b) * smaller / larger,
    }


def _unstable(
    final: list[Dictionary],
    initial: list[Dictionary],
    pair: tuple[int, int],
    found: Matched,
    rank: int,
    options: Stability,
    key: str,
) -> dict[str, float]:
    """Overlap of the leading spans of the latents that a pair does not share; empty if it shares all but one.

    Latents without a partner may still span what another seed's span: then the subspace is reproducible though no
    direction in it is (Gerasimov et al. 2026, arXiv 2606.12138). A random span of rank r has r / d (isotropic).
    """
    left = [np.ones(len(final[seed].decoder), dtype=bool) for seed in pair]
    shared = found.shared(options.shared_cosine)
    left[0][found.rows[shared]] = False
    left[1][found.columns[shared]] = False
    if min(int(mask.sum()) for mask in left) < 2:
        return {}
    a, b = (final[seed].select(mask) for seed, mask in zip(pair, left, strict=True))
    starts = [initial[seed].select(mask).leading(rank) for seed, mask in zip(pair, left, strict=True)]
    gaussian = CovarianceNull.of([a, b])
    random = np.random.default_rng(derive_seed("null", key, "unstable", *pair))
    draws = [
        overlap(
            gaussian.draw(len(a.decoder), random).leading(rank), gaussian.draw(len(b.decoder), random).leading(rank)
        )
        for _ in range(options.null_draws)
    ]
    d_out = a.decoder.shape[1]
    return {
        "value": overlap(a.leading(rank), b.leading(rank)),
        "untrained": overlap(*starts),
        "covariance": float(np.mean(draws)),
        "isotropic": max(min(rank, len(side.decoder), d_out) for side in (a, b)) / d_out,
    }


def _pair_rows(
    tables: Tables, matches: dict[tuple[int, int], Matched], seeds: tuple[int, ...]
) -> list[dict[str, float | str]]:
    rows = []
    for statistic, table in tables.items():
        for (i, j), found in matches.items():
            row: dict[str, float | str] = {"statistic": statistic, "seed_a": seeds[i], "seed_b": seeds[j]}
            row |= {name: float(table[name][i, j]) for name in ("value", *NULLS, "permuted") if name in table}
            rows.append(row | {"matching_gap": found.gap})
    return rows


def _mean_agreement(
    draw: Draw, n_a: int, n_b: int, options: Stability, rank: int, draws: int, random: np.random.Generator
) -> dict[str, float]:
    """The mean of every statistic over independent draws of a null of these numbers of latents."""
    figures = [agreement(draw(n_a, random), draw(n_b, random), options.shared_cosine, rank) for _ in range(draws)]
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
        nulls = {name: _mean_over_pairs(table[name], groups.all_pairs()) for name in table if name != "value"}
        reports[statistic] = StatisticReport(value, nulls, kappa)
    return reports


def _mean_over_pairs(matrix: Array, pairs: Sequence[tuple[int, int]]) -> float:
    return float(np.mean([matrix[i, j] for i, j in pairs]))


def _kappa(table: dict[str, Array], pairs: Sequence[tuple[int, int]]) -> float | None:
    null = max(_mean_over_pairs(table[name], pairs) for name in table if name != "value")
    if 1 - null < MIN_ROOM:
        return None
    return (_mean_over_pairs(table["value"], pairs) - null) / (1 - null)


def _over_steps(seed_set: SeedSet, options: Stability, rank: int, key: str) -> list[dict[str, float | str]]:
    """Value and covariance null of every statistic at every snapshot before the decay, over the latents alive then."""
    rows: list[dict[str, float | str]] = []
    pairs = seed_set.groups.all_pairs()
    for step in seed_set.constant_steps:
        taken = seed_set.at_constant_rate(step)
        alive = [dictionary.select(dictionary.alive(options.alive_min_count)) for dictionary in taken]
        values = [agreement(alive[i], alive[j], options.shared_cosine, rank) for i, j in pairs]
        gaussian = CovarianceNull.of(alive)
        # the same draws at every step: the noise of few draws would look like a statistic on the move
        random = np.random.default_rng(derive_seed("null", key, "steps"))
        sizes = [(len(alive[i].decoder), len(alive[j].decoder)) for i, j in pairs]
        nulls = [_mean_agreement(gaussian.draw, *size, options, rank, 2, random) for size in sizes]
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
        matches = np.concatenate([np.concatenate(row_and_column_maxima(a.decoder, b.decoder)) for a, b in couples])
        share, edges = np.histogram(np.clip(matches, 0, 1), bins=HISTOGRAM_BINS)
        for count, edge in zip(share, edges, strict=False):
            rows.append({"series": series, "cosine": float(edge), "share": float(count / len(matches))})
    return rows


def effective_dimension(decoder: Array) -> float:
    """Participation ratio (tr S)^2 / tr S^2 of the covariance of decoder rows."""
    centred = decoder - decoder.mean(axis=0)
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2
    return float(spectrum.sum() ** 2 / np.sum(spectrum**2)) if spectrum.sum() > 0 else 0.0
