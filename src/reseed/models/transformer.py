"""The models trained here: small TransformerLens transformers, saved as a config and safetensors weights."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedEncoder, HookedTransformer, HookedTransformerConfig

from reseed import ReseedError
from reseed.artifacts import check_sha256, derive_seed, read_json, read_tensors, sha256, write_json, write_tensors
from reseed.params import Gpt, Model


def build_transformer(model: Model | Gpt, vocabulary: int, n_ctx: int, name: str) -> HookedTransformer:
    """An untrained transformer on the CPU, initialised from `model.training.seed`; the global generator stays put."""
    config = HookedTransformerConfig(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        d_head=model.d_model // model.n_heads,
        d_mlp=model.d_mlp,
        d_vocab=vocabulary,
        n_ctx=n_ctx,
        act_fn=model.act_fn,
        normalization_type=model.normalization_type,
        model_name=name,
        default_prepend_bos=False,
        device="cpu",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("model", model.training.seed))
        return HookedTransformer(config)


def save_transformer(transformer: HookedTransformer, model: Model | Gpt, path: Path, facts: dict[str, Any]) -> None:
    """Write cfg.json, model.safetensors and metrics.json (`facts`) into the directory `path`."""
    weights = path / "model.safetensors"
    write_tensors(weights, dict(transformer.named_parameters()))
    architecture = model.model_dump(exclude={"training", "kind"}, exclude_none=True)
    vocabulary, n_ctx = transformer.cfg.d_vocab, transformer.cfg.n_ctx
    write_json(
        path / "cfg.json",
        {"architecture": architecture, "vocabulary": vocabulary, "n_ctx": n_ctx, "weights_sha256": sha256(weights)},
    )
    write_json(path / "metrics.json", facts)


def load_transformer(model: Model | Gpt, path: Path, name: str) -> HookedTransformer:
    """The trained transformer of `path`; raises ReseedError if its weights are not those that cfg.json promises."""
    config = read_json(path / "cfg.json")
    transformer = build_transformer(model, config["vocabulary"], config["n_ctx"], name)
    check_sha256(path / "model.safetensors", config["weights_sha256"])
    weights = read_tensors(path / "model.safetensors")
    expected = {parameter: tuple(value.shape) for parameter, value in transformer.named_parameters()}
    if expected != {parameter: tuple(value.shape) for parameter, value in weights.items()}:
        raise ReseedError(f"{path}: the weights are of another architecture than subjects/{name}.yaml: model")
    transformer.load_state_dict(weights, strict=False)  # not strict: TransformerLens' masks are buffers, made anew
    return transformer.eval()


def check_hook(transformer: HookedTransformer | HookedEncoder, hook_name: str) -> None:
    """Raise ReseedError unless the model has this hook point, naming the nearest that it has."""
    if hook_name not in transformer.hook_dict:
        near = ", ".join(difflib.get_close_matches(hook_name, transformer.hook_dict, n=3, cutoff=0)) or "none"
        raise ReseedError(f"capture.hook_name: found {hook_name!r}, which the model does not have; nearest: {near}")


def weights_sha256(transformer: HookedTransformer | HookedEncoder) -> str:
    """The hash of a transformer's parameters, by which activations and SAEs name the model that made them."""
    digest = hashlib.sha256()
    for name, parameter in sorted(transformer.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
