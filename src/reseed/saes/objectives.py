"""The terms that an objective adds to an architecture's own, each [S], each logged under its name.

Two kinds: those that look at activations, and those that look at weights alone (which the sparse step can add too).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from reseed import ReseedError
from reseed.matching import assign, cosines
from reseed.params import BaseVariant, RouteSae, SaeTraining, SkipTranscoder, Transcoder, Variant
from reseed.saes.architectures import (
    Architecture,
    Batch,
    Forward,
    JumpReLUArchitecture,
    RouteSaeArchitecture,
    Stack,
    Terms,
    keep_largest,
)
from reseed.saes.rows import Feed

SPARSITY = "sparsity"
FIRST_COEFFICIENT = 0.1
CONTROL_RATE = 0.01
"""Largest relative change of an automatic sparsity coefficient in one step."""


def check_objectives(variant: BaseVariant, training: SaeTraining, feed: Feed, seeds: tuple[int, ...]) -> None:
    """Raise ReseedError for a term that this architecture, these activations or these seeds cannot take."""
    wanted = variant.objectives
    name = getattr(variant, "architecture", "")
    if isinstance(variant, RouteSae) != (feed.n_layers > 1):
        raise ReseedError(
            f"architecture: found {name!r} on activations of {feed.n_layers} hook point(s), allowed: routesae on "
            "several, any other on one"
        )
    if isinstance(variant, Transcoder | SkipTranscoder) and feed.targets is None:
        raise ReseedError(
            f"architecture: found {name!r} on activations without a target, allowed: a transcoder on a pair of hook "
            "points (capture.hook_name_out)"
        )
    if wanted.temporal_smoothness and feed.sequence is None:
        raise ReseedError(
            "objectives.temporal_smoothness: the activations have no `sequence`, allowed: rows of known sequences"
        )
    if wanted.temporal_smoothness and isinstance(variant, RouteSae):
        raise ReseedError("objectives.temporal_smoothness: found on routesae, allowed: an architecture of one layer")
    if wanted.probe_guidance and (feed.labels is None or bool((feed.labels < 0).all())):
        raise ReseedError("objectives.probe_guidance: the activations have no labels, allowed: rows with classes")
    if wanted.encoder_decoder_alignment and feed.d_in != feed.d_out:
        raise ReseedError(
            f"objectives.encoder_decoder_alignment: found d_in {feed.d_in} and d_out {feed.d_out}, allowed: equal ones"
        )
    if isinstance(variant, RouteSae) and variant.decoder == "per_layer":
        if training.decoder_norm == "free":
            raise ReseedError("sae.decoder_norm: found 'free' on routesae with decoders per_layer, allowed: 'unit'")
        for term in ("encoder_decoder_alignment", "consistency"):
            if getattr(wanted, term):
                raise ReseedError(
                    f"objectives.{term}: found on routesae with decoders per_layer, allowed: one decoder row a latent"
                )
    if variant.group_size > 1 and (len(seeds) % variant.group_size or len(seeds) < 3 * variant.group_size):
        raise ReseedError(
            f"objectives.consistency.group_size: found {variant.group_size} for {len(seeds)} seeds, allowed: a size "
            "that divides them into 3 groups or more, since only groups are independent"
        )
    plain = not variant.archetypal and not isinstance(variant, RouteSae) and feed.targets is None
    if training.resample_every and not plain:
        raise ReseedError(
            "sae.resample_every: found with an archetypal decoder, a router or a transcoder, allowed: a plain decoder "
            "of what was encoded"
        )


def add_objectives(variant: BaseVariant, stack: Stack, feed: Feed) -> None:
    """Add the parameters and buffers that the objectives of a variant need, in place."""
    wanted, S = variant.objectives, len(stack)
    zero = stack.parameters["b_enc"]
    if wanted.probe_guidance:
        assert feed.labels is not None
        classes = int(feed.labels.max()) + 1
        stack.parameters["probe_W"] = zero.new_zeros(S, variant.d_sae, classes)
        stack.parameters["probe_b"] = zero.new_zeros(S, 1, classes)
    if wanted.sparsity and wanted.sparsity.target_l0:
        stack.buffers["log_sparsity"] = zero.new_full((S,), math.log(FIRST_COEFFICIENT))
    if wanted.consistency and wanted.consistency.partner == "assigned":
        size = wanted.consistency.group_size
        stack.buffers["partners"] = torch.zeros(S, size, variant.d_sae, dtype=torch.int64, device=zero.device)


def activation_terms(
    architecture: Architecture[Variant], training: SaeTraining, stack: Stack, batch: Batch, forward: Forward,
    dead: Tensor, step: int,
) -> Terms:  # fmt: skip
    """Terms that depend on the rows; dead [S, d_sae]: which latents have not fired for long."""
    terms: Terms = {}
    wanted = architecture.variant.objectives
    if sparsity := wanted.sparsity:
        if sparsity.penalty == "l0":
            assert isinstance(architecture, JumpReLUArchitecture)
            value = architecture.count(stack, forward.pre).mean(-1)
        else:
            acts = architecture.penalised(stack, forward)
            if sparsity.penalty == "tanh":
                acts = (sparsity.tanh_scale * acts).tanh()
            value = acts.sum(-1).mean(-1)
        terms[SPARSITY] = (_sparsity_coefficient(architecture.variant, stack, step), value)
    if wanted.temporal_smoothness:
        assert batch.following is not None
        assert batch.follows is not None
        later = architecture.activate(stack, architecture.pre_activations(stack, batch.following))
        moved = (later - forward.acts).square().sum(-1) * batch.follows
        terms["temporal_smoothness"] = (wanted.temporal_smoothness, moved.sum(-1) / batch.follows.sum(-1).clamp(min=1))
    if wanted.probe_guidance:
        assert batch.labels is not None
        logits = forward.acts @ stack.parameters["probe_W"] + stack.parameters["probe_b"]
        labelled = batch.labels >= 0
        each = cross_entropy(logits.flatten(0, 1), batch.labels.clamp(min=0).flatten(), reduction="none")
        value = (each.view_as(labelled) * labelled).sum(-1) / labelled.sum(-1).clamp(min=1)
        terms["probe_guidance"] = (wanted.probe_guidance, value)
    if training.aux_k and not bool(dead.any()):
        terms["aux_k"] = (training.aux_coefficient, torch.zeros(len(stack), device=dead.device))
    elif training.aux_k:
        residual = (forward.target - forward.out).detach()
        pre = forward.pre
        if isinstance(architecture, RouteSaeArchitecture):
            pre, dead = architecture.by_decoder_row(stack, batch.x, pre, dead)
        value = aux_k(pre, residual, dead, architecture.decoder(stack), training.aux_k)
        terms["aux_k"] = (training.aux_coefficient, value)
    return terms


def weight_terms(architecture: Architecture[Variant], stack: Stack) -> Terms:
    """Terms that depend on the weights alone."""
    terms: Terms = {}
    wanted = architecture.variant.objectives
    if not wanted.model_dump(exclude={"sparsity", "temporal_smoothness", "probe_guidance"}, exclude_none=True):
        return terms
    rows = _unit_decoder(architecture, stack)
    if wanted.decoder_decorrelation:
        terms["decoder_decorrelation"] = (wanted.decoder_decorrelation, decorrelation(rows))
    if wanted.weight_decay:
        p = stack.parameters
        power = p["W_enc_T"].square().sum((1, 2)) + architecture.raw_decoder(stack).square().sum((1, 2))
        terms["weight_decay"] = (wanted.weight_decay, power / architecture.variant.d_sae)
    if wanted.encoder_decoder_alignment:
        cosine = (normalize(stack.parameters["W_enc_T"], dim=-1) * rows).sum(-1)
        terms["encoder_decoder_alignment"] = (wanted.encoder_decoder_alignment, 1 - cosine.mean(-1))
    if consistency := wanted.consistency:
        terms["consistency"] = (consistency.coefficient, _inconsistency(rows, stack, consistency.group_size))
    return terms


def decorrelation(rows: Tensor) -> Tensor:
    """Mean squared cosine [S] of two different rows of rows [S, n, d] of unit norm.

    The squares of all cosines sum to |W^T W|^2 (Frobenius): d x d numbers instead of n x n.
    """
    n = rows.shape[1]
    gram = rows.transpose(1, 2) @ rows
    own = rows.square().sum(-1).square().sum(-1)
    return ((gram.square().sum((1, 2)) - own) / max(1, n * (n - 1))).clamp(min=0)


def aux_k(pre: Tensor, residual: Tensor, dead: Tensor, W_dec: Tensor, k: int) -> Tensor:
    """AuxK (Gao et al. 2024) [S]: how badly the k largest dead latents reconstruct what the live ones left over.

    The squared error over the residual's power, times d_out: with rows of mean square norm d_out that is in units of
    reconstruction. pre [S, rows, d_sae]; residual [S, rows, d_out]; dead [S, d_sae]; W_dec [S, d_sae, d_out].
    """
    column, is_dead = dead_columns(dead)
    chosen = pre.gather(2, column.unsqueeze(1).expand(-1, pre.shape[1], -1))
    candidates = torch.where(is_dead, chosen, -math.inf)
    acts = keep_largest(candidates, (min(k, column.shape[1]),) * len(pre))
    W_dead = W_dec.gather(1, column.unsqueeze(2).expand(-1, -1, W_dec.shape[2]))
    error = (acts @ W_dead - residual).square().sum((1, 2))
    error = torch.where(dead.any(1), error, 0)
    return residual.shape[-1] * error / residual.square().sum((1, 2)).clamp(min=1e-12)


def dead_columns(dead: Tensor) -> tuple[Tensor, Tensor]:
    """The dead latents of each member first [S, n], n the most that one member has, and which are dead [S, 1, n]."""
    most = int(dead.sum(1).max().item())
    column = dead.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return column, dead.gather(1, column).unsqueeze(1)


@torch.no_grad()
def control_sparsity(variant: BaseVariant, stack: Stack, l0: Tensor) -> None:
    """Raise the automatic coefficient of a member while its L0 [S] is above the target, lower it below, in place."""
    sparsity = variant.objectives.sparsity
    if sparsity and sparsity.target_l0:
        excess = (l0 / sparsity.target_l0).clamp(min=1e-3).log().clamp(-1, 1)
        stack.buffers["log_sparsity"] += CONTROL_RATE * excess


@torch.no_grad()
def refresh_partners(architecture: Architecture[Variant], stack: Stack) -> None:
    """Match every member's latents one to one to those of each other member of its group (Hungarian), in place."""
    if "partners" not in stack.buffers:
        return
    rows = _unit_decoder(architecture, stack).double().cpu().numpy()
    partners, size = stack.buffers["partners"], architecture.variant.group_size
    for member in range(len(stack)):
        first = member - member % size
        for place in range(size):
            if first + place > member:
                mine, theirs = assign(cosines(rows[member], rows[first + place]))
                partners[member, place, mine] = torch.from_numpy(theirs).to(partners.device)
                partners[first + place, member - first, theirs] = torch.from_numpy(mine).to(partners.device)


def _inconsistency(rows: Tensor, stack: Stack, size: int) -> Tensor:
    """One minus the mean cosine of a latent to its partner in each other member of the group: [S].

    Joint over the group: the gradient reaches both sides of a pair, no member is a fixed reference for the others.
    """
    values = []
    for member in range(len(rows)):
        first = member - member % size
        total = rows.new_zeros(())
        for place in range(size):
            other = first + place
            if other == member:
                continue
            if "partners" in stack.buffers:
                cosine = (rows[member] * rows[other][stack.buffers["partners"][member, place]]).sum(-1)
            else:
                cosine = (rows[member] @ rows[other].T).amax(-1)
            total = total + 1 - cosine.mean()
        values.append(total / (size - 1))
    return torch.stack(values)


def _sparsity_coefficient(variant: BaseVariant, stack: Stack, step: int) -> float | Tensor:
    sparsity = variant.objectives.sparsity
    assert sparsity is not None
    if sparsity.coefficient is None:
        return stack.buffers["log_sparsity"].exp()
    # as SAELens counts: the first step is taken with a coefficient of zero
    share = min(1.0, (step - 1) / sparsity.warm_up_steps) if sparsity.warm_up_steps else 1.0
    return sparsity.coefficient * share


def _unit_decoder(architecture: Architecture[Variant], stack: Stack) -> Tensor:
    rows = architecture.raw_decoder(stack)
    return rows if architecture.norms(stack) is None else normalize(rows, dim=-1)
