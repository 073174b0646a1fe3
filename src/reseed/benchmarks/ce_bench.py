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
from reseed.artifacts import derive_seed, lm_dir, raw_dir, tokens_dir
from reseed.benchmarks.arms import PUBLIC_ARM, JudgedSae
from reseed.benchmarks.summary import beside_controls
from reseed.models.language import load_language_model
from reseed.params import Params, load_language
from reseed.stage import progress
from reseed.text.documents import read_documents
from reseed.text.sequences import read_sequences
from reseed.text.tokenizers import TextTokenizer, read_tokenizer

OPPOSITES = (
    ("more", "fewer"), ("most", "least"), ("twice", "half"), ("bought", "sold"), ("buys", "sells"), ("first", "last"),
    ("increased", "decreased"), ("added", "removed"), ("longer", "shorter"), ("older", "younger"), ("before", "after"),
    ("gained", "lost"), ("gave", "took"), ("gives", "takes"), ("larger", "smaller"), ("every", "no"),
)  # fmt: skip
_SWAPPED = {word: other for pair in OPPOSITES for word, other in (pair, pair[::-1])}
_RELATION = re.compile(rf"\b({'|'.join(_SWAPPED)})\b", re.IGNORECASE)
STORIES = 64
"""How many are encoded at a time."""
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
    text, bos, on = _sums(sae, [story for pair in pairs for story in (pair.story1, pair.story2)], pairs[0].first)
    tokens = torch.tensor([len(story) for pair in pairs for story in (pair.story1, pair.story2)])
    found: dict[str, float] = {}
    for name, first in (("as_published", 0), ("corrected", pairs[0].first)):
        sums = text if first else text + bos
        lengths = (tokens - first).unsqueeze(1)
        V1, V2 = (sums / lengths)[0::2], (sums / lengths)[1::2]
        both = (sums[0::2] + sums[1::2]) / (lengths[0::2] + lengths[1::2])
        # what the published code takes for the mean over pairs is zero
        centre = both.mean(0) if name == "corrected" else torch.zeros_like(both[0])
        contrast, distance = (V1 - V2).abs(), (both - centre).abs()
        for score, values in (
            ("contrastive", contrast),
            ("independence", distance),
            ("combined", contrast + distance),
        ):
            found[f"{name}.{score}"] = float(_largest_z(values).mean())
    found["l0"] = float(on / (tokens - pairs[0].first).sum())
    return found


def _sums(sae: SAE[Any], stories: list[Tensor], first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the latents [stories, d_sae] over the text, over BOS (apart: it dwarfs all), and how many fire."""
    text = torch.zeros(len(stories), sae.cfg.d_sae)
    bos, on = torch.zeros_like(text), torch.zeros((), dtype=torch.float64)
    for start in range(0, len(stories), STORIES):
        part = stories[start : start + STORIES]
        acts = sae.encode(torch.cat(part))
        owner = torch.repeat_interleave(
            torch.arange(start, start + len(part)), torch.tensor([len(story) for story in part])
        )
        of_bos = torch.cat([torch.arange(len(story)) < first for story in part])
        text.index_add_(0, owner[~of_bos], acts[~of_bos])
        bos.index_add_(0, owner[of_bos], acts[of_bos])
        on += (acts[~of_bos] != 0).sum()
    return text, bos, on


def _largest_z(values: Tensor) -> Tensor:
    """The largest z-score of each row [rows, latents]; 0 where a row does not vary."""
    spread = values.std(1, keepdim=True)
    return ((values - values.mean(1, keepdim=True)) / torch.where(spread > 0, spread, 1)).amax(1)


def judge(
    saes: Sequence[JudgedSae], subject: str, params: Params, device: torch.device, group_size: int
) -> dict[str, Any]:
    """Tracked figures of SAEs of one width on a subject's pairs; raises ReseedError for pairs that cannot be had."""
    config, options = load_language(subject), params.ce_bench
    sequences, tokenizer = read_sequences(tokens_dir(subject)), read_tokenizer(tokens_dir(subject))
    if options.source == "hub":
        pairs = hub_pairs(options.revision, options.pairs)
    else:
        pairs = edited_pairs(raw_dir(subject) / "test.jsonl", options.pairs, options.seed)
    # scores of another L0 cannot be compared
    saes, held = [one for one in saes if one.name != PUBLIC_ARM], {}
    for arm in sorted({one.reads for one in saes}):
        model = load_language_model(config.model, lm_dir(subject), arm, sequences, subject)
        held[arm] = read_pairs(Reader(model, config.capture, device), tokenizer, sequences.n_ctx, pairs)
    figures: dict[str, dict[int, dict[str, float]]] = {}
    with progress(len(saes), f"contrastive scores on {subject}", "SAE") as bar:
        for one in saes:
            sae = SAE.load_from_disk(one.folder, device="cpu")
            figures.setdefault(one.name, {})[one.seed] = scores(sae, held[one.reads])
            bar.update()
    summary: dict[str, Any] = beside_controls(figures, params.stability.confidence, group_size)
    return summary | {"pairs": len(pairs), "source": options.source}
