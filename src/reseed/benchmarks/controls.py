"""SAEs to compare with, and SAEs in other units, all as SAELens objects that SAEBench takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
from sae_lens import SAE
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.params import SaeTraining, Train, Variant
from reseed.saes.train import initial_weights

IN_INPUT_UNITS = ("b_enc", "b_dec", "b_gate", "b_mag", "threshold")


def load_sae(folder: Path, hook_name: str, arm: str, model_sha256: str) -> SAE[Any]:
    """An SAE as SAELens loads it, on the CPU; raises ReseedError if it read another hook point, arm or model."""
    sae = SAE.load_from_disk(folder, device="cpu").requires_grad_(False)
    metadata = sae.cfg.metadata
    found = (metadata.hook_name, metadata.reseed_arm, metadata.reseed_model_sha256)
    if found != (hook_name, arm, model_sha256):
        raise ReseedError(
            f"{folder}: the SAE reads {found[0]} of the {found[1]} model {str(found[2])[:12]}, the benchmark asks for "
            f"{hook_name} of the {arm} model {model_sha256[:12]}; run `dvc repro`"
        )
    return formatted(sae)


def formatted(sae: SAE[Any]) -> SAE[Any]:
    """The same SAE with hook_name, hook_layer and model_name where SAEBench looks for them."""
    loaded = load_and_format_sae("custom", sae, "cpu")
    assert loaded is not None
    return loaded[1]


def random_sae(
    like: SAE[Any], variant: Variant, training: SaeTraining, train: Train, seed: int, activations: Activations
) -> SAE[Any]:
    """An untrained SAE of the same shape, architecture and sparsity: the initialisation that `seed` trained from."""
    return _with_weights(like, initial_weights(variant, training, train, seed, activations))


def scaled(sae: SAE[Any], scale: float) -> SAE[Any]:
    """The SAE for activations multiplied by `scale`: encode(scale * x) is scale * encode(x) of the original."""
    weights = dict(sae.state_dict())
    return _with_weights(sae, {name: w * scale if name in IN_INPUT_UNITS else w for name, w in weights.items()})


def _with_weights(like: SAE[Any], weights: dict[str, Tensor]) -> SAE[Any]:
    sae = type(like)(like.cfg)
    sae.load_state_dict({name: weight.clone() for name, weight in weights.items()})
    return sae.requires_grad_(False)
