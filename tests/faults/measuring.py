"""Faults of benchmarks: their tasks, their caches, their marks, their controls."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import sae_bench.evals.sparse_probing.main as sparse_probing
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, lm_dir, metrics_dir, read_json, sae_dir
from reseed.benchmarks.arms import with_controls
from reseed.benchmarks.controls import load_sae
from reseed.benchmarks.probing import run_sparse_probing, write_task_activations
from reseed.benchmarks.tasks import balanced_classes, baselines
from reseed.models.transformer import load_transformer, weights_sha256
from reseed.params import RANDOM_MODEL, TRAINED, SaeBench, load_params, load_subject
from tests.faults import bases
from tests.faults.attempts import SUBJECT, change_json, change_params, change_subject, core, run
from tests.faults.museum import Exhibit, Fault
from tests.stability.test_variants import HIGH

ROWS, D_IN, TASK = 240, 32, "sign"
ACTIVATIONS = {
    split: torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(i))
    for i, split in enumerate(("train", "test"))
}
OPTIONS = SaeBench(k_values=(1,), frequencies=1, probe_train_rows=ROWS, probe_test_rows=ROWS, shuffles=19)


def label(rows: Tensor) -> Tensor:
    """The sign of a dimension."""
    return (rows[:, 3] > 0).long()


def _tasks() -> dict[str, Any]:
    labels = {split: label(rows) for split, rows in ACTIVATIONS.items()}
    return {TASK: {split: balanced_classes(labels[split], ROWS, f"{TASK}/{split}") for split in labels}}


def _write_tasks() -> None:
    folder = Path("cache")
    folder.mkdir(exist_ok=True)
    record = {"task": TASK, "dense": 0.9, "model_top_1": 0.8}
    write_task_activations(_tasks(), ACTIVATIONS, [record], folder)


def _probe() -> None:
    _write_tasks()
    config = load_subject(SUBJECT)
    model = load_transformer(config.model, lm_dir(SUBJECT), SUBJECT)
    sae = load_sae(sae_dir(SUBJECT, "wide") / "seed_0", config.capture.hook_name, TRAINED, weights_sha256(model))
    run_sparse_probing(sae, model, [TASK], Path("cache"), OPTIONS, "museum", None)


def _told_from_noise() -> None:
    """What the stage probes says of a task; one that does not count has no part in any figure."""
    rows = dict(ACTIVATIONS)
    for record in baselines(_tasks(), rows, rows, OPTIONS):
        if not record["counts"]:
            raise ReseedError(
                f"the task {record['task']!r} does not count: a dense probe is right in {record['dense']:.1%} of the "
                f"rows, the best of {OPTIONS.shuffles} probes on shuffled labels in {record['shuffled_max']:.1%}"
            )


def _labelled(labels: Callable[[Tensor], Tensor]) -> Callable[[Exhibit], object]:
    return lambda exhibit: exhibit.replace(sys.modules[__name__], "label", labels)


def _mostly_one_class(rows: Tensor) -> Tensor:
    return (torch.arange(len(rows)) % 12 == 0).long()


def _of_indices(rows: Tensor) -> Tensor:
    i = torch.arange(len(rows))
    return (i // 8 * (i % 8) % 5 == 0).long()


def _more_latents(exhibit: Exhibit) -> None:
    exhibit.replace(sys.modules[__name__], "OPTIONS", OPTIONS.model_copy(update={"k_values": (100,)}))


def _compared() -> None:
    """The stage compare; where a variant is not accepted over the baseline, why is the message."""
    run("compare", "study.yaml", "modular-k")()
    for name, row in read_json(Path("metrics/comparisons/modular-k.json"))["variants"].items():
        found = row.get("against_baseline")
        if found and found["verdict"] != "accepted":
            gained, lost = found["kappa_difference"], found["explained_variance_fall"]
            raise ReseedError(
                f"{name}: {found['verdict']}: kappa is {gained['value']:.3f} above the baseline's, and explained "
                f"variance {lost['value']:.3f} [{lost['low']:.3f}, {lost['high']:.3f}] below"
            )


def _variance_given_up(_: Exhibit) -> None:
    lost = {"value": 0.6, "low": 0.59, "high": 0.61}
    change_json(
        metrics_dir(SUBJECT, "b") / "stability.json", lambda found: found["trained"].update(explained_variance=lost)
    )


def _earlier_cache(_: Exhibit) -> None:
    Path("cache").mkdir()
    torch.save({}, Path("cache") / f"{TASK}_activations.pt")


def _left_out(exhibit: Exhibit) -> None:
    real = sparse_probing.run_eval_single_sae

    def marked(*arguments: Any) -> Any:
        results, per_class = real(*arguments)
        results[f"{TASK}_results"]["sae_top_1_test_accuracy"] = -1
        return results, per_class

    exhibit.replace(sparse_probing, "run_eval_single_sae", marked)


def _one_class(rows: Tensor) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.int64)


def _with_controls() -> None:
    """The SAEs that the stages evals, sae_probes and ce_bench judge beside those of a variant."""
    found = {arm: read_activations(activations_dir(SUBJECT, arm)) for arm in (TRAINED, RANDOM_MODEL)}
    models = {arm: one.index["model_sha256"] for arm, one in found.items()}
    with_controls(load_params(), 1, SUBJECT, "wide", "wide-frozen", found[TRAINED], models, Path("controls"))


def _wider_control(_: Exhibit) -> None:
    change_params(lambda params: params["variants"]["wide-frozen"].update(k=8))


def _other_hook(_: Exhibit) -> None:
    change_subject(lambda subject: subject["capture"].update(hook_name="blocks.0.hook_mlp_out"))


def _pairs_as_units(_: Exhibit) -> None:
    pairs = [(a + b) / 2 for a, b in combinations(HIGH, 2)]
    left_out = [(sum(pairs) - pair) / (len(pairs) - 1) for pair in pairs]
    change_json(
        metrics_dir(SUBJECT, "b") / "stability.json", lambda found: found["records"][0].update(kappa_deleted=left_out)
    )


def _without_control(_: Exhibit) -> None:
    shutil.rmtree(sae_dir(SUBJECT, "wide", "random_model"))


FAULTS = (
    Fault(
        "one_class", "RL-Decoder 2.4.9", "A probe on labels of one class",
        "A probe was right in 100 % of the cases because the label was the same in all of them.",
        "every row has the label 0.",
        bases.nothing, _labelled(_one_class), _tasks,
        r"probe task sign/train: found 1 classes, allowed: at least 2",
    ),
    Fault(
        "labels_of_indices", "RL-Decoder 2.4.2", "Labels that have nothing to do with the rows",
        "The labels of a benchmark were `i * j % 5` of the indices.",
        "the label of a row is whether i * j is divisible by 5, i and j being made of its number.",
        bases.nothing, _labelled(_of_indices), _told_from_noise,
        r"the task 'sign' does not count: a dense probe is right in #% of the rows, the best of 19 probes on shuffled",
    ),
    Fault(
        "majority_class", "RL-Decoder 2.3", "Accuracy without its baseline",
        "A probe was right in 83 to 91 % of the cases, the most frequent class alone in 91.8 %: no class weights, and "
        "no majority baseline beside it.",
        "eleven of twelve rows have the label 0, whatever stands in them.",
        bases.nothing, _labelled(_mostly_one_class), _told_from_noise,
        r"the task 'sign' does not count: a dense probe is right in #% of the rows, the best of 19 probes on shuffled",
    ),
    Fault(
        "more_latents_than_there_are", "RL-Decoder 2.4.6", "The best 128 of 50",
        "'Top-128' patches took their latents from lists that ended at 50.",
        "saebench.k_values asks for the best 100 of 48 latents.",
        bases.modular, _more_latents, _probe,
        r"saebench\.k_values: found 100, allowed: at most d_sae \(48\)",
    ),
    Fault(
        "cache_by_name", "HUSAI 1.4", "A benchmark's cache under a name that was used before",
        "SAEBench keys its files by names; with a release id used again it read, or skipped, what another SAE had "
        "left.",
        "the folder holds the activations of an earlier task of that name.",
        bases.nothing, _earlier_cache, _write_tasks,
        r"cache: found files, allowed: an empty folder \(SAEBench would read stale activations\)",
    ),
    Fault(
        "minus_one_for_missing", "HUSAI 1.5.16", "A missing score written as -1",
        "`a or b` took 0.0 for missing. SAEBench has a mark of its own: it writes -1 for a probe that it left out, "
        "which a mean takes for a score.",
        "SAEBench gives its mark of a probe that was left out.",
        bases.modular, _left_out, _probe,
        r"found an accuracy of -1 for the task 'sign' at k = 1, allowed: 0 to 1",
    ),
    Fault(
        "unmatched_control", "HUSAI 1.5.11", "A control of another budget",
        "'Matched budgets' had 32, 81, 654 and 976 latents active; a score that rewards density ranked them by it.",
        "the control keeps 8 latents a row, the SAE 4.",
        bases.modular, _wider_control, _with_controls,
        r"variants\.wide-frozen: found .* allowed as a control: .* with soft_frozen",
    ),
    Fault(
        "another_layers_baseline", "HUSAI 1.4", "The baseline of another layer",
        "SAEs of layer 1 were compared with a baseline of layer 0.",
        "capture.hook_name is another hook point than the one that the SAEs read.",
        bases.modular, _other_hook, core("wide"),
        r"the SAE reads blocks\.0\.hook_resid_post .* the benchmark asks for blocks\.0\.hook_mlp_out",
    ),
    Fault(
        "pairs_as_units", "HUSAI 1.5.13", "Pairs of seeds as observations",
        "Intervals and tests were over 10 pairs of 5 seeds, or 28 of 8, as if each pair were a run of its own: p "
        "was .009 for a difference of 0.0012.",
        "the evidence has a value for each of the ten pairs of five seeds.",
        bases.compared, _pairs_as_units, run("compare", "study.yaml", "modular-k"),
        r"b/stability\.json: pw_mcc: found 10 left-out values for 5 independent seeds, allowed: one for each",
    ),
    Fault(
        "variance_given_up", "HUSAI 1.5.5", "Agreement bought with reconstruction",
        "A consistency objective gave an agreement of 0.84 and took 0.24 to 0.34 of the explained variance, once 1.05; "
        "the gate on its fall was one of several, and the best agreement was chosen.",
        "the explained variance of the variant that agrees more is 0.3 lower.",
        bases.compared, _variance_given_up, _compared,
        r"b: not accepted: kappa is # above the baseline's, and explained variance # \[#, #\] below",
    ),
    Fault(
        "missing_control", "HUSAI 1.5.16", "A control that is not there",
        "A missing artefact passed unless a --require flag asked for it.",
        "the SAEs of the random model are gone.",
        bases.modular, _without_control, run("stability", SUBJECT, "wide", "random_model", "random_model"),
        r"models/modular/wide@random_model: found the seeds \[\], params\.yaml: train\.seeds asks for \[0, 1, 2\]",
    ),
)  # fmt: skip
