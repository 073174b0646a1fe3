"""sae-probes' protocol over many SAEs: what a probe on k latents says, beside a dense probe and what must say less.

Splits, choice of latents (by the difference of the class means) and probes (L1-regularised logistic regression, its
strength by validation AUC) are the package's own functions. What is left out is how it stores results: by names that
know neither the SAE nor, where class shares are varied, agree between SAE and baseline.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from sae_probes.run_sae_evals import get_sorted_indices, mean_act_normalization
from sae_probes.utils_data import (
    get_class_imbalance,
    get_classimabalance_num_train,
    get_train_test_indices,
    get_training_sizes,
)
from sae_probes.utils_training import find_best_reg
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from reseed import ReseedError, installed_version
from reseed.artifacts import read_tensors, sha256, writing
from reseed.benchmarks.arms import SAE_ARM
from reseed.benchmarks.prompts import read_prompts
from reseed.benchmarks.summary import interval
from reseed.params import SaeProbes
from reseed.stage import progress

ROWS = 5000
"""The package takes at most so many prompts of a data set."""
TEST_ROWS = 100
"""It leaves at least so many of them for the test."""
TRAIN_ROWS = 1024
RECORDS = "records.parquet"
METRICS = ("f1", "acc", "auc")
DENSE, RANDOM_DENSE = "dense", "random_model_dense"
PENALTIES = {DENSE: "l2", "sparse": "l1"}
BASES = ("pca", "neurons")
CONTROLS = ("random_sae", "frozen_sae", "random_model_sae", *BASES)


@dataclass(frozen=True)
class Arm:
    """Something whose features are probed: an SAE (`weights` a SAELens folder), a basis [d_in, n] (a file), or neither.

    Without `weights` the features are the model's dimensions themselves; `dense` probes all of them at once.
    """

    name: str
    seed: int
    prompts: Path
    weights: Path | None = None

    @property
    def sha256(self) -> str:
        """Of the weights."""
        if self.weights is None:
            return ""
        return sha256(self.weights / "sae_weights.safetensors" if self.weights.is_dir() else self.weights)


@dataclass(frozen=True)
class Split:
    """Training and test rows of a data set, and which split they are: `condition` is the number of training rows in
    the setting scarcity, the share of the positive class in the setting imbalance, else 0."""

    setting: str
    seed: int
    condition: float
    train: NDArray[Any]
    test: NDArray[Any]


def splits_of(name: str, classes: NDArray[Any], options: SaeProbes) -> Iterator[Split]:
    """The package's splits of a data set, for every setting and seed asked for."""
    classes = classes[:ROWS]
    n = len(classes)
    for setting in options.settings:
        for seed in options.splits:
            if setting == "normal":
                drawn = [(0.0, min(n - TEST_ROWS, TRAIN_ROWS), 0.5, None)]
            elif setting == "scarcity":
                drawn = [(float(size), size, 0.5, None) for size in get_training_sizes() if size <= n - TEST_ROWS]
            else:
                sizes = get_classimabalance_num_train(name)
                # 0.1 + 0.2 style digits, by which the package's own files fail to meet, are rounded off
                drawn = [(round(share, 2), sizes[0], share, sizes[1]) for share in get_class_imbalance()]
            for condition, size, share, test_size in drawn:
                left = n - size - 1 if test_size is None else test_size
                train, test = get_train_test_indices(classes, size, left, share, seed)
                yield Split(setting, seed, condition, train, test)


def features_of(arm: Arm, x: Tensor) -> Tensor:
    """The features [rows, n] of activations x [rows, d_in]."""
    if arm.weights is None:
        return x
    if arm.weights.is_dir():
        with torch.no_grad():
            return torch.cat([_sae(arm.weights).encode(part) for part in x.split(1024)])
    basis = _tensors(arm.weights)
    return (x - basis["centre"]) @ basis["directions"]


@cache
def _sae(folder: Path) -> SAE[Any]:
    return SAE.load_from_disk(folder, device="cpu").requires_grad_(False)


@cache
def _tensors(file: Path) -> dict[str, Tensor]:
    return read_tensors(file)


def probe(
    features: Tensor, classes: Tensor, split: Split, ks: Sequence[int], kind: str = "sparse"
) -> list[dict[str, float]]:
    """Test F1 (weighted), accuracy, AUC and validation AUC of the package's probe on the k best features, for each k.

    kind: "dense" for its baseline, an L2-regularised probe on all features.
    """
    train, test = features[split.train], features[split.test]
    y_train, y_test = classes[split.train], classes[split.test]
    records = []
    if kind == "sparse":
        order = get_sorted_indices(train, y_train, mean_act_normalization)
    for k in ks:
        # tensors, as the package passes them: scikit-learn reads arrays of float32 at another precision
        parts = (train, test) if kind == DENSE else (train[:, order[:k]], test[:, order[:k]])
        found = find_best_reg(parts[0], y_train, parts[1], y_test, penalty=PENALTIES[kind], seed=split.seed).metrics
        records.append(
            {"k": k, "f1": found.test_f1, "acc": found.test_acc, "auc": found.test_auc, "val_auc": found.val_auc}
        )
    return records


def probe_dataset(name: str, arms: Sequence[Arm], options: SaeProbes) -> list[dict[str, Any]]:
    """One record for every split, arm and k of a data set; raises ReseedError for activations that do not fit."""
    held = {path: read_prompts(path).read(name) for path in sorted({arm.prompts for arm in arms})}
    made = {}
    for arm in arms:
        x = held[arm.prompts][0][:ROWS].float()
        made[arm] = features_of(arm, x)
        if not made[arm].isfinite().all():
            raise ReseedError(f"{arm.weights or arm.prompts}: NaN or infinite features on the data set {name!r}")
    classes = held[arms[0].prompts][1][:ROWS].long()
    records = []
    for split in splits_of(name, classes.numpy(), options):
        where = {"dataset": name, "setting": split.setting, "split": split.seed, "condition": split.condition}
        wide = split.setting == "normal" and split.seed == options.splits[0]
        for arm in arms:
            of = where | {"arm": arm.name, "seed": arm.seed}
            width = made[arm].shape[1]
            if arm.name == RANDOM_DENSE and split.seed != options.splits[0]:
                continue  # it says how much of the classes an untrained model holds, and is compared with nothing
            if arm.name in (DENSE, RANDOM_DENSE):
                records += [of | found for found in probe(made[arm], classes, split, (width,), DENSE)]
                continue
            also = options.wide_ks if wide and arm.name == SAE_ARM else ()
            ks = [k for k in (*options.ks, *also) if k <= width]
            records += [of | found for found in probe(made[arm], classes, split, ks)]
    return records


def probe_all(
    names: Sequence[str], arms: Sequence[Arm], options: SaeProbes, resumable: Path, workers: int
) -> pd.DataFrame:
    """Every data set's records as one table, `workers` data sets at a time, each in a process of its own.

    A data set that is done is kept in the folder `resumable` and taken from there by a run of the same SAEs, prompts
    and options. The numbers do not depend on `workers`.
    """
    key = _key(arms, options)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        kept = resumable / f"{name}.json"
        if kept.is_file() and (content := json.loads(kept.read_text()))["key"] == key:
            found[name] = content["records"]
    left = [name for name in names if name not in found]
    # the prompts of two arms stand in each other's order: the largest first, so that no process ends alone
    rows = read_prompts(arms[0].prompts).index["datasets"]
    left.sort(key=lambda name: (-rows[name]["rows"] if name in rows else 0, name))
    pool = ProcessPoolExecutor(
        min(workers, max(1, len(left))), mp_context=multiprocessing.get_context("spawn"), initializer=_quiet_worker
    )
    try:
        with progress(len(names), f"probes on {arms[0].prompts.parent.parent.name}", "data set") as bar:
            bar.update(len(found))
            futures = {pool.submit(probe_dataset, name, arms, options): name for name in left}
            for future in as_completed(futures):
                name = futures[future]
                found[name] = future.result()
                with writing(resumable / f"{name}.json") as partial:
                    partial.write_text(json.dumps({"key": key, "records": found[name]}))
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
    return pd.DataFrame([record for name in names for record in found[name]])


def _key(arms: Sequence[Arm], options: SaeProbes) -> str:
    parts = [options.model_dump_json(exclude={"datasets"}), installed_version("sae-probes") or ""]
    parts += [installed_version("scikit-learn") or "", sha256(Path(__file__))]
    parts += [f"{arm.name} {arm.seed} {arm.sha256} {sha256(arm.prompts / 'index.json')}" for arm in arms]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _quiet_worker() -> None:
    """A process that computes on one thread, and leaves Ctrl-C to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    threadpool_limits(1)
    # the package runs saga for 1000 rounds at most and means it so; scikit-learn tells of each of its millions of fits
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


def summarise(table: pd.DataFrame, confidence: float, group_size: int) -> dict[str, Any]:
    """The tracked figures of a table of `probe_all`: by setting and k, differences to the dense probe of the model.

    `delta` is the mean over data sets (and splits, and conditions) of the SAE's test metric less that of the dense
    probe on the same split; its interval is over SAE seeds, `splits` over the repeated splits where there are three.
    wins, losses and ties count data sets by the sign of the delta's mean over seeds and splits. Controls are their
    own mean deltas, on the same data sets; `over_<control>` compares the seeds that both have. `best_k` chooses each
    SAE's k on each split by its validation AUC alone, among the ks that every arm was probed with.
    """
    summary: dict[str, Any] = {"datasets": int(table["dataset"].nunique())}
    for setting, of in table.groupby("setting", sort=True):
        dense = of[of["arm"] == DENSE]
        by = ["dataset", "split", "condition"]
        joined = of[~of["arm"].isin([DENSE, RANDOM_DENSE])].merge(
            dense[[*by, *METRICS]], on=by, suffixes=("", "_dense"), validate="many_to_one"
        )
        for metric in METRICS:
            joined[metric] -= joined[f"{metric}_dense"]
        found: dict[str, Any] = {"dense": {metric: float(dense[metric].mean()) for metric in METRICS}}
        other = of[of["arm"] == RANDOM_DENSE]
        if len(other):
            found["random_model_dense"] = {metric: float(other[metric].mean()) for metric in METRICS}
        for k, part in joined.groupby("k", sort=True):
            found[f"top_{k}"] = {metric: _figures(part, metric, confidence, group_size) for metric in METRICS}
        # between the ks that all have: of some, no control of every seed was probed
        units = joined["k"].value_counts()
        common = joined[joined["k"].isin(units.index[units == units.max()])].reset_index(drop=True)
        chosen = common.loc[common.groupby([*by, "arm", "seed"])["val_auc"].idxmax()]
        found["best_k"] = {metric: _figures(chosen, metric, confidence, group_size) for metric in METRICS}
        summary[str(setting)] = found
    return summary


def _figures(part: pd.DataFrame, metric: str, confidence: float, group_size: int) -> dict[str, Any]:
    ours = part[part["arm"] == SAE_ARM]
    means = ours.groupby("seed")[metric].mean()
    by_dataset = ours.groupby("dataset")[metric].mean()
    figures: dict[str, Any] = {
        "delta": interval(means.tolist(), confidence, group_size),
        "wins": int((by_dataset > 0).sum()),
        "losses": int((by_dataset < 0).sum()),
        "ties": int((by_dataset == 0).sum()),
    }
    by_split = ours.groupby("split")[metric].mean()
    if len(by_split) >= 3:
        figures["splits"] = interval(by_split.tolist(), confidence, 1)
    for control in CONTROLS:
        theirs = part[part["arm"] == control]
        if not len(theirs):
            continue
        figures[control] = float(theirs[metric].mean())
        of_seed = theirs.groupby("seed")[metric].mean()
        alone = control in BASES
        seeds = list(means.index) if alone else [seed for seed in means.index if seed in of_seed.index]
        apart = [float(means[seed] - (of_seed.iloc[0] if alone else of_seed[seed])) for seed in seeds]
        if len(apart) >= 2 * group_size and len(apart) > 1:
            figures[f"over_{control}"] = interval(apart, confidence, group_size)
    return figures


def principal_components(rows: Tensor) -> dict[str, Tensor]:
    """The centre [d_in] and the principal directions [d_in, d_in] of rows [n, d_in], largest variance first."""
    x = rows.double()
    centre = x.mean(0)
    _, vectors = torch.linalg.eigh((x - centre).T @ (x - centre))
    return {"centre": centre.float(), "directions": vectors.flip(1).float().contiguous()}
