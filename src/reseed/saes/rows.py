"""From shards to batches: normalisation, each seed's own order of the rows, rows in memory or streamed from disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import psutil
import torch
from torch import Tensor

from reseed.activations.store import Activations, Rows
from reseed.artifacts import generator
from reseed.params import SkipTranscoder, Transcoder, Variant
from reseed.saes.architectures import Batch

BLOCK_ROWS = 8192
CHUNK_ROWS = 64
MEDIAN_STEPS = 100
MEDIAN_TOLERANCE = 1e-6
CALIBRATION_ROWS = 1 << 16
HELD_OUT_ROWS = 1 << 14
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class Scale:
    """x -> (x - centre) * factor; centre [d] or [n_layers, d], factor a scalar or [n_layers, 1]."""

    centre: Tensor
    factor: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows.to(self.centre.device, torch.float32) - self.centre) * self.factor


def measure_scale(rows: Rows, centre: Literal["mean", "geometric_median"], device: torch.device) -> Scale:
    """The scale after which rows have mean square norm d; in float64, a block at a time."""
    total = torch.zeros(rows.shape[1:], dtype=torch.float64)
    for block in blocks(rows):
        total += block.double().sum(0)
    middle = total / len(rows)
    if centre == "geometric_median":
        middle = geometric_median(rows, middle)
    middle = middle.float()
    power = torch.zeros(rows.shape[1:-1], dtype=torch.float64)
    for block in blocks(rows):
        power += (block.float() - middle).double().square().sum(-1).sum(0)
    factor = (rows.shape[-1] * len(rows) / power).sqrt().float()
    return Scale(middle.to(device), (factor.unsqueeze(-1) if factor.ndim else factor).to(device))


def geometric_median(rows: Rows, start: Tensor) -> Tensor:
    """The point with the least sum of distances to the rows, by Weiszfeld's iteration from `start` (float64).

    Bricken et al. 2023 start b_dec there: unlike the mean it does not follow a few rows of huge norm.
    """
    median = start
    for _ in range(MEDIAN_STEPS):
        weighted, weights = torch.zeros_like(median), torch.zeros(median.shape[:-1], dtype=torch.float64)
        for block in blocks(rows):
            near = 1 / (block.double() - median).norm(dim=-1).clamp(min=1e-12)
            weighted += (block.double() * near.unsqueeze(-1)).sum(0)
            weights += near.sum(0)
        moved = weighted / weights.unsqueeze(-1)
        if (moved - median).norm() <= MEDIAN_TOLERANCE * moved.norm():
            return moved
        median = moved
    return median


def blocks(rows: Rows, size: int = BLOCK_ROWS) -> Iterator[Tensor]:
    """All rows in their order, a block at a time."""
    for shard in rows.blocks:
        yield from shard.split(size)


class Order:
    """The indices of one seed's batches: passes over all rows, each shuffled anew by the seed's own generator.

    With `buffer_rows` the chunks of consecutive rows are shuffled, and then the rows inside each run of chunks that
    fills the buffer: only so many rows are wanted in memory at a time, and they come from all over the data.
    """

    def __init__(self, rows: int, batch_size: int, buffer_rows: int, key: object) -> None:
        self.rows, self.batch_size, self.buffer_rows = rows, batch_size, buffer_rows
        self.generator = generator("sae", key, "order")
        self.permutation = self._shuffle()
        self.cursor = 0

    def next_batch(self) -> Tensor:
        if self.cursor + self.batch_size > self.rows:
            self.permutation, self.cursor = self._shuffle(), 0
        self.cursor += self.batch_size
        return self.permutation[self.cursor - self.batch_size : self.cursor]

    def resume(self, pass_began: Tensor, cursor: int) -> None:
        """Go to where an order of the same rows was whose `pass_began` and `cursor` these are."""
        self.generator.set_state(pass_began)
        self.permutation, self.cursor = self._shuffle(), cursor

    def _shuffle(self) -> Tensor:
        self.pass_began = self.generator.get_state()
        if not self.buffer_rows or self.buffer_rows >= self.rows:
            return torch.randperm(self.rows, generator=self.generator)
        starts = torch.arange(0, self.rows, CHUNK_ROWS)
        order = torch.randperm(len(starts), generator=self.generator)
        spread = (starts[order].unsqueeze(1) + torch.arange(CHUNK_ROWS)).flatten()
        spread = spread[spread < self.rows]
        windows = spread.split(self.buffer_rows)
        return torch.cat([window[torch.randperm(len(window), generator=self.generator)] for window in windows])


def seen_by(variant: Variant, activations: Activations) -> Activations:
    """Of a pair of hook points a transcoder sees both; any other SAE reads the first, and reconstructs it."""
    return activations if isinstance(variant, Transcoder | SkipTranscoder) else activations.without_target()


class Feed:
    """Normalised batches of the training rows, and the fixed rows that checks and calibration look at."""

    def __init__(self, activations: Activations, centre: Literal["mean", "geometric_median"], device: torch.device):
        self.device = device
        self.rows = activations.rows("train")
        self.scale = measure_scale(self.rows, centre, device)
        self.targets: Rows | None = None
        self.target_scale = self.scale
        if activations.has("target"):
            self.targets = activations.rows("train", "target")
            self.target_scale = measure_scale(self.targets, centre, device)
        self.labels = activations.rows("train", "labels").whole().long() if activations.has("labels") else None
        self.sequence = activations.rows("train", "sequence").whole() if activations.has("sequence") else None
        chosen = evenly(len(activations.rows("validation")), HELD_OUT_ROWS)
        self.held_out_raw = activations.rows("validation").take(chosen).float()
        x = self.scale(self.held_out_raw).unsqueeze(0)
        self.held_out = Batch(x, x)
        if self.targets is not None:
            wanted = activations.rows("validation", "target").take(chosen)
            self.held_out.target = self.target_scale(wanted).unsqueeze(0)
        fixed = evenly(len(self.rows), CALIBRATION_ROWS)
        self.calibration = self.scale(self.rows.take(fixed))
        self.written = self.calibration.flatten(0, -2)
        """The same rows where decoders write [n, d_out]."""
        if self.targets is not None:
            self.written = self.target_scale(self.targets.take(fixed))
        # a gather from memory costs less than one from the maps with the normalisation after it
        self.resident = self.scale(self.rows.whole()) if _fits(self.rows, device) else None
        self.resident_targets = (
            self.target_scale(self.targets.whole())
            if self.targets is not None and self.resident is not None and _fits(self.targets, device)
            else None
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d_in(self) -> int:
        return self.rows.shape[-1]

    @property
    def d_out(self) -> int:
        return self.rows.shape[-1] if self.targets is None else self.targets.shape[-1]

    @property
    def n_layers(self) -> int:
        return self.rows.shape[1] if len(self.rows.shape) == 3 else 1

    def batch(self, indices: Tensor, following: bool) -> Batch:
        """The rows at indices [S, rows]; with `following` also the row after each in its sequence."""
        x = self._take(indices)
        target = x if self.targets is None else self._take_targets(indices)
        batch = Batch(x, target)
        if self.labels is not None:
            batch.labels = self.labels[indices].to(self.device)
        if following and self.sequence is not None:
            after = (indices + 1).clamp(max=len(self) - 1)
            batch.follows = ((self.sequence[after] == self.sequence[indices]) & (after > indices)).to(self.device)
            batch.following = self._take(after)
        return batch

    def _take(self, indices: Tensor) -> Tensor:
        if self.resident is not None:
            return self.resident[indices.to(self.device)]
        return self.scale(self.rows.take(indices.flatten())).view(*indices.shape, *self.rows.shape[1:])

    def _take_targets(self, indices: Tensor) -> Tensor:
        assert self.targets is not None
        if self.resident_targets is not None:
            return self.resident_targets[indices.to(self.device)]
        return self.target_scale(self.targets.take(indices.flatten())).view(*indices.shape, self.d_out)


def evenly(rows: int, at_most: int) -> Tensor:
    """Indices of up to `at_most` rows, evenly spread over all."""
    return torch.linspace(0, rows - 1, min(at_most, rows), dtype=torch.float64).round().long()


def _fits(rows: Rows, device: torch.device) -> bool:
    """Whether all rows in float32 take at most half of the memory that is free now."""
    wanted = 4 * torch.Size(rows.shape).numel()
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    return wanted <= MEMORY_SHARE * free
