"""The tracked summary by hand."""

import pytest
from scipy import stats

from reseed.benchmarks.summary import core_summary, interval, probing_summary

RECORDS = [
    {"task": "a", "dense": 0.9, "shuffled_max": 0.6, "counts": 1, "model_top_1": 0.7, "neurons_top_1": 0.8},
    {"task": "b", "dense": 0.5, "shuffled_max": 0.6, "counts": 0, "model_top_1": 0.5, "neurons_top_1": 0.5},
]


def test_only_tasks_that_count_enter_and_differences_are_paired_by_seed() -> None:
    trained = [{"a": {1: value}, "b": {1: 0.1}} for value in (0.6, 0.7, 0.8)]
    random = [{"a": {1: value}, "b": {1: 0.9}} for value in (0.5, 0.6, 0.7)]
    found = probing_summary(trained, random, RECORDS, 0.95, 1)
    assert found["tasks_counted"] == 1
    assert found["dense"] == 0.9
    top = found["top_1"]
    assert top["value"] == pytest.approx(0.7)
    low, high = stats.t.interval(0.95, 2, 0.7, stats.sem([0.6, 0.7, 0.8]))
    assert (top["low"], top["high"]) == pytest.approx((low, high))
    assert (top["random_sae"], top["model"], top["neurons"]) == pytest.approx((0.6, 0.7, 0.8))
    assert top["over_random_sae"] == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})
    assert found["tasks"][1]["sae_top_1"] == pytest.approx(0.1)


def test_without_a_task_that_counts_there_is_no_score() -> None:
    found = probing_summary([{"b": {1: 0.5}}] * 3, [{"b": {1: 0.5}}] * 3, RECORDS[1:], 0.95, 1)
    assert found["tasks_counted"] == 0
    assert set(found) == {"tasks_counted", "tasks"}


def test_core_keeps_the_random_sae_beside() -> None:
    names = ("ce_loss_score", "ce_loss_with_sae", "kl_div_score", "l0", "frac_alive", "explained_variance", "mse")
    scores = [
        dict.fromkeys(names, value) | {"ce_loss_without_sae": 2.0, "ce_loss_with_ablation": 5.0}
        for value in (1.0, 2.0, 3.0)
    ]
    found = core_summary(scores, scores[:1] * 3, 0.95, 1)
    assert found["l0"] == interval([1.0, 2.0, 3.0], 0.95, 1)
    assert found["random_sae"]["l0"] == 1.0
    assert (found["ce_loss_without_sae"], found["ce_loss_with_ablation"]) == (2.0, 5.0)


def test_seeds_that_trained_together_are_one_observation() -> None:
    figures = [0.1, 0.3, 0.5, 0.7, 0.2, 0.4]
    found = interval(figures, 0.95, 2)
    means = [0.2, 0.6, 0.3]
    low, high = stats.t.interval(0.95, 2, sum(means) / 3, stats.sem(means))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
