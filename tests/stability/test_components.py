"""Planted effects of initialisation and order come back, and what the trainer is told to hold fixed is fixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import write_json
from reseed.params import Convergence, SaeTraining, load_subject
from reseed.saes.train import train_saes
from reseed.stability.components import (
    COMPONENTS,
    KINDS,
    CrossedEstimate,
    check_models,
    components,
    cross,
    factorial_summary,
    factors,
    mean_agreement,
    model_variance,
    over_models,
)
from reseed.stability.dictionaries import Dictionary, SeedSet
from reseed.stability.retrained import seed_set_of
from tests.conftest import train_of, variant_of
from tests.saes.builders import shortened
from tests.stability.builders import dictionary, seed_set, stability_options

OPTIONS = stability_options()
ROOT = Path(__file__).parents[2]
VARIANT = variant_of(architecture="topk", d_sae=24, k=2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread(_deterministic: None) -> None:
    """The data here are too small for a second thread."""
    torch.set_num_threads(1)


def two_way(n: int, init: float, order: float, noise: float, random: np.random.Generator, d: int = 20) -> np.ndarray:
    """Cells y = a(init) + b(order) + e [n, n, d], each part of this variance summed over the d coordinates."""
    parts = [random.standard_normal(shape) for shape in ((n, 1, d), (1, n, d), (n, n, d))]
    return np.asarray(sum(np.sqrt(v / d) * part for v, part in zip((init, order, noise), parts, strict=True)))


def agreements(cells: np.ndarray) -> np.ndarray:
    """1 - half the squared distance of every two cells [n, n, n, n]."""
    return 1 - 0.5 * ((cells[:, :, None, None] - cells[None, None]) ** 2).sum(-1)


def test_the_components_are_those_of_the_analysis_of_variance() -> None:
    """For one coordinate: the estimators from the mean squares of a balanced two-way table without replication."""
    inits, orders = 4, 5
    y = np.random.default_rng(0).standard_normal((inits, orders)) + np.arange(4)[:, None] + 2 * np.arange(5)[None, :]
    rows, columns, grand = y.mean(axis=1, keepdims=True), y.mean(axis=0, keepdims=True), y.mean()
    ms_init = orders * ((rows - grand) ** 2).sum() / (inits - 1)
    ms_order = inits * ((columns - grand) ** 2).sum() / (orders - 1)
    ms_error = ((y - rows - columns + grand) ** 2).sum() / ((inits - 1) * (orders - 1))
    found = components(agreements(y[..., None]), range(inits), range(orders))
    assert found == pytest.approx(
        {"init": (ms_init - ms_error) / orders, "order": (ms_order - ms_error) / inits, "interaction": ms_error}
    )


@pytest.mark.parametrize("variances", [(1.0, 1.0, 0.1), (0.1, 0.1, 1.0)])
def test_intervals_cover_what_was_planted(variances: tuple[float, float, float]) -> None:
    """At least the nominal 0.95: each factor's jackknife counts the noise of single cells, so it errs on the wide side.

    Were the 16 cells units, the interval would cover 0.7 of the agreement or less where a factor matters.
    """
    random, truth, replicates = np.random.default_rng(0), dict(zip(COMPONENTS, variances, strict=True)), 150
    covered, of_cells = dict.fromkeys(COMPONENTS, 0), 0
    for _ in range(replicates):
        table = agreements(two_way(4, *variances, random))
        found = factors(table, np.zeros_like(table))
        for name, value in truth.items():
            low, high = found.components[name].interval(0.95)
            covered[name] += low <= value <= high
        others = [table[i, o][np.arange(4) != i][:, np.arange(4) != o].mean() for i in range(4) for o in range(4)]
        low, high = stats.t.interval(0.95, 15, np.mean(others), stats.sem(others))
        of_cells += low <= 1 - sum(variances) <= high
    assert all(count / replicates >= 0.94 for count in covered.values())
    if variances[0] > variances[2]:
        assert of_cells / replicates < 0.75


def test_shares_add_up_and_a_null_leaves_them_alone() -> None:
    table = agreements(two_way(4, 0.3, 0.1, 0.2, np.random.default_rng(1)))
    null = np.full_like(table, 0.2)
    found = factors(table, null)
    assert sum(share.value for share in found.shares.values()) == pytest.approx(1)
    assert found.nulls == pytest.approx(dict.fromkeys(KINDS, 0.2))
    for kind in KINDS:
        assert found.kappa[kind].value == pytest.approx((found.agreement[kind].value - 0.2) / 0.8)
    corrected = {kind: 1 - found.kappa[kind].value for kind in KINDS}
    init = corrected["both_differ"] - corrected["order_differs"]
    assert init / corrected["both_differ"] == pytest.approx(found.shares["init"].value)
    assert factors(np.ones_like(table), null).shares == {}  # no deficit to share out
    assert factors(table, np.full_like(table, 0.95)).kappa == {}


def crossed_sets(init: float, order: float, noise: float, converged: bool = True) -> list[SeedSet]:
    """Three orders of three initialisations: orthonormal parts, common, of the init, the order and the cell, squared.

    Every latent has dimensions of its own, so that no other is its match: all cosines are known exactly.
    """
    n, latents = 3, 12
    count = 1 + n + n + n * n
    parts = np.eye(latents * count).reshape(latents, count, -1)
    weights = np.sqrt((1 - init - order - noise, init, order, noise))
    random = np.random.default_rng(3)

    def cell(i: int, o: int) -> Dictionary:
        chosen = (0, 1 + i, 1 + n + o, 1 + n + n + n * i + o)
        return dictionary(sum(weight * parts[:, at] for weight, at in zip(weights, chosen, strict=True)))

    return [seed_set([cell(i, o) for i in range(n)], random, converged) for o in range(n)]


def test_dictionaries_with_planted_parts_have_these_components() -> None:
    found = cross(crossed_sets(0.3, 0.1, 0.2), OPTIONS, "planted").factors["pw_mcc"]
    assert {kind: one.value for kind, one in found.agreement.items()} == pytest.approx(
        {"init_differs": 0.5, "order_differs": 0.7, "both_differ": 0.4}
    )
    assert {name: one.value for name, one in found.components.items()} == pytest.approx(
        {"init": 0.3, "order": 0.1, "interaction": 0.2}
    )
    assert found.shares["init"].value == pytest.approx(0.5)
    assert found.agreement["both_differ"].error == pytest.approx(0, abs=1e-9)
    assert 0 < found.nulls["both_differ"] < 0.4
    assert found.kappa["both_differ"].value < found.agreement["both_differ"].value


def test_what_is_no_crossed_design_is_refused() -> None:
    sets = crossed_sets(0.3, 0.1, 0.2)
    with pytest.raises(ReseedError, match=r"planted: found 2 orders of the seeds .* allowed: a square"):
        cross(sets[:2], OPTIONS, "planted")
    random = np.random.default_rng(0)
    coupled = [seed_set(one.final(), random, group_size=3) for one in sets]
    with pytest.raises(ReseedError, match="planted: found seeds that an objective couples"):
        cross(coupled, OPTIONS, "planted")


def test_the_model_is_the_unit_over_models(tmp_path: Path) -> None:
    figures = (0.5, 0.7, 0.9)
    within = [CrossedEstimate(value, (value, value, value - 0.3), (value,) * 3) for value in figures]
    assert over_models(within).interval(0.95) == pytest.approx(stats.t.interval(0.95, 2, 0.7, 0.2 / np.sqrt(3)))
    found = model_variance(within, 0.95)
    assert found.between == pytest.approx(0.04)
    # the 0.025 and 0.975 points of chi-squared with 2 degrees of freedom are 0.0506 and 7.378
    assert (found.low, found.high) == pytest.approx((0.08 / 7.378, 0.08 / 0.0506), rel=1e-2)
    assert found.within == pytest.approx(0.04)  # jackknife of (0, 0, -0.3): 2/3 of 0.06
    assert found.component == pytest.approx(0)
    models = {
        name: cross(crossed_sets(*parts), OPTIONS, name)
        for name, parts in {"a": (0.3, 0.1, 0.2), "b": (0.3, 0.1, 0.3), "c": (0.3, 0.1, 0.1)}.items()
    }
    # of so few latents the null of each snapshot is noisy, and with it the kappa that must have settled
    tolerant = OPTIONS.model_copy(update={"plateau_tolerance": 0.5})
    content = factorial_summary(models, tolerant)
    write_json(tmp_path / "factorial.json", content)
    over = content["pw_mcc"]["over_models"]
    assert over["deficit"]["interaction"]["value"] == pytest.approx(0.2)
    assert over["agreement"]["both_differ"]["model_seed"]["component"] == pytest.approx(0.01)  # of 0.4, 0.3 and 0.5
    assert content["pw_mcc"]["converged"] == 1
    models["c"] = cross(crossed_sets(0.3, 0.1, 0.1, converged=False), OPTIONS, "c")
    assert factorial_summary(models, tolerant)["pw_mcc"]["converged"] == 0


def trained(order: int, activations: Activations, training: SaeTraining, tolerance: Convergence) -> SeedSet:
    train = train_of((0, 1, 2), tolerance, vary="init", held=order)
    return seed_set_of(train_saes(VARIANT, training, train, activations, CPU), VARIANT, activations)


def test_the_trainer_crosses_what_it_is_told_to(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    training = shortened(sae_training, 80)
    sets = [trained(order, activations, training, tolerance) for order in (0, 1, 2)]
    for other in sets[1:]:  # the same initialisation in every order, another for every seed
        for a, b in zip(sets[0].initial(), other.initial(), strict=True):
            np.testing.assert_array_equal(a.decoder, b.decoder)
    starts = [one.decoder for one in sets[0].initial()]
    assert not np.allclose(starts[0], starts[1])
    differ = cross(sets, OPTIONS, "crossed").factors["pw_mcc"].agreement
    assert all(one.value < 0.9999 for one in differ.values())
    again = trained(0, activations, training, tolerance)
    fixed = cross([sets[0], again, sets[0]], OPTIONS, "fixed").factors["pw_mcc"]
    assert fixed.agreement["order_differs"].value == pytest.approx(1, abs=1e-12)
    assert fixed.agreement["both_differ"].value == pytest.approx(differ["init_differs"].value, abs=0.1)
    assert fixed.shares["init"].value == pytest.approx(1, abs=1e-9)
    assert fixed.shares["order"].value == pytest.approx(0, abs=1e-9)


def test_models_that_differ_in_more_than_their_seed_are_refused() -> None:
    subject = load_subject("modular", ROOT / "subjects")

    def seeded(seed: int, **change: object) -> object:
        training = subject.model.training.model_copy(update={"seed": seed} | change)
        return subject.model_copy(update={"model": subject.model.model_copy(update={"training": training})})

    check_models({"a": seeded(0), "b": seeded(1), "c": seeded(2)})  # type: ignore[dict-item]
    with pytest.raises(ReseedError, match=r"found \{'a': 0, 'b': 1, 'c': 1\}, allowed: three subjects, each its own"):
        check_models({"a": seeded(0), "b": seeded(1), "c": seeded(1)})  # type: ignore[dict-item]
    with pytest.raises(
        ReseedError, match=r"subjects/c.yaml: found another task, model or training than subjects/a.yaml"
    ):
        check_models({"a": seeded(0), "b": seeded(1), "c": seeded(2, lr=0.5)})  # type: ignore[dict-item]


def test_means_are_over_the_pairs_of_each_kind() -> None:
    """By hand on a 2 x 2 design: pairs that share the init 0.8, the order 0.6, neither 0.1."""
    table = np.full((2, 2, 2, 2), np.nan)
    for i, o, j, q in np.ndindex(2, 2, 2, 2):
        if (i, o) != (j, q):
            table[i, o, j, q] = 0.8 if i == j else 0.6 if o == q else 0.1
    assert mean_agreement(table, range(2), range(2)) == pytest.approx(
        {"init_differs": 0.6, "order_differs": 0.8, "both_differ": 0.1}
    )
    assert components(table, range(2), range(2)) == pytest.approx({"init": 0.7, "order": 0.5, "interaction": -0.3})
