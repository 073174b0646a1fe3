"""Whether a capture holds what the model computes, and what it costs beyond the forward pass that it reads.

The costs (plain, hooked, and hooked and written, on real batches) are of this machine and this moment: they are printed
and go to the run facts, never into an artefact.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.language import TOKENS_PER_BATCH, Hooked, Reader, TextBatch, reading, text_batches
from reseed.activations.store import read_activations
from reseed.activations.writer import ActivationWriter
from reseed.params import SPLITS, LanguageCapture
from reseed.text.sequences import Sequences

TOKENS = 1 << 14
"""How many are read, at least one batch."""
ROUNDS = 3


CAPTURED_TOLERANCE = 0.1
"""Largest error of the stored rows over their spread, in the median dimension: bfloat16 keeps 8 bits, and a dimension
of large mean and small spread loses most of them."""
SPREAD_ROWS = 4096


@torch.no_grad()
def check_captured(
    model: Hooked, sequences: Sequences, options: LanguageCapture, device: torch.device, path: Path
) -> None:
    """Read the first batch of every split again and compare it with the first rows in `path`.

    Raises ReseedError, and removes `path`, if they are not what the model computes, or any row is of padding.
    """
    reader = Reader(model, options, device)
    activations = read_activations(path)
    for split in SPLITS:
        batch = next(text_batches(sequences, split, options, TOKENS_PER_BATCH[device.type]))
        computed = reader(batch)
        first = torch.arange(len(batch.wanted))
        for name, rows in computed.items():
            stored = activations.rows(split, name)
            spread = stored.take(torch.arange(min(len(stored), SPREAD_ROWS))).float().flatten(1).std(0)
            error = stored.take(first).float().flatten(1) - rows.float().cpu().flatten(1)
            apart = (error.square().mean(0).sqrt() / spread.clamp(min=1e-12)).median().item()
            if not apart <= CAPTURED_TOLERANCE:
                shutil.rmtree(path)
                raise ReseedError(
                    f"{path}: the first {len(first)} rows of the split {split!r} are {apart:.1%} of their spread from "
                    f"what the model computes, allowed: {CAPTURED_TOLERANCE:.0%}; they were not read from this model"
                )
        pads = int((activations.rows(split, "sequence").whole() < 0).sum())
        if pads:
            shutil.rmtree(path)
            raise ReseedError(f"{path}: {pads} rows of the split {split!r} are padding, of no document, allowed: none")


@dataclass(frozen=True)
class Validation:
    """Tokens a second of each way (medians), overheads over the plain pass in percent, peak memory in MB.

    An overhead is the median of those of the rounds, in each of which the three ways follow each other. Memory is that
    of the whole process, on a GPU what torch has allocated there; it holds whatever ran before.
    """

    plain: float
    hooked: float
    written: float
    hooked_overhead: float
    written_overhead: float
    plain_memory: float
    written_memory: float

    def __str__(self) -> str:
        return (
            f"{self.plain:.0f} tokens/s plain, {self.hooked:.0f} hooked ({self.hooked_overhead:+.1f} %), "
            f"{self.written:.0f} hooked and written ({self.written_overhead:+.1f} %); peak memory "
            f"{self.plain_memory:.0f} MB plain, {self.written_memory:.0f} MB written"
        )

    @property
    def facts(self) -> dict[str, float]:
        return asdict(self)


@torch.no_grad()
def validate_capture(
    model: Hooked,
    sequences: Sequences,
    options: LanguageCapture,
    device: torch.device,
    tokens: int = TOKENS,
    rounds: int = ROUNDS,
) -> Validation:
    """Time the three ways on some of the first training tokens, one after the other in every round."""
    reader = Reader(model, options, device)
    size = TOKENS_PER_BATCH[device.type]
    chosen = list(islice(text_batches(sequences, "train", options, size), max(1, tokens // size)))
    tokens = sum(int(batch.real.sum()) for batch in chosen)

    def run(hooked: bool, written: bool = False) -> None:
        with reading(reader, hooked) as in_order:
            if written:
                _write(in_order(chosen), options)
            else:
                deque(in_order(chosen), maxlen=0)

    ways: tuple[Callable[[], None], ...] = (
        lambda: run(hooked=False),
        lambda: run(hooked=True),
        lambda: run(hooked=True, written=True),
    )
    seconds: list[list[float]] = [[] for _ in ways]
    memory = [0.0 for _ in ways]
    for way in ways:
        way()  # the first call compiles and allocates
        memory[ways.index(way)] = _peak(device)
    for _ in range(rounds):
        for taken, way in zip(seconds, ways, strict=True):
            _wait(device)
            started = time.perf_counter()
            way()
            _wait(device)
            taken.append(time.perf_counter() - started)
    plain, hooked, written = seconds
    rates = [tokens / statistics.median(taken) for taken in seconds]
    return Validation(
        plain=rates[0],
        hooked=rates[1],
        written=rates[2],
        hooked_overhead=_overhead(hooked, plain),
        written_overhead=_overhead(written, plain),
        plain_memory=memory[0],
        written_memory=memory[2],
    )


def _write(read: Iterable[tuple[TextBatch, dict[str, Tensor]]], options: LanguageCapture) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="reseed-capture-") as temporary,
        ActivationWriter(Path(temporary) / "rows", {}, options.dtype, extremes=True) as writer,
    ):
        for batch, rows in read:
            writer.append("train", rows.pop("activations"), rows | {"sequence": batch.document, "labels": batch.label})
        writer.flush()


def _overhead(way: list[float], plain: list[float]) -> float:
    return 100 * (statistics.median(w / p for w, p in zip(way, plain, strict=True)) - 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
