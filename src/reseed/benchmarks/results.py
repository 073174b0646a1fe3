"""What SAEBench leaves behind, made to repeat: result files without times and random ids, and no global state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reseed import ReseedError

VARYING = ("train_time_seconds",)
"""Figures of SAEBench that are no result: the seconds that something took."""


def write_result(path: Path, write: Callable[[str], object], identity: str) -> None:
    """Let SAEBench write its result file and replace what varies from run to run.

    A file that is already there is deleted first and the new one must exist afterwards: SAEBench skips an eval whose
    file exists and swallows the exceptions of one that fails. See `normalise` for what is replaced.
    Raises ReseedError if no file was written.
    """
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(str(path))
    if not path.is_file():
        raise ReseedError(f"{path}: SAEBench wrote no result file for this SAE")
    normalise(path, identity)


def normalise(path: Path, identity: str) -> None:
    """Replace what varies from run to run in a standard result file: times and seconds, random ids, the commit.

    Raises ReseedError for NaN or infinite figures, but in the details of single latents, which are left out.
    """
    result = json.loads(path.read_text())
    if "eval_result_details" in result:
        result["eval_result_details"] = _without_nan(result["eval_result_details"])
    for metrics in result["eval_result_metrics"].values():
        metrics.update({name: 0.0 for name in VARYING if name in metrics})
    result |= {"eval_id": identity, "datetime_epoch_millis": 0, "sae_bench_commit_hash": "sae-bench 0.6.0"}
    try:
        text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise ReseedError(f"{path}: found NaN or infinite figures of SAEBench, allowed: finite ones") from error
    path.write_text(text + "\n")


def _without_nan(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the latents that have a NaN, which is no JSON: SAEBench writes it for a latent that never fires."""
    return [latent for latent in details if all(value == value for value in latent.values())]


def quiet_grad() -> torch.autograd.grad_mode.set_grad_enabled:
    """A context that restores the global gradient mode, which SAEBench's evals switch on and leave on."""
    return torch.autograd.grad_mode.set_grad_enabled(torch.is_grad_enabled())
