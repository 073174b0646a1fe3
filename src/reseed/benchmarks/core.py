"""SAEBench core: what the model loses when its activations pass through the SAE, scored at the answer only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sae_bench.evals.core.main as sae_bench_core
import sae_lens.evals as sae_lens_evals
import torch
from datasets import Dataset
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.sae_bench_utils import get_sae_lens_version
from sae_lens import SAE
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.benchmarks.results import quiet_grad, write_result
from reseed.text.tokens import Tokens

LOSS_TOLERANCE = 1e-4
RECORDED_TOLERANCE = 1e-3
"""Relative, of the variance for what is explained of it; batches of another size round otherwise."""


def run_core(
    sae: SAE[Any], transformer: HookedTransformer, tokens: Tokens, expected_loss: float, name: str, result: Path | None
) -> dict[str, float]:
    """Core metrics of one SAE over the test sequences, each used once; the standard file goes to `result` if given.

    SAEBench averages over all positions. Here every token but the one at the predicting position is declared special:
    such positions are neither reconstructed nor scored, which leaves the answer's. Explained variance and MSE are
    SAELens' (those of SAEBench 0.6.0 are wrong, and its MSE depends on the batch size).
    Raises ReseedError if the unscathed loss is not `expected_loss`, the model's own at the answer (nats).
    """
    rows = tokens.splits["test"].long()
    ignored = _tokens_elsewhere(tokens, rows)
    config = CoreEvalConfig(
        model_name=sae.cfg.metadata.model_name,
        batch_size_prompts=len(rows),
        n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=1,
        dataset="local",
        context_size=tokens.n_ctx,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
    )

    def store() -> ActivationsStore:
        dataset = Dataset.from_dict({"tokens": rows[:1].tolist()})
        made = ActivationsStore.from_sae(
            transformer, sae, dataset=dataset, context_size=tokens.n_ctx, streaming=False, device="cpu"
        )
        # the store would fetch the rows one at a time, which takes ten times as long as scoring them
        made.get_batch_tokens = lambda _batch_size: rows
        return made

    with quiet_grad():
        scalars, features = sae_bench_core.run_evals(sae, store(), transformer, config, ignore_tokens=set(ignored))
        scalars["misc_metrics"] = sae_bench_core.calculate_misc_metrics(features)
        lens, _ = sae_lens_evals.run_evals(
            sae,
            store(),
            transformer,
            ActivationScaler(),
            sae_lens_evals.EvalConfig(
                batch_size_prompts=len(rows), n_eval_sparsity_variance_batches=1, compute_variance_metrics=True
            ),
            exclude_special_tokens=ignored,
        )
    loss = scalars["model_performance_preservation"]["ce_loss_without_sae"]
    if abs(loss - expected_loss) > LOSS_TOLERANCE * max(1.0, abs(expected_loss)):
        raise ReseedError(f"SAEBench core: found a loss of {loss:.6g} without the SAE, allowed: {expected_loss:.6g}")
    if result is not None:
        scored = {"eval_cfg": config, "sae_id": "custom_sae", "sae_set": name}
        scored |= {"metrics": scalars, "feature_metrics": features}
        write_result(
            result,
            lambda path: sae_bench_core.save_single_eval_result(scored, name, get_sae_lens_version(), "", path, sae),
            identity=name,
        )
    return {
        "ce_loss_score": scalars["model_performance_preservation"]["ce_loss_score"],
        "ce_loss_with_sae": scalars["model_performance_preservation"]["ce_loss_with_sae"],
        "ce_loss_without_sae": loss,
        "ce_loss_with_ablation": scalars["model_performance_preservation"]["ce_loss_with_ablation"],
        "kl_div_score": scalars["model_behavior_preservation"]["kl_div_score"],
        "l0": scalars["sparsity"]["l0"],
        "frac_alive": scalars["misc_metrics"]["frac_alive"],
        "explained_variance": lens["reconstruction_quality"]["explained_variance"],
        "mse": lens["reconstruction_quality"]["mse"],
    }


def check_as_recorded(scores: dict[str, float], recorded: dict[str, Any], folder: Path) -> None:
    """Raise ReseedError unless an SAE does on what the model computes what its metrics.json says of the test rows.

    Core runs the model itself: rows that it never computed, an SAE loaded as another, or a wrong figure part here.
    """
    for name in ("explained_variance", "mse", "l0"):
        found, said = scores[name], recorded[name]
        whole = 1.0 if name == "explained_variance" else max(abs(found), abs(said))
        if abs(found - said) > RECORDED_TOLERANCE * whole:
            raise ReseedError(
                f"{folder}: {name} is {found:.4g} on what the model computes on the test sequences, metrics.json says "
                f"{said:.4g}, allowed: the same; the SAE, its rows or the figure are not of this model"
            )


def _tokens_elsewhere(tokens: Tokens, rows: torch.Tensor) -> list[int]:
    """Every token that stands at another position than the predicting one."""
    predict = tokens.position(tokens.predict)
    elsewhere = torch.cat([rows[:, :predict], rows[:, predict + 1 :]], dim=1).unique()
    if torch.isin(rows[:, predict], elsewhere).any():
        raise ReseedError(
            f"SAEBench core: the token at position {tokens.predict!r} also stands elsewhere; "
            "core can be scored at one position only if that position has tokens of its own"
        )
    return [int(token) for token in elsewhere]
