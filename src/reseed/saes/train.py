"""The trainer: all seeds of a variant in one stacked run, each with its own initialisation, data order and stop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import generator
from reseed.params import Convergence, SaeTraining, Variant
from reseed.saes.architectures import Stack, activate, aux_gradients, calibrate_threshold, infer
from reseed.saes.convergence import judge
from reseed.stage import progress

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
MAX_GRADIENT_NORM = 1.0
FIRST_SNAPSHOT = 100


@dataclass
class TrainedSae:
    """One trained SAE in the units of its activations (normalisation folded in), with the record of its training.

    W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in] of unit rows, b_dec [d_in], threshold [d_sae] or None.
    firing_counts [d_sae]: rows of one pass over the training split on which each latent fires. snapshots: step ->
    (W_dec, W_enc, firing_counts) on a log scale of steps, where the learning rate began to decay, and at the end.
    curve: one row a check.
    """

    seed: int
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None
    firing_counts: Tensor
    converged: bool
    steps: int
    constant_steps: int
    loss_fall: float
    cosine_change: float
    cosine_to_init: float
    snapshots: dict[int, tuple[Tensor, Tensor, Tensor]]
    curve: list[dict[str, float]]


@dataclass
class _Member:
    """The bookkeeping of one seed while it trains."""

    seed: int
    order: torch.Generator
    permutation: Tensor
    init: Tensor
    cursor: int = 0
    decay_from: int | None = None
    converged: bool = False
    loss_fall: float = float("nan")
    cosine_change: float = float("nan")
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    snapshots: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)

    def next_batch(self, size: int) -> Tensor:
        """Row indices of the next batch: passes over the training rows, each in a fresh order of this seed's own."""
        if self.cursor + size > len(self.permutation):
            self.permutation = torch.randperm(len(self.permutation), generator=self.order)
            self.cursor = 0
        self.cursor += size
        return self.permutation[self.cursor - size : self.cursor]

    def learning_rate(self, step: int, training: SaeTraining) -> float:
        """Warm-up, constant, then linear decay to zero from the step at which the decay was begun."""
        rate = training.lr * min(1.0, step / training.warm_up_steps)
        if self.decay_from is not None:
            rate *= max(0.0, 1 - (step - self.decay_from) / max(1, training.decay_steps(self.decay_from)))
        return rate

    def finished(self, step: int, training: SaeTraining) -> bool:
        return self.decay_from is not None and step >= self.decay_from + training.decay_steps(self.decay_from)


def check_variant(variant: Variant, training: SaeTraining, activations: Activations) -> None:
    """Raise ReseedError for a variant that cannot be trained on these activations."""
    rows, d_in = activations.splits["train"].shape
    if variant.k >= d_in:
        raise ReseedError(
            f"k: found {variant.k}, allowed: less than d_in ({d_in}); an SAE with L0 >= d_in is an identity"
        )
    if rows < variant.d_sae:
        raise ReseedError(f"d_sae: found {variant.d_sae}, allowed: at most the {rows} training rows")
    if rows < training.batch_size:
        raise ReseedError(f"sae.batch_size: found {training.batch_size}, allowed: at most the {rows} training rows")


def train_saes(
    variant: Variant,
    training: SaeTraining,
    tolerance: Convergence,
    seeds: tuple[int, ...],
    activations: Activations,
    device: torch.device,
) -> list[TrainedSae]:
    """Train one SAE a seed, in the order of `seeds`, on the training rows; stop each by the validation rows.

    A member of the stack gets the bytes that it would get alone up to the rounding of batched products. A seed that
    converges decays its learning rate to zero and leaves the stack; one that does not by `max_steps` ends with
    `converged` False. Raises ReseedError for a variant that cannot be trained.
    """
    check_variant(variant, training, activations)
    train, validation, mean, scale = _normalised(activations, device)
    power = validation.square().sum(-1).mean()
    stack = Stack.initialise(seeds, train.shape[1], variant.d_sae, device)
    members = [
        _Member(
            seed=seed,
            order=(order := generator("sae", seed, "order")),
            permutation=torch.randperm(len(train), generator=order),
            init=stack.W_dec[i].clone(),
        )
        for i, seed in enumerate(seeds)
    ]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in stack.tensors()]
    idle = torch.zeros(len(seeds), variant.d_sae, dtype=torch.int64, device=device)
    done: dict[int, TrainedSae] = {}
    next_snapshot = float(FIRST_SNAPSHOT)
    ceiling = training.last_constant_step
    _snapshot(variant, stack, members, train, step=0)
    with progress(training.max_steps, f"{len(seeds)} seeds", "step") as bar:
        for step in range(1, training.max_steps + 1):
            rows = torch.stack([member.next_batch(training.batch_size) for member in members]).to(device)
            idle = _step(variant, training, stack, moments, idle, train[rows], step, members)
            bar.update()
            if step >= next_snapshot:
                _snapshot(variant, stack, members, train, step)
                next_snapshot *= 2**0.5
            if step % training.check_every and step != training.max_steps:
                continue
            _check(variant, training, tolerance, stack, members, validation, power, step, ceiling)
            decaying = [i for i, member in enumerate(members) if member.decay_from == step]
            _snapshot(variant, stack, members, train, step, only=decaying)
            bar.set_postfix_str(f"{len(members)} training, loss {members[0].losses[-1]:.4g}")
            finished = [i for i, member in enumerate(members) if member.finished(step, training)]
            if not finished:
                continue
            _snapshot(variant, stack, members, train, step, only=finished)
            for i in finished:
                done[members[i].seed] = _export(variant, stack.select([i]), members[i], train, mean, scale, step)
            left = [i for i in range(len(members)) if i not in finished]
            if not left:
                break
            stack, members, idle = stack.select(left), [members[i] for i in left], idle[left]
            moments = [(m[left], v[left]) for m, v in moments]
    return [done[seed] for seed in seeds]


def _normalised(activations: Activations, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and validation rows centred and scaled so that a training row has mean square norm d_in."""
    train = activations.splits["train"].to(device, torch.float32)
    mean = train.mean(0)
    scale = (train.shape[1] / (train - mean).square().sum(1).mean()).sqrt()
    validation = activations.splits["validation"].to(device, torch.float32)
    return (train - mean) * scale, (validation - mean) * scale, mean, scale


@torch.no_grad()
def _step(
    variant: Variant,
    training: SaeTraining,
    stack: Stack,
    moments: list[tuple[Tensor, Tensor]],
    idle: Tensor,
    x: Tensor,
    step: int,
    members: list[_Member],
) -> Tensor:
    """One optimiser step of every member, in place; returns for each latent the steps since it last fired."""
    gradients, fired = gradients_of(variant, training, stack, idle + 1 >= training.dead_after_steps, x)
    W_dec, g_dec = stack.W_dec, gradients[2]
    # only the part of the gradient that turns a decoder row; its length is fixed at one
    g_dec.addcmul_((g_dec * W_dec).sum(-1, keepdim=True), W_dec, value=-1)
    norm = torch.stack([torch.linalg.vector_norm(g, dim=(1, 2)) for g in gradients]).norm(dim=0)
    clip = (MAX_GRADIENT_NORM / norm.clamp(min=1e-12)).clamp(max=1).view(-1, 1, 1)
    rate = torch.tensor([m.learning_rate(step, training) for m in members], device=x.device).view(-1, 1, 1)
    _adam(stack.tensors(), [g.mul_(clip) for g in gradients], moments, rate, step)
    W_dec.div_(torch.linalg.vector_norm(W_dec, dim=-1, keepdim=True))
    return torch.where(fired, 0, idle + 1)


@torch.no_grad()
def gradients_of(
    variant: Variant, training: SaeTraining, stack: Stack, idle: Tensor, x: Tensor
) -> tuple[list[Tensor], Tensor]:
    """The gradients of every member's loss on its rows x [S, rows, d_in], and which latents fired [S, d_sae].

    The loss is |residual|^2 / d_in, the mean over rows, plus aux_coefficient times AuxK over the latents that are
    `idle` [S, d_sae] and do not fire now. The chain rule is written out, because autograd takes half as long again at
    these shapes; where a latent is inactive its gradient is zero, as ReLU and the selection of the largest have it.
    """
    pre = stack.pre_activations(x)
    acts = activate(variant, pre)
    fired = acts.sum(1) > 0
    residual = x - stack.decode(acts)
    g_out = residual * (-2 / (x.shape[1] * x.shape[2]))
    g_dec = acts.transpose(1, 2) @ g_out
    g_pre = (g_out @ stack.W_dec.transpose(1, 2)).mul_(acts.sign())
    dead = idle & ~fired
    if training.aux_k and dead.any():
        column, of_pre, of_dec = aux_gradients(pre, residual, dead, stack.W_dec, training.aux_k)
        weight = training.aux_coefficient
        g_pre.scatter_add_(2, column.unsqueeze(1).expand(-1, x.shape[1], -1), of_pre * weight)
        g_dec.scatter_add_(1, column.unsqueeze(2).expand(-1, -1, x.shape[2]), of_dec * weight)
    g_benc = g_pre.sum(1, keepdim=True)
    g_enc = (x - stack.b_dec).transpose(1, 2) @ g_pre
    g_bdec = torch.baddbmm(g_out.sum(1, keepdim=True), g_benc, stack.W_enc.transpose(1, 2), alpha=-1)
    return [g_enc, g_benc, g_dec, g_bdec], fired


def _adam(
    parameters: list[Tensor], gradients: list[Tensor], moments: list[tuple[Tensor, Tensor]], rate: Tensor, step: int
) -> None:
    """Adam (Kingma and Ba 2015) with a learning rate [S, 1, 1] a member, which torch's own does not offer.

    In the form of their section 2, with the bias corrections in the step size: fewer passes over the parameters.
    """
    beta1, beta2 = ADAM_BETAS
    correction = (1 - beta2**step) ** 0.5
    size = rate * (-correction / (1 - beta1**step))
    for parameter, gradient, (m, v) in zip(parameters, gradients, moments, strict=True):
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        parameter.addcdiv_(m * size, v.sqrt().add_(ADAM_EPS * correction))


@torch.no_grad()
def _check(
    variant: Variant,
    training: SaeTraining,
    tolerance: Convergence,
    stack: Stack,
    members: list[_Member],
    validation: Tensor,
    power: Tensor,
    step: int,
    ceiling: int,
) -> None:
    """Log the held-out loss of every member and begin the decay of those that converged or ran out of steps."""
    x = validation.expand(len(members), *validation.shape)
    acts = activate(variant, stack.pre_activations(x))
    losses = ((x - stack.decode(acts)).square().sum(-1).mean(-1) / power).tolist()
    firing = (acts > 0).any(1)
    cosines = (stack.W_dec * torch.stack([member.init for member in members])).sum(-1)
    # a latent that never fires stays where it was put, and says nothing about the training of the others
    cosines = torch.where(firing, cosines, 0).sum(1) / firing.sum(1).clamp(min=1)
    active = (acts > 0).double().sum(-1).mean(-1).tolist()
    for i, member in enumerate(members):
        member.steps.append(step)
        member.losses.append(losses[i])
        member.cosines.append(cosines[i].item())
        member.curve.append(
            {
                "step": step,
                "unexplained_variance": losses[i],
                "l0": active[i],
                "firing_fraction": firing[i].double().mean().item(),
                "cosine_to_init": member.cosines[-1],
                "learning_rate": member.learning_rate(step, training),
            }
        )
        if member.decay_from is not None:
            continue
        verdict = judge(member.steps, member.losses, member.cosines, tolerance)
        if verdict is not None and step >= training.min_steps:
            member.loss_fall, member.cosine_change = verdict.loss_fall, verdict.cosine_change
            member.converged = verdict.converged
        if member.converged or step >= ceiling:
            member.decay_from = step


@torch.no_grad()
def _snapshot(
    variant: Variant, stack: Stack, members: list[_Member], train: Tensor, step: int, only: list[int] | None = None
) -> None:
    for i in only if only is not None else range(len(members)):
        one = stack.select([i])
        counts = firing_counts(variant, one, _threshold(variant, one, train), train)
        members[i].snapshots[step] = (one.W_dec[0], one.W_enc[0], counts)


def _threshold(variant: Variant, stack: Stack, train: Tensor) -> Tensor | None:
    return calibrate_threshold(stack, train, variant.k) if variant.architecture == "batchtopk" else None


@torch.no_grad()
def firing_counts(variant: Variant, stack: Stack, threshold: Tensor | None, rows: Tensor) -> Tensor:
    """How many of the rows [rows, d_in] each latent of a single-member stack fires on: int64 [d_sae]."""
    counts = torch.zeros(variant.d_sae, dtype=torch.int64, device=rows.device)
    for block in rows.split(8192):
        counts += (infer(variant, stack, threshold, block.unsqueeze(0)) > 0).sum(1)[0]
    return counts


@torch.no_grad()
def _export(
    variant: Variant, stack: Stack, member: _Member, train: Tensor, mean: Tensor, scale: Tensor, step: int
) -> TrainedSae:
    """Fold the normalisation x -> (x - mean) * scale into the weights, so that the SAE reads raw activations.

    Activations shrink by the scale: acts_raw = acts / scale, so W_enc and W_dec stay and b_enc and the threshold
    are divided; b_dec becomes mean + b_dec / scale.
    """
    threshold = _threshold(variant, stack, train)
    return TrainedSae(
        seed=member.seed,
        W_enc=stack.W_enc[0],
        b_enc=stack.b_enc[0, 0] / scale,
        W_dec=stack.W_dec[0],
        b_dec=mean + stack.b_dec[0, 0] / scale,
        threshold=None if threshold is None else (threshold / scale).expand(variant.d_sae).clone(),
        firing_counts=member.snapshots[step][2],
        converged=member.converged,
        steps=step,
        constant_steps=member.decay_from or step,
        loss_fall=member.loss_fall,
        cosine_change=member.cosine_change,
        cosine_to_init=member.cosines[-1],
        snapshots=member.snapshots,
        curve=member.curve,
    )
