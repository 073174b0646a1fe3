"""The detector of what is stable and wrong: on figures whose answer is known, and on faults that are really planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from scipy.stats import beta

from reseed import ReseedError
from reseed.matching import assign, cosines
from reseed.params import Convergence, Rows, SaeTraining, Superposition
from reseed.saes.train import train_saes
from reseed.stability.detector import (
    SET_SIGNALS,
    Detector,
    SetFigures,
    detection,
    figures_of_planted,
    figures_of_summary,
    judge_set,
    set_signals,
)
from reseed.stability.planted import (
    HONEST,
    LEAK,
    PLANTED,
    WRONG_L0,
    Recipe,
    World,
    activations_of,
    judged,
    leak,
    moved,
    plant,
)
from reseed.stability.reliability import LatentSet
from reseed.subjects.superposition import draw
from tests.conftest import train_of, variant_of
from tests.stability.builders import stability_options


def found(family: str, control: str, overlap: float, correct: float, i: int = 0) -> SetFigures:
    signals = set_signals(0.95, overlap, 0.9 - 0.01 * i, 0.9 + 0.01 * i)
    return SetFigures(family, f"{family}/{control}/{i}", control, signals, correct, 0.9)


def world_of(family: str, overlap: float, n: int = 4) -> list[SetFigures]:
    """Honest sets that overlap as random directions do, and as many pulled ones that overlap more or less."""
    honest = [found(family, HONEST, 1 + 0.1 * i, 0.95, i) for i in range(n)]
    return honest + [found(family, "pulled", overlap + 0.1 * i, 0.1, i) for i in range(n)]


def test_what_differs_is_detected_in_a_family_that_was_never_seen_and_what_does_not_is_passed() -> None:
    seen = detection([one for family in "abc" for one in world_of(family, 4.0)], 0.8)
    bound = 0.025 ** (1 / 12)  # Clopper and Pearson: the chance of 12 of 12 alarms is 0.025 at this rate
    every = {"sets": 12, "alarms": 12, "rate": pytest.approx({"value": 1, "low": bound, "high": 1})}
    none = {"sets": 12, "alarms": 0, "rate": pytest.approx({"value": 0, "low": 0, "high": 1 - bound})}
    assert seen["detected"] == every | {"passed": 0, "idle": 0}
    assert seen["false_alarms"] == none
    assert seen["controls"]["pulled"]["alarms"] == 12
    assert seen["controls"]["label_leak"] == {"sets": 0, "alarms": 0}
    unseen = detection([one for family in "abc" for one in world_of(family, 1.0)], 0.8)
    assert unseen["detected"] == none | {"passed": 12, "idle": 0}
    unstable = detection([one for family in "abc" for one in world_of(family, 1.0)], 0.95)
    assert unstable["detected"]["passed"] == 0
    roomless = [replace(one, kappa=None) for family in "abc" for one in world_of(family, 1.0)]
    assert detection(roomless, 0.8)["detected"] == unstable["detected"]


def test_a_family_whose_honest_sets_look_planted_gives_false_alarms_and_they_are_counted() -> None:
    odd = [found("odd", HONEST, 6 + i, 0.95, i) for i in range(3)]
    counted = detection([*(one for family in "abc" for one in world_of(family, 4.0)), *odd], 0.8)
    low, high = beta.ppf(0.025, 3, 13), beta.ppf(0.975, 4, 12)
    assert counted["false_alarms"] == {
        "sets": 15, "alarms": 3, "rate": pytest.approx({"value": 0.2, "low": low, "high": high})
    }  # fmt: skip
    assert [name for name, one in counted["sets"].items() if one["alarm"] and one["control"] == HONEST] == [
        one.name for one in odd
    ]


def test_plants_that_left_the_latents_right_and_what_is_wrong_by_itself_are_counted_apart() -> None:
    extra = [found("a", "shared_reference", 4, 0.97), found("a", WRONG_L0, 4, 0.2), found("b", HONEST, 4, 0.3, 9)]
    counted = detection([*(one for family in "abc" for one in world_of(family, 4.0)), *extra], 0.8)
    assert {name: counted["detected"][name] for name in ("sets", "alarms", "passed", "idle")} == {
        "sets": 12, "alarms": 12, "passed": 0, "idle": 1
    }  # fmt: skip
    assert counted["false_alarms"]["sets"] == 12
    wrong = counted["wrong_without_a_plant"]
    assert (wrong["sets"], wrong["alarms"]) == (2, 2)
    assert wrong["rate"] == pytest.approx({"value": 1, "low": 0.025**0.5, "high": 1})


def test_the_threshold_lets_every_honest_training_set_pass() -> None:
    sets = [one for family in "ab" for one in world_of(family, 1.25)]  # the two kinds overlap
    detector = Detector.fit(sets)
    assert not any(detector.alarms(one) for one in sets if one.honest)
    honest = pd.DataFrame([one.signals for one in sets if one.honest])
    assert detector.threshold == detector.model.probability(honest).min()


def test_the_shipped_detector_judges_as_the_fitted_one_and_shows_its_rates() -> None:
    sets = [one for family in "abc" for one in world_of(family, 4.0)]
    made, detector = detection(sets, 0.8), Detector.fit(sets)
    for one, alarm in ((sets[0], 0), (sets[-1], 1)):
        shown = judge_set(made, one)
        assert shown["alarm"] == alarm
        assert shown["p_honest"] == pytest.approx(detector.model.probability(pd.DataFrame([one.signals]))[0])
        assert (shown["detection_rate"]["value"], shown["false_alarm_rate"]["value"]) == (1, 0)
    model = made["model"]
    signals = model["signals"]
    z = sum(s["coefficient"] * (sets[0].signals[name] - s["mean"]) / s["scale"] for name, s in signals.items())
    assert judge_set(made, sets[0])["p_honest"] == pytest.approx(expit(model["intercept"] + z))


def test_figures_are_read_from_summaries() -> None:
    table = pd.DataFrame({"encoder_decoder_cosine": [0.5, 0.7], "correct": [1, 0]})
    trained: dict[str, Any] = {"pw_mcc": {"value": 0.6, "kappa": 0.5}, "c_dec": {"value": 0.2, "null": 0.1}}
    trained |= {"explained_variance": {"value": 0.8}}
    one = figures_of_summary({"trained": trained}, LatentSet("f", "n", table))
    assert one is not None
    assert [one.signals[name] for name in SET_SIGNALS] == pytest.approx([0.6, np.log(2), 0.2, 0.6])
    assert (one.control, one.correct, one.kappa) == (HONEST, 0.5, 0.5)
    trained["pw_mcc"].pop("kappa")
    without = figures_of_summary({"trained": trained}, LatentSet("f", "n", table))
    assert without == replace(one, kappa=None)
    del trained["c_dec"]
    assert figures_of_summary({"trained": trained}, LatentSet("f", "n", table)) is None
    planted = {
        "pw_mcc": 0.6, "c_dec": 0.2, "isotropic_c_dec": 0.1, "explained_variance": 0.8, "encoder_decoder_cosine": 0.6,
        "correct": 0.1,
    }  # fmt: skip
    (read,) = figures_of_planted({"pulled": planted}, "f", "s/v")
    assert read.signals == pytest.approx(one.signals)
    assert (read.name, read.planted, read.honest) == ("s/v/pulled", True, False)
    with pytest.raises(ReseedError, match=r"found planted sets of the families \['f'\], allowed: 2 families or more"):
        detection([read, one], 0.8)


DATA = Superposition(
    generator="superposition", n_features=16, d_in=24, l0=4, orthogonal=True, correlation=0.3, groups=4,
    magnitude_std=0.2, noise_std=0.05, rows=Rows(train=6000, validation=300, test=300), seed=0,
)  # fmt: skip
TRAINING = SaeTraining(
    batch_size=128, lr=0.01, warm_up_steps=20, max_steps=500, decay_fraction=0.25, check_every=100, min_steps=400,
    aux_k=4, aux_coefficient=1 / 32, dead_after_steps=100,
)  # fmt: skip
TOLERANCE = Convergence(loss_tolerance=0.05, loss_rise_tolerance=0.1, cosine_tolerance=0.05, max_cosine_to_init=0.9)
SEEDS = (0, 1, 2)


def recipe(k: int = 4) -> Recipe:
    variant = variant_of(architecture="topk", d_sae=16, k=k)
    return Recipe(variant, TRAINING, train_of(SEEDS, TOLERANCE), torch.device("cpu"))


@pytest.fixture(scope="module")
def world() -> World:
    drawn = draw(DATA)
    return World(drawn.directions, drawn.codes, drawn.rows)


def test_every_control_is_what_it_is_said_to_be(world: World, tmp_path: Path) -> None:
    directions = world.directions.double().numpy()
    controls = plant(world, recipe(), tmp_path)
    assert set(controls) == {HONEST, WRONG_L0, *PLANTED}
    assert all(len(one.seeds) == len(SEEDS) and one.group_size == 1 for one in controls.values())
    content = judged(controls, directions, stability_options(2), "w")
    print(content)
    assert content[HONEST]["correct"] > 0.85
    assert content[HONEST]["explained_variance"] > content[WRONG_L0]["explained_variance"] + 0.2
    # agreement that was made, and of what: of seeds that had it not, and it is not right
    for control, agreed in (("pulled", 0.9), ("shared_reference", 0.99)):
        assert content[control]["pw_mcc"] > max(agreed, content[WRONG_L0]["pw_mcc"] + 0.1)
        assert content[control]["correct"] < 0.6
        assert content[control]["c_dec"] > 2 * content[HONEST]["c_dec"]
    assert content["label_leak"]["correct"] < 0.5
    assert content["label_leak"]["pw_mcc"] > 0.7


def test_a_moved_sae_stands_at_the_reference_with_its_own_norms_and_bias(world: World, tmp_path: Path) -> None:
    activations = activations_of(dict(world.rows), tmp_path / "rows")
    made = recipe()
    sae, reference = train_saes(made.variant, TRAINING, train_of((0, 1), TOLERANCE), activations, made.device)
    after = moved(sae, reference)
    similarity = cosines(after.weights["W_dec"].double().numpy(), reference.weights["W_dec"].double().numpy())
    assert similarity[assign(similarity)].min() > 0.99
    assert after.weights["W_enc"].norm(dim=0).numpy() == pytest.approx(sae.weights["W_enc"].norm(dim=0).numpy())
    assert after.weights["b_enc"] is sae.weights["b_enc"]
    assert after.snapshots[0] is sae.snapshots[0]
    last = max(sae.snapshots)
    assert torch.allclose(after.snapshots[last][0], after.weights["W_dec"], atol=1e-5)


def test_leaked_rows_hold_the_label_of_their_strongest_feature(world: World) -> None:
    added = {split: leak(world)[split] - rows for split, rows in world.rows.items()}
    labels = world.codes["train"].argmax(1)
    codes = world.codes["train"]
    for label in (0, 7):
        rows = added["train"][labels == label]
        assert torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-5)
        assert torch.allclose(added["test"][world.codes["test"].argmax(1) == label][0], rows[0], atol=1e-5)
        assert rows[0].norm().item() == pytest.approx(LEAK * codes[codes > 0].mean().item(), rel=1e-4)


def test_a_k_whose_third_is_none_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match="planted: found a variant of k 2, allowed: a k of 3 or more"):
        plant(world, recipe(k=2), tmp_path)
