"""Rows that are sparse sums of known unit features: a subject on which an SAE can be told to be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import torch
from sae_lens.synthetic import (
    ActivationGenerator,
    FeatureDictionary,
    HierarchyNode,
    LowRankCorrelationMatrix,
    hierarchy_modifier,
    orthogonal_initializer,
)
from torch import Tensor

from reseed.artifacts import derive_seed
from reseed.params import SPLITS, PublishedWorld, States, Superposition

ADDED = ("magnitudes", "zipf", "children", "child_probability")
"""Fields of Superposition that its first worlds had not."""


@dataclass(frozen=True)
class Drawn:
    """directions [n_features, d_in], unit; by split: codes [rows, n_features], 0 where off, and rows [rows, d_in].

    The codes of a published world are those of the test rows alone.
    """

    directions: Tensor
    codes: dict[str, Tensor]
    rows: dict[str, Tensor]


def draw(data: Superposition) -> Drawn:
    """Draw the splits, float32: row = codes @ directions + noise, of `sae_lens.synthetic` and of `data` alone.

    The splits are independent draws. A feature that is on has the magnitude |magnitude_mean + magnitude_std * normal|,
    or exp(magnitude_mean + magnitude_std * normal) where the magnitudes are log-normal.
    """
    directions = _directions(data)
    codes = {split: _codes(data, getattr(data.rows, split), split) for split in SPLITS}
    rows = {split: code @ directions + _noise(data, len(code), split) for split, code in codes.items()}
    return Drawn(directions, codes, rows)


def features_sha256(directions: Tensor) -> str:
    """What stands in for the hash of a model: that of the features' bytes."""
    return sha256(directions.contiguous().numpy().tobytes()).hexdigest()


def parameters_sha256(data: Superposition | PublishedWorld | States) -> str:
    """What stands in for the hash of the tokens: that of the parameters, which the rows follow from."""
    # what is left at its default is left out, so that the rows of older worlds keep their hash
    fields = type(data).model_fields
    left_out = {name for name in ADDED if name in fields and getattr(data, name) == fields[name].default}
    return sha256(json.dumps(data.model_dump(mode="json", exclude=left_out), sort_keys=True).encode()).hexdigest()


def _directions(data: Superposition) -> Tensor:
    with _seeded(data, "features"):
        initializer = orthogonal_initializer() if data.orthogonal else None
        made = FeatureDictionary(data.n_features, data.d_in, initializer=initializer).feature_vectors.detach()
    return torch.nn.functional.normalize(made.double(), dim=1).float()


def _codes(data: Superposition, rows: int, split: str) -> Tensor:
    with _seeded(data, split):
        on = _exactly(data, rows) if data.exactly else _firing(data).sample(rows) > 0
        normal = data.magnitude_mean + data.magnitude_std * torch.randn(on.shape)
        magnitudes = normal.exp() if data.magnitudes == "log_normal" else normal.abs()
    return torch.where(on, magnitudes, 0)


def _noise(data: Superposition, rows: int, split: str) -> Tensor:
    random = torch.Generator().manual_seed(derive_seed("superposition", data.seed, split, "noise"))
    return data.noise_std * torch.randn(rows, data.d_in, generator=random)


def _exactly(data: Superposition, rows: int) -> Tensor:
    """l0 features a row, uniformly chosen, as Song et al. 2025 (arXiv 2505.20254) draw them; SAELens cannot."""
    chosen = torch.rand(rows, data.n_features).topk(int(data.l0), dim=1).indices
    return torch.zeros(rows, data.n_features, dtype=torch.bool).scatter(1, chosen, True)


def _firing(data: Superposition) -> ActivationGenerator:
    """Which features are on, as activations of 0 and 1: thresholded normals, correlated within their group, or
    children gated by their parents."""
    if data.zipf or data.children:
        family = 1 + data.children
        trees = [
            HierarchyNode(parent, [HierarchyNode(parent + child) for child in range(1, family)])
            for parent in range(0, data.n_features, family)
        ]
        return ActivationGenerator(
            data.n_features, torch.tensor(data.firing_probabilities()), modify_activations=hierarchy_modifier(trees)
        )
    correlation = None
    if data.correlation:
        member = torch.eye(data.groups).repeat_interleave(data.n_features // data.groups, dim=0)
        factor = math.sqrt(data.correlation) * member
        correlation = LowRankCorrelationMatrix(factor, torch.full((data.n_features,), 1 - data.correlation))
    return ActivationGenerator(data.n_features, data.l0 / data.n_features, correlation_matrix=correlation)


@contextmanager
def _seeded(data: Superposition, part: str) -> Iterator[None]:
    """SAELens draws from torch's global generator, which is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("superposition", data.seed, part))
        yield
