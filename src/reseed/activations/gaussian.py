"""The Gaussian arm: noise with the mean and covariance of the real rows, and nothing else of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from reseed.activations.store import Activations
from reseed.activations.writer import MOMENT_ELEMENTS, Moments
from reseed.artifacts import generator

NAMES = ("activations", "target")


def gaussian_rows(activations: Activations) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Blocks (split, {"activations" (and "target" where there is one): noise}), as many rows as stand in each split.

    Rows are independent draws of the Gaussian with mean and covariance of the training rows (of rows and targets, or
    of several hook points, jointly): what SAEs agree on here follows from second moments alone. Rows are read and drawn
    a block at a time.
    """
    names = [name for name in NAMES if activations.has(name)]
    shapes = [activations.rows("train", name).shape[1:] for name in names]
    widths = [torch.Size(shape).numel() for shape in shapes]
    size = max(1, MOMENT_ELEMENTS // sum(widths))
    moments = Moments(sum(widths))
    for shard in activations.shards["train"]:
        for parts in zip(*(shard[name].split(size) for name in names), strict=True):
            moments.add(torch.cat([part.double().flatten(1) for part in parts], dim=1))
    values, vectors = torch.linalg.eigh(moments.covariance)
    root = vectors * values.clamp(min=0).sqrt()
    for split in activations.shards:
        random = generator("gaussian", activations.index["subject"], split)
        left = len(activations.rows(split))
        while left:
            n = min(left, size)
            noise = torch.randn(n, len(root), dtype=torch.float64, generator=random)
            drawn = (moments.mean + noise @ root.T).float().split(widths, dim=1)
            yield split, {name: d.reshape(n, *s).contiguous() for name, d, s in zip(names, drawn, shapes, strict=True)}
            left -= n
