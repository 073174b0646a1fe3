"""Trained SAEs to disk in SAELens' inference format, read back and compared before anyone else can read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from dvclive.live import Live
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import read_json, write_json, write_tensors
from reseed.params import Variant
from reseed.saes.train import TrainedSae

WEIGHTS_FILE = "sae_weights.safetensors"
ENCODE_TOLERANCE = 1e-4


def write_sae(sae: TrainedSae, variant: Variant, activations: Activations, activations_sha256: str, path: Path) -> None:
    """Write one seed: cfg.json and sae_weights.safetensors (SAELens), snapshots.safetensors, metrics.json.

    metrics.json holds the run's own figures; explained variance, MSE and L0 are of the test rows, by the SAE as
    SAELens loads it. Raises ReseedError if the loaded SAE encodes otherwise than the trained one.
    """
    lens = _as_saelens(sae, variant, activations, activations_sha256)
    lens.save_model(path)
    (path / WEIGHTS_FILE).chmod(0o644)
    # SAELens writes the keys in the order of a set, which differs from process to process
    write_json(path / "cfg.json", _without_none(read_json(path / "cfg.json")))
    loaded = SAE.load_from_disk(path, device="cpu")
    test = activations.splits["test"].float()
    with torch.no_grad():
        acts = loaded.encode(test)
        _check_same(acts, sae, variant, test, path)
        residual = (test - loaded.decode(acts)).double()
    write_tensors(
        path / "snapshots.safetensors",
        {
            f"{step:08d}/{name}": tensor
            for step, snapshot in sae.snapshots.items()
            for name, tensor in zip(("W_dec", "W_enc", "firing_counts"), snapshot, strict=True)
        },
    )
    metrics: dict[str, Any] = {
        "seed": sae.seed,
        "converged": int(sae.converged),
        "steps": sae.steps,
        "constant_steps": sae.constant_steps,
        "cosine_to_init": sae.cosine_to_init,
        "explained_variance": 1 - (residual.square().sum() / (test - test.mean(0)).double().square().sum()).item(),
        "mse": residual.square().sum(1).mean().item(),
        "l0": (acts != 0).double().sum(1).mean().item(),
        "rows": len(test),
    }
    if sae.loss_fall == sae.loss_fall:  # not NaN: the rule looked at least once
        metrics |= {"loss_fall": sae.loss_fall, "cosine_change": sae.cosine_change}
    write_json(path / "metrics.json", metrics)


def write_curves(saes: list[TrainedSae], path: Path) -> None:
    """Log every seed's training curve with dvclive into the directory `path`, without network and without dvc.yaml."""
    with Live(str(path), dvcyaml=None, save_dvc_exp=False) as live:
        for step in sorted({int(row["step"]) for sae in saes for row in sae.curve}):
            live.step = step
            for sae in saes:
                for row in sae.curve:
                    if row["step"] == step:
                        for name, value in row.items():
                            if name != "step":
                                live.log_metric(f"seed_{sae.seed}/{name}", value)
            live.sync()


def _as_saelens(sae: TrainedSae, variant: Variant, activations: Activations, activations_sha256: str) -> SAE[Any]:
    index = activations.index
    metadata = SAEMetadata(
        model_name=index["subject"],
        hook_name=index["hook_name"],
        hook_head_index=None,
        prepend_bos=False,
        model_from_pretrained_kwargs={},
        reseed_arm=index["arm"],
        reseed_architecture=variant.architecture,
        reseed_k=variant.k,
        reseed_seed=sae.seed,
        reseed_converged=int(sae.converged),
        reseed_steps=sae.steps,
        reseed_activations_sha256=activations_sha256,
        reseed_model_sha256=index["model_sha256"],
    )
    common = {
        "d_in": activations.d_in,
        "d_sae": variant.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "metadata": metadata,
    }
    lens: SAE[Any]
    weights = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if variant.architecture == "topk":
        lens = TopKSAE(TopKSAEConfig(k=variant.k, rescale_acts_by_decoder_norm=True, **common))
    else:
        lens = JumpReLUSAE(JumpReLUSAEConfig(**common))
        assert sae.threshold is not None
        weights["threshold"] = sae.threshold
    lens.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
    return lens


def _check_same(acts: Tensor, sae: TrainedSae, variant: Variant, x: Tensor, path: Path) -> None:
    """Compare SAELens' encoding with the trained SAE's own, up to the rounding of their different orders of sums."""
    pre = x @ sae.W_enc.cpu() + (sae.b_enc - sae.b_dec @ sae.W_enc).cpu()
    if sae.threshold is None:
        values, indices = pre.topk(variant.k, dim=-1)
        own = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    else:
        own = pre.relu() * (pre > sae.threshold.cpu())
    # a pre-activation within rounding of the k-th (or of the threshold) may fall on either side of it
    different = ((acts - own).abs() > ENCODE_TOLERANCE * acts.abs().max()).any(1).double().mean().item()
    if different > 0.001:
        raise ReseedError(f"{path}: SAELens encodes {different:.1%} of the test rows otherwise than the trained SAE")


def _without_none(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if value is not None
    }
