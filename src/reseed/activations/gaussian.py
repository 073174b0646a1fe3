"""The Gaussian arm: noise with the mean and covariance of the real rows, and nothing else of them."""

from __future__ import annotations

import torch
from torch import Tensor

from reseed.activations.store import Activations
from reseed.artifacts import generator

NAMES = ("activations", "target")


def gaussian_like(activations: Activations) -> dict[str, dict[str, Tensor]]:
    """{"activations" (and "target" where there is one): {split: noise}}, each of the shape of what it stands for.

    Rows are independent draws of the Gaussian with mean and covariance of the training rows (of rows and targets, or
    of several hook points, jointly): what SAEs agree on here follows from second moments alone.
    """
    names = [name for name in NAMES if activations.has(name)]
    parts = {split: [activations.rows(split, name).whole() for name in names] for split in activations.shards}
    train = torch.cat([part.double().flatten(1) for part in parts["train"]], dim=1)
    mean = train.mean(0)
    values, vectors = torch.linalg.eigh((train - mean).T @ (train - mean) / len(train))
    root = vectors * values.clamp(min=0).sqrt()
    made: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for split, real in parts.items():
        random = generator("gaussian", activations.index["subject"], split)
        noise = torch.randn(len(real[0]), len(root), dtype=torch.float64, generator=random)
        drawn = (mean + noise @ root.T).float().split([part[0].numel() for part in real], dim=1)
        for name, part, shape in zip(names, drawn, (part.shape for part in real), strict=True):
            made[name][split] = part.reshape(shape).contiguous()
    return made
