"""Trained SAEs to disk in SAELens' inference format, read back and compared before anyone else can read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
)
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import read_json, write_json, write_tensors
from reseed.params import (
    BatchTopK,
    Gated,
    HierarchicalTopK,
    JumpReLU,
    Matryoshka,
    RouteSae,
    SkipTranscoder,
    Standard,
    TopK,
    Transcoder,
    Variant,
)
from reseed.saes.registered import (
    HierarchicalTopKSAE,
    HierarchicalTopKSAEConfig,
    RouteSAE,
    RouteSAEConfig,
    prefix,
)
from reseed.saes.rows import seen_by
from reseed.saes.run import TrainedSae

WEIGHTS_FILE = "sae_weights.safetensors"
TOLERANCE = 1e-4
EVALUATED_ROWS = 1 << 13
"""Rows of a batch: the latents of all test rows at once may not fit into memory."""
WHOLE = ("whole", 0)


def write_sae(sae: TrainedSae, variant: Variant, activations: Activations, activations_sha256: str, path: Path) -> None:
    """Write one seed: cfg.json and sae_weights.safetensors (SAELens), snapshots.safetensors, metrics.json.

    metrics.json holds the run's own figures; explained variance, MSE and L0 are of the test rows, by the SAE as
    SAELens loads it. Raises ReseedError if the loaded SAE encodes or decodes otherwise than the trained one.
    """
    metadata = _metadata(sae, variant, activations, activations_sha256)
    lens = as_saelens(variant, sae.weights, metadata)
    lens.save_model(path)
    (path / WEIGHTS_FILE).chmod(0o644)
    # SAELens writes the keys in the order of a set, which differs from process to process
    write_json(path / "cfg.json", _without_none(read_json(path / "cfg.json")))
    loaded = SAE.load_from_disk(path, device="cpu").requires_grad_(False)
    _check_same(loaded, sae, path)
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
        **evaluate(loaded, seen_by(variant, activations)),
    }
    if sae.loss_fall == sae.loss_fall:  # not NaN: the rule looked at least once
        metrics |= {"loss_fall": sae.loss_fall, "cosine_change": sae.cosine_change}
    write_json(path / "metrics.json", metrics)


@torch.no_grad()
def evaluate(lens: SAE[Any], activations: Activations) -> dict[str, Any]:
    """Explained variance, MSE and L0 of an SAE on the test rows, in the structure that it was trained with.

    A hierarchical SAE also at each budget, a Matryoshka SAE at each prefix; of a RouteSAE, of what its router sends,
    in normalised units.
    """
    rows = activations.rows("test")
    targets = activations.rows("test", "target") if activations.has("target") else rows
    errors: dict[tuple[str, int], float] = {}
    fired, total, squares = 0, torch.zeros((), dtype=torch.float64), 0.0
    for chosen in torch.arange(len(rows)).split(EVALUATED_ROWS):
        x = rows.take(chosen).float()
        target = lens.route(x).y if isinstance(lens, RouteSAE) else targets.take(chosen).float()
        fired += int((lens.encode(x) != 0).sum())
        target = target.double()
        total = total + target.sum(0)
        squares += target.square().sum().item()
        for name, out in _reconstructions(lens, x).items():
            errors[name] = errors.get(name, 0.0) + (target - out).square().sum().item()
    spread = squares - total.square().sum().item() / len(rows)
    explained = {name: 1 - error / spread for name, error in errors.items()}
    figures: dict[str, Any] = {
        "explained_variance": explained.pop(WHOLE),
        "mse": errors[WHOLE] / len(rows),
        "l0": fired / len(rows),
        "rows": len(rows),
    }
    for (part, size), value in explained.items():
        figures.setdefault(f"explained_variance_{part}", {})[size] = value
    return figures


def _reconstructions(lens: SAE[Any], x: Tensor) -> dict[tuple[str, int], Tensor]:
    """What an SAE makes of rows, and what its budgets or prefixes make of them."""
    out: dict[tuple[str, int], Tensor] = {WHOLE: lens(x)}
    if isinstance(lens, HierarchicalTopKSAE):
        out |= {("at_budget", k): part for k, part in sorted(lens.reconstructions(x).items())}
    if widths := lens.cfg.metadata.reseed_widths:
        out |= {("of_prefix", width): prefix(lens, width)(x) for width in widths}
    return out


def as_saelens(variant: Variant, weights: dict[str, Tensor], metadata: SAEMetadata) -> SAE[Any]:
    """The SAELens inference object of folded weights: SAELens' own class where it has one, else a registered one."""
    d_in, d_sae = weights["W_enc"].shape
    common: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "metadata": metadata,
    }
    lens: SAE[Any]
    match variant:
        case Standard():
            lens = StandardSAE(StandardSAEConfig(**common))
        case TopK():
            lens = TopKSAE(TopKSAEConfig(k=variant.k, rescale_acts_by_decoder_norm=True, **common))
        case BatchTopK() | Matryoshka() | JumpReLU():
            lens = JumpReLUSAE(JumpReLUSAEConfig(**common))
        case Gated():
            lens = GatedSAE(GatedSAEConfig(**common))
        case HierarchicalTopK():
            lens = HierarchicalTopKSAE(
                HierarchicalTopKSAEConfig(
                    k=variant.k, budgets=list(variant.budgets), rescale_acts_by_decoder_norm=True, **common
                )
            )
        case RouteSae():
            n_layers = len(weights["layer_scale"])
            lens = RouteSAE(
                RouteSAEConfig(
                    k=variant.k, n_layers=n_layers, routing=variant.routing, decoder=variant.decoder, **common
                )
            )
        case Transcoder() | SkipTranscoder():
            d_out = weights["W_dec"].shape[1]
            common |= {"d_out": d_out, "apply_b_dec_to_input": False}
            if isinstance(variant, Transcoder):
                lens = JumpReLUTranscoder(JumpReLUTranscoderConfig(**common))
            else:
                lens = JumpReLUSkipTranscoder(JumpReLUSkipTranscoderConfig(**common))
    lens.load_state_dict({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    return lens


def _metadata(sae: TrainedSae, variant: Variant, activations: Activations, activations_sha256: str) -> SAEMetadata:
    index = activations.index
    return SAEMetadata(
        model_name=index["subject"],
        # SAELens and SAEBench feed one hook point to whatever has a hook_name, and a router needs all of its layers
        **({"hook_names": index["hook_name"]} if isinstance(variant, RouteSae) else {"hook_name": index["hook_name"]}),
        hook_name_out=index.get("hook_name_out"),
        hook_head_index=None,
        prepend_bos=False,
        model_from_pretrained_kwargs={},
        reseed_arm=index["arm"],
        reseed_variant=variant.model_dump(mode="json", exclude_defaults=True),
        reseed_widths=list(variant.widths) if isinstance(variant, Matryoshka) else None,
        reseed_seed=sae.seed,
        reseed_group=sae.group,
        reseed_converged=int(sae.converged),
        reseed_steps=sae.steps,
        reseed_activations_sha256=activations_sha256,
        reseed_model_sha256=index["model_sha256"],
    )


@torch.no_grad()
def _check_same(loaded: SAE[Any], sae: TrainedSae, path: Path) -> None:
    """Compare what SAELens makes of some rows with what the trained stack made of them, up to rounding."""
    rows, acts, out = (tensor.cpu() for tensor in sae.seen)
    for name, found, own in (("encodes", loaded.encode(rows), acts), ("decodes", loaded(rows), out)):
        # a pre-activation within rounding of the k-th (or of the threshold) may fall on either side of it
        different = int(((found - own).abs() > TOLERANCE * own.abs().max()).any(1).sum())
        allowed = max(1, len(rows) // 128)
        if different > allowed:
            raise ReseedError(
                f"{path}: SAELens {name} {different} of {len(rows)} rows otherwise than the trained SAE, "
                f"allowed: {allowed}"
            )


def _without_none(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if value is not None
    }
