"""CPU kernels for a stack of S sparse autoencoders: everything of a training step but the dense encoder product.

They touch only the active latents of each row, where a dense step multiplies the zeros as well. Shapes: x [S, B, d_in]
(stride 0 over S where the members share their rows); W_encT and W_dec [S, d_sae, d_in], a latent a row; b_enc
[S, d_sae]; b_dec [S, d_in]; pre-activations [S, B, d_sae]; all float32. Gradients are of each member's own loss.

Work is split by member, rows and latents, in blocks of fixed size, and every sum is taken in one fixed order: results
depend neither on the number of threads nor on which other members share the stack. Reductions over d_in may be
reassociated by the compiler (that is what makes them SIMD), in the same way at every call; NaN and inf keep their
meaning. Kernels are compiled once a checkout, cached in `__pycache__`, and only ever run from there (see `ready`).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from reseed import ReseedError

# beside torch's own pool of threads; `reseed/__init__.py` tells both to sleep when they have nothing to do
numba.config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]  # type: ignore[attr-defined]

FAST = {"reassoc", "contract", "nsz"}  # not nnan, ninf, arcp or afn: divisions, roots and NaN stay exact
OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": FAST}

ROWS = 32
"""Rows in a block: of one task, and of one partial sum."""
LATENTS = 32
"""Latents in a block."""
ELEMENTS = 4096
"""Elements in a block of a sum of squares."""
SAMPLE = 64
"""Values of each row that BatchTopK's first threshold is estimated from."""
SMALL = 1 << 14
"""Below so many elements, starting threads costs more than it saves."""
TINY_M = np.float32(1e-30)
TINY_V = np.float32(1e-37)
"""Adam's moments below these become zero: those of a latent that never fires would else decay into denormals, on
which arithmetic is many times slower; either changes a step by less than 1e-20 of the learning rate."""

Array = NDArray[Any]


@dataclass
class Code:
    """Strictly positive activations of a stack, CSR a member, indices ascending in each row.

    rowptr int64 [S, B + 1]; index int32 and value float32 [S, capacity], of which rowptr[s, B] are in use.
    """

    rowptr: Tensor
    index: Tensor
    value: Tensor

    def dense(self, d_sae: int) -> Tensor:
        """The same activations [S, B, d_sae]."""
        S, B = self.rowptr.shape[0], self.rowptr.shape[1] - 1
        acts = torch.zeros(S, B, d_sae)
        for s in range(S):
            n = int(self.rowptr[s, -1])
            rows = torch.repeat_interleave(torch.arange(B), self.rowptr[s].diff())
            acts[s, rows, self.index[s, :n].long()] = self.value[s, :n]
        return acts

    def fired(self, d_sae: int) -> Tensor:
        """Which latents are active in any row: bool [S, d_sae]."""
        fired = torch.zeros(self.rowptr.shape[0], d_sae, dtype=torch.bool)
        _fired(self.rowptr.numpy(), self.index.numpy(), fired.numpy())
        return fired


@dataclass
class SparseGradients:
    """Gradients of loss [S], the mean over rows of the sum over d_in of residual squared.

    residual [S, B, d_in] = x - reconstruction; g_pre_value [S, capacity]: by the pre-activation of each entry of the
    code; g_dec, g_encT [S, d_sae, d_in], g_benc [S, d_sae]; g_bdec [S, d_in] through decoder and encoder.
    """

    loss: Tensor
    residual: Tensor
    g_pre_value: Tensor
    g_dec: Tensor
    g_encT: Tensor
    g_benc: Tensor
    g_bdec: Tensor


def ready() -> None:
    """Have every kernel in numba's cache before this process runs one; raises ReseedError if that fails.

    numba links the body of a parallel loop twice and optimises one copy more than the other: a process that has just
    compiled it runs the one, a process that loads it the other, and they may add in different orders. Another process
    compiles, therefore, and a run gives the same bytes the first time and ever after.
    """
    folder = Path(_latents.stats.cache_path)
    file = Path(__file__)
    # what numba itself asks before it takes code from its cache
    state = [file.read_text(), file.stat().st_mtime_ns, numba.__version__]
    state += [llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()]
    stamp = folder / f"kernels-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}.compiled"
    if stamp.is_file():
        return
    print("compiling the kernels, once for this checkout (some 25 s)", file=sys.stderr)
    command = [sys.executable, "-P", "-c", "from reseed.saes.kernels import compile_all; compile_all()"]
    environment = os.environ | {"PYTHONPATH": str(file.parents[2])}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ReseedError(f"{folder}: the kernels could not be compiled ({last}), allowed: a folder to write to")
    folder.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def compile_all() -> None:
    """Call every kernel with every type of argument that it is ever given."""
    S, B, d_in, d_sae = 2, 64, 32, 1024
    pre, x, rows = torch.ones(S, B, d_sae), torch.ones(S, B, d_in), torch.ones(S, d_sae, d_in)
    for select in (select_topk, select_batchtopk):
        code = select(pre, 2)
        code.fired(d_sae)
    for target in (None, x):
        found = sparse_gradients(x, rows, rows, torch.zeros(S, d_in), code, target=target)
    project_and_norm(found.g_dec, rows)
    for gradient in (found.g_dec, found.g_bdec):  # above and below SMALL
        squared_norm(gradient)
        moments = torch.zeros_like(gradient), torch.zeros_like(gradient)
        adam_update(torch.ones_like(gradient), gradient, *moments, np.ones(S), np.ones(S), 1)


def select_topk(pre: Tensor, k: int | Sequence[int] | Array, out: Code | None = None) -> Code:
    """The k largest of each row, ties going to the lower index, then ReLU; k may differ by member.

    `out` is a code of the same shapes (of an earlier step) to write to. A NaN counts as smallest or largest by its
    sign bit.
    """
    pre = pre.detach().contiguous()
    S, B, d_sae = pre.shape
    ks = np.minimum(_per_member(k, S), d_sae)
    code = _code(S, B, B * int(ks.max()), out)
    floats = pre.numpy()
    _threads()
    _topk(floats, floats.view(np.int32), ks, code.rowptr.numpy(), code.index.numpy(), code.value.numpy())
    return code


def select_batchtopk(pre: Tensor, k: int | Sequence[int] | Array, out: Code | None = None) -> Code:
    """The k * B largest of each member's batch, ties going to the earlier row and lower index, then ReLU.

    Bussmann et al. 2024 (arXiv 2412.06410); k, `out` and NaN as for `select_topk`.
    """
    pre = pre.detach().contiguous()
    S, B, d_sae = pre.shape
    ks = np.minimum(_per_member(k, S), d_sae)
    code = _code(S, B, B * int(ks.max()), out)
    floats = pre.numpy()
    _threads()
    _batchtopk(floats, floats.view(np.int32), ks, code.rowptr.numpy(), code.index.numpy(), code.value.numpy())
    return code


def sparse_gradients(
    x: Tensor,
    W_encT: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    code: Code,
    out: SparseGradients | None = None,
    target: Tensor | None = None,
) -> SparseGradients:
    """Loss and gradients of a stack whose pre-activations are (x - b_dec) W_encT^T + b_enc.

    `out` is a result of the same shapes (of an earlier step) to overwrite. With `target` [S, B, d_in] the code is to
    reconstruct that instead of x, by itself, without b_dec.
    """
    S, B, d_in = x.shape
    d_sae, capacity = W_dec.shape[1], code.index.shape[1]
    rows = _shared(x)
    decoder, encoder, bias = (t.detach().contiguous().numpy() for t in (W_dec, W_encT, b_dec))
    rowptr, index, value = code.rowptr.numpy(), code.index.numpy(), code.value.numpy()
    if out is None or out.residual.shape != x.shape or out.g_pre_value.shape[1] != capacity:
        out = SparseGradients(
            torch.empty(S), torch.empty(S, B, d_in), torch.zeros(S, capacity), torch.empty(S, d_sae, d_in),
            torch.empty(S, d_sae, d_in), torch.empty(S, d_sae), torch.empty(S, d_in),
        )  # fmt: skip
    residual, by_pre, g_benc = out.residual.numpy(), out.g_pre_value.numpy(), out.g_benc.numpy()
    row_losses = np.empty((S, _blocks(B, ROWS)))
    row_sums = np.empty((S, _blocks(B, ROWS), d_in), np.float32)
    latent_sums = np.empty((S, _blocks(d_sae, LATENTS), d_in), np.float32)
    colptr = np.empty((S, d_sae + 1), np.int64)
    row, activation, gradient = np.empty((S, capacity), np.int32), *np.empty((2, S, capacity), np.float32)
    threads = _threads()
    if target is None:
        _residuals(rows, decoder, bias, rowptr, index, value, residual, by_pre, row_losses, row_sums)
    else:
        nothing = np.zeros_like(bias)
        _residuals(_shared(target), decoder, nothing, rowptr, index, value, residual, by_pre, row_losses, row_sums)
        row_sums[:] = 0  # b_dec is no part of the reconstruction
    _by_latent(rowptr, index, value, by_pre, colptr, row, activation, gradient)
    _latents(
        rows, encoder, bias, residual, colptr, row, activation, gradient, threads,
        out.g_dec.numpy(), out.g_encT.numpy(), g_benc, latent_sums,
    )  # fmt: skip
    _totals(row_losses, row_sums, latent_sums, B, out.loss.numpy(), out.g_bdec.numpy())
    return out


def squared_errors(x: Tensor, W_dec: Tensor, b_dec: Tensor, code: Code) -> Tensor:
    """The squared error of each member's reconstruction, summed over rows and dimensions: float64 [S]."""
    S, (B, d_in), capacity = len(W_dec), x.shape[1:], code.index.shape[1]
    residual, by_pre = np.empty((S, B, d_in), np.float32), np.empty((S, capacity), np.float32)
    losses, sums = np.empty((S, _blocks(B, ROWS))), np.empty((S, _blocks(B, ROWS), d_in), np.float32)
    decoder, bias = (t.detach().contiguous().numpy() for t in (W_dec, b_dec))
    rowptr, index, value = code.rowptr.numpy(), code.index.numpy(), code.value.numpy()
    _threads()
    _residuals(_shared(x), decoder, bias, rowptr, index, value, residual, by_pre, losses, sums)
    return torch.from_numpy(losses.sum(1))


def project_and_norm(g_dec: Tensor, W_dec: Tensor) -> Tensor:
    """Remove from each row of g_dec its component along the unit row of W_dec, in place; squared norms left [S]."""
    norms = np.empty(g_dec.shape[:2])
    _threads()
    _project(g_dec.numpy(), W_dec.detach().contiguous().numpy(), norms)
    return torch.from_numpy(norms.sum(1).astype(np.float32))


def squared_norm(gradient: Tensor) -> Tensor:
    """Squared norm of each member's gradient: [S, ...] to [S]."""
    flat = gradient.detach().contiguous().numpy().reshape(len(gradient), -1)
    sums = np.empty((len(flat), _blocks(flat.shape[1], ELEMENTS)))
    if flat.size < SMALL:
        _squares_serial(flat, sums)
    else:
        _threads()
        _squares(flat, sums)
    return torch.from_numpy(sums.sum(1).astype(np.float32))


def adam_update(
    parameter: Tensor, gradient: Tensor, m: Tensor, v: Tensor, rate: Tensor | Array, clip: Tensor | Array, step: int,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, unit_rows: bool = False,
) -> None:  # fmt: skip
    """One step of Adam as torch.optim.Adam has it, in place, with a learning rate a member; step counts from 1.

    parameter, gradient, m, v [S, ...]; rate [S]; clip [S] multiplies the gradient first (which is left as it is);
    unit_rows: rows (last dimension) are made unit after the update.
    """
    shape = (len(parameter), -1, parameter.shape[-1] if parameter.ndim > 1 else 1)
    p, g, m_, v_ = (_in_place(t).reshape(shape) for t in (parameter, gradient.contiguous(), m, v))
    size = (np.asarray(rate, np.float64) / (1 - beta1**step)).astype(np.float32)
    root = np.float32(1 / (1 - beta2**step) ** 0.5)
    betas = np.float32(beta1), np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
    arguments = (p, g, m_, v_, size, np.asarray(clip, np.float32), *betas, root, np.float32(eps), unit_rows)
    if p.size < SMALL:
        _adam_serial(*arguments)
    else:
        _threads()
        _adam(*arguments)


def _threads() -> int:
    """Let the kernels use as many threads as torch does."""
    allowed = torch.get_num_threads()
    threads = min(allowed, int(numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    numba.set_num_threads(threads)
    if torch.get_num_threads() != allowed:
        # the first call starts numba's threads, which tells OpenMP, and so torch, to use as many as there are cores
        torch.set_num_threads(allowed)
    return threads


def _per_member(k: int | Sequence[int] | Array, S: int) -> Array:
    return np.array(np.broadcast_to(np.asarray(k, np.int64), (S,)))


def _code(S: int, B: int, capacity: int, out: Code | None) -> Code:
    if out is not None and out.rowptr.shape == (S, B + 1) and out.index.shape == (S, capacity):
        return out
    rowptr = torch.empty(S, B + 1, dtype=torch.int64)
    return Code(rowptr, torch.zeros(S, capacity, dtype=torch.int32), torch.zeros(S, capacity))


def _shared(x: Tensor) -> Array:
    """x [S, B, d_in] contiguous, or [1, B, d_in] where the members share their rows."""
    rows: Array = (x[:1] if x.stride(0) == 0 else x).detach().contiguous().numpy()
    return rows


def _in_place(tensor: Tensor) -> Array:
    if not tensor.is_contiguous():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} to update in place is not contiguous")
    array: Array = tensor.detach().numpy()
    return array


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


# --- selection: a positive float32 is ordered as the int32 of the same bits is, and no other value is kept


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _count(values: Array, n: int, threshold: int) -> int:
    """How many of the first n values reach the threshold."""
    t = np.int32(threshold)
    c = np.int32(0)
    for i in range(n):
        c = np.int32(c + np.int32(values[i] >= t))
    return int(c)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _threshold(values: Array, n: int, k: int, slack: int, low: int, guess: int) -> tuple[int, int]:
    """A threshold >= low that at least k, and at most k + slack, of the first n values reach, and how many do.

    More do where they are ties (then the threshold is their value), fewer where fewer reach `low`. By bisection,
    taking growing steps away from a guess first: each round is one SIMD pass over values in cache.
    """
    reach = _count(values, n, low)
    if reach <= k + slack:
        return low, reach
    high = 0
    for i in range(n):
        high = max(high, values[i])
    high += 1
    step = 1 << 19  # of 2^23 to a factor of two
    middle = guess if low < guess < high else (low + high) >> 1
    while high - low > 1:
        c = _count(values, n, middle)
        if c >= k:
            low, reach = middle, c
            if c <= k + slack:
                break
            middle = min((low + high) >> 1, low + step)
        else:
            high = middle
            middle = max((low + high) >> 1, high - step)
        step *= 2
    return low, reach


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _ties(values: Array, n: int, threshold: int, reach: int, k: int) -> int:
    """How many of the values equal to the threshold belong to the k largest."""
    return n if reach <= k else k - _count(values, n, threshold + 1)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _topk_rows(
    pre: Array, bits: Array, k: int, start: int, stop: int, index: Array, value: Array, rowptr: Array
) -> None:
    """Rows start to stop of one member into slots of k entries; how many are used into rowptr, one place on.

    A row is seen as a grid of m columns. At least k of its values reach a threshold that k of the m columns' maxima
    reach, and all that do lie in the columns whose maximum does: only these are looked into.
    """
    d_sae = pre.shape[1]
    m = min(d_sae, (int(max(2 * k, 2 * np.sqrt(k * d_sae))) + 63) // 64 * 64)
    maxima = np.empty(m, np.int32)
    columns = np.empty(m, np.int32)
    found = np.empty(d_sae, np.int32)
    where = np.empty(d_sae, np.int32)
    guess = 0
    for b in range(start, stop):
        for j in range(m):
            maxima[j] = bits[b, j]
        for base in range(m, d_sae, m):
            for j in range(min(m, d_sae - base)):
                maxima[j] = max(maxima[j], bits[b, base + j])
        t, _ = _threshold(maxima, m, k, k >> 2, 1, guess)
        low, guess = np.int32(t), t
        n_columns = 0
        for j in range(m):
            columns[n_columns] = j
            n_columns += maxima[j] >= low
        n = 0
        for base in range(0, d_sae, m):
            for c in range(n_columns):
                i = base + columns[c]
                if i < d_sae:
                    where[n] = i
                    n += bits[b, i] >= low
        for c in range(n):
            found[c] = bits[b, where[c]]
        t, reach = _threshold(found, n, k, 0, t, t)
        ties = _ties(found, n, t, reach, k)
        used = 0
        for c in range(n):
            tie = found[c] == t
            where[used] = where[c]
            used += (found[c] > t) | (tie & (ties > 0))
            ties -= tie
        for c in range(used):
            index[b * k + c] = where[c]
            value[b * k + c] = pre[b, where[c]]
        rowptr[b + 1] = used


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _close_gaps(k: int, index: Array, value: Array, rowptr: Array) -> None:
    """From slots of k entries a row, and their numbers in rowptr, to CSR."""
    rowptr[0] = 0
    for b in range(len(rowptr) - 1):
        to, used = rowptr[b], rowptr[b + 1]
        rowptr[b + 1] = to + used
        if to != b * k:
            for e in range(used):
                index[to + e] = index[b * k + e]
                value[to + e] = value[b * k + e]


@njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _topk(pre: Array, bits: Array, ks: Array, rowptr: Array, index: Array, value: Array) -> None:
    S, B = pre.shape[:2]
    blocks = (B + ROWS - 1) // ROWS
    for task in prange(S * blocks):
        s, start = task // blocks, task % blocks * ROWS
        stop = min(B, start + ROWS)
        _topk_rows(pre[s], bits[s], ks[s], start, stop, index[s], value[s], rowptr[s])
    for s in range(S):
        _close_gaps(ks[s], index[s], value[s], rowptr[s])


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _first_threshold(bits: Array, k: int, factor: float) -> int:
    """A threshold that about factor * k values a row reach, from a sample that moves along the latents by row."""
    B, d_sae = bits.shape
    width = min(SAMPLE, d_sae)
    sample = np.empty(B * width, np.int32)
    n = 0
    for b in range(B):
        base = b * width % (d_sae - width + 1)
        for i in range(width):
            sample[n] = bits[b, base + i]
            n += 1
    rank = int(factor * k * n / d_sae) + 8
    t, _ = _threshold(sample, n, rank, rank >> 4, 1, 0)
    return int(t)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _count_rows(bits: Array, threshold: int, start: int, stop: int, counts: Array) -> None:
    t = np.int32(threshold)
    for b in range(start, stop):
        c = np.int32(0)
        for i in range(bits.shape[1]):
            c = np.int32(c + np.int32(bits[b, i] >= t))
        counts[b] = c


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _collect_rows(bits: Array, threshold: int, start: int, stop: int, ends: Array, found: Array, where: Array) -> None:
    """The values of rows start to stop that reach the threshold, and where they are, to before ends[row]."""
    t = np.int32(threshold)
    d_sae = bits.shape[1]
    scratch = np.empty(d_sae, np.int32)
    for b in range(start, stop):
        n = 0
        for i in range(d_sae):
            scratch[n] = i
            n += bits[b, i] >= t
        first = ends[b] - n
        for c in range(n):
            where[first + c] = scratch[c]
            found[first + c] = bits[b, scratch[c]]


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _keep_largest(
    pre: Array,
    quota: int,
    t: int,
    n: int,
    ends: Array,
    found: Array,
    where: Array,
    rowptr: Array,
    index: Array,
    value: Array,
) -> None:
    """The quota largest of n values of one member, none below t, given by row as by `_collect_rows`, as CSR."""
    t, reach = _threshold(found, n, quota, 0, t, t)
    ties = _ties(found, n, t, reach, quota)
    e, c = 0, 0
    rowptr[0] = 0
    for b in range(len(ends)):
        while c < ends[b]:
            if found[c] > t or (found[c] == t and ties > 0):
                ties -= found[c] == t
                index[e] = where[c]
                value[e] = pre[b, where[c]]
                e += 1
            c += 1
        rowptr[b + 1] = e


@njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _batchtopk(pre: Array, bits: Array, ks: Array, rowptr: Array, index: Array, value: Array) -> None:
    S, B = pre.shape[:2]
    blocks = (B + ROWS - 1) // ROWS
    t = np.empty(S, np.int64)
    factor = np.full(S, 1.1)
    ends = np.zeros((S, B), np.int64)
    short = np.full(S, True)
    while short.any():  # the sample promised too few only where members' rows are very uneven
        for s in prange(S):
            if short[s]:
                t[s] = _first_threshold(bits[s], ks[s], factor[s])
        for task in prange(S * blocks):
            s, start = task // blocks, task % blocks * ROWS
            if short[s]:
                _count_rows(bits[s], t[s], start, min(B, start + ROWS), ends[s])
        for s in range(S):
            short[s] = t[s] > 1 and ends[s].sum() < ks[s] * B
            factor[s] *= 1.5
    for s in range(S):
        for b in range(1, B):
            ends[s, b] += ends[s, b - 1]
    most = ends[:, B - 1].max()
    found = np.empty((S, most), np.int32)
    where = np.empty((S, most), np.int32)
    for task in prange(S * blocks):
        s, start = task // blocks, task % blocks * ROWS
        _collect_rows(bits[s], t[s], start, min(B, start + ROWS), ends[s], found[s], where[s])
    for s in prange(S):
        _keep_largest(
            pre[s], ks[s] * B, t[s], ends[s, B - 1], ends[s], found[s], where[s], rowptr[s], index[s], value[s]
        )  # fmt: skip


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _fired(rowptr: Array, index: Array, fired: Array) -> None:
    for s in range(len(rowptr)):
        for e in range(rowptr[s, -1]):
            fired[s, index[s, e]] = True


# --- gradients


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _add_rows(total: Array, factor: Array, which: Array, table: Array, start: int, stop: int) -> None:
    """total += sum over e from start to stop of factor[e] * table[which[e]]."""
    d = len(total)
    e = start
    while e + 4 <= stop:  # four at once, so that `total` is loaded and stored a quarter as often
        f0, f1, f2, f3 = factor[e], factor[e + 1], factor[e + 2], factor[e + 3]
        j0, j1, j2, j3 = which[e], which[e + 1], which[e + 2], which[e + 3]
        for i in range(d):
            total[i] += (f0 * table[j0, i] + f1 * table[j1, i]) + (f2 * table[j2, i] + f3 * table[j3, i])
        e += 4
    while e < stop:
        f0, j0 = factor[e], which[e]
        for i in range(d):
            total[i] += f0 * table[j0, i]
        e += 1


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _residual_rows(
    x: Array, W_dec: Array, b_dec: Array, rowptr: Array, index: Array, value: Array, start: int, stop: int,
    residual: Array, by_pre: Array, row_sum: Array,
) -> float:  # fmt: skip
    """Residuals of some rows and the gradient by their pre-activations; their sum, and the sum of their squares."""
    d_in = x.shape[1]
    scale = np.float32(-2 / x.shape[0])
    made = np.empty(d_in, np.float32)
    loss = 0.0
    row_sum[:] = 0
    for b in range(start, stop):
        for i in range(d_in):
            made[i] = b_dec[i]
        _add_rows(made, value, index, W_dec, rowptr[b], rowptr[b + 1])
        squares = np.float32(0)
        for i in range(d_in):
            r = x[b, i] - made[i]
            made[i] = r
            residual[b, i] = r
            row_sum[i] += r
            squares += r * r
        loss += float(squares)
        for e in range(rowptr[b], rowptr[b + 1]):
            j = index[e]
            dot = np.float32(0)
            for i in range(d_in):
                dot += made[i] * W_dec[j, i]
            by_pre[e] = scale * dot
    return loss


@njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _residuals(
    x: Array, W_dec: Array, b_dec: Array, rowptr: Array, index: Array, value: Array,
    residual: Array, by_pre: Array, row_losses: Array, row_sums: Array,
) -> None:  # fmt: skip
    S, B = residual.shape[:2]
    blocks = (B + ROWS - 1) // ROWS
    for task in prange(S * blocks):
        s, block = task // blocks, task % blocks
        start = block * ROWS
        row_losses[s, block] = _residual_rows(
            x[min(s, len(x) - 1)], W_dec[s], b_dec[s], rowptr[s], index[s], value[s], start, min(B, start + ROWS),
            residual[s], by_pre[s], row_sums[s, block],
        )  # fmt: skip


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _transpose(
    rowptr: Array, index: Array, value: Array, by_pre: Array,
    colptr: Array, row: Array, activation: Array, gradient: Array,
) -> None:  # fmt: skip
    """The entries of one member by latent, and by row within it: a counting sort."""
    d_sae, B = len(colptr) - 1, len(rowptr) - 1
    colptr[:] = 0
    for e in range(rowptr[B]):
        colptr[index[e] + 1] += 1
    for j in range(d_sae):
        colptr[j + 1] += colptr[j]
    free = colptr[:d_sae].copy()
    for b in range(B):
        for e in range(rowptr[b], rowptr[b + 1]):
            j = index[e]
            to = free[j]
            free[j] = to + 1
            row[to] = b
            activation[to] = value[e]
            gradient[to] = by_pre[e]


@njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _by_latent(
    rowptr: Array, index: Array, value: Array, by_pre: Array,
    colptr: Array, row: Array, activation: Array, gradient: Array,
) -> None:  # fmt: skip
    for s in prange(len(rowptr)):
        _transpose(rowptr[s], index[s], value[s], by_pre[s], colptr[s], row[s], activation[s], gradient[s])


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _latent_rows(
    x: Array, W_encT: Array, b_dec: Array, residual: Array,
    colptr: Array, row: Array, activation: Array, gradient: Array, start: int, stop: int,
    g_dec: Array, g_encT: Array, g_benc: Array, latent_sum: Array,
) -> None:  # fmt: skip
    """Gradients of the latents start to stop, and the sum over them of g_benc W_encT."""
    B, d_in = x.shape
    scale = np.float32(-2 / B)
    total = np.empty(d_in, np.float32)
    latent_sum[:] = 0
    for j in range(start, stop):
        first, last = colptr[j], colptr[j + 1]
        total[:] = 0
        _add_rows(total, activation, row, residual, first, last)
        for i in range(d_in):
            g_dec[j, i] = scale * total[i]
        by_bias = np.float32(0)
        for e in range(first, last):
            by_bias += gradient[e]
        g_benc[j] = by_bias
        for i in range(d_in):
            total[i] = -by_bias * b_dec[i]
        _add_rows(total, gradient, row, x, first, last)
        for i in range(d_in):
            g_encT[j, i] = total[i]
        if last > first:
            for i in range(d_in):
                latent_sum[i] += by_bias * W_encT[j, i]


@njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _latents(
    x: Array, W_encT: Array, b_dec: Array, residual: Array,
    colptr: Array, row: Array, activation: Array, gradient: Array, threads: int,
    g_dec: Array, g_encT: Array, g_benc: Array, latent_sums: Array,
) -> None:  # fmt: skip
    S, d_sae = g_benc.shape
    blocks = (d_sae + LATENTS - 1) // LATENTS
    # each thread gets consecutive blocks with about as many entries: some latents fire far more often than others
    work = np.empty(S * blocks + 1, np.int64)
    work[0] = 0
    for task in range(S * blocks):
        s, start = task // blocks, task % blocks * LATENTS
        stop = min(d_sae, start + LATENTS)
        work[task + 1] = work[task] + colptr[s, stop] - colptr[s, start] + (stop - start)
    for thread in prange(threads):
        first = np.searchsorted(work, work[-1] * thread // threads)
        last = np.searchsorted(work, work[-1] * (thread + 1) // threads)
        for task in range(first, last):
            s, block = task // blocks, task % blocks
            start = block * LATENTS
            _latent_rows(
                x[min(s, len(x) - 1)], W_encT[s], b_dec[s], residual[s],
                colptr[s], row[s], activation[s], gradient[s], start, min(d_sae, start + LATENTS),
                g_dec[s], g_encT[s], g_benc[s], latent_sums[s, block],
            )  # fmt: skip


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _totals(row_losses: Array, row_sums: Array, latent_sums: Array, B: int, loss: Array, g_bdec: Array) -> None:
    scale = np.float32(-2 / B)
    for s in range(len(loss)):
        total = 0.0
        for block in range(row_losses.shape[1]):
            total += row_losses[s, block]
        loss[s] = total / B
        g_bdec[s, :] = 0
        for block in range(row_sums.shape[1]):
            for i in range(g_bdec.shape[1]):
                g_bdec[s, i] += scale * row_sums[s, block, i]
        for block in range(latent_sums.shape[1]):
            for i in range(g_bdec.shape[1]):
                g_bdec[s, i] -= latent_sums[s, block, i]


# --- optimiser


@njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _project(g_dec: Array, W_dec: Array, norms: Array) -> None:
    S, d_sae, d_in = g_dec.shape
    for task in prange(S * d_sae):
        s, j = task // d_sae, task % d_sae
        along = np.float32(0)
        for i in range(d_in):
            along += g_dec[s, j, i] * W_dec[s, j, i]
        squares = np.float32(0)
        for i in range(d_in):
            g = g_dec[s, j, i] - along * W_dec[s, j, i]
            g_dec[s, j, i] = g
            squares += g * g
        norms[s, j] = squares


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _squares_of(flat: Array, s: int, start: int, stop: int) -> float:
    squares = np.float32(0)
    for i in range(start, stop):
        squares += flat[s, i] * flat[s, i]
    return float(squares)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _squares_serial(flat: Array, sums: Array) -> None:
    for s in range(sums.shape[0]):
        for block in range(sums.shape[1]):
            start = block * ELEMENTS
            sums[s, block] = _squares_of(flat, s, start, min(flat.shape[1], start + ELEMENTS))


@njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _squares(flat: Array, sums: Array) -> None:
    blocks = sums.shape[1]
    for task in prange(sums.size):
        s, block = task // blocks, task % blocks
        start = block * ELEMENTS
        sums[s, block] = _squares_of(flat, s, start, min(flat.shape[1], start + ELEMENTS))


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _adam_row(
    p: Array, g: Array, m: Array, v: Array, s: int, r: int, size: float, clip: float,
    beta1: float, rest1: float, beta2: float, rest2: float, root: float, eps: float, unit: bool,
) -> None:  # fmt: skip
    for i in range(p.shape[2]):
        gradient = clip * g[s, r, i]
        first = beta1 * m[s, r, i] + rest1 * gradient
        second = beta2 * v[s, r, i] + rest2 * gradient * gradient
        first = np.float32(0) if abs(first) < TINY_M else first
        second = np.float32(0) if second < TINY_V else second
        m[s, r, i] = first
        v[s, r, i] = second
        p[s, r, i] -= size * first / (np.sqrt(second) * root + eps)
    if unit:
        squares = np.float32(0)
        for i in range(p.shape[2]):
            squares += p[s, r, i] * p[s, r, i]
        inverse = np.float32(1) / np.sqrt(squares)
        for i in range(p.shape[2]):
            p[s, r, i] *= inverse


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _adam_serial(
    p: Array, g: Array, m: Array, v: Array, size: Array, clip: Array,
    beta1: float, rest1: float, beta2: float, rest2: float, root: float, eps: float, unit: bool,
) -> None:  # fmt: skip
    for s in range(p.shape[0]):
        for r in range(p.shape[1]):
            _adam_row(p, g, m, v, s, r, size[s], clip[s], beta1, rest1, beta2, rest2, root, eps, unit)


@njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _adam(
    p: Array, g: Array, m: Array, v: Array, size: Array, clip: Array,
    beta1: float, rest1: float, beta2: float, rest2: float, root: float, eps: float, unit: bool,
) -> None:  # fmt: skip
    rows = p.shape[1]
    for task in prange(p.shape[0] * rows):
        s, r = task // rows, task % rows
        _adam_row(p, g, m, v, s, r, size[s], clip[s], beta1, rest1, beta2, rest2, root, eps, unit)
