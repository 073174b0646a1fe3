"""One-to-one matching of two large dictionaries: candidates, a sparse assignment, and prices that prove how good it is.

The linear programme behind an assignment gives every column a price, and any prices >= 0 bound every assignment: its
sum of cosines is at most sum(price) + the sum over rows i of the max over ALL columns j of cos_ij - price_j (weak
duality). So: take the largest cosines of each row as candidates; solve on them exactly by shortest augmenting paths
(Jonker and Volgenant 1987, as scipy's solvers do, here on a sparse graph and with the prices kept); look among all
pairs for those that the prices undervalue; add them to the candidates and solve again (column generation), until none
is left or the bound is close enough. The matrix of cosines is only ever made in blocks: memory is O(n candidates).

Blocks are float32. Whether a pair can matter is decided with a margin wider than the rounding error of the product,
and whatever can matter is computed again in float64: the bound holds for the float64 cosines, up to their rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[Any]  # float32 or float64
Values = NDArray[np.float64]
Indices = NDArray[np.int64]

BLOCK = 1 << 25
"""Cosines made at once (128 MB in float32)."""
GROUPS = 32
"""Groups of columns for each candidate: how closely the threshold of a row's largest values is found."""


@dataclass(frozen=True)
class Matching:
    """A one-to-one assignment of n = min(n_a, n_b) pairs.

    rows [n], ascending, and columns [n]; cosines [n], signed. gap >= 0: the sum of the cosines is at most n * gap below
    that of the best assignment, which is proven; 0 is the best, up to rounding.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    cosines: Values
    gap: float


def sparse_match(
    a: Floats, b: Floats, candidates: int = 64, rounds: int = 50, tolerance: float = 1e-10, device: str = "cpu"
) -> Matching:
    """Match unit rows a [n_a, d] with unit rows b [n_b, d]; n_a, n_b >= 1.

    candidates: the largest cosines that each row of the smaller dictionary starts with, and how many pairs it gains in
    a round that doubts it. Stops once gap <= tolerance, or after `rounds` solutions with the gap that was reached.
    """
    if len(a) > len(b):
        turned = sparse_match(b, a, candidates, rounds, tolerance, device)
        order = np.argsort(turned.columns)
        return Matching(turned.columns[order], turned.rows[order], turned.cosines[order], turned.gap)
    n, width = len(a), len(b)
    price = np.zeros(width)
    with full_precision():
        rows, columns, ceiling = largest(a, b, np.arange(n), price, candidates, torch.float32, device)
        # with the diagonal, all rows can be matched
        pairs = np.unique(np.concatenate([rows * width + columns, np.arange(n) * (width + 1)]))
        values = _cosines_of(a, b, pairs // width, pairs % width)
        least_bound = np.inf
        while True:
            rows, columns = pairs // width, pairs % width
            first = np.searchsorted(rows, np.arange(n + 1))
            order = np.lexsort((-values, rows))
            # a square problem goes on from the last prices; columns left over must have the price 0
            partner, price = _solve(first, columns[order], values[order], price if n == width else np.zeros(width))
            utility = np.maximum.reduceat(values - price[columns], first[:-1])
            found = values[np.searchsorted(pairs, np.arange(n) * width + partner)]

            doubtful = np.flatnonzero(ceiling > utility)
            new, gains, left = best_offers(a, b, doubtful, price, utility, candidates, device)
            excess = np.zeros(n)
            excess[doubtful] = np.maximum(left - utility[doubtful], 0)
            np.maximum.at(excess, new // width, gains - price[new % width] - utility[new // width])
            least_bound = min(least_bound, float(price.sum() + utility.sum() + excess.sum()))
            gap = max(0.0, (least_bound - float(found.sum())) / n)
            fresh = ~np.isin(new, pairs)
            rounds -= 1
            if gap <= tolerance or rounds <= 0 or not fresh.any():
                return Matching(np.arange(n), partner, found, gap)
            pairs, values = np.concatenate([pairs, new[fresh]]), np.concatenate([values, gains[fresh]])
            order = np.argsort(pairs)
            pairs, values = pairs[order], values[order]
            if n == width:  # prices only rise from here, so that this holds for all prices to come
                ceiling[doubtful] = left


def best_offers(
    a: Floats, b: Floats, rows: Indices, price: Values, utility: Values, count: int, device: str
) -> tuple[Indices, Values, Values]:
    """For each of these rows the pairs (row * n_b + column) with the largest cosine - price, ascending; their cosines.

    And for each of these rows what cosine - price cannot exceed in any other pair.
    """
    width = len(b)
    at, columns, left = largest(a, b, rows, price, count, torch.float32, device)
    # where even the last one listed might be as good as what the row has, float64 tells
    slack = margin(a.shape[1], price, torch.float32)
    ties = (left > utility[rows]) & (left <= utility[rows] + 3 * slack)
    if ties.any():
        at_ties, columns_ties, left[ties] = largest(a, b, rows[ties], price, count, torch.float64, device)
        at, columns = np.concatenate([at, at_ties]), np.concatenate([columns, columns_ties])
    pairs = np.unique(at * width + columns)
    return pairs, _cosines_of(a, b, pairs // width, pairs % width), left


def largest(
    a: Floats, b: Floats, rows: Indices, price: Values, count: int, dtype: torch.dtype, device: str
) -> tuple[Indices, Indices, Values]:
    """For each of these rows of a, the columns with the `count` largest cosine - price, and few more.

    Returns rows, columns, and for each of `rows` what cosine - price cannot exceed in the others.
    """
    width = len(b)
    count = min(count, width)
    other = torch.from_numpy(b).to(device, dtype)
    minus_price = torch.from_numpy(-price).to(device, dtype)
    groups = min(width, GROUPS * count)
    size = width // groups
    at, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    left = np.empty(len(rows))
    step = max(1, BLOCK // width)
    for start in range(0, len(rows), step):
        here = rows[start : start + step]
        score = torch.addmm(minus_price, torch.from_numpy(a[here]).to(device, dtype), other.T)
        # at least `count` scores reach the count-th largest of the groups' maxima
        maxima = score[:, : groups * size].view(len(here), size, groups).amax(1)
        bar = maxima.topk(count, dim=1).values[:, -1:]
        hits = (score >= bar).nonzero()
        if len(hits) > 2 * count * len(here):  # ties
            best = score.topk(count, dim=1)
            bar = best.values[:, -1:]
            at.append(np.repeat(here, count))
            columns.append(best.indices.flatten().cpu().numpy())
        else:
            at.append(here[hits[:, 0].cpu().numpy()])
            columns.append(hits[:, 1].cpu().numpy())
        left[start : start + step] = bar[:, 0].cpu().numpy() + margin(a.shape[1], price, dtype)
    return np.concatenate(at), np.concatenate(columns), left


def margin(d: int, price: Values, dtype: torch.dtype) -> float:
    """More than the rounding error of cosine - price for unit rows of length d, with that of the inputs and the price.

    A dot product is off by at most about d eps / 2 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
    """
    return (d + 8) * torch.finfo(dtype).eps * (1 + float(np.abs(price).max()))


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 or bfloat16 inside float32 products, whatever the caller has allowed: the margin would not cover it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@njit(cache=True, fastmath={"reassoc", "contract"})
def _cosines_of(a: Floats, b: Floats, rows: Indices, columns: Indices) -> Values:
    """In float64, whatever the dtype of a and b."""
    values = np.empty(len(rows))
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        total = 0.0
        for k in range(a.shape[1]):
            total += np.float64(a[i, k]) * np.float64(b[j, k])
        values[e] = total
    return values


@njit(cache=True)
def _solve(first: Indices, column: Indices, value: Values, price: Values) -> tuple[Indices, Values]:
    """The assignment of all rows with the largest sum of values, and prices >= 0, 0 for columns that are left over.

    Row i has the columns column[first[i] : first[i + 1]], by falling value; some assignment of all rows must exist.
    Each row in turn takes the shortest path (Dijkstra's, in lengths utility + price - value >= 0) to a free column.
    """
    n, width = len(first) - 1, len(price)
    partner = np.full(n, -1)
    width = len(price)
    owner = np.full(width, -1)
    price = price.copy()
    utility = np.empty(n)
    length = np.full(width, np.inf)  # of the shortest path known to a column, in this search
    before = np.empty(width, np.int64)  # the row before the column on that path
    reached = np.empty(width, np.int64)
    final = np.empty(width, np.int64)
    heap = np.empty(width, np.int64)  # columns reached and not final, by length
    place = np.full(width, -1)  # of a column in the heap
    for start in range(n):
        utility[start] = -np.inf
        for e in range(first[start], first[start + 1]):
            utility[start] = max(utility[start], value[e] - price[column[e]])
        n_reached = n_final = n_heap = 0
        end, shortest = -1, np.inf  # the nearest free column
        i, travelled = start, 0.0
        while True:
            for e in range(first[i], first[i + 1]):
                least = travelled + utility[i] - value[e]
                if least >= shortest:  # and so are all that follow, as no price is negative
                    break
                j = column[e]
                new = max(least + price[j], travelled)
                if new >= length[j] or new >= shortest:
                    continue
                if length[j] == np.inf:
                    reached[n_reached] = j
                    n_reached += 1
                length[j] = new
                before[j] = i
                if owner[j] < 0:
                    end, shortest = j, new
                else:
                    if place[j] < 0:
                        place[j] = n_heap
                        n_heap += 1
                    _rise(heap, place, length, j)
            if n_heap == 0 or length[heap[0]] >= shortest:
                break
            j = heap[0]
            n_heap -= 1
            place[j] = -1
            if n_heap > 0:
                _sink(heap, place, length, heap[n_heap], n_heap)
            final[n_final] = j
            n_final += 1
            i, travelled = owner[j], length[j]
        for k in range(n_final):
            j = final[k]
            price[j] += shortest - length[j]
            utility[owner[j]] -= shortest - length[j]
        utility[start] -= shortest
        i = -1
        while i != start:
            i = before[end]
            owner[end] = i
            end, partner[i] = partner[i], end
        for k in range(n_reached):
            length[reached[k]] = np.inf
            place[reached[k]] = -1
    return partner, price


@njit(cache=True)
def _rise(heap: Indices, place: Indices, length: Values, j: int) -> None:
    """Put column j, whose place is free from place[j] on up, where it belongs."""
    k = place[j]
    while k > 0 and length[heap[(k - 1) // 2]] > length[j]:
        heap[k] = heap[(k - 1) // 2]
        place[heap[k]] = k
        k = (k - 1) // 2
    heap[k] = j
    place[j] = k


@njit(cache=True)
def _sink(heap: Indices, place: Indices, length: Values, j: int, size: int) -> None:
    """Put column j in the place of the heap's top."""
    k = 0
    while 2 * k + 1 < size:
        child = 2 * k + 1
        if child + 1 < size and length[heap[child + 1]] < length[heap[child]]:
            child += 1
        if length[heap[child]] >= length[j]:
            break
        heap[k] = heap[child]
        place[heap[k]] = k
        k = child
    heap[k] = j
    place[j] = k
