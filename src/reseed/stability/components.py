"""Where disagreement comes from: initialisations crossed with orders of the rows, repeated over model seeds.

Agreement A of two SAEs of one model falls short of 1 by a deficit 1 - A. For pw_mcc, with as many latents alive in
both, it is half of the mean squared distance of matched unit decoder rows, and half a squared distance is what a
variance is made of: in a two-way model y = a(init) + b(order) + e(init, order) its expectation is var b + var e
between cells that share the initialisation, var a + var e between cells that share the order, var a + var b + var e
between cells that share neither. Solved for the three variances, with deficits in place of the half squared distances
(the distance-based analysis of variance of Anderson 2001, Austral Ecology 26, 32; McArdle and Anderson 2001,
Ecology 82, 290):

    init        = deficit(both differ) - deficit(order differs)
    order       = deficit(both differ) - deficit(init differs)
    interaction = deficit(order differs) + deficit(init differs) - deficit(both differ)

They add up to the deficit of two ordinary seeds, so shares of it add up to 1. A pure interaction means that either
change alone already costs all that both together cost. Components are differences and may come out below 0, which says
0. A null that is the same for all three kinds of pairs divides every deficit by 1 - null and leaves the shares alone.

Model seeds are no fourth factor of a deficit: SAEs of two models read different activations, and their decoder rows
have nothing to be compared in. What a model seed adds is a variance of the figures themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, t

from reseed import ReseedError
from reseed.artifacts import derive_seed
from reseed.matching import Array
from reseed.params import Stability, Subject
from reseed.stability.arms import MIN_ROOM, alive_masks, analyse, effective_dimension
from reseed.stability.dictionaries import SeedSet
from reseed.stability.jackknife import Estimate, Groups, mean_over_seeds
from reseed.stability.nulls import CovarianceNull
from reseed.stability.statistics import STATISTICS, agreement

LEVELS = 4  # of each factor where there are so many seeds: sixteen SAEs a model
NULL_DRAWS = 2  # for each of the many pairs
KINDS = ("init_differs", "order_differs", "both_differ")
COMPONENTS = ("init", "order", "interaction")


@dataclass(frozen=True)
class CrossedEstimate:
    """A figure of a crossed design, and the same with each initialisation, and with each order, left out in turn."""

    value: float
    inits: tuple[float, ...]
    orders: tuple[float, ...]

    @property
    def error(self) -> float:
        """Square root of the sum of the two jackknife variances.

        Cells share initialisations and orders, so neither cells nor pairs are units; each factor's own jackknife sees
        what varies with it. The variance of single cells is in both, which errs on the wide side (for sums over a
        crossed design: Owen 2007, Annals of Applied Statistics 1, 386).
        """
        return float(np.hypot(Estimate(self.value, self.inits).error, Estimate(self.value, self.orders).error))

    def interval(self, confidence: float) -> tuple[float, float]:
        """With t of the smaller number of levels - 1."""
        freedom = min(len(self.inits), len(self.orders)) - 1
        half = float(t.ppf(0.5 + confidence / 2, freedom)) * self.error
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Factors:
    """One statistic on one model; `agreement` and `kappa` by KINDS, `components` and `shares` by COMPONENTS.

    kappa: against the covariance null, absent where it leaves less than MIN_ROOM. shares: absent without a deficit.
    """

    agreement: dict[str, CrossedEstimate]
    nulls: dict[str, float]
    kappa: dict[str, CrossedEstimate]
    components: dict[str, CrossedEstimate]
    shares: dict[str, CrossedEstimate]

    def figures(self) -> dict[str, dict[str, CrossedEstimate]]:
        return {"agreement": self.agreement, "kappa": self.kappa, "deficit": self.components, "share": self.shares}


@dataclass(frozen=True)
class ModelFactorial:
    """One model: statistic -> factors, how many of the SAEs converged, and whether each statistic settled.

    plateau_change: of a seed set of the diagonal, whose seeds differ in both (see `arms.Certificate`).
    """

    factors: dict[str, Factors]
    cells: int
    cells_converged: int
    plateau_change: dict[str, float]
    cosine_to_init: float
    explained_variance: float


@dataclass(frozen=True)
class ModelVariance:
    """What the seed of the model adds to a figure: variance over models less what the factors explain within one.

    between and its chi-squared interval: of the figures of the models; within: mean squared error of one of them.
    `component` = between - within; below 0 it says that the models differ no more than seeds of one model do.
    """

    between: float
    low: float
    high: float
    within: float

    @property
    def component(self) -> float:
        return self.between - self.within


def check_models(subjects: dict[str, Subject]) -> None:
    """Raise ReseedError unless there are three subjects that differ in the seed of their model and in nothing else."""
    seeds = {subject: config.model.training.seed for subject, config in subjects.items()}
    if len(set(seeds.values())) != 3:
        raise ReseedError(f"subjects/*.yaml: model.training.seed: found {seeds}, allowed: three subjects, each its own")
    first, *others = subjects
    for other in others:
        training = subjects[other].model.training.model_copy(update={"seed": seeds[first]})
        model = subjects[other].model.model_copy(update={"training": training})
        if subjects[other].model_copy(update={"model": model}) != subjects[first]:
            raise ReseedError(
                f"subjects/{other}.yaml: found another task, model or training than subjects/{first}.yaml has, "
                "allowed: only another model.training.seed"
            )


def cross(sets: Sequence[SeedSet], options: Stability, key: str) -> ModelFactorial:
    """The factorial of one model: sets[o] holds the SAEs of order o, its seeds the initialisations, all alike.

    `key` names it, for its nulls. Raises ReseedError for seeds in groups, for a design that is not square with 3
    levels or more, and for an SAE without alive latents.
    """
    if any(seed_set.group_size != 1 for seed_set in sets):
        raise ReseedError(f"{key}: found seeds that an objective couples, allowed: independent ones")
    inits, n = sets[0].seeds, len(sets)
    if n < 3 or len(inits) != n or any(seed_set.seeds != inits for seed_set in sets):
        raise ReseedError(f"{key}: found {n} orders of the seeds {[s.seeds for s in sets]}, allowed: a square, 3 or up")
    tables = _tables(sets, options, key)
    diagonal = SeedSet(
        seeds=inits,
        snapshots=[sets[i].snapshots[i] for i in range(n)],
        metrics=[sets[i].metrics[i] for i in range(n)],
    )
    certificates = analyse(diagonal, options, f"{key}/diagonal").certificates
    metrics = [one for seed_set in sets for one in seed_set.metrics]
    return ModelFactorial(
        factors={statistic: factors(value, null) for statistic, (value, null) in tables.items()},
        cells=n * n,
        cells_converged=sum(int(one["converged"]) for one in metrics),
        plateau_change={statistic: certificates[statistic].change for statistic in tables},
        cosine_to_init=float(np.mean([one["cosine_to_init"] for one in metrics])),
        explained_variance=float(np.mean([one["explained_variance"] for one in metrics])),
    )


def _tables(sets: Sequence[SeedSet], options: Stability, key: str) -> dict[str, tuple[Array, Array]]:
    """statistic -> agreement and covariance null [inits, orders, inits, orders] of alive latents, NaN with itself."""
    n = len(sets)
    by_order = [
        [dictionary.select(mask) for dictionary, mask in zip(s.final(), alive_masks(s, options, key), strict=True)]
        for s in sets
    ]
    cells = [by_order[o][i] for i in range(n) for o in range(n)]
    rank = max(1, round(float(np.mean([effective_dimension(cell.decoder) for cell in cells]))))
    gaussian = CovarianceNull.of(cells)
    values, nulls = ({s: np.full((n * n, n * n), np.nan) for s in STATISTICS} for _ in range(2))
    for x, y in Groups(n * n).all_pairs():
        random = np.random.default_rng(derive_seed("null", key, x, y))
        sizes = len(cells[x].decoder), len(cells[y].decoder)
        drawn = [
            agreement(gaussian.draw(sizes[0], random), gaussian.draw(sizes[1], random), options.shared_cosine, rank)
            for _ in range(NULL_DRAWS)
        ]
        found = agreement(cells[x], cells[y], options.shared_cosine, rank)
        for statistic in STATISTICS:
            values[statistic][x, y] = values[statistic][y, x] = found[statistic]
            null = float(np.mean([one[statistic] for one in drawn]))
            nulls[statistic][x, y] = nulls[statistic][y, x] = null
    shape = (n, n, n, n)
    return {statistic: (values[statistic].reshape(shape), nulls[statistic].reshape(shape)) for statistic in STATISTICS}


def factors(value: Array, null: Array) -> Factors:
    """Factors of the agreement of all cells [inits, orders, inits, orders] beside the null of the same pairs."""

    def value_of(kind: str) -> CrossedEstimate | None:
        return _crossed(lambda i, o: mean_agreement(value, i, o)[kind], value)

    def component(name: str) -> CrossedEstimate | None:
        return _crossed(lambda i, o: components(value, i, o)[name], value)

    def kappa(kind: str) -> CrossedEstimate | None:
        def figure(i: Sequence[int], o: Sequence[int]) -> float | None:
            floor = mean_agreement(null, i, o)[kind]
            if 1 - floor < MIN_ROOM:
                return None
            return (mean_agreement(value, i, o)[kind] - floor) / (1 - floor)

        return _crossed(figure, value)

    def share(name: str) -> CrossedEstimate | None:
        def figure(i: Sequence[int], o: Sequence[int]) -> float | None:
            parts = components(value, i, o)
            whole = sum(parts.values())
            return parts[name] / whole if whole > 1e-9 else None

        return _crossed(figure, value)

    everything = range(value.shape[0]), range(value.shape[1])
    return Factors(
        agreement=_defined({kind: value_of(kind) for kind in KINDS}),
        nulls=mean_agreement(null, *everything),
        kappa=_defined({kind: kappa(kind) for kind in KINDS}),
        components=_defined({name: component(name) for name in COMPONENTS}),
        shares=_defined({name: share(name) for name in COMPONENTS}),
    )


def mean_agreement(table: Array, inits: Sequence[int], orders: Sequence[int]) -> dict[str, float]:
    """KINDS -> mean over the pairs of these levels of a table [inits, orders, inits, orders]."""
    kept = table[np.ix_(inits, orders, inits, orders)]
    same_init: NDArray[np.bool_] = np.eye(len(inits), dtype=bool)[:, None, :, None]
    same_order: NDArray[np.bool_] = np.eye(len(orders), dtype=bool)[None, :, None, :]
    masks = (~same_init & same_order, same_init & ~same_order, ~same_init & ~same_order)
    return {
        kind: float(kept[np.broadcast_to(mask, kept.shape)].mean()) for kind, mask in zip(KINDS, masks, strict=True)
    }


def components(table: Array, inits: Sequence[int], orders: Sequence[int]) -> dict[str, float]:
    """COMPONENTS -> part of the deficit of two seeds that differ in both, by the equations of this module."""
    init, order, both = (1 - mean_agreement(table, inits, orders)[kind] for kind in KINDS)
    return {"init": both - order, "order": both - init, "interaction": order + init - both}


def over_models(estimates: Sequence[CrossedEstimate]) -> Estimate:
    """The mean over models with the model left out: what is claimed of a kind of model has models as its unit.

    Initialisations and orders are nested in a model, and how they vary is already in how its figures do.
    """
    return mean_over_seeds([estimate.value for estimate in estimates], Groups(len(estimates)))


def model_variance(estimates: Sequence[CrossedEstimate], confidence: float) -> ModelVariance:
    """The variance that the model seed adds to a figure, by moments (Hedges 1983, Psychological Bulletin 93, 388)."""
    freedom = len(estimates) - 1
    between = float(np.var([estimate.value for estimate in estimates], ddof=1))
    low, high = (freedom * between / chi2.ppf(0.5 + side * confidence / 2, freedom) for side in (1, -1))
    return ModelVariance(between, float(low), float(high), float(np.mean([one.error**2 for one in estimates])))


def factorial_summary(models: Mapping[str, ModelFactorial], options: Stability) -> dict[str, Any]:
    """The content of metrics/factorial/<name>.json: every statistic over the models, and of every model by itself.

    Over models a figure has the t interval of the models; of one model, that of its initialisations and orders.
    """
    content: dict[str, Any] = {
        "models": len(models),
        "saes_per_model": next(iter(models.values())).cells,
        "seeds_converged": {name: model.cells_converged for name, model in models.items()},
        "cosine_to_init": {name: model.cosine_to_init for name, model in models.items()},
        "explained_variance": {name: model.explained_variance for name, model in models.items()},
    }
    for statistic in STATISTICS:
        each = {name: model.factors[statistic] for name, model in models.items()}
        change = {name: model.plateau_change[statistic] for name, model in models.items()}
        settled = all(one <= options.plateau_tolerance for one in change.values())
        content[statistic] = {
            "converged": int(settled and all(model.cells_converged == model.cells for model in models.values())),
            "plateau_change": change,
            "over_models": _over_models(list(each.values()), options.confidence),
            "of_model": {name: _of_model(found, options.confidence) for name, found in each.items()},
        }
    return content


def _over_models(each: Sequence[Factors], confidence: float) -> dict[str, Any]:
    """The figures that every model has; what the seed of the model adds to the variance of those of agreement."""
    content: dict[str, Any] = {}
    for group in each[0].figures():
        of_models = [found.figures()[group] for found in each]
        shown = {}
        for name in of_models[0]:
            if all(name in one for one in of_models):
                shown[name] = _shown(over_models([one[name] for one in of_models]), confidence)
        content[group] = shown
    for group in ("agreement", "kappa"):
        for name, shown in content[group].items():
            found = model_variance([one.figures()[group][name] for one in each], confidence)
            shown["model_seed"] = {
                "variance": found.between,
                "variance_low": found.low,
                "variance_high": found.high,
                "variance_within": found.within,
                "component": found.component,
            }
    return content


def _of_model(found: Factors, confidence: float) -> dict[str, Any]:
    content: dict[str, Any] = {
        group: {name: _shown(estimate, confidence) for name, estimate in estimates.items()}
        for group, estimates in found.figures().items()
    }
    for kind, null in found.nulls.items():
        content["agreement"][kind]["null"] = null
    return content


def _shown(estimate: Estimate | CrossedEstimate, confidence: float) -> dict[str, float | dict[str, float]]:
    low, high = estimate.interval(confidence)
    return {"value": estimate.value, "low": low, "high": high}


def _crossed(figure: Callable[[Sequence[int], Sequence[int]], float | None], table: Array) -> CrossedEstimate | None:
    inits, orders = range(table.shape[0]), range(table.shape[1])
    value = figure(inits, orders)
    without_init = [figure([i for i in inits if i != out], orders) for out in inits]
    without_order = [figure(inits, [o for o in orders if o != out]) for out in orders]
    if value is None or None in without_init or None in without_order:
        return None
    return CrossedEstimate(
        value,
        tuple(one for one in without_init if one is not None),
        tuple(one for one in without_order if one is not None),
    )


def _defined(estimates: dict[str, CrossedEstimate | None]) -> dict[str, CrossedEstimate]:
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}
