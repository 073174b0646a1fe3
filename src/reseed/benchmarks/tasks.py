"""Probe tasks of a subject: which rows belong to which class, and what can be read without any SAE."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import sae_bench.evals.sparse_probing.probe_training as probe_training
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import derive_seed, generator
from reseed.benchmarks.results import quiet_grad
from reseed.params import SaeBench
from reseed.stage import progress

Classes = dict[str, list[int]]


def balanced_classes(labels: Tensor, rows: int, key: str) -> Classes:
    """At most `rows` row numbers in all, equally many a class (SAEBench wants that), drawn by a generator of `key`.

    labels [n]; rows with a negative label take no part. Raises ReseedError if fewer than two classes have rows.
    """
    names = labels[labels >= 0].unique().tolist()
    members = {str(name): (labels == name).nonzero()[:, 0] for name in names}
    if len(members) < 2:
        raise ReseedError(f"probe task {key}: found {len(members)} classes, allowed: at least 2")
    size = min(rows // len(members), *(len(found) for found in members.values()))
    if size < 1:
        raise ReseedError(
            f"probe task {key}: found {rows} rows, allowed: at least one for each of {len(members)} classes"
        )
    random = generator("probe rows", key)
    return {
        name: found[torch.randperm(len(found), generator=random)[:size]].sort().values.tolist()
        for name, found in members.items()
    }


def dense_accuracy(train: dict[str, Tensor], test: dict[str, Tensor]) -> float:
    """Test accuracy of a logistic regression on all dimensions, the mean over one-against-rest classes.

    SAEBench's own dense probe is not used, because it picks its best epoch on the test rows.
    """
    return _accuracy(train, test, None)


def top_k_accuracy(train: dict[str, Tensor], test: dict[str, Tensor], k: int) -> float:
    """Test accuracy of SAEBench's k-sparse probe: the k dimensions of largest mean difference on the training rows.

    Raises ReseedError if there are fewer than k dimensions.
    """
    dimensions = next(iter(train.values())).shape[1]
    if k > dimensions:
        raise ReseedError(f"params.yaml: saebench.k_values: found {k}, allowed: at most the {dimensions} dimensions")
    return _accuracy(train, test, k)


def baselines(
    tasks: dict[str, dict[str, Classes]],
    model: dict[str, Tensor],
    neurons: dict[str, Tensor],
    options: SaeBench,
) -> list[dict[str, Any]]:
    """One record a task: what the model's own dimensions and its MLP neurons give, and whether the task counts.

    tasks: name -> split -> class -> rows; model and neurons: split -> activations. A task counts if the dense probe
    beats the best of `options.shuffles` probes trained and tested on shuffled labels.
    """
    records = []
    with progress(len(tasks), "probe baselines", "task") as bar:
        for name, rows in tasks.items():
            train, test = gather(model["train"], rows["train"]), gather(model["test"], rows["test"])
            dense = dense_accuracy(train, test)
            random = generator("shuffled labels", name)
            shuffled = [
                dense_accuracy(_shuffle(train, random), _shuffle(test, random)) for _ in range(options.shuffles)
            ]
            record = {"task": name, "dense": dense, "shuffled_max": max(shuffled), "counts": int(dense > max(shuffled))}
            raw = gather(neurons["train"], rows["train"]), gather(neurons["test"], rows["test"])
            for k in options.k_values:
                record[f"model_top_{k}"] = top_k_accuracy(train, test, k)
                record[f"neurons_top_{k}"] = top_k_accuracy(*raw, k)
            records.append(record)
            bar.update()
    return records


def gather(activations: Tensor, classes: Classes) -> dict[str, Tensor]:
    """class -> activations [rows of the class, d]."""
    return {name: activations[rows] for name, rows in classes.items()}


def probe_scale(train: Tensor) -> float:
    """The factor that brings activations to a mean square norm of d_in about their mean.

    SAEBench's probes are L2-regularised at C = 1 without any scaling, so that a model of small activations would be
    penalised for its units.
    """
    return float((train.shape[1] / (train - train.mean(0)).square().sum(1).mean()).sqrt())


def _accuracy(train: dict[str, Tensor], test: dict[str, Tensor], k: int | None) -> float:
    # SAEBench draws the negative class with the global generator, and prints a line a probe
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()), quiet_grad():
        torch.manual_seed(derive_seed("probe"))
        _, accuracies = probe_training.train_probe_on_activations(train, test, select_top_k=k)
    return float(sum(accuracies.values()) / len(accuracies))


def _shuffle(classes: dict[str, Tensor], random: torch.Generator) -> dict[str, Tensor]:
    rows = torch.cat(list(classes.values()))
    rows = rows[torch.randperm(len(rows), generator=random)]
    return dict(zip(classes, rows.split([len(found) for found in classes.values()]), strict=True))
