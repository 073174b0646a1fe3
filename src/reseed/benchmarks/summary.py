"""From scores per SAE to the tracked summary: means over seeds with intervals, always beside their controls."""

from __future__ import annotations

from typing import Any

import numpy as np

from reseed.benchmarks.arms import SAE_ARM
from reseed.stability.jackknife import Estimate, Groups, leave_one_out

Accuracies = dict[str, dict[int, float]]


def core_summary(
    trained: list[dict[str, float]], random: list[dict[str, float]], confidence: float, group_size: int
) -> dict[str, Any]:
    """Core figures [seeds] as means with intervals, with those of the random SAEs of the same seeds beside."""
    varying = ("ce_loss_score", "ce_loss_with_sae", "kl_div_score", "l0", "frac_alive", "explained_variance", "mse")
    same = ("ce_loss_without_sae", "ce_loss_with_ablation")
    return {
        **{name: interval([scores[name] for scores in trained], confidence, group_size) for name in varying},
        **{name: trained[0][name] for name in same},
        "random_sae": {name: float(np.mean([scores[name] for scores in random])) for name in varying},
    }


def probing_summary(
    trained: list[Accuracies],
    random: list[Accuracies],
    records: list[dict[str, Any]],
    confidence: float,
    group_size: int,
) -> dict[str, Any]:
    """Accuracies over the tasks that count: SAE, random SAE, model dimensions, neurons, dense probe.

    trained and random hold one table a seed (the same seeds). `tasks` has one record a task, counted or not. Without
    any task that counts, only their number is given.
    """
    counted = [record for record in records if record["counts"]]
    table = []
    for record in records:
        row = dict(record)
        for k in next(iter(trained[0].values())):
            row[f"sae_top_{k}"] = float(np.mean([seed[record["task"]][k] for seed in trained]))
            row[f"random_sae_top_{k}"] = float(np.mean([seed[record["task"]][k] for seed in random]))
        table.append(row)
    summary: dict[str, Any] = {"tasks_counted": len(counted), "tasks": table}
    if not counted:
        return summary
    summary["dense"] = float(np.mean([record["dense"] for record in counted]))
    for k in next(iter(trained[0].values())):
        of = [
            [float(np.mean([seed[record["task"]][k] for record in counted])) for seed in arm]
            for arm in (trained, random)
        ]
        summary[f"top_{k}"] = {
            **interval(of[0], confidence, group_size),
            "random_sae": float(np.mean(of[1])),
            "over_random_sae": interval([a - b for a, b in zip(*of, strict=True)], confidence, group_size),
            "model": float(np.mean([record[f"model_top_{k}"] for record in counted])),
            "neurons": float(np.mean([record[f"neurons_top_{k}"] for record in counted])),
        }
    return summary


def interval(figures: list[float], confidence: float, group_size: int) -> dict[str, float]:
    """Mean over seeds with its jackknife interval; the unit is a group of seeds that trained together.

    One unit alone has no interval.
    """
    groups = Groups(len(figures), group_size)
    if len(groups) < 2:
        return {"value": float(np.mean(figures))}
    estimate = leave_one_out(lambda chosen: float(np.mean([figures[i] for i in groups.members(chosen)])), len(groups))
    assert isinstance(estimate, Estimate)
    low, high = estimate.interval(confidence)
    return {"value": estimate.value, "low": low, "high": high}


def beside_controls(
    figures: dict[str, dict[int, dict[str, float]]], confidence: float, group_size: int
) -> dict[str, dict[str, Any]]:
    """Tracked figures from arm -> seed -> metric: the SAE's mean over seeds with its interval.

    Beside it the mean of each control and, over the seeds that both have, the interval of the difference.
    """
    ours = figures[SAE_ARM]
    summary: dict[str, dict[str, Any]] = {}
    for metric in sorted(set.intersection(*(set(found) for found in ours.values()))):
        row: dict[str, Any] = interval([found[metric] for found in ours.values()], confidence, group_size)
        for arm, of in figures.items():
            theirs = {seed: found[metric] for seed, found in of.items() if metric in found}
            if arm == SAE_ARM or not theirs:
                continue
            row[arm] = sum(theirs.values()) / len(theirs)
            apart = [ours[seed][metric] - theirs[seed] for seed in ours if seed in theirs]
            if len(apart) > 1 and len(apart) >= 2 * group_size:
                row[f"over_{arm}"] = interval(apart, confidence, group_size)
        summary[metric] = row
    return summary
