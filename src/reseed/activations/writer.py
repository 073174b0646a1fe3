"""Writing activations in a stream: shards go to disk as they fill, statistics grow with them, a kill costs one shard.

The index holds statistics of the training rows as they came, before they were stored in `dtype`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import check_sha256, sha256, write_json, write_tensors, writing
from reseed.params import SPLITS

ROWS_PER_SHARD = 1 << 18
MOMENT_ROWS = 1024
MOMENT_ELEMENTS = 1 << 24
"""The statistics take in so many rows at a time, which stay in the processor's cache, and more where rows are wide, to
touch the scatter matrix less often; but at most so many numbers (128 MiB in float64)."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Moments:
    """Statistics of rows [n, d] that come in blocks, in float64 on the blocks' device.

    `scatter` is the sum of (x - mean)(x - mean)^T. Two blocks are joined by the formula of Chan, Golub and LeVeque
    (1979), which loses no digits where the mean is far from zero.
    """

    SUMS = ("mean", "scatter", "norms", "least", "largest")

    def __init__(self, d: int) -> None:
        self.count = 0
        self.mean = torch.zeros(d, dtype=torch.float64)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)
        self.norms = torch.zeros((), dtype=torch.float64)
        self.least = torch.full((d,), torch.inf, dtype=torch.float64)
        self.largest = -self.least

    def add(self, rows: Tensor) -> None:
        """Take in rows [n, d]."""
        if self.mean.device != rows.device:
            for name in self.SUMS:
                setattr(self, name, getattr(self, name).to(rows.device))
        d = rows.shape[1]
        for block in rows.split(max(1, min(max(MOMENT_ROWS, 2 * d), MOMENT_ELEMENTS // d))):
            self.least = torch.minimum(self.least, block.amin(0))
            self.largest = torch.maximum(self.largest, block.amax(0))
            x = block.to(torch.float64, copy=True)
            self.norms += x.norm(dim=1).sum()
            mean = x.mean(0)
            x -= mean
            scatter = x.T @ x
            if self.count:
                apart, total = mean - self.mean, self.count + len(x)
                self.scatter += scatter
                self.scatter += apart.outer(apart) * (self.count * len(x) / total)
                self.mean += apart * (len(x) / total)
            else:
                self.mean, self.scatter = mean, scatter
            self.count += len(x)

    @property
    def covariance(self) -> Tensor:
        return self.scatter / self.count

    def tensors(self) -> dict[str, Tensor]:
        """All that `of` needs, as copies on the CPU."""
        found = {name: getattr(self, name).cpu().clone() for name in self.SUMS}
        return found | {"count": torch.tensor(self.count)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Moments:
        """The moments that gave these `tensors()`."""
        moments = cls(len(tensors["mean"]))
        moments.count = int(tensors["count"])
        for name in cls.SUMS:
            setattr(moments, name, tensors[name])
        return moments


class ActivationWriter:
    """Appends rows to one split after the other, in the format of `activations.store`.

    One shard is in memory (another while it is being written), however many rows come. With `made_from`, everything
    that the rows depend on, `path` may hold the whole shards of a killed writer: `done` rows of each split are there,
    and the caller appends what follows them. Its progress stands in a file beside `path`, which `forget` removes.
    Raises ReseedError, and leaves nothing, for non-finite values or an overflow of the dtype; and for the shards of a
    writer with another `made_from`.
    """

    def __init__(
        self,
        path: Path,
        index: Mapping[str, Any],
        dtype: str,
        rows_per_shard: int = ROWS_PER_SHARD,
        made_from: Mapping[str, str] | None = None,
        extremes: bool = False,
    ) -> None:
        """index: what it says beside dtype, statistics and shards; extremes: also the range of every dimension."""
        self.path, self.index, self.dtype, self.extremes = path, dict(index), dtype, extremes
        self.rows_per_shard, self.made_from = rows_per_shard, made_from
        self.progress = path.with_name(f"{path.name}.progress")
        self.moments: Moments | None = None
        self.shards: dict[str, list[dict[str, Any]]] = {}
        self.buffer: dict[str, Tensor] = {}
        self.filled = 0
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.pending: Future[None] | None = None
        if made_from is not None and self.progress.is_file():
            self._resume(made_from)
        else:
            if made_from is not None and path.is_dir():
                shutil.rmtree(path)  # killed before its first whole shard
            path.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown()

    def done(self, split: str) -> int:
        """Rows of a split that are in shards."""
        return sum(shard["rows"] for shard in self.shards.get(split, []))

    def append(self, split: str, rows: Tensor, beside: Mapping[str, Tensor] | None = None) -> None:
        """Append rows [n, d_in] or [n, n_layers, d_in] and what stands beside each of them.

        A split ends where another begins.
        """
        others = dict(beside or {})
        for name, other in others.items():
            if len(other) != len(rows):
                raise ReseedError(f"{self.path}: split {split!r} has {len(rows)} rows, its {name!r} has {len(other)}")
        if split not in self.shards:
            self.flush()
            self.shards[split] = []
        stored = {"activations": self._store(split, "activations", rows)}
        stored |= {name: self._store(split, name, other) for name, other in others.items()}
        if split == "train" and self.moments is None and len(rows):
            self.moments = Moments(rows.shape[-1])
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + self.rows_per_shard - self.filled)
            if not self.buffer:
                # untouched memory costs nothing: a short split takes what it fills
                self.buffer = {
                    name: torch.empty((self.rows_per_shard, *part.shape[1:]), dtype=part.dtype)
                    for name, part in stored.items()
                }
            for name, part in stored.items():
                self.buffer[name][self.filled : self.filled + stop - start] = part[start:stop]
            if split == "train" and self.moments is not None:
                self.moments.add(rows[start:stop].flatten(0, -2))
            self.filled += stop - start
            if self.filled == self.rows_per_shard:
                self._flush()
            start = stop

    def flush(self) -> None:
        """Write the rows that are in memory to a shard, full or not, and wait for it."""
        self._flush()
        self._wait()

    def finish(self) -> None:
        """Write what is left and the index.

        Raises ReseedError for a split without rows, or training rows that do not vary.
        """
        self.flush()
        for split in SPLITS:
            if not self.done(split):
                raise ReseedError(f"{self.path}: the split {split!r} has no rows, allowed: at least 1")
        assert self.moments is not None
        mean = self.moments.mean.cpu()
        spectrum = torch.linalg.eigvalsh(self.moments.covariance.cpu()).clamp(min=0)
        if spectrum.sum() <= 1e-12 * (spectrum.sum() + mean.square().sum()):
            self.discard()
            raise ReseedError(
                f"{self.path}: the training activations are constant; check capture.hook_name and positions"
            )
        share = spectrum[spectrum > 0] / spectrum.sum()
        statistics: dict[str, Any] = {
            "dtype": self.dtype,
            "d_in": len(mean),
            "mean": mean.tolist(),
            "mean_norm": self.moments.norms.item() / self.moments.count,
            "variance": spectrum.sum().item(),
            # both count dimensions: exp of the spectrum's entropy, and the participation ratio (tr S)^2 / tr S^2
            "effective_rank": torch.exp(-(share * share.log()).sum()).item(),
            "effective_dimension": participation_ratio(spectrum),
        }
        if self.extremes:
            extremes = {"min": self.moments.least.tolist(), "max": self.moments.largest.tolist()}
            statistics["extremes"] = extremes
        splits = {split: {"rows": self.done(split), "shards": self.shards[split]} for split in SPLITS}
        write_json(self.path / "index.json", self.index | statistics | {"splits": splits})

    def forget(self) -> None:
        """Remove the progress that a finished capture no longer needs."""
        self.progress.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove all that was written."""
        self.thread.shutdown()
        self.progress.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _store(self, split: str, name: str, values: Tensor) -> Tensor:
        """The values in the dtype that they are stored in, checked; classes and sequence numbers stay as they are."""
        if not values.is_floating_point():
            return values
        stored = values.to(DTYPES[self.dtype]) if name in ("activations", "target") else values
        # a sum is finite only if all its terms are, and twenty times as fast to see
        if not stored.sum().isfinite() and not stored.isfinite().all():
            self.discard()
            if not values.isfinite().all():
                what = "activations" if name == "activations" else f"numbers in {name!r}"
                raise ReseedError(f"{self.path}: split {split!r} holds NaN or infinite {what}, allowed: finite numbers")
            largest = values.abs().max().item()
            what = "an activation" if name == "activations" else f"a number in {name!r}"
            raise ReseedError(
                f"{self.path}: {what} of {largest:.4g} overflows {self.dtype}; set capture.dtype to bfloat16"
            )
        return stored

    def _flush(self) -> None:
        """Hand the rows in memory to the thread that writes, once it has written those before."""
        self._wait()
        if not self.filled:
            return
        split = next(reversed(self.shards))
        file = self.path / f"{split}-{len(self.shards[split]):05d}.safetensors"
        tensors = {name: part[: self.filled] for name, part in self.buffer.items()}
        moments = self.moments.tensors() if self.moments and self.made_from is not None else {}
        self.pending = self.thread.submit(self._write, split, file, tensors, moments)
        self.buffer, self.filled = {}, 0

    def _write(self, split: str, file: Path, tensors: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        with writing(file) as partial:
            write_tensors(partial, tensors)
            entry = {"file": file.name, "rows": len(tensors["activations"]), "sha256": sha256(partial)}
        self.shards[split].append(entry)
        if self.made_from is not None:
            state = {"made_from": self.made_from, "shards": self.shards}
            with writing(self.progress) as partial:
                write_tensors(partial, moments, {"state": json.dumps(state)})

    def _wait(self) -> None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def _resume(self, made_from: Mapping[str, str]) -> None:
        try:
            with safe_open(self.progress, framework="pt") as file:
                # clones: the file is replaced while the capture goes on
                tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
                state: dict[str, Any] = json.loads((file.metadata() or {})["state"])
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ReseedError(f"{self.progress}: not whole ({error}); delete it to capture from the start") from error
        for name in sorted(made_from.keys() | state["made_from"].keys()):
            found, wanted = state["made_from"].get(name), made_from.get(name)
            if found != wanted:
                raise ReseedError(
                    f"{self.progress}: shards of another capture: its {name} was {_short(found)}, now "
                    f"{_short(wanted)}; restore that, or delete the file to capture from the start"
                )
        self.shards = state["shards"]
        known = {shard["file"]: shard["sha256"] for shards in self.shards.values() for shard in shards}
        for name, digest in known.items():
            if not (self.path / name).is_file():
                raise ReseedError(f"{self.path / name}: the file does not exist; delete {self.progress} to start again")
            check_sha256(self.path / name, digest)
        for other in sorted(self.path.iterdir()):
            if other.name not in known:
                other.unlink()
        if tensors:
            self.moments = Moments.of(tensors)


def participation_ratio(spectrum: Tensor) -> float:
    """Effective dimension (tr S)^2 / tr S^2 of a covariance with these eigenvalues [d]."""
    return (spectrum.sum().square() / spectrum.square().sum()).item()


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= 60 else shown[:59] + "…"
