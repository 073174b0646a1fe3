"""The architectures, written for a stack of S independent SAEs (one a seed) over normalised activations.

Shapes: x [S, rows, d_in]; W_enc [S, d_in, d_sae]; b_enc [S, 1, d_sae]; W_dec [S, d_sae, d_in]; b_dec [S, 1, d_in].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from reseed.artifacts import generator
from reseed.params import Variant


@dataclass
class Stack:
    """The parameters of S SAEs; decoder rows have unit norm at every step."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    @classmethod
    def initialise(cls, seeds: tuple[int, ...], d_in: int, d_sae: int, device: torch.device) -> Self:
        """Isotropic unit decoder rows from each seed's own generator, the encoder their transpose, biases zero.

        Zero b_dec is the mean of the training rows, because the activations come centred: without centring, most
        latents die (the pull of a common mean makes the same few win everywhere).
        """
        rows = [torch.randn(d_sae, d_in, generator=generator("sae", seed, "init")) for seed in seeds]
        W_dec = normalize(torch.stack(rows), dim=-1).to(device)
        return cls(
            W_enc=W_dec.transpose(1, 2).contiguous(),
            b_enc=torch.zeros(len(seeds), 1, d_sae, device=device),
            W_dec=W_dec,
            b_dec=torch.zeros(len(seeds), 1, d_in, device=device),
        )

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def select(self, members: list[int]) -> Self:
        """A copy of some members of the stack."""
        return type(self)(*(tensor.detach()[members].clone() for tensor in self.tensors()))

    def pre_activations(self, x: Tensor) -> Tensor:
        """(x - b_dec) W_enc + b_enc: [S, rows, d_sae]."""
        return torch.baddbmm(self.b_enc, x - self.b_dec, self.W_enc)

    def decode(self, acts: Tensor) -> Tensor:
        """acts W_dec + b_dec: [S, rows, d_in]."""
        return torch.baddbmm(self.b_dec, acts, self.W_dec)


def activate(variant: Variant, pre: Tensor) -> Tensor:
    """Training-time activations [S, rows, d_sae] of the pre-activations.

    topk (Gao et al. 2024, arXiv 2406.04093): ReLU of the k largest of each row. batchtopk (Bussmann et al. 2024,
    arXiv 2412.06410): ReLU of the k * rows largest of each member's whole batch.
    """
    if variant.architecture == "topk":
        return _keep_largest(pre, variant.k)
    members, rows, d_sae = pre.shape
    return _keep_largest(pre.reshape(members, rows * d_sae), variant.k * rows).view_as(pre)


@torch.no_grad()
def calibrate_threshold(stack: Stack, x: Tensor, k: int) -> Tensor:
    """The threshold [S] at which a BatchTopK SAE has a mean L0 of k on the rows x [rows, d_in].

    An inference-time JumpReLU SAE keeps what lies strictly above its threshold, so this is the (k * rows + 1)-th
    largest positive pre-activation over all rows (0 if fewer are positive).
    """
    thresholds = []
    for member in range(len(stack.W_enc)):
        positive = stack.select([member]).pre_activations(x.unsqueeze(0)).flatten()
        positive = positive[positive > 0]
        wanted = k * len(x) + 1
        thresholds.append(kth_largest(positive, wanted) if len(positive) >= wanted else positive.new_zeros(1))
    return torch.cat(thresholds)


def infer(variant: Variant, stack: Stack, threshold: Tensor | None, x: Tensor) -> Tensor:
    """Inference-time activations [S, rows, d_sae]: no row depends on the others of its batch."""
    pre = stack.pre_activations(x)
    if variant.architecture == "topk":
        return _keep_largest(pre, variant.k)
    assert threshold is not None
    return pre.relu() * (pre > threshold.view(-1, 1, 1))


def aux_gradients(
    pre: Tensor, residual: Tensor, dead: Tensor, W_dec: Tensor, aux_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """AuxK of Gao et al. 2024: how badly the dead latents reconstruct what the live ones left over, as gradients.

    pre [S, rows, d_sae]; residual [S, rows, d_in]; dead [S, d_sae], at least one true. The aux_k largest dead latents
    of each row reconstruct the residual; the loss of a member is the error over the residual's power. Returns the
    columns [S, n] of latents, n the most dead latents of a member, and the gradients of the loss by their
    pre-activations [S, rows, n] and by their decoder rows [S, n, d_in]; zero for columns of live latents.
    """
    count = dead.sum(1)
    most = int(count.max().item())
    # only the columns of dead latents are touched: they are few, and the dense product would double a step's cost
    column = dead.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    is_dead = dead.gather(1, column).unsqueeze(1)
    chosen = pre.gather(2, column.unsqueeze(1).expand(-1, pre.shape[1], -1))
    acts = _keep_largest(torch.where(is_dead, chosen, -math.inf), min(aux_k, most))
    W_dead = W_dec.gather(1, column.unsqueeze(2).expand(-1, -1, W_dec.shape[2]))
    power = residual.square().sum((1, 2), keepdim=True)
    g_out = (acts @ W_dead - residual) * (2 / power)
    return column, (g_out @ W_dead.transpose(1, 2)) * acts.sign(), acts.transpose(1, 2) @ g_out


def _keep_largest(pre: Tensor, k: int) -> Tensor:
    """ReLU of the k largest along the last dimension (and of what ties with the smallest of them), 0 elsewhere."""
    return torch.where(pre >= kth_largest(pre, k).clamp(min=0), pre, 0)


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest value along the last dimension: [..., 1]."""
    if values.is_cuda:
        return values.topk(k, dim=-1).values[..., -1:]
    # numpy's selection is vectorised and takes a third of the time of torch.topk
    at = values.shape[-1] - k
    return torch.from_numpy(np.partition(values.numpy(), at, axis=-1)[..., at : at + 1])
