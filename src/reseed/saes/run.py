"""What a training run is made of: the SAEs that it gives, its members while they train, its whole state."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reseed.params import SaeTraining
from reseed.saes.architectures import Stack
from reseed.saes.rows import Order
from reseed.saes.step import Moments, Scratch

FIRST_SNAPSHOT = 100

Snapshot = tuple[Tensor, Tensor, Tensor]


@dataclass
class TrainedSae:
    """One trained SAE in the units of its activations (normalisation folded in), with the record of its training.

    weights: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out] of unit rows, b_dec [d_out] and what else the
    architecture has. firing_counts [d_sae]: rows of one pass over the training split on which each latent fires.
    snapshots: step -> (W_dec, W_enc, firing_counts) on a log scale of steps, where the learning rate began to decay,
    and at the end. curve: one row a check.
    """

    seed: int
    group: list[int]
    """The seeds that trained together, itself among them."""
    k: int
    weights: dict[str, Tensor]
    firing_counts: Tensor
    seen: tuple[Tensor, Tensor, Tensor]
    """Some held-out rows, raw, and what the stack made of them in raw units: rows, activations, reconstructions."""
    converged: bool
    steps: int
    constant_steps: int
    loss_fall: float
    cosine_change: float
    cosine_to_init: float
    snapshots: dict[int, Snapshot]
    curve: list[dict[str, float]]


@dataclass
class Member:
    """The bookkeeping of one seed while it trains."""

    seed: int
    group: list[int]
    k: int
    order: Order
    resampler: torch.Generator
    init: Tensor
    decay_from: int | None = None
    converged: bool = False
    loss_fall: float = float("nan")
    cosine_change: float = float("nan")
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)

    def learning_rate(self, step: int, training: SaeTraining) -> float:
        """Warm-up, constant, then linear decay to zero from the step at which the decay was begun."""
        rate = training.lr * min(1.0, step / training.warm_up_steps)
        if self.decay_from is not None:
            rate *= max(0.0, 1 - (step - self.decay_from) / max(1, training.decay_steps(self.decay_from)))
        return rate

    def finished(self, step: int, training: SaeTraining) -> bool:
        return self.decay_from is not None and step >= self.decay_from + training.decay_steps(self.decay_from)


@dataclass
class Run:
    """Everything that changes while a variant trains: what a checkpoint holds."""

    stack: Stack
    moments: Moments
    members: list[Member]
    idle: Tensor
    """Steps since each latent last fired [S, d_sae]."""
    sums: dict[str, Tensor]
    """Loss terms and gradient norms [S], added up since the last check."""
    step: int = 0
    next_snapshot: float = FIRST_SNAPSHOT
    done: list[TrainedSae] = field(default_factory=list)
    scratch: Scratch = field(default_factory=Scratch)

    def keep(self, left: list[int]) -> None:
        """Drop the members that are not in `left`."""
        self.stack = self.stack.select(left)
        self.moments = {name: (m[left], v[left]) for name, (m, v) in self.moments.items()}
        self.members = [self.members[i] for i in left]
        self.idle = self.idle[left]
        self.sums = {name: value[left] for name, value in self.sums.items()}
