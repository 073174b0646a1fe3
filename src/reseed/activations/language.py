"""Capture from a language model: a stream of batches through the model, the wanted positions into shards."""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedEncoder, HookedTransformer
from transformer_lens.hook_points import HookPoint

from reseed import ReseedError, installed_version
from reseed.activations.budget import check_budget, estimate
from reseed.activations.store import Provenance, new_index
from reseed.activations.writer import DTYPES, ROWS_PER_SHARD, ActivationWriter
from reseed.artifacts import writing
from reseed.models.language import Hook, forward
from reseed.models.transformer import check_hook
from reseed.params import SPLITS, Budget, LanguageCapture
from reseed.stage import progress
from reseed.text.sequences import LAST, STEP, TEXT, Sequences

Hooked = HookedTransformer | HookedEncoder
InOrder = Callable[[Iterable["TextBatch"]], Iterator[tuple["TextBatch", dict[str, Tensor]]]]
FLAGS = {"all": TEXT, "last": LAST, "steps": STEP}
TOKENS_PER_BATCH = {"cpu": 1 << 10, "cuda": 1 << 14}
"""By device. On a CPU a small batch stays in its caches and needs no fresh memory from the system: MiniLM reads three
times as fast as by batches of 2^14."""
SHARD_BYTES = 1 << 26
HELD_OUT_SHARE = 10
"""A held-out split gets this part of the limit on training rows."""
RATE_BATCHES = 4
"""Batches, after a first one, whose rate tells how long a capture will take."""


@dataclass(frozen=True)
class TextBatch:
    """Sequences to run, and where their wanted positions are."""

    tokens: Tensor
    """[b, n] int64, cut behind the longest sequence."""
    real: Tensor
    """[b, n] bool, False on padding."""
    wanted: Tensor
    """[rows] places in the flattened [b * n], in reading order."""
    document: Tensor
    """[rows] int32, the document's number within its split."""
    label: Tensor
    """[rows] int8, the place of the step's label in the tokens' index, -1 where there is none."""


@dataclass(frozen=True)
class Work:
    """How much of a split is to be captured."""

    sequences: int
    rows: int
    tokens: int
    """That the model reads, without padding."""


def text_batches(
    sequences: Sequences, split: str, options: LanguageCapture, size: int = TOKENS_PER_BATCH["cpu"]
) -> Iterator[TextBatch]:
    """The sequences of a split that have wanted positions, in order, as many a batch as fit into `size` tokens.

    At most the rows that `options.rows` allows, by whole sequences. A batch holds sequences of one shard, at least one.
    """
    left = _limit(split, options)
    for file in sequences.files(split):
        shard = sequences.read(file)
        wanted = _wanted(shard["kind"], options)
        taken = wanted.sum(1).cumsum(0) <= left
        places = (taken & wanted.any(1)).nonzero()[:, 0]
        real = _real(sequences, shard)
        lengths = (real * torch.arange(1, real.shape[1] + 1)).amax(1)
        for chosen in _groups(places, lengths[places].tolist(), size):
            width = int(lengths[chosen].max())
            here = wanted[chosen, :width]
            yield TextBatch(
                shard["tokens"][chosen, :width].long(),
                real[chosen, :width],
                here.flatten().nonzero()[:, 0],
                shard["document"][chosen, :width][here],
                shard["label"][chosen, :width][here],
            )
        left -= int(wanted[taken].sum())
        if not bool(taken.all()):
            return


def _missing(sequences: Sequences, split: str, options: LanguageCapture, size: int, done: int) -> Iterator[TextBatch]:
    """The batches of a split without its first `done` rows."""
    for batch in text_batches(sequences, split, options, size):
        skipped = min(done, len(batch.wanted))
        done -= skipped
        if skipped < len(batch.wanted):
            wanted, document, label = (part[skipped:] for part in (batch.wanted, batch.document, batch.label))
            yield replace(batch, wanted=wanted, document=document, label=label)


def work_of(sequences: Sequences, split: str, options: LanguageCapture) -> Work:
    """What `text_batches` will give of a split, without running anything.

    Raises ReseedError for a split without a wanted position, or a limit below its first sequence.
    """
    count = rows = tokens = 0
    for batch in text_batches(sequences, split, options):
        count, rows, tokens = count + len(batch.tokens), rows + len(batch.wanted), tokens + int(batch.real.sum())
    if not rows:
        limit = "" if options.rows is None else f" in the whole sequences that capture.rows ({options.rows}) allows"
        raise ReseedError(
            f"{sequences.path}: split {split!r} has no position of the kind {options.positions!r}{limit}, allowed: at "
            "least 1"
        )
    return Work(count, rows, tokens)


class Reader:
    """Runs batches through the model as far as the last hook point and keeps the wanted positions."""

    def __init__(self, model: Hooked, options: LanguageCapture, device: torch.device) -> None:
        """Raises ReseedError for a hook point that the model does not have."""
        model.to(device, print_details=False)
        self.model, self.device = model, device
        self.hook_names = (options.hook_name,) if isinstance(options.hook_name, str) else options.hook_name
        self.several = not isinstance(options.hook_name, str)
        self.hook_name_out = options.hook_name_out
        self.names = tuple(dict.fromkeys((*self.hook_names, *((self.hook_name_out,) if self.hook_name_out else ()))))
        for name in self.names:
            check_hook(model, name)
        self.stop_at_layer = last_layer(self.names)

    def replica(self) -> Reader:
        """The same with a model whose hooks are its own and whose weights are shared."""
        shared = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model, shared)
        return other

    def plain(self, batch: TextBatch) -> dict[str, Tensor]:
        """The forward pass alone, which keeps nothing."""
        forward(self.model, batch.tokens.to(self.device), batch.real.to(self.device), [], self.stop_at_layer)
        return {}

    def __call__(self, batch: TextBatch) -> dict[str, Tensor]:
        """`activations` [rows, d_in], or [rows, n_layers, d_in] of several hook points, and `target` [rows, d_out].

        Raises ReseedError for a hook point that is not [sequences, positions, d], or several of different widths.
        """
        found: dict[str, Tensor] = {}
        keep = partial(_keep, found=found, places=batch.wanted.to(self.device))
        hooks: list[Hook] = [(name, keep) for name in self.names]
        forward(self.model, batch.tokens.to(self.device), batch.real.to(self.device), hooks, self.stop_at_layer)
        parts = [found[name] for name in self.hook_names]
        if len({part.shape for part in parts}) > 1:
            widths = [part.shape[1] for part in parts]
            raise ReseedError(f"capture.hook_name: found hook points of the widths {widths}, allowed: one width")
        rows = {"activations": torch.stack(parts, 1) if self.several else parts[0]}
        return rows | ({"target": found[self.hook_name_out]} if self.hook_name_out else {})


@contextmanager
def reading(reader: Reader, hooked: bool = True) -> Iterator[InOrder]:
    """A function that reads batches on all of torch's threads at once and gives each with its rows, in their order.

    On a CPU every thread runs whole batches through a replica of the model that shares its weights: threads that work
    on one batch together wait for each other at every operation, and for whatever else the machine does. So the
    numbers do not depend on how many there are. On a GPU one thread runs the model while the caller stores the rows
    before. hooked: False for the forward pass alone.
    """
    threads = torch.get_num_threads()
    replicas = threads if reader.device.type == "cpu" else 1
    free: SimpleQueue[Reader] = SimpleQueue()
    for _ in range(replicas):
        free.put(reader.replica())

    def read(batch: TextBatch) -> dict[str, Tensor]:
        mine = free.get()
        try:
            return mine(batch) if hooked else mine.plain(batch)
        finally:
            free.put(mine)

    def in_order(batches: Iterable[TextBatch]) -> Iterator[tuple[TextBatch, dict[str, Tensor]]]:
        ahead: deque[tuple[TextBatch, Future[dict[str, Tensor]]]] = deque()
        for batch in batches:
            ahead.append((batch, pool.submit(read, batch)))
            if len(ahead) > 2 * replicas:
                first, rows = ahead.popleft()
                yield first, rows.result()
        for first, rows in ahead:
            yield first, rows.result()

    pool = ThreadPoolExecutor(replicas)
    torch.set_num_threads(1)
    try:
        yield in_order
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _keep(x: Tensor, hook: HookPoint, found: dict[str, Tensor], places: Tensor) -> None:
    if x.ndim != 3:
        raise ReseedError(
            f"capture.hook_name: {hook.name!r} has the shape {list(x.shape)}, allowed: hook points of shape "
            "[sequences, positions, d_in]"
        )
    found[str(hook.name)] = x.flatten(0, 1)[places]


def last_layer(hook_names: tuple[str, ...]) -> int | None:
    """The number of blocks after which all these hook points have been passed, None for the whole model."""
    blocks = [re.match(r"blocks\.(\d+)\.", name) for name in hook_names]
    found = [int(block[1]) + 1 for block in blocks if block]
    return max(found) if len(found) == len(hook_names) else None


@torch.no_grad()
def capture_language(
    model: Hooked,
    sequences: Sequences,
    options: LanguageCapture,
    provenance: Provenance,
    path: Path,
    device: torch.device,
    budget: Budget,
    resumable: Path,
    shard_bytes: int = SHARD_BYTES,
    tokens_per_batch: int | None = None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Capture every split of the tokens into the new directory `path`, by way of the folder `resumable`.

    A row has beside it its document's number (`sequence`) and the label of its step (`labels`, -1 without one). about:
    what the index says beside. A killed capture continues in `resumable` and ends with the same bytes. Raises
    ReseedError for a hook point, positions or a cost that are not allowed, and for numbers that the dtype cannot hold.
    """
    reader = Reader(model, options, device)
    tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH[device.type]
    work = {split: work_of(sequences, split, options) for split in SPLITS}
    one = reader(next(text_batches(sequences, "train", options, size=1)))
    bytes_per_row = 4 + 1 + sum(part[0].numel() for part in one.values()) * DTYPES[options.dtype].itemsize
    total = sum(part.rows for part in work.values())
    check_budget(estimate(total, bytes_per_row), budget, provenance.subject)
    index = new_index(provenance, path) | dict(about)
    made_from = {name: str(value) for name, value in (options.model_dump(exclude={"arms"}) | index).items()} | {
        "shards": str(rows_per_shard := max(1, min(ROWS_PER_SHARD, shard_bytes // bytes_per_row))),
        "batches": str(tokens_per_batch),
        "device": device.type,
        "code": _code(),
    }
    made_from |= {name: installed_version(name) or "" for name in ("torch", "transformer-lens")}
    with ActivationWriter(resumable, index, options.dtype, rows_per_shard, made_from, extremes=True) as writer:
        missing = {
            split: partial(_missing, sequences, split, options, tokens_per_batch, writer.done(split))
            for split in SPLITS
        }
        tokens = sum(int(batch.real.sum()) for batches in missing.values() for batch in batches())
        clock = _Clock(tokens, budget, provenance.subject)
        try:
            with progress(tokens, f"capture {', '.join(reader.names)}", "token") as bar, reading(reader) as in_order:
                for split, batches in missing.items():
                    for batch, rows in in_order(batches()):
                        beside = {"sequence": batch.document, "labels": batch.label}
                        beside |= {name: part for name, part in rows.items() if name != "activations"}
                        writer.append(split, rows["activations"], beside)
                        read = int(batch.real.sum())
                        clock.tick(read)
                        bar.update(read)
            writer.finish()
        except ReseedError:
            if not any(writer.shards.values()):
                writer.discard()
            raise
    with writing(path) as whole:
        shutil.move(resumable, whole)
    writer.forget()


class _Clock:
    """Measures the first batches and refuses a capture that would take too long at their rate."""

    def __init__(self, tokens: int, budget: Budget, subject: str) -> None:
        self.left, self.budget, self.subject = tokens, budget, subject
        self.batches = self.tokens = 0
        self.started = 0.0

    def tick(self, tokens: int) -> None:
        """A batch of so many tokens is done."""
        self.left -= tokens
        if self.batches == 0:
            self.started = time.perf_counter()
        else:
            self.tokens += tokens
        if self.batches == RATE_BATCHES:
            rate = self.tokens / (time.perf_counter() - self.started)
            check_budget(estimate(0, 0, self.left, rate), self.budget, self.subject)
        self.batches += 1


def _limit(split: str, options: LanguageCapture) -> int:
    if options.rows is None:
        return 1 << 62
    return options.rows if split == "train" else options.rows // HELD_OUT_SHARE


def _wanted(kind: Tensor, options: LanguageCapture) -> Tensor:
    """Where the wanted positions are; a special token or padding never is one, whatever else is said of it."""
    flags = TEXT | FLAGS[options.positions]
    return (kind & flags) == flags


def _real(sequences: Sequences, shard: dict[str, Tensor]) -> Tensor:
    """Where there is no padding."""
    return torch.ones_like(shard["tokens"], dtype=torch.bool) if sequences.pad is None else shard["document"] >= 0


def _groups(places: Tensor, lengths: list[int], size: int) -> Iterator[Tensor]:
    """`places` in order, as many a group as have at most `size` tokens when padded to the longest."""
    start = longest = 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > start and (i - start + 1) * longest > size:
            yield places[start:i]
            start, longest = i, length
    if start < len(lengths):
        yield places[start:]


def _code() -> str:
    room = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        room.update(file.read_bytes())
    return room.hexdigest()
