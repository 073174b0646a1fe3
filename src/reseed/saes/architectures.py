"""The architectures: each a small class over a stack of S independent SAEs (one a seed), registered by its name.

Shapes: x [S, rows, d_in]; W_enc_T [S, d_sae, d_in], the encoder with a latent a row, as the decoder has it;
b_enc [S, 1, d_sae]; W_dec [S, d_sae, d_out]; b_dec [S, 1, d_out]. Activations come normalised (see `rows`).
Formulas are those of SAELens 6.54's training classes where it has the architecture, else of the paper named.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn.functional import normalize

from reseed.artifacts import derive_seed, generator
from reseed.params import (
    BaseVariant,
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
)

V = TypeVar("V", bound=BaseVariant)
Terms = dict[str, tuple[float | Tensor, Tensor]]
"""Loss terms by name: the coefficient and the value [S]; a member's loss is the sum of their products."""

KMEANS_ROWS_PER_POINT = 32
BLOCK_ROWS = 8192


@dataclass
class Stack:
    """S SAEs: what is trained, what is not, and each member's k; every tensor has the member as first dimension."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    k: tuple[int, ...]

    def select(self, members: Sequence[int]) -> Stack:
        """A copy of some members of the stack."""
        chosen = list(members)
        return Stack(
            {name: tensor.detach()[chosen].clone() for name, tensor in self.parameters.items()},
            {name: tensor[chosen].clone() for name, tensor in self.buffers.items()},
            tuple(self.k[i] for i in chosen),
        )

    def __len__(self) -> int:
        return len(self.k)


@dataclass
class Batch:
    """Rows of every member: x [S, rows, d_in] ([S, rows, n_layers, d_in] for a router); target [S, rows, d_out].

    following [S, rows, d_in]: the next token of the same sequence, where `follows` [S, rows] says that there is one.
    labels [S, rows]: the class of a row, -1 where it has none.
    """

    x: Tensor
    target: Tensor
    following: Tensor | None = None
    follows: Tensor | None = None
    labels: Tensor | None = None


@dataclass
class Forward:
    """Pre-activations and activations [S, rows, d_sae], what they reconstruct and what they should [S, rows, d_out]."""

    pre: Tensor
    acts: Tensor
    out: Tensor
    target: Tensor


class Architecture(ABC, Generic[V]):
    """What the architectures share: an affine encoder around b_dec, an affine decoder, squared error."""

    has_threshold = False
    """A calibrated threshold stands in for the selection at inference."""
    resampled_norm = 0.2
    """Norm of a resampled encoder row, in units of the alive ones: small, so that it does not disturb them."""

    def __init__(self, variant: V, d_in: int, d_out: int, n_layers: int, unit_norm: bool) -> None:
        self.variant, self.d_in, self.d_out, self.n_layers, self.unit_norm = variant, d_in, d_out, n_layers, unit_norm

    def initialise(self, keys: Sequence[object], k: Sequence[int], rows: Tensor) -> Stack:
        """Isotropic unit decoder rows from each key's own generator, the encoder their transpose, biases zero.

        Zero b_dec is the centre of the training rows, because the activations come centred: without centring, most
        latents die (the pull of a common mean makes the same few win everywhere). rows [n, d_out]: training rows
        that an archetypal decoder takes its points from.
        """
        d_sae = self.variant.d_sae
        randoms = [generator("sae", key, "init") for key in keys]
        parameters: dict[str, Tensor] = {}
        buffers: dict[str, Tensor] = {}
        if archetypal := self.variant.archetypal:
            points = [data_points(rows, archetypal.points, derive_seed("sae", key, "points")) for key in keys]
            mixes = [_first_mix(d_sae, archetypal.points, random) for random in randoms]
            buffers["points"] = torch.stack(points)
            parameters["mix"] = torch.stack(mixes).to(rows.device)
            parameters["deviation"] = torch.zeros(len(keys), d_sae, self.d_out, device=rows.device)
        else:
            isotropic = [torch.randn(d_sae, self.d_out, generator=random) for random in randoms]
            parameters["W_dec"] = normalize(torch.stack(isotropic), dim=-1).to(rows.device)
        stack = Stack(parameters, buffers, tuple(k))
        stack.parameters["W_enc_T"] = self._encoder_rows(stack, randoms).to(rows.device)
        stack.parameters["b_enc"] = torch.zeros(len(keys), 1, d_sae, device=rows.device)
        stack.parameters["b_dec"] = torch.zeros(len(keys), 1, self.d_out, device=rows.device)
        self.add_parameters(stack)
        if self.variant.soft_frozen:
            stack.buffers["start"] = normalize(stack.parameters["W_dec"], dim=-1)
        return stack

    def _encoder_rows(self, stack: Stack, randoms: list[torch.Generator]) -> Tensor:
        del randoms
        return self.raw_decoder(stack).clone()

    def add_parameters(self, stack: Stack) -> None:
        """Parameters that only this architecture has."""

    def first_latent_values(self) -> dict[str, float]:
        """What a latent's parameters [S, 1, d_sae] are at the start."""
        return {"b_enc": 0.0}

    def raw_decoder(self, stack: Stack) -> Tensor:
        """Decoder rows as trained: [S, d_sae, d_out], of unit norm unless `decoder_norm` is free."""
        if "mix" in stack.parameters:  # relaxed archetypal (Fel et al. 2025, arXiv 2502.12892)
            return normalize(stack.parameters["mix"] @ stack.buffers["points"] + stack.parameters["deviation"], dim=-1)
        return stack.parameters["W_dec"]

    def decoder(self, stack: Stack) -> Tensor:
        """The rows that activations are multiplied with."""
        return self.raw_decoder(stack)

    def norms(self, stack: Stack) -> Tensor | None:
        """Norms of the decoder rows [S, 1, d_sae] where they are free, else None."""
        free = not self.unit_norm and "W_dec" in stack.parameters
        return torch.linalg.vector_norm(stack.parameters["W_dec"], dim=-1).unsqueeze(1) if free else None

    def pre_activations(self, stack: Stack, x: Tensor) -> Tensor:
        """(x - b_dec) W_enc + b_enc: [S, rows, d_sae]."""
        p = stack.parameters
        return torch.baddbmm(p["b_enc"], x - p["b_dec"], p["W_enc_T"].transpose(1, 2))

    @abstractmethod
    def activate(self, stack: Stack, pre: Tensor) -> Tensor:
        """Training-time activations of the pre-activations [S, rows, d_sae]."""

    def infer(self, stack: Stack, x: Tensor) -> Tensor:
        """Inference-time activations [S, rows, d_sae]: no row depends on the others of its batch."""
        if self.has_threshold:
            pre = self.pre_activations(stack, x)
            return pre.relu() * (pre > stack.buffers["threshold"].view(-1, 1, 1))
        return self.activate(stack, self.pre_activations(stack, x))

    def decode(self, stack: Stack, acts: Tensor) -> Tensor:
        """acts W_dec + b_dec: [S, rows, d_out]."""
        return torch.baddbmm(stack.parameters["b_dec"], acts, self.decoder(stack))

    def forward(self, stack: Stack, batch: Batch) -> Forward:
        pre = self.pre_activations(stack, batch.x)
        acts = self.activate(stack, pre)
        return Forward(pre, acts, self.decode(stack, acts), batch.target)

    def reconstruct(self, stack: Stack, x: Tensor, acts: Tensor) -> Tensor:
        """What the activations of x reconstruct: [S, rows, d_out]."""
        del x
        return self.decode(stack, acts)

    def own_terms(self, stack: Stack, batch: Batch, forward: Forward) -> Terms:
        """The terms without which the architecture would be another: reconstruction, and what it adds of its own."""
        del stack, batch
        return {"reconstruction": (1.0, squared_error(forward.out, forward.target))}

    def in_output_units(self, stack: Stack, acts: Tensor) -> Tensor:
        """acts [S, rows, d_sae] as multiples of unit decoder rows."""
        norms = self.norms(stack)
        return acts if norms is None else acts * norms

    def penalised(self, stack: Stack, forward: Forward) -> Tensor:
        """What an l1 or tanh penalty acts on [S, rows, d_sae]."""
        return self.in_output_units(stack, forward.acts)

    @torch.no_grad()
    def project(self, stack: Stack) -> None:
        """Bring parameters back to where they are allowed, after each optimiser step, in place.

        (The optimiser itself keeps decoder rows at norm one.)
        """
        if archetypal := self.variant.archetypal:
            mix, deviation = stack.parameters["mix"], stack.parameters["deviation"]
            mix.relu_().div_(mix.sum(-1, keepdim=True).clamp(min=1e-12))
            length = torch.linalg.vector_norm(deviation, dim=-1, keepdim=True).clamp(min=1e-12)
            deviation.mul_((archetypal.delta / length).clamp(max=1))
        if least := self.variant.soft_frozen:
            rows, start = stack.parameters["W_dec"], stack.buffers["start"]
            length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
            along = (rows * start).sum(-1, keepdim=True)
            nearest = least * start + (1 - least**2) ** 0.5 * normalize(rows - along * start, dim=-1)
            rows.copy_(torch.where(along < least * length, length * nearest, rows))

    def calibrate(self, stack: Stack, x: Tensor) -> None:
        """Set what inference needs beyond the trained parameters, from training rows x [rows, d_in]."""


class _TopKFamily(Architecture[V]):
    """Selection by size: with free decoder norms a pre-activation counts in units of what it reconstructs."""

    # a shorter encoder row would hardly be selected, and then get no gradient to grow by
    resampled_norm = 1.0

    def decoder(self, stack: Stack) -> Tensor:
        raw = self.raw_decoder(stack)
        return raw if self.norms(stack) is None else normalize(raw, dim=-1)

    def pre_activations(self, stack: Stack, x: Tensor) -> Tensor:
        pre, norms = super().pre_activations(stack, x), self.norms(stack)
        return pre if norms is None else pre * norms

    def in_output_units(self, stack: Stack, acts: Tensor) -> Tensor:
        del stack
        return acts


class TopKArchitecture(_TopKFamily[TopK]):
    """ReLU of the k largest of each row."""

    def activate(self, stack: Stack, pre: Tensor) -> Tensor:
        return keep_largest(pre, stack.k)


class _Batched(_TopKFamily[V]):
    """ReLU of the k * rows largest of each member's whole batch; a threshold at inference."""

    has_threshold = True

    def activate(self, stack: Stack, pre: Tensor) -> Tensor:
        members, rows, d_sae = pre.shape
        flat = pre.reshape(members, 1, rows * d_sae)
        return keep_largest(flat, tuple(k * rows for k in stack.k)).view_as(pre)

    @torch.no_grad()
    def calibrate(self, stack: Stack, x: Tensor) -> None:
        """The threshold at which the mean L0 over the rows x is k.

        What lies strictly above it fires, so it is midway between the (k * rows)-th and the next largest positive
        pre-activation over all rows (0 if fewer are positive): on either of them rounding would decide. An average
        over batches, as training code keeps it, lags behind the weights.
        """
        thresholds = []
        for member, k in enumerate(stack.k):
            one, wanted = stack.select([member]), k * len(x) + 1
            largest = x.new_empty(0)
            for block in x.split(BLOCK_ROWS):
                pre = self.pre_activations(one, block.unsqueeze(0)).flatten()
                largest = torch.cat([largest, pre[pre > 0]])
                if len(largest) > 2 * wanted:
                    largest = largest[largest >= kth_largest(largest, wanted)]
            if len(largest) >= wanted:
                below, above = kth_largest(largest, wanted), kth_largest(largest, wanted - 1)
                middle = below + (above - below) / 2
                thresholds.append(torch.where(middle < above, middle, below))
            else:
                thresholds.append(largest.new_zeros(1))
        stack.buffers["threshold"] = torch.cat(thresholds)


class BatchTopKArchitecture(_Batched[BatchTopK]):
    pass


class MatryoshkaArchitecture(_Batched[Matryoshka]):
    """Every prefix of the latents also reconstructs by itself; the errors are added."""

    def own_terms(self, stack: Stack, batch: Batch, forward: Forward) -> Terms:
        terms = super().own_terms(stack, batch, forward)
        W_dec, out, start = self.decoder(stack), stack.parameters["b_dec"], 0
        for width in self.variant.widths[:-1]:
            out = out + forward.acts[:, :, start:width] @ W_dec[:, start:width]
            terms[f"prefix_{width}"] = (1.0, squared_error(out, forward.target))
            start = width
        return terms


class HierarchicalTopKArchitecture(_TopKFamily[HierarchicalTopK]):
    """The j largest reconstruct for every budget j; the errors are averaged."""

    def activate(self, stack: Stack, pre: Tensor) -> Tensor:
        return keep_largest(pre, stack.k)

    def own_terms(self, stack: Stack, batch: Batch, forward: Forward) -> Terms:
        terms = super().own_terms(stack, batch, forward)
        share = 1 / len(self.variant.budgets)
        terms["reconstruction"] = (share, terms["reconstruction"][1])
        for budget in self.variant.budgets[:-1]:
            out = self.decode(stack, keep_largest(forward.acts, (budget,) * len(stack)))
            terms[f"budget_{budget}"] = (share, squared_error(out, forward.target))
        return terms


class RouteSaeArchitecture(_TopKFamily[RouteSae]):
    """A router mixes (soft) or picks (hard) a layer for each row; one TopK dictionary reconstructs what it gave.

    Parameters beside the common ones: W_router [S, d_in, n_layers]; per_layer: W_dec [S, n_layers * d_sae, d_in].
    """

    def add_parameters(self, stack: Stack) -> None:
        zero = stack.parameters["b_dec"]
        stack.parameters["W_router"] = zero.new_zeros(len(stack), self.d_in, self.n_layers)
        if self.variant.decoder == "per_layer":
            stack.parameters["W_dec"] = stack.parameters["W_dec"].repeat(1, self.n_layers, 1)

    def route(self, stack: Stack, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [S, rows, n_layers, d_in] -> the routed rows [S, rows, d_in] and the weight of each layer [.., n_layers].

        r = softmax(sum over layers of x times W_router); hard: the largest alone, multiplied by its r.
        """
        weights = (x.sum(2) @ stack.parameters["W_router"]).softmax(-1)
        if self.variant.routing == "hard":
            # the lowest index wins a tie, as argmax has it on every device
            chosen = torch.zeros_like(weights).scatter(-1, weights.argmax(-1, keepdim=True), 1.0)
            weights = weights * chosen
        return torch.einsum("srl,srld->srd", weights, x), weights

    def activate(self, stack: Stack, pre: Tensor) -> Tensor:
        return keep_largest(pre, stack.k)

    def forward(self, stack: Stack, batch: Batch) -> Forward:
        y, weights = self.route(stack, batch.x)
        pre = self.pre_activations(stack, y)
        acts = self.activate(stack, pre)
        return Forward(pre, acts, self._decode_for(stack, acts, weights), y)

    def reconstruct(self, stack: Stack, x: Tensor, acts: Tensor) -> Tensor:
        return self._decode_for(stack, acts, self.route(stack, x)[1])

    def _decode_for(self, stack: Stack, acts: Tensor, weights: Tensor) -> Tensor:
        if self.variant.decoder == "shared":
            return self.decode(stack, acts)
        W_dec = self.decoder(stack).unflatten(1, (self.n_layers, -1))
        each = [acts @ W_dec[:, layer] for layer in range(self.n_layers)]
        return stack.parameters["b_dec"] + (torch.stack(each, 2) * (weights > 0).unsqueeze(-1)).sum(2)

    def by_decoder_row(self, stack: Stack, x: Tensor, pre: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
        """pre [S, rows, d_sae] and dead [S, d_sae] as a decoder row has them: -inf for the rows of other layers."""
        if self.variant.decoder == "shared":
            return pre, dead
        here = (self.route(stack, x)[1] > 0).repeat_interleave(self.variant.d_sae, -1)
        return torch.where(here, pre.repeat(1, 1, self.n_layers), -torch.inf), dead.repeat(1, self.n_layers)

    def infer(self, stack: Stack, x: Tensor) -> Tensor:
        return self.activate(stack, self.pre_activations(stack, self.route(stack, x)[0]))

    def own_terms(self, stack: Stack, batch: Batch, forward: Forward) -> Terms:
        # of each row relative to its own power, because the router could shrink what it sends
        del stack, batch
        error = (forward.out - forward.target).square().sum(-1)
        relative = error / forward.target.square().sum(-1).clamp(min=1e-12)
        return {"reconstruction": (1.0, relative.mean(-1) * self.d_in)}


class TranscoderArchitecture(_Batched[V]):
    """BatchTopK whose latents read one hook point and write another; b_dec belongs to the output alone."""

    def _encoder_rows(self, stack: Stack, randoms: list[torch.Generator]) -> Tensor:
        del stack
        rows = [torch.randn(self.variant.d_sae, self.d_in, generator=random) for random in randoms]
        return normalize(torch.stack(rows), dim=-1)

    def pre_activations(self, stack: Stack, x: Tensor) -> Tensor:
        p = stack.parameters
        pre, norms = torch.baddbmm(p["b_enc"], x, p["W_enc_T"].transpose(1, 2)), self.norms(stack)
        return pre if norms is None else pre * norms


class SkipTranscoderArchitecture(TranscoderArchitecture[SkipTranscoder]):
    """Beside the latents a linear map, W_skip [S, d_in, d_out]."""

    def add_parameters(self, stack: Stack) -> None:
        zero = stack.parameters["b_dec"]
        stack.parameters["W_skip"] = zero.new_zeros(len(stack), self.d_in, self.d_out)

    def forward(self, stack: Stack, batch: Batch) -> Forward:
        forward = super().forward(stack, batch)
        forward.out = forward.out + batch.x @ stack.parameters["W_skip"]
        return forward

    def reconstruct(self, stack: Stack, x: Tensor, acts: Tensor) -> Tensor:
        return self.decode(stack, acts) + x @ stack.parameters["W_skip"]


class StandardArchitecture(Architecture[Standard]):
    """ReLU."""

    def activate(self, stack: Stack, pre: Tensor) -> Tensor:
        del stack
        return pre.relu()


class JumpReLUArchitecture(Architecture[JumpReLU]):
    """A pre-activation passes where it lies above its latent's threshold [S, 1, d_sae]."""

    def first_latent_values(self) -> dict[str, float]:
        return super().first_latent_values() | {"threshold": self.variant.init_threshold}

    def add_parameters(self, stack: Stack) -> None:
        stack.parameters["threshold"] = torch.full_like(stack.parameters["b_enc"], self.variant.init_threshold)

    def activate(self, stack: Stack, pre: Tensor) -> Tensor:
        jumped: Tensor = _Jump.apply(pre, stack.parameters["threshold"], self.variant.bandwidth)  # type: ignore[no-untyped-call]
        return jumped

    def count(self, stack: Stack, pre: Tensor) -> Tensor:
        """How many latents of each row fire [S, rows], with a gradient for the threshold."""
        fires: Tensor = _Step.apply(pre, stack.parameters["threshold"], self.variant.bandwidth)  # type: ignore[no-untyped-call]
        return fires.sum(-1)

    @torch.no_grad()
    def project(self, stack: Stack) -> None:
        super().project(stack)
        # below zero the gate would let negative pre-activations through
        stack.parameters["threshold"].clamp_(min=0)


class GatedArchitecture(Architecture[Gated]):
    """Two affine views of one product: the gate (b_enc) says whether a latent fires, r_mag and b_mag how much."""

    def first_latent_values(self) -> dict[str, float]:
        return super().first_latent_values() | {"r_mag": 0.0, "b_mag": 0.0}

    def add_parameters(self, stack: Stack) -> None:
        for name in ("r_mag", "b_mag"):
            stack.parameters[name] = torch.zeros_like(stack.parameters["b_enc"])

    def magnitude(self, stack: Stack, gate: Tensor) -> Tensor:
        p = stack.parameters
        return (gate - p["b_enc"]) * p["r_mag"].exp() + p["b_mag"]

    def activate(self, stack: Stack, pre: Tensor) -> Tensor:
        return self.magnitude(stack, pre).relu() * (pre > 0)

    def own_terms(self, stack: Stack, batch: Batch, forward: Forward) -> Terms:
        terms = super().own_terms(stack, batch, forward)
        # through the gate alone, which gets no gradient from reconstruction; the decoder learns from it as in SAELens
        terms["gate"] = (1.0, squared_error(self.decode(stack, forward.pre.relu()), forward.target))
        return terms

    def penalised(self, stack: Stack, forward: Forward) -> Tensor:
        return self.in_output_units(stack, forward.pre.relu())


REGISTRY: dict[str, type[Architecture[Any]]] = {
    "standard": StandardArchitecture,
    "topk": TopKArchitecture,
    "batchtopk": BatchTopKArchitecture,
    "jumprelu": JumpReLUArchitecture,
    "gated": GatedArchitecture,
    "matryoshka": MatryoshkaArchitecture,
    "hierarchical_topk": HierarchicalTopKArchitecture,
    "routesae": RouteSaeArchitecture,
    "transcoder": TranscoderArchitecture[Transcoder],
    "skip_transcoder": SkipTranscoderArchitecture,
}


def squared_error(out: Tensor, target: Tensor) -> Tensor:
    """The squared error of a row, summed over dimensions, mean over rows: [S]."""
    return (out - target).square().sum(-1).mean(-1)


def keep_largest(pre: Tensor, k: Sequence[int]) -> Tensor:
    """ReLU of the k[s] largest along the last dimension (and of what ties with the smallest of them), 0 elsewhere."""
    found = pre.detach()
    if len(set(k)) == 1:
        bound = kth_largest(found, k[0])
    else:
        bound = torch.stack([kth_largest(found[member], k[member]) for member in range(len(k))])
    return torch.where(pre >= bound.clamp(min=0), pre, 0)


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest value along the last dimension: [..., 1]."""
    if values.is_cuda or values.dtype == torch.bfloat16 or torch.compiler.is_compiling():
        return values.topk(k, dim=-1).values[..., -1:]
    # numpy's selection is vectorised and takes a third of the time of torch.topk
    at = values.shape[-1] - k
    return torch.from_numpy(np.partition(values.numpy(), at, axis=-1)[..., at : at + 1])


def data_points(rows: Tensor, points: int, seed: int) -> Tensor:
    """Unit centroids [points, d] of a k-means over a sample of the rows [n, d], both drawn by `seed`."""
    random = torch.Generator().manual_seed(seed)
    sample = rows[torch.randperm(len(rows), generator=random)[: points * KMEANS_ROWS_PER_POINT].to(rows.device)]
    centroids, _ = kmeans2(sample.double().cpu().numpy(), points, minit="points", rng=seed % 2**32)
    return normalize(torch.from_numpy(centroids).to(rows), dim=-1)


def _first_mix(d_sae: int, points: int, random: torch.Generator) -> Tensor:
    """Convex weights [d_sae, points]: mostly one random point a latent, so that seeds start apart."""
    own = torch.zeros(d_sae, points)
    own[torch.arange(d_sae), torch.randint(points, (d_sae,), generator=random)] = 1
    spread = torch.rand(d_sae, points, generator=random)
    return 0.8 * own + 0.2 * spread / spread.sum(-1, keepdim=True)


class _Step(torch.autograd.Function):
    """1 where x > threshold; its gradient by the threshold is a rectangle's, by x none (arXiv 2407.14435)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return (x > threshold).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        x, threshold = ctx.saved_tensors
        near = ((x - threshold).abs() < ctx.bandwidth / 2).to(grad)
        return None, -(near * grad).sum(1, keepdim=True) / ctx.bandwidth, None


class _Jump(torch.autograd.Function):
    """x where x > threshold, else 0; its gradient by the threshold is that of a rectangle times the threshold."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return x * (x > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, threshold = ctx.saved_tensors
        near = ((x - threshold).abs() < ctx.bandwidth / 2).to(grad)
        by_threshold = -(near * grad * threshold).sum(1, keepdim=True) / ctx.bandwidth
        return grad * (x > threshold), by_threshold.to(threshold), None
