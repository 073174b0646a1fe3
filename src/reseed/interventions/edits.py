"""Edits of activations. An edit maps x [..., d_in] to another tensor of that shape; every edit here adds to x.

Because only the difference is added, whatever an SAE does not reconstruct (its error term) stays in the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from reseed import ReseedError

ORTHONORMAL = 1e-4
"""Largest deviation of the products of basis rows from those of orthonormal ones, in float32."""
Edit = Callable[[Tensor], Tensor]


def steer(direction: Tensor, amount: Tensor | float) -> Edit:
    """x + amount * direction [d_in]; amount in units of x, a number or a tensor that broadcasts against x[..., 0].

    With the decoder row of a latent and eps times the standard deviation of its activation: x' = x + eps sigma_j d_j.
    """
    step = amount[..., None] * direction if isinstance(amount, Tensor) else amount * direction
    return lambda x: x + step


def set_latent(sae: SAE[Any], latent: int, value: Tensor | float, along: Tensor | None = None) -> Edit:
    """x + (value - activation of the latent) * its decoder row, or another direction `along` [d_in] in its place.

    value: a number, or a tensor that broadcasts against x[..., 0].
    """
    direction = sae.W_dec[latent] if along is None else along
    return lambda x: x + (value - sae.encode(x)[..., latent])[..., None] * direction


def ablate(sae: SAE[Any], latent: int, along: Tensor | None = None) -> Edit:
    """The latent is made silent: x - activation * decoder row."""
    return set_latent(sae, latent, 0.0, along)


def clamp(sae: SAE[Any], latent: int, value: float, along: Tensor | None = None) -> Edit:
    """The latent has this activation everywhere."""
    return set_latent(sae, latent, value, along)


def interchange_latent(sae: SAE[Any], latent: int, source: Tensor, along: Tensor | None = None) -> Edit:
    """The latent gets the activation that it has on `source` [..., d_in] (Geiger et al. 2021, arXiv 2106.02997)."""
    return set_latent(sae, latent, sae.encode(source)[..., latent], along)


def interchange_subspace(basis: Tensor, source: Tensor) -> Edit:
    """The projection on orthonormal rows, basis [k, d_in], is that of `source` [..., d_in].

    x + (source - x) B^T B: the intervention of distributed alignment search (Geiger et al. 2023, arXiv 2303.02536).
    Raises ReseedError for rows that are not orthonormal, whose B^T B is no projection: it moves x too far.
    """
    gram = basis.detach() @ basis.detach().T
    off = float((gram - torch.eye(len(gram), device=gram.device)).abs().max())
    if not off <= ORTHONORMAL:
        raise ReseedError(
            f"interchange of a subspace: found rows whose products are off those of orthonormal ones by {off:.3g}, "
            f"allowed: at most {ORTHONORMAL:g}"
        )
    return lambda x: x + (source - x) @ basis.T @ basis
