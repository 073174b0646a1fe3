"""Texts that repeat each other: near-duplicates across a split, and benchmark texts inside training texts."""

from __future__ import annotations

import importlib.util
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reseed.stage import progress

SHINGLE = 5
"""Words of the n-grams whose Jaccard similarity says how near two texts are."""
NGRAM = 13
"""Words that two texts must share in a row to overlap: Brown et al. 2020 (arXiv 2005.14165), appendix C."""
SHORTEST = 8
"""A benchmark text of fewer words overlaps only with an equal text: the lower end of N in the same appendix."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return _WORD.findall(text.lower())


def text_key(text: str) -> bytes:
    """A 16-byte hash of the words of a text: equal for texts that differ in case, spaces and punctuation alone."""
    return blake2b(" ".join(words(text)).encode(), digest_size=16).digest()


def near_duplicates(texts: Sequence[str], held_out: Sequence[str], threshold: float) -> dict[int, int]:
    """For each text that repeats a held-out one: its index, and the index of the most similar (the first of equals).

    Similarity is the Jaccard index of the sets of word 5-grams (of all words, where a text has fewer than five), and a
    repeat has `threshold` or more. Exact, not a sketch: two sets of that similarity share one of any
    |A| - ceil(threshold |A|) + 1 elements of A, so the rarest ones find every candidate (Chaudhuri et al. 2006), and
    each candidate is then compared as a whole.
    """
    sets = [_shingles(text) for text in held_out]
    having: dict[tuple[str, ...], list[int]] = {}
    for i, shingles in enumerate(sets):
        for shingle in shingles:
            having.setdefault(shingle, []).append(i)
    found = {}
    for index, text in enumerate(texts):
        own = _shingles(text)
        by_rarity = sorted(own, key=lambda shingle: (len(having.get(shingle, ())), shingle))
        # a hair below, so that rounding never asks for one shared element too many
        prefix = len(own) - math.ceil(threshold * len(own) - 1e-9) + 1
        candidates = {i for shingle in by_rarity[:prefix] for i in having.get(shingle, ())}
        scored = [(len(own & sets[i]) / len(own | sets[i]), -i) for i in candidates if sets[i]]
        if scored and max(scored)[0] >= threshold:
            found[index] = -max(scored)[1]
    return found


def _shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    if not found:
        return set()
    return {tuple(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))}


def overlap(texts: Sequence[str], benchmark_texts: Iterable[str]) -> dict[int, str]:
    """The texts that hold a benchmark text, or 13 words in a row of one: their index and the first such benchmark text.

    Words as in `words`. A benchmark text of 8 to 12 words must stand in the text as a whole; one of fewer must be the
    whole text. The texts are indexed and the benchmark streams through, so that memory follows the texts alone.
    """
    index = _Index(texts)
    found: dict[int, str] = {}
    for benchmark_text in benchmark_texts:
        for i in index.holding(words(benchmark_text)):
            found.setdefault(i, benchmark_text)
    return dict(sorted(found.items()))


class _Index:
    """The texts as one row of word ids, and the sorted hashes of their n-grams, one array per n as it is asked for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.ids: dict[str, int] = {}
        rows = [[self.ids.setdefault(word, len(self.ids)) for word in words(text)] for text in texts]
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self.row_of = np.repeat(np.arange(len(rows)), self.lengths)
        self.words = np.array([word for row in rows for word in row], dtype=np.int64)
        # a fixed random number a word: n-grams hash by a polynomial of these
        self.codes = np.random.default_rng(0).integers(0, 1 << 64, size=len(self.ids) + 1, dtype=np.uint64)
        self.whole: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(rows):
            if 0 < len(row) < SHORTEST:
                self.whole.setdefault(tuple(row), []).append(i)
        self.sorted: dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}

    def holding(self, benchmark_words: list[str]) -> list[int]:
        """The texts that hold these words, or NGRAM of them in a row."""
        row = np.array([self.ids.get(word, -1) for word in benchmark_words], dtype=np.int64)
        if len(row) < SHORTEST:
            return self.whole.get(tuple(row.tolist()), [])
        n = min(NGRAM, len(row))
        hashes, places = self._ngrams(n)
        asked = _hash(self.codes[row], n)  # an unknown word takes the last code, which no text has
        left = np.searchsorted(hashes, asked, side="left")
        right = np.searchsorted(hashes, asked, side="right")
        found = set()
        for start in np.flatnonzero(right > left).tolist():
            for place in places[left[start] : right[start]].tolist():
                # hashes only point at it: the words themselves decide
                if np.array_equal(self.words[place : place + n], row[start : start + n]):
                    found.add(int(self.row_of[place]))
        return sorted(found)

    def _ngrams(self, n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        if n not in self.sorted:
            places = np.arange(max(0, len(self.words) - n + 1))
            places = places[self.row_of[places] == self.row_of[places + n - 1]]
            hashes = _hash(self.codes[self.words], n)[places]
            order = np.argsort(hashes, kind="stable")
            self.sorted[n] = (hashes[order], places[order])
        return self.sorted[n]


def _hash(codes: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Hashes of all n-grams of a row of word codes, modulo 2^64."""
    hashes = np.zeros(max(0, len(codes) - n + 1), dtype=np.uint64)
    for i in range(n):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[i : i + len(hashes)]
    return hashes


def sae_probes_folder() -> Path | None:
    """Where the installed sae-probes package keeps its data; None if it has none on this machine."""
    package = importlib.util.find_spec("sae_probes")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "data"
    return folder if any(folder.glob("*/*.csv*")) else None


def sae_probes_prompts(folder: Path) -> Iterator[str]:
    """The prompts of all its data sets, in the order of their file names, each once a file."""
    paths = sorted(folder.glob("*/*.csv*"))
    with progress(len(paths), "prompts of sae-probes", "file") as bar:
        for path in paths:
            table = pd.read_csv(path)
            if "prompt" in table:
                yield from dict.fromkeys(table["prompt"].dropna().astype(str))
            bar.update()


def counted(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason occurs, most frequent first."""
    return dict(sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0])))
