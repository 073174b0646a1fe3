"""What the tests of this room share: every architecture as a case, and activations of each shape that one needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from reseed.activations.store import Activations, Provenance, read_activations, write_activations
from reseed.matching import assign, cosines
from reseed.params import BaseVariant, SaeTraining, Variant
from reseed.saes.architectures import REGISTRY, Architecture, Stack
from tests.conftest import provenance, unit, variant_of

CPU = torch.device("cpu")
D_IN, D_SAE, D_OUT, LAYERS = 16, 24, 20, 3
SIZES = {"train": 4096, "validation": 512, "test": 512}
SEQUENCE = 16


def l0_of(penalty: str) -> dict[str, Any]:
    return {"objectives": {"sparsity": {"penalty": penalty, "target_l0": 2}}}


def pulled(partner: str) -> dict[str, Any]:
    return {"objectives": {"consistency": {"partner": partner, "coefficient": 1.0, "group_size": 2}}}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "standard": l0_of("l1"),
    "topk": {"k": 2},
    "batchtopk": {"k": 2},
    "jumprelu": l0_of("l0"),
    "gated": l0_of("l1"),
    "matryoshka": {"k": 2, "widths": (8, 24)},
    "hierarchical_topk": {"k": 4, "budgets": (1, 2, 4)},
    "routesae": {"k": 2},
    "transcoder": {"k": 2},
    "skip_transcoder": {"k": 2},
}
FORMS: dict[str, dict[str, Any]] = {
    "standard-tanh": l0_of("tanh"),
    "jumprelu-tanh": l0_of("tanh"),
    "routesae-soft": {"k": 2, "routing": "soft"},
    "routesae-per_layer": {"k": 2, "decoder": "per_layer"},
    "topk-archetypal": {"k": 2, "archetypal": {"points": 64, "delta": 0.5}},
    "transcoder-archetypal": {"k": 2, "archetypal": {"points": 64, "delta": 0.5}},
}
CASES = ARCHITECTURES | FORMS


def case(name: str, **change: Any) -> Variant:
    """The variant of a name in CASES: an architecture, and after a dash what is special about it."""
    return variant_of(**({"architecture": name.split("-")[0], "d_sae": D_SAE} | CASES[name] | change))


def architecture_of(variant: Variant, unit_norm: bool = True, d_in: int = D_IN) -> Architecture[Variant]:
    kind = variant.architecture
    d_out, n_layers = D_OUT if "transcoder" in kind else d_in, LAYERS if kind == "routesae" else 1
    made: Architecture[Variant] = REGISTRY[kind](variant, d_in, d_out, n_layers, unit_norm)
    return made


def stirred(architecture: Architecture[Any], seeds: tuple[int, ...] = (0, 5, 9), k: tuple[int, ...] = ()) -> Stack:
    """Not an initialisation but a point where every parameter matters, in float64."""
    variant: BaseVariant = architecture.variant
    rows = torch.randn(256, architecture.d_out, generator=torch.Generator().manual_seed(4))
    stack = architecture.initialise(seeds, k or (getattr(variant, "k", 0),) * len(seeds), rows)
    random = torch.Generator().manual_seed(1)
    for name, tensor in stack.parameters.items():
        stack.parameters[name] = tensor.double() + 0.3 * torch.randn(tensor.shape, generator=random).double()
    stack.buffers = {name: tensor.double() for name, tensor in stack.buffers.items()}
    if architecture.unit_norm and "W_dec" in stack.parameters:
        stack.parameters["W_dec"] = normalize(stack.parameters["W_dec"], dim=-1)
    architecture.project(stack)
    return stack


def weights_of(rows: int, features: int, k: int, seed: int) -> Tensor:
    """How much of each feature is in each row [rows, features]: k of them, 0.5 to 1.5 (as `planted_rows` has it)."""
    random = torch.Generator().manual_seed(seed)
    chosen = torch.rand(rows, features, generator=random).topk(k, dim=1).indices
    return torch.zeros(rows, features).scatter(1, chosen, 0.5 + torch.rand(rows, k, generator=random))


def written(features: int = D_SAE) -> Tensor:
    """The directions that the target of a transcoder is made of [features, D_OUT]."""
    return unit(features, D_OUT, seed=8)


def write_plain(features: Tensor, path: Path, rows_per_shard: int = 1 << 18) -> Activations:
    splits = {s: weights_of(n, len(features), 2, i) @ features + 0.3 for i, (s, n) in enumerate(SIZES.items())}
    write_activations(splits, provenance(), "float32", path, rows_per_shard=rows_per_shard)
    return read_activations(path)


def write_layers(features: Tensor, path: Path) -> Activations:
    """Three hook points: noisy and small, the planted rows, the planted rows at another scale and place."""
    random = torch.Generator().manual_seed(0)
    splits = {}
    for i, (split, n) in enumerate(SIZES.items()):
        x = weights_of(n, len(features), 2, i) @ features + 0.3
        noisy = 0.3 * x + 0.1 * torch.randn(x.shape, generator=random)
        splits[split] = torch.stack([noisy, x, 2 * x + 1], 1)
    hooks = tuple(f"blocks.{i}.hook_resid_post" for i in range(LAYERS))
    of = Provenance("modular", "trained", hooks, ("equals",), "forward pass of the trained model", "m" * 64, "t" * 64)
    write_activations(splits, of, "float32", path)
    return read_activations(path)


def write_pairs(features: Tensor, path: Path, rows_per_shard: int = 1 << 18) -> Activations:
    """Where feature i stands in the input with weight a, direction i of `written` stands in the target with 2 a^2."""
    splits, beside = {}, {}
    for i, (split, n) in enumerate(SIZES.items()):
        weights = weights_of(n, len(features), 2, i)
        splits[split] = weights @ features + 0.3
        beside[split] = {"target": 2 * weights.square() @ written(len(features)) - 1}
    of = Provenance(
        "modular", "trained", "blocks.0.ln2.hook_normalized", ("equals",), "forward pass of the trained model",
        "m" * 64, "t" * 64, hook_name_out="blocks.0.hook_mlp_out",
    )  # fmt: skip
    write_activations(splits, of, "float32", path, beside, rows_per_shard)
    return read_activations(path)


def write_sequences(features: Tensor, path: Path, rows_per_shard: int = 1 << 18) -> Activations:
    """Sequences of SEQUENCE rows; every second row has a class: whether its strongest feature is an odd one."""
    splits, beside = {}, {}
    for i, (split, n) in enumerate(SIZES.items()):
        weights = weights_of(n, len(features), 2, i)
        splits[split] = weights @ features + 0.3
        labels = torch.where(torch.arange(n) % 2 == 0, weights.argmax(1) % 2, -1)
        beside[split] = {"sequence": torch.arange(n) // SEQUENCE, "labels": labels}
    write_activations(splits, provenance(), "float32", path, beside, rows_per_shard)
    return read_activations(path)


def recovery(rows: Tensor, features: Tensor) -> float:
    """Mean cosine of the best one-to-one matching of decoder rows and planted features."""
    similarity = cosines(rows.double().numpy(), features.double().numpy())
    chosen = assign(similarity)
    return float(similarity[chosen].mean())


def shortened(training: SaeTraining, steps: int, **change: Any) -> SaeTraining:
    """Ends after exactly `steps`, converged or not, without a decay."""
    return training.model_copy(
        update={"max_steps": steps, "min_steps": steps, "check_every": steps, "decay_fraction": 0.0} | change
    )
