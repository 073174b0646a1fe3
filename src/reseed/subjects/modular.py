"""Addition modulo p: the data, their split, the model's key frequencies, and what a probe may be asked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from reseed.artifacts import generator, sha256, write_json
from reseed.params import SPLITS, ModularAddition

KEY_FREQUENCY_SHARE = 0.05


def generate(data: ModularAddition) -> dict[str, list[tuple[int, int, int]]]:
    """All ordered pairs (a, b, (a + b) mod p), split by unordered pair {a, b} and sorted within a split.

    A pair and its mirror always stand in the same split: the sum is symmetric, so a held-out (a, b) whose mirror
    was trained on is not held out.
    """
    unordered = [(a, b) for a in range(data.p) for b in range(a, data.p)]
    order = torch.randperm(len(unordered), generator=generator("modular_addition", data.seed)).tolist()
    first = round(data.train_fraction * len(unordered))
    second = round((data.train_fraction + data.validation_fraction) * len(unordered))
    splits = {}
    for name, chosen in zip(SPLITS, (order[:first], order[first:second], order[second:]), strict=True):
        rows = {row for i in chosen for row in (unordered[i], unordered[i][::-1])}
        splits[name] = sorted((a, b, (a + b) % data.p) for a, b in rows)
    return splits


def write_raw(data: ModularAddition, path: Path) -> None:
    """Write one JSON-lines file a split and a manifest (source, licence, rows, sha256) into the directory `path`."""
    path.mkdir(parents=True)
    files = {}
    for split, rows in generate(data).items():
        file = path / f"{split}.jsonl"
        file.write_text("".join(json.dumps({"a": a, "b": b, "answer": c}) + "\n" for a, b, c in rows))
        files[file.name] = {"rows": len(rows), "sha256": sha256(file)}
    write_json(
        path / "manifest.json",
        {
            "source": "generated: addition modulo p over all ordered pairs",
            "licence": "MIT",
            "parameters": data.model_dump(),
            "files": files,
        },
    )


def key_frequencies(activations: Tensor, answers: Tensor, p: int) -> dict[int, float]:
    """The frequencies by which the activations encode the answer, and the share of variance that each carries.

    activations [rows, d_in] at the predicting position, answers [rows]. The mean activation of each answer is Fourier
    transformed over the answer (Nanda et al. 2023, section 4); a frequency is key if it carries at least 5 % of the
    power without the constant. Returns {frequency: share}, largest share first.
    """
    sums = torch.zeros(p, activations.shape[1], dtype=torch.float64).index_add_(0, answers, activations.double())
    means = sums / torch.bincount(answers, minlength=p).clamp(min=1).unsqueeze(1)
    power = torch.fft.rfft(means, dim=0).abs().square().sum(1)[1:]
    share = power / power.sum()
    order = share.argsort(descending=True).tolist()
    return {i + 1: share[i].item() for i in order if share[i] >= KEY_FREQUENCY_SHARE}


def probe_tasks(operands: Tensor, p: int, frequencies: list[int]) -> dict[str, Tensor]:
    """Class labels [rows] of every probe task; -1 marks a row that the task leaves out.

    operands [rows, 2] holds a and b. Tasks: the sign of the cosine and of the sine of the answer's phase at each key
    frequency; whether a + b carries over p; the answer modulo 2, 3 and 5; whether a < b (rows with a = b left out).
    """
    a, b = operands[:, 0], operands[:, 1]
    answer = (a + b) % p
    tasks = {}
    for frequency in frequencies:
        phase = 2 * math.pi * frequency * answer.double() / p
        tasks[f"phase_cos_{frequency}"] = (phase.cos() > 0).long()
        tasks[f"phase_sin_{frequency}"] = (phase.sin() > 0).long()
    tasks["carry"] = (a + b >= p).long()
    for modulus in (2, 3, 5):
        tasks[f"answer_mod_{modulus}"] = answer % modulus
    tasks["a_less_than_b"] = torch.where(a == b, -1, (a < b).long())
    return tasks
