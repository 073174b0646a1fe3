"""One optimiser step of every member of a stack: loss terms, gradients, clipping, Adam, projection.

Two ways to the same gradients: by autograd through dense products, for every architecture and objective; and, for
TopK and BatchTopK on the CPU, by kernels that touch only the latents which fire (see `kernels`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from reseed.params import SaeTraining, Variant
from reseed.saes import kernels
from reseed.saes.architectures import Architecture, Batch, BatchTopKArchitecture, Stack, Terms, TopKArchitecture
from reseed.saes.objectives import activation_terms, control_sparsity, dead_columns, weight_terms

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
CLIP_EPS = 1e-6
CHUNK_FLOATS = 1 << 25
"""Pre-activations held at once by the sparse step (128 MB)."""

Moments = dict[str, tuple[Tensor, Tensor]]


@dataclass
class Gradients:
    """Of every member's loss: by parameter, the values of its terms [S], which latents fired [S, d_sae], L0 [S]."""

    by: dict[str, Tensor]
    terms: dict[str, Tensor]
    fired: Tensor
    l0: Tensor
    residual: Tensor
    """target - out [S, rows, d_out]."""


@dataclass
class Scratch:
    """Memory that the sparse step writes to again at every step: asking for it anew costs as much as a product."""

    pre: Tensor | None = None
    code: kernels.Code | None = None
    gradients: kernels.SparseGradients | None = None


def gradients_of(
    architecture: Architecture[Variant],
    training: SaeTraining,
    stack: Stack,
    batch: Batch,
    idle: Tensor,
    step: int,
    scratch: Scratch | None = None,
) -> Gradients:
    """The gradients of every member's loss on its rows.

    A member's loss is the sum of its terms times their coefficients; idle [S, d_sae]: latents that have not fired for
    `dead_after_steps`, of which those that do not fire now either are dead. Products are computed in `precision`.
    """
    objectives = architecture.variant.objectives
    looks_at_activations = objectives.sparsity or objectives.temporal_smoothness or objectives.probe_guidance
    if not looks_at_activations and is_sparse(architecture, batch.x.device):
        return sparse_gradients(architecture, training, stack, batch, idle, scratch or Scratch())
    return dense_gradients(architecture, training, stack, batch, idle, step)


def is_sparse(architecture: Architecture[Variant], device: torch.device) -> bool:
    """Whether the kernels have this architecture: they need only the latents that are on."""
    return (
        device.type == "cpu"
        and isinstance(architecture, TopKArchitecture | BatchTopKArchitecture)
        and architecture.unit_norm
        and not architecture.variant.archetypal
    )


def dense_gradients(
    architecture: Architecture[Variant], training: SaeTraining, stack: Stack, batch: Batch, idle: Tensor, step: int
) -> Gradients:
    """By autograd."""
    leaves = {name: tensor.detach().requires_grad_(True) for name, tensor in stack.parameters.items()}
    made = Stack(leaves, stack.buffers, stack.k)
    losses = _compiled_losses() if training.compile else _losses
    with torch.enable_grad():
        total, terms, acts, residual = losses(architecture, training, made, batch, idle, step)
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    by = {
        name: torch.zeros_like(leaf) if gradient is None else gradient.contiguous()
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    active = acts > 0
    return Gradients(by, terms, active.any(1), active.sum((1, 2)) / acts.shape[1], residual)


def _losses(
    architecture: Architecture[Variant], training: SaeTraining, made: Stack, batch: Batch, idle: Tensor, step: int
) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    low = training.precision == "bfloat16"
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=low):
        forward = architecture.forward(made, batch)
        acts = forward.acts.detach()
        dead = idle & ~(acts > 0).any(1)
        terms: Terms = architecture.own_terms(made, batch, forward)
        terms |= activation_terms(architecture, training, made, batch, forward, dead, step)
        terms |= weight_terms(architecture, made)
    total = torch.stack([(coefficient * value).sum() for coefficient, value in terms.values()]).sum()
    values = {name: value.detach() for name, (_, value) in terms.items()}
    return total, values, acts, (forward.target - forward.out).detach()


@functools.cache
def _compiled_losses() -> Callable[..., tuple[Tensor, dict[str, Tensor], Tensor, Tensor]]:
    """Through torch.compile, with CUDA graphs where there is a GPU."""
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    made: Callable[..., tuple[Tensor, dict[str, Tensor], Tensor, Tensor]] = torch.compile(_losses, mode=mode)
    return made


@torch.no_grad()
def sparse_gradients(
    architecture: Architecture[Variant],
    training: SaeTraining,
    stack: Stack,
    batch: Batch,
    idle: Tensor,
    scratch: Scratch,
) -> Gradients:
    """By the kernels: one dense product, of the encoder; the others touch k of d_sae latents."""
    p, x = stack.parameters, batch.x
    rows, d_sae = x.shape[1], architecture.variant.d_sae
    code, bias = sparse_code(architecture, stack, x, scratch, training.precision)
    found = scratch.gradients = kernels.sparse_gradients(
        x, p["W_enc_T"], p["W_dec"], p["b_dec"][:, 0], code, scratch.gradients
    )
    by = {
        "W_enc_T": found.g_encT,
        "b_enc": found.g_benc.unsqueeze(1),
        "W_dec": found.g_dec,
        "b_dec": found.g_bdec.unsqueeze(1),
    }
    fired = code.fired(d_sae)
    gradients = Gradients(by, {"reconstruction": found.loss.clone()}, fired, code.rowptr[:, -1] / rows, found.residual)
    dead = idle & ~fired
    if training.aux_k:
        gradients.terms["aux_k"] = torch.zeros(len(stack))
    if training.aux_k and dead.any():
        _add_aux_k(training, stack, batch, bias, dead, gradients)
    _add_weight_terms(architecture, stack, gradients)
    return gradients


def sparse_code(
    architecture: Architecture[Variant], stack: Stack, x: Tensor, scratch: Scratch, precision: str = "float32"
) -> tuple[kernels.Code, Tensor]:
    """The latents of a stack that are on in the batch x [S, rows, d_in], in `scratch` until its next use.

    And the bias that they were selected with [S, 1, d_sae], to which b_dec has moved from every row.
    """
    p, S, rows, d_sae = stack.parameters, len(stack), x.shape[1], architecture.variant.d_sae
    encoder = p["W_enc_T"].transpose(1, 2)
    bias = torch.baddbmm(p["b_enc"], p["b_dec"], encoder, alpha=-1)
    select = kernels.select_topk if isinstance(architecture, TopKArchitecture) else kernels.select_batchtopk
    one_k = len(set(stack.k)) == 1
    share = max(1, min(S, CHUNK_FLOATS // (rows * d_sae))) if one_k else S
    if scratch.pre is None or scratch.pre.shape != (share, rows, d_sae):
        scratch.pre = x.new_empty(share, rows, d_sae)
    code = scratch.code = _room_for(S, rows, rows * max(stack.k), scratch.code)
    for start in range(0, S, share):
        part = slice(start, min(S, start + share))
        pre = _encode(x[part], encoder[part], bias[part], precision, scratch.pre[: part.stop - start])
        select(pre, stack.k[part], kernels.Code(code.rowptr[part], code.index[part], code.value[part]))
    return code, bias


def _room_for(S: int, rows: int, capacity: int, code: kernels.Code | None) -> kernels.Code:
    if code is not None and code.rowptr.shape == (S, rows + 1) and code.index.shape == (S, capacity):
        return code
    return kernels.Code(
        torch.zeros(S, rows + 1, dtype=torch.int64),
        torch.zeros(S, capacity, dtype=torch.int32),
        torch.zeros(S, capacity),
    )


def _encode(x: Tensor, encoder: Tensor, bias: Tensor, precision: str, out: Tensor) -> Tensor:
    if precision == "bfloat16":
        return out.copy_(torch.bmm(x.bfloat16(), encoder.bfloat16())).add_(bias)
    return torch.baddbmm(bias, x, encoder, out=out)


def _add_aux_k(
    training: SaeTraining, stack: Stack, batch: Batch, bias: Tensor, dead: Tensor, gradients: Gradients
) -> None:
    """Add the gradients of AuxK (see `objectives.aux_k`) through the rows of the dead latents alone."""
    p, x = stack.parameters, batch.x
    column, is_dead = dead_columns(dead)
    which = column.unsqueeze(2).expand(-1, -1, x.shape[2])
    W_enc_T, W_dec = p["W_enc_T"].gather(1, which), p["W_dec"].gather(1, which)
    pre = torch.baddbmm(bias.gather(2, column.unsqueeze(1)), x, W_enc_T.transpose(1, 2))
    code = kernels.select_topk(pre.masked_fill_(~is_dead, -math.inf), min(training.aux_k, column.shape[1]))
    found = kernels.sparse_gradients(x, W_enc_T, W_dec, p["b_dec"][:, 0], code, target=gradients.residual)
    # the mean squared norm of what is to be reconstructed, which is the residual
    share = (x.shape[2] / gradients.terms["reconstruction"].clamp(min=1e-12)).masked_fill(~dead.any(1), 0)
    weight = (share * training.aux_coefficient).view(-1, 1, 1)
    gradients.terms["aux_k"] = found.loss * share
    gradients.by["W_enc_T"].scatter_add_(1, which, found.g_encT * weight)
    gradients.by["b_enc"].scatter_add_(2, column.unsqueeze(1), found.g_benc.unsqueeze(1) * weight)
    gradients.by["W_dec"].scatter_add_(1, which, found.g_dec * weight)
    gradients.by["b_dec"] += found.g_bdec.unsqueeze(1) * weight


def _add_weight_terms(architecture: Architecture[Variant], stack: Stack, gradients: Gradients) -> None:
    leaves = {name: tensor.detach().requires_grad_(True) for name, tensor in stack.parameters.items()}
    with torch.enable_grad():
        terms = weight_terms(architecture, Stack(leaves, stack.buffers, stack.k))
        if not terms:
            return
        total = torch.stack([(coefficient * value).sum() for coefficient, value in terms.values()]).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is not None:
            gradients.by[name] += gradient
    gradients.terms |= {name: value.detach() for name, (_, value) in terms.items()}


@torch.no_grad()
def take_step(
    architecture: Architecture[Variant],
    training: SaeTraining,
    stack: Stack,
    moments: Moments,
    gradients: Gradients,
    rates: Sequence[float],
    step: int,
) -> Tensor:
    """Clip, move by Adam and project, in place; returns the norms of the gradients [S] before clipping."""
    on_cpu = gradients.residual.device.type == "cpu"
    unit = "W_dec" if architecture.unit_norm and "W_dec" in stack.parameters else None
    squares = []
    for name, gradient in gradients.by.items():
        if name == unit:
            squares.append(_turning_part(gradient, stack.parameters[name], on_cpu))
        else:
            squares.append(kernels.squared_norm(gradient) if on_cpu else gradient.flatten(1).square().sum(1))
    norm: Tensor = torch.stack(squares).sum(0).sqrt()
    # as torch.nn.utils.clip_grad_norm_ has it, so that a clipped run can be compared with the peers'
    clip = (training.max_gradient_norm / (norm + CLIP_EPS)).clamp(max=1)
    rate = torch.tensor(rates, dtype=torch.float64, device=norm.device)
    for name, parameter in stack.parameters.items():
        gradient, (m, v) = gradients.by[name], moments[name]
        if on_cpu:
            kernels.adam_update(
                parameter, gradient, m, v, rate, clip, step, *ADAM_BETAS, ADAM_EPS, unit_rows=name == unit
            )
        else:
            _adam(parameter, gradient, m, v, rate, clip, step)
            if name == unit:
                parameter.copy_(normalize(parameter, dim=-1))
    architecture.project(stack)
    control_sparsity(architecture.variant, stack, gradients.l0)
    return norm


def _turning_part(gradient: Tensor, W_dec: Tensor, on_cpu: bool) -> Tensor:
    """Leave of the gradient only what turns a decoder row, whose length is fixed at one; its squared norm [S]."""
    if on_cpu:
        return kernels.project_and_norm(gradient, W_dec)
    gradient -= (gradient * W_dec).sum(-1, keepdim=True) * W_dec
    return gradient.flatten(1).square().sum(1)


def _adam(parameter: Tensor, gradient: Tensor, m: Tensor, v: Tensor, rate: Tensor, clip: Tensor, step: int) -> None:
    """Adam (Kingma and Ba 2015) with a learning rate and a clipping factor a member; in place."""
    beta1, beta2 = ADAM_BETAS
    column = [-1] + [1] * (parameter.ndim - 1)
    clipped = gradient * clip.view(column)
    m.lerp_(clipped, 1 - beta1)
    v.mul_(beta2).addcmul_(clipped, clipped, value=1 - beta2)
    size = (rate / (1 - beta1**step)).float().view(column)
    parameter -= size * m / ((v / (1 - beta2**step)).sqrt() + ADAM_EPS)


@torch.no_grad()
def resample(
    architecture: Architecture[Variant],
    stack: Stack,
    moments: Moments,
    dead: Tensor,
    gradients: Gradients,
    randoms: list[torch.Generator],
) -> int:
    """Give each dead latent a badly reconstructed row to represent; returns how many were moved.

    After Bricken et al. 2023: rows are drawn with probability proportional to their squared loss; the decoder row
    becomes the row's residual made unit (they take the row itself), the encoder row the same at `resampled_norm` times
    the mean norm of the alive encoder rows, what else a latent has its first value, Adam's moments zero. In place.
    """
    p, moved = stack.parameters, 0
    fresh = architecture.first_latent_values()
    for member, random in enumerate(randoms):
        where = dead[member].nonzero()[:, 0]
        alive = ~dead[member]
        if not len(where) or not alive.any():
            continue
        weights = gradients.residual[member].double().square().sum(-1).square().cpu()
        chosen = torch.multinomial(weights, len(where), replacement=True, generator=random)
        rows = normalize(gradients.residual[member][chosen.to(where.device)], dim=-1)
        p["W_dec"][member, where] = rows
        length = torch.linalg.vector_norm(p["W_enc_T"][member][alive], dim=-1).mean()
        p["W_enc_T"][member, where] = architecture.resampled_norm * length * rows
        for name, value in fresh.items():
            p[name][member, 0, where] = value
        for name in ("W_dec", "W_enc_T"):
            for moment in moments[name]:
                moment[member, where] = 0
        for name in fresh:
            for moment in moments[name]:
                moment[member, 0, where] = 0
        moved += len(where)
    return moved
