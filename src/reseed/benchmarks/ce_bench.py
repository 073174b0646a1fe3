"""Scores in the style of CE-Bench (Gulko, Peng and Kumar 2025, arXiv 2509.00691), from the paper's definitions.

Two stories about one subject differ in one respect. An SAE is thought the better, the more its most telling latent
tells the stories apart (contrastive), and the pair from all other pairs (independence). Both are maxima over latents of
z-scores, so they grow with the width: only SAEs of one width and L0 can be compared, and a random one stands beside.

The published code is not what the paper says in two ways: the mean over all pairs stays zero (it is added to itself),
and BOS, whose activation dwarfs all others, takes part in the means. `as_published` has both faults, `corrected` none.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from reseed import ReseedError
from reseed.activations.language import Reader, TextBatch
from reseed.artifacts import derive_seed
from reseed.text.documents import read_documents
from reseed.text.tokenizers import TextTokenizer

OPPOSITES = (
    ("more", "fewer"), ("most", "least"), ("twice", "half"), ("bought", "sold"), ("buys", "sells"), ("first", "last"),
    ("increased", "decreased"), ("added", "removed"), ("longer", "shorter"), ("older", "younger"), ("before", "after"),
    ("gained", "lost"), ("gave", "took"), ("gives", "takes"), ("larger", "smaller"), ("every", "no"),
)  # fmt: skip
_SWAPPED = {word: other for pair in OPPOSITES for word, other in (pair, pair[::-1])}
_RELATION = re.compile(rf"\b({'|'.join(_SWAPPED)})\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d")


@dataclass(frozen=True)
class Pair:
    """Two stories and what they differ in."""

    story1: str
    story2: str
    subject: str


@dataclass(frozen=True)
class PairActivations:
    """Of one pair: activations [tokens, d_in] of both stories; `first`: how many rows at their beginning are BOS."""

    story1: Tensor
    story2: Tensor
    first: int


def edited_pairs(documents: Path, pairs: int, seed: int) -> list[Pair]:
    """Pairs by two controlled edits of the documents of a raw file, equally many of each, as many as there are.

    `relations`: words of OPPOSITES become their opposites; `numbers`: every digit becomes another one. A document
    without anything to edit is passed over. Raises ReseedError if there are fewer than two pairs.
    """
    draw = random.Random(derive_seed("contrastive pairs", seed))
    texts = [document.text for _, document in read_documents(documents)]
    draw.shuffle(texts)
    made: dict[str, list[Pair]] = {"relations": [], "numbers": []}
    for text in texts:
        kind = min(made, key=lambda kind: len(made[kind]))
        if sum(map(len, made.values())) >= pairs:
            break
        edited = _swap_relations(text) if kind == "relations" else _NUMBER.sub(lambda digit: _other(digit, draw), text)
        if edited != text:
            made[kind].append(Pair(text, edited, kind))
    found = [pair for kind in sorted(made) for pair in made[kind]]
    if len(found) < 2:
        raise ReseedError(f"{documents}: found {len(found)} texts with words or numbers to edit, allowed: at least 2")
    return found


def _swap_relations(text: str) -> str:
    def swap(found: re.Match[str]) -> str:
        word = found[1]
        other = _SWAPPED[word.lower()]
        return other.capitalize() if word[0].isupper() else other

    return _RELATION.sub(swap, text)


def _other(digit: re.Match[str], draw: random.Random) -> str:
    return draw.choice([one for one in "123456789" if one != digit[0]])


def hub_pairs(revision: str | None, at_most: int) -> list[Pair]:
    """The official stories (GulkoA/contrastive-stories-v4); raises ReseedError without a pinned 40-hex revision."""
    from datasets import load_dataset

    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ReseedError(f"params.yaml: ce_bench.revision: found {revision!r}, allowed with the hub: 40 hex digits")
    try:
        rows = load_dataset("GulkoA/contrastive-stories-v4", split="train", revision=revision)
    except Exception as error:  # the hub's, the cache's and the file formats' own
        raise ReseedError(f"GulkoA/contrastive-stories-v4: could not be had ({type(error).__name__})") from error
    return [
        Pair(row["story1"], row["story2"], row["subject_title"]) for row in rows.select(range(min(at_most, len(rows))))
    ]


def read_pairs(reader: Reader, tokenizer: TextTokenizer, n_ctx: int, pairs: Sequence[Pair]) -> list[PairActivations]:
    """What the model holds at every token of both stories, which are cut at the context."""
    first = 0 if tokenizer.bos is None else 1

    def story(text: str) -> Tensor:
        ids = tokenizer.tokenizer.encode(text).ids[: n_ctx - first]
        row = torch.tensor([[tokenizer.bos] * first + ids])
        unused = torch.zeros(row.shape[1], dtype=torch.int32)
        batch = TextBatch(row, torch.ones_like(row, dtype=torch.bool), torch.arange(row.shape[1]), unused, unused)
        return reader(batch)["activations"].float().cpu()

    return [PairActivations(story(pair.story1), story(pair.story2), first) for pair in pairs]


@torch.no_grad()
def scores(sae: SAE[Any], pairs: Sequence[PairActivations]) -> dict[str, float]:
    """Contrastive, independence and combined score, means over pairs, `corrected.…` and `as_published.…`; and the L0.

    Of a pair: V1 and V2 the mean latents of its stories, I that of the tokens of both; contrastive = max z(|V1 - V2|),
    independence = max z(|I - mean of I over pairs|), combined = max z of the sum of both; z over latents.
    """
    found: dict[str, float] = {}
    for name, first in (("as_published", 0), ("corrected", pairs[0].first)):
        sums = []
        for pair in pairs:
            latents = [sae.encode(story[first:]) for story in (pair.story1, pair.story2)]
            sums.append([(of.sum(0), len(of), float((of != 0).sum())) for of in latents])
        means = [(a / n, b / m, (a + b) / (n + m)) for (a, n, _), (b, m, _) in sums]
        centre = torch.zeros_like(means[0][2])
        if name == "corrected":
            centre = torch.stack([both for _, _, both in means]).mean(0)
        apart = [((V1 - V2).abs(), (both - centre).abs()) for V1, V2, both in means]
        for score, values in (
            ("contrastive", [contrast for contrast, _ in apart]),
            ("independence", [distance for _, distance in apart]),
            ("combined", [contrast + distance for contrast, distance in apart]),
        ):
            found[f"{name}.{score}"] = float(torch.stack([_largest_z(value) for value in values]).mean())
        tokens = sum(n + m for (_, n, _), (_, m, _) in sums)
        found["l0"] = sum(on + other for (_, _, on), (_, _, other) in sums) / tokens
    return found


def _largest_z(values: Tensor) -> Tensor:
    spread = values.std()
    return ((values - values.mean()) / (spread if spread > 0 else 1)).max()
