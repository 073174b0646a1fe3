"""Detectors of concepts: chosen on training rows, scored on test rows, above what permuted concepts give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

from reseed.matching import Array
from reseed.truth.concepts import Concepts, Mask

GOOD_F1 = 0.8
"""From which F1 a concept counts as recalled, and a latent as correct."""
DETECTS_F1 = 0.5
"""From which F1 a latent counts as a detector at all, where it is asked of how many concepts it is one."""
SPLIT_GAIN = 0.03
"""By how much another latent must raise F1 to be a part of a split feature (SAEBench's f1_jump_threshold)."""
MOST_SPLITS = 5
FIGURES = ("coverage", "recall", "purity", "enrichment", "monosemanticity", "correct")
"""What a detection gives: see `Detection.figures`."""


@dataclass(frozen=True)
class Firing:
    """Whether units fire: bool [rows, n_units * levels], the columns of a unit (its thresholds) side by side."""

    train: Mask
    test: Mask
    levels: int = 1


@dataclass(frozen=True)
class Detection:
    """How well units detect concepts on the test rows.

    By concept: f1 [n_concepts] of the unit that is best on the training rows, train_f1 there, best [n_concepts]. By
    unit: own [n_units], the concept with the largest phi coefficient on the training rows, and of it own_f1, precision
    and base (the base rate), own_train_f1; monosemantic. A unit that fires on no test row has the precision NaN.
    """

    f1: Array
    train_f1: Array
    best: NDArray[np.intp]
    own: NDArray[np.intp]
    own_f1: Array
    own_train_f1: Array
    precision: Array
    base: Array
    monosemantic: Mask

    @property
    def enrichment(self) -> Array:
        """Precision above the base rate, of what there was to gain: 0 for a unit that fires at random, 1 if pure."""
        return np.asarray((self.precision - self.base) / (1 - self.base))

    def figures(self) -> dict[str, float]:
        """FIGURES: means over concepts (coverage, recall) and over units.

        coverage: mean F1 of the best unit of each concept (Karvonen et al. 2024, arXiv 2408.00113). recall: the share
        of concepts with F1 above 0.8. purity: mean precision of a unit for its own concept; enrichment: the same above
        base rate. monosemanticity: the share of monosemantic units. correct: the share with F1 above 0.8.
        """
        fires = ~np.isnan(self.precision)
        return {
            "coverage": float(self.f1.mean()),
            "recall": float((self.f1 > GOOD_F1).mean()),
            "purity": float(self.precision[fires].mean()) if fires.any() else 0.0,
            "enrichment": float(self.enrichment[fires].mean()) if fires.any() else 0.0,
            "monosemanticity": float(self.monosemantic.mean()),
            "correct": float((self.own_f1 > GOOD_F1).mean()),
        }


def confusion(fires: Mask, holds: Mask) -> tuple[Array, Array, Array]:
    """Rows on which both are true [n, m], those of fires [n, 1] and those of holds [1, m]."""
    both = fires.T.astype(np.float32) @ holds.astype(np.float32)  # counts below 2^24 are exact
    return both.astype(float), fires.sum(0, dtype=float)[:, None], holds.sum(0, dtype=float)[None]


def f1_of(fires: Mask, holds: Mask) -> Array:
    """F1 [n, m] of fires [rows, n] as a detector of holds [rows, m]; 0 where neither is ever true."""
    both, fired, held = confusion(fires, holds)
    return np.asarray(2 * both / np.maximum(fired + held, 1))


def phi_of(fires: Mask, holds: Mask) -> Array:
    """Phi (Matthews correlation) coefficients [n, m]; 0 where one of the two does not vary.

    Unlike F1 it does not favour the commoner concept.
    """
    both, fired, held = confusion(fires, holds)
    rows = len(fires)
    spread = fired * (rows - fired) * held * (rows - held)
    return np.asarray((rows * both - fired * held) / np.sqrt(np.where(spread > 0, spread, np.inf)))


def detect(firing: Firing, concepts: Concepts) -> Detection:
    """Choose by training rows the best unit of each concept (F1) and each unit's own concept (phi); score on test rows.

    A unit is monosemantic if it detects its own concept (F1 of 0.5 or more) and, on the rows where that is false, no
    other: what it does besides is noise, and not a second, unrelated concept (Elhage et al. 2022, arXiv 2209.10652,
    call a unit that responds to several unrelated features polysemantic).
    """
    train_f1, levels = f1_of(firing.train, concepts.train), firing.levels
    column = train_f1.argmax(axis=0)
    test_f1 = f1_of(firing.test, concepts.test)
    phi = phi_of(firing.train, concepts.train).reshape(-1, levels * len(concepts))
    choice = phi.argmax(axis=1)
    own = choice % len(concepts)
    chosen = np.arange(len(phi)) * levels + choice // len(concepts)
    both, fired, _ = confusion(firing.test[:, chosen], concepts.test)
    units = np.arange(len(chosen))
    fired = fired[:, 0]
    own_f1 = test_f1[chosen, own]
    return Detection(
        f1=test_f1[column, np.arange(len(concepts))],
        train_f1=train_f1[column, np.arange(len(concepts))],
        best=column // levels,
        own=own,
        own_f1=own_f1,
        own_train_f1=train_f1[chosen, own],
        precision=np.where(fired > 0, both[units, own] / np.maximum(fired, 1), np.nan),
        base=concepts.test.mean(axis=0)[own],
        monosemantic=_detects_one(firing.test[:, chosen], concepts.test, own, own_f1),
    )


def _detects_one(fires: Mask, holds: Mask, own: NDArray[np.intp], own_f1: Array) -> Mask:
    one = own_f1 >= DETECTS_F1
    for concept in np.unique(own[one]):
        units, left = np.flatnonzero(one & (own == concept)), ~holds[:, concept]
        others = f1_of(fires[left][:, units], np.delete(holds[left], concept, axis=1))
        one[units] = ~(others >= DETECTS_F1).any(axis=1)
    return one


@dataclass(frozen=True)
class Permuted:
    """What `draws` permutations of the sequences' states give: FIGURES as means, and of each unit the precision (mean)
    and p [n_units], the share of all enrichments, its own included, that are at least its own."""

    figures: dict[str, float]
    precision: Array
    p: Array


def permutation_null(
    firing: Firing, concepts: Concepts, found: Detection, draws: int, random: np.random.Generator
) -> Permuted:
    """Detection of permuted concepts, everything chosen anew: exact where sequences are exchangeable."""
    null = [detect(firing, concepts.permuted(random)) for _ in range(draws)]
    figures = [one.figures() for one in null]
    own = np.nan_to_num(found.enrichment, nan=-np.inf)
    beaten = sum((np.nan_to_num(one.enrichment, nan=-np.inf) >= own).astype(int) for one in null)
    precision = np.ma.masked_invalid([one.precision for one in null]).mean(axis=0)
    return Permuted(
        {name: float(np.mean([one[name] for one in figures])) for name in FIGURES},
        np.ma.filled(precision, np.nan).astype(float),
        np.asarray((1 + beaten) / (1 + draws), dtype=float),
    )


@dataclass(frozen=True)
class Probed:
    """A logistic probe of a concept on some columns: test F1, which test rows it says the concept holds on, and its
    direction [n_columns], in the units of the columns."""

    f1: float
    says: Mask
    direction: Array


def probe(train: Array, test: Array, holds_train: Mask, holds_test: Mask) -> Probed:
    """Logistic regression (L2, C = 1) on standardised columns, cut where F1 on the training rows is best.

    Only the fit is scikit-learn's, unchecked: what it does around one costs several times as much, for every concept.
    """
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[deviation < 10 * np.finfo(float).eps * np.maximum(np.abs(mean), 1)] = 1  # a column that is constant
    standard = (train - mean) / deviation
    wide = train.shape[1] > 32
    model = LogisticRegression(solver="lbfgs" if wide else "newton-cholesky", max_iter=300, tol=1e-3)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        model.fit(standard, holds_train)
    weights = model.coef_[0]
    cut = best_cut(standard @ weights, holds_train)
    says = (test - mean) / deviation @ weights >= cut
    f1 = 2 * float((says & holds_test).sum()) / max(float(says.sum() + holds_test.sum()), 1)
    return Probed(f1, says, weights / deviation)


def probed(probes: Sequence[Probed], concepts: Concepts) -> dict[str, float]:
    """FIGURES of probes, one a concept: each is a unit whose own concept that is."""
    says = np.column_stack([one.says for one in probes])
    f1, own = np.array([one.f1 for one in probes]), np.arange(len(probes))
    both, fired, _ = confusion(says, concepts.test)
    fired = fired[:, 0]
    return Detection(
        f1=f1,
        train_f1=f1,
        best=own,
        own=own,
        own_f1=f1,
        own_train_f1=f1,
        precision=np.where(fired > 0, both.diagonal() / np.maximum(fired, 1), np.nan),
        base=concepts.test.mean(axis=0),
        monosemantic=_detects_one(says, concepts.test, own, f1),
    ).figures()


def best_cut(scores: Array, holds: Mask) -> float:
    """The score [rows] from which on "it holds" has the best F1; of several the lowest."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    f1 = 2 * holds[order].cumsum() / (np.arange(1, len(scores) + 1) + holds.sum())
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))  # equal scores fall on one side
    return float(falling[ends[::-1][f1[ends][::-1].argmax()]])


@dataclass(frozen=True)
class Sparse:
    """Probes on the k best latents of each concept: f1 [n_concepts, MOST_SPLITS] for k = 1, 2, ..., and which latents
    [n_concepts, MOST_SPLITS]; splits [n_concepts]: how many latents the concept is split into."""

    f1: Array
    latents: NDArray[np.intp]
    splits: NDArray[np.intp]

    def best(self, k: int) -> Array:
        """F1 [n_concepts] of probes on the k best latents, or on all if there are fewer."""
        return np.asarray(self.f1[:, min(k, self.f1.shape[1]) - 1])


def sparse_probes(train: Array, test: Array, concepts: Concepts) -> Sparse:
    """Probes on the k latents whose mean activation differs most between the classes, in units of their deviation.

    k-sparse probing of Gurnee et al. 2023 (arXiv 2305.01610), latents [rows, n] chosen on the training rows. A concept
    is split into as many latents as raise F1 by more than 0.03 each (Chanin et al. 2024, arXiv 2409.14507, by the rule
    of SAEBench).
    """
    deviation = train.std(axis=0)
    scaled = train / np.where(deviation > 0, deviation, np.inf)
    most = min(MOST_SPLITS, train.shape[1])
    f1, latents = [], []
    for concept in range(len(concepts)):
        holds = concepts.train[:, concept]
        order = np.argsort(-np.abs(scaled[holds].mean(axis=0) - scaled[~holds].mean(axis=0)), kind="stable")[:most]
        f1.append([
            probe(train[:, order[:k]], test[:, order[:k]], holds, concepts.test[:, concept]).f1
            for k in range(1, most + 1)
        ])  # fmt: skip
        latents.append(order)
    scores = np.array(f1)
    return Sparse(scores, np.array(latents), np.array([_splits(row) for row in scores]))


def _splits(f1: Array) -> int:
    best, splits = f1[0], 1
    for score in f1[1:]:
        if score <= best + SPLIT_GAIN:
            break
        best, splits = score, splits + 1
    return splits
