"""SAEBench sparse probing: what the k best latents of an SAE say about a task of the subject."""

from __future__ import annotations

import contextlib
import gc
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import sae_bench.evals.sparse_probing.main as sparse_probing
import torch
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.sparse_probing.eval_output import (
    SparseProbingEvalOutput,
    SparseProbingLlmMetrics,
    SparseProbingMetricCategories,
    SparseProbingResultDetail,
    SparseProbingSaeMetrics,
)
from sae_bench.sae_bench_utils import get_sae_lens_version
from sae_lens import SAE
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.benchmarks.results import quiet_grad, write_result
from reseed.benchmarks.tasks import Classes, gather
from reseed.params import SaeBench

RANDOM_SEED = 42


def write_task_activations(
    tasks: dict[str, dict[str, Classes]], model: dict[str, Tensor], records: list[dict[str, Any]], folder: Path
) -> None:
    """Put every task's activations [rows, 1, d_in] where SAEBench looks for them before it asks a hub.

    `folder` must be empty: SAEBench keys these files by the task's name alone and would read a stale one.
    """
    if any(folder.iterdir()):
        raise ReseedError(f"{folder}: found files, allowed: an empty folder (SAEBench would read stale activations)")
    for record in records:
        rows = tasks[record["task"]]
        acts: dict[str, Any] = {
            split: {name: found.unsqueeze(1) for name, found in gather(model[split], rows[split]).items()}
            for split in ("train", "test")
        }
        dense = {"llm_test_accuracy": record["dense"]}
        dense |= {
            f"llm_top_{name.removeprefix('model_top_')}_test_accuracy": value
            for name, value in record.items()
            if name.startswith("model_top_")
        }
        acts["llm_results"] = {name: {"mean over classes": value} for name, value in dense.items()}
        buffer = io.BytesIO()  # torch tells of a full disk in words of its own, a file in those of the system
        torch.save(acts, buffer)
        (folder / f"{record['task']}_activations.pt").write_bytes(buffer.getbuffer())


def run_sparse_probing(
    sae: SAE[Any],
    transformer: HookedTransformer,
    task_names: list[str],
    folder: Path,
    options: SaeBench,
    name: str,
    result: Path | None,
) -> dict[str, dict[int, float]]:
    """Test accuracy by task and k of SAEBench's own evaluation; the standard file goes to `result` if given.

    `folder` holds what `write_task_activations` wrote. Raises ReseedError if SAEBench leaves a task out.
    """
    if max(options.k_values) > sae.cfg.d_sae:
        raise ReseedError(
            f"params.yaml: saebench.k_values: found {max(options.k_values)}, allowed: at most d_sae ({sae.cfg.d_sae})"
        )
    config = SparseProbingEvalConfig(
        model_name=sae.cfg.metadata.model_name,
        random_seed=RANDOM_SEED,
        dataset_names=task_names,
        k_values=list(options.k_values),
        llm_batch_size=1,
        llm_dtype="float32",
        lower_vram_usage=True,  # leaves out a probe on all latents, which would pick its epoch on the test rows
    )
    gc.freeze()  # SAEBench collects garbage after every task; walking all of torch each time took half of the eval
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()), quiet_grad():
        results, per_class = sparse_probing.run_eval_single_sae(config, sae, transformer, "cpu", str(folder))
    accuracies: dict[str, dict[int, float]] = {}
    for task in task_names:
        found = results.get(f"{task}_results")
        if not isinstance(found, dict):
            raise ReseedError(f"SAEBench sparse probing: found no result for the task {task!r}")
        accuracies[task] = {k: float(found[f"sae_top_{k}_test_accuracy"]) for k in options.k_values}
        for k, accuracy in accuracies[task].items():
            if not 0 <= accuracy <= 1:  # -1 is SAEBench's mark for a probe that was left out
                raise ReseedError(
                    f"SAEBench sparse probing: found an accuracy of {accuracy:g} for the task {task!r} at k = {k}, "
                    "allowed: 0 to 1"
                )
    if result is not None:
        output = _standard_output(config, sae, results, per_class, name)
        write_result(result, lambda path: output.to_json_file(path, indent=2), identity=name)
    return accuracies


def _standard_output(
    config: SparseProbingEvalConfig, sae: SAE[Any], results: dict[str, Any], per_class: dict[str, Any], name: str
) -> SparseProbingEvalOutput:
    def scalars(prefix: str, values: dict[str, Any]) -> dict[str, float]:
        # -1 is SAEBench's mark for the probe that was left out; a missing value is left out here
        return {k: v for k, v in values.items() if k.startswith(prefix) and not isinstance(v, dict) and v != -1}

    return SparseProbingEvalOutput(
        eval_config=config,
        eval_id=name,
        datetime_epoch_millis=int(datetime.now().timestamp() * 1000),
        eval_result_metrics=SparseProbingMetricCategories(
            llm=SparseProbingLlmMetrics(**scalars("llm_", results)),
            sae=SparseProbingSaeMetrics(**scalars("sae_", results)),
        ),
        eval_result_details=[
            SparseProbingResultDetail(dataset_name=task, **scalars("", found))
            for task, found in results.items()
            if isinstance(found, dict)
        ],
        eval_result_unstructured=per_class,
        sae_bench_commit_hash="",
        sae_lens_id="custom_sae",
        sae_lens_release_id=name,
        sae_lens_version=get_sae_lens_version(),
        sae_cfg_dict=sae.cfg.to_dict(),
    )
