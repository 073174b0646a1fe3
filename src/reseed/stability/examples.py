"""What latents are active on: their strongest held-out rows with the text behind them, and their partners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens import SAE

from reseed import ReseedError
from reseed.activations.language import text_batches
from reseed.activations.store import Activations
from reseed.artifacts import sha256
from reseed.params import LanguageCapture
from reseed.stability.activity import encode, held_out_places, held_out_rows
from reseed.stability.dictionaries import SeedSet
from reseed.stability.statistics import matched
from reseed.text.sequences import Sequences
from reseed.text.tokenizers import TextTokenizer
from reseed.text.tokens import Tokens

TOP = 8
"""Rows a latent."""
CONTEXT = 16
"""Tokens of a text that are shown before and after the one that was read."""
Masks = list[NDArray[np.bool_]]


def top_rows(path: Path, seed_set: SeedSet, masks: Masks, activations: Activations) -> pd.DataFrame:
    """The rows on which alive latents are most active, of the test rows that `held_out_rows` reads.

    One row a latent and example, columns seed, latent, row (of the test split) and activation, strongest first; at
    most TOP a latent, none on which it does not fire. masks: alive latents [d_sae] of every seed.
    """
    x = held_out_rows(activations)
    places = held_out_places(len(activations.rows("test"))).numpy()
    blocks = []
    for seed, mask in zip(seed_set.seeds, masks, strict=True):
        sae = SAE.load_from_disk(path / f"seed_{seed}", device="cpu").requires_grad_(False)
        acts = torch.from_numpy(encode(sae, x)[:, mask])
        # ties (rows of one text may be equal) go to the earlier row, whatever the library's topk would choose
        strongest = acts.sort(dim=0, descending=True, stable=True)
        latents = np.flatnonzero(mask)
        for latent, order, value in zip(latents, strongest.indices[:TOP].T, strongest.values[:TOP].T, strict=True):
            fires = value > 0
            block = {"row": places[order[fires].numpy()], "activation": value[fires].numpy().astype(float)}
            blocks.append(pd.DataFrame({"seed": seed, "latent": int(latent)} | block))
    return pd.concat(blocks, ignore_index=True)[["seed", "latent", "row", "activation"]]


def partners(seed_set: SeedSet, masks: Masks) -> pd.DataFrame:
    """The one-to-one partner of every alive latent in each seed of another group, as `stability` matches them.

    Columns seed, latent, other_seed, partner, decoder_cosine, encoder_cosine; both directions of a pair.
    """
    alive = [dictionary.select(mask) for dictionary, mask in zip(seed_set.final(), masks, strict=True)]
    latents = [np.flatnonzero(mask) for mask in masks]
    blocks = []
    for i, j in seed_set.groups.all_pairs():
        found = matched(alive[i], alive[j])
        for one, other, own, its in ((i, j, found.rows, found.columns), (j, i, found.columns, found.rows)):
            blocks.append(
                pd.DataFrame(
                    {
                        "seed": seed_set.seeds[one],
                        "latent": latents[one][own],
                        "other_seed": seed_set.seeds[other],
                        "partner": latents[other][its],
                        "decoder_cosine": found.decoder,
                        "encoder_cosine": found.encoder,
                    }
                )
            )
    return pd.concat(blocks, ignore_index=True).sort_values(["seed", "latent", "other_seed"], ignore_index=True)


def check_tokens(activations: Activations, tokens: Path) -> None:
    """Raise ReseedError unless the activations were read from the tokens in the folder `tokens`."""
    found, allowed = sha256(tokens / "index.json"), activations.index["tokens_sha256"]
    if found != allowed:
        raise ReseedError(
            f"{tokens / 'index.json'}: its sha256 is {found[:12]}…, the activations were read from {allowed[:12]}…; "
            "run `dvc repro`"
        )


def addition_texts(tokens: Tokens, positions: tuple[str, ...], rows: NDArray[np.int64]) -> pd.DataFrame:
    """The sequences [a, b, =, answer] behind test rows: columns row, before, token (that was read) and after."""
    wanted = sorted({tokens.position(name) for name in positions})
    found = []
    for row in rows.tolist():
        at = wanted[row % len(wanted)]
        a, b, _, answer = tokens.splits["test"][row // len(wanted)].tolist()
        pieces, gaps = [str(a), str(b), "=", str(answer)], ["", " + ", " ", " "]
        joined = [gap + piece for gap, piece in zip(gaps, pieces, strict=True)]
        found.append([row, "".join(joined[:at]) + gaps[at], pieces[at], "".join(joined[at + 1 :])])
    return pd.DataFrame(found, columns=["row", "before", "token", "after"])


def language_texts(
    sequences: Sequences, tokenizer: TextTokenizer, options: LanguageCapture, rows: NDArray[np.int64]
) -> pd.DataFrame:
    """The tokens behind test rows with CONTEXT tokens on either side: columns row, before, token and after.

    Raises ReseedError for a row that the test split does not have.
    """
    parts = list(_around(sequences, options, np.unique(rows)))
    if len(parts) != len(np.unique(rows)):
        raise ReseedError(f"{sequences.path}: the test split has fewer rows than {int(rows.max()) + 1}")
    before = tokenizer.decode([b for _, b, _, _ in parts])
    upto = tokenizer.decode([[*b, token] for _, b, token, _ in parts])
    whole = tokenizer.decode([[*b, token, *a] for _, b, token, a in parts])
    alone = tokenizer.decode([[token] for _, _, token, _ in parts])
    behind = tokenizer.decode([a for _, _, _, a in parts])
    found = []
    for i, (row, *_) in enumerate(parts):
        # the text of a token depends on those before it, unless it begins inside a character
        grows = upto[i].startswith(before[i]) and whole[i].startswith(upto[i])
        token, after = (upto[i][len(before[i]) :], whole[i][len(upto[i]) :]) if grows else (alone[i], behind[i])
        found.append([row, before[i], token, after])
    return pd.DataFrame(found, columns=["row", "before", "token", "after"])


def _around(
    sequences: Sequences, options: LanguageCapture, rows: NDArray[np.int64]
) -> Iterator[tuple[int, list[int], int, list[int]]]:
    """(row, tokens before it, its token, tokens after it) of ascending rows, in the order of their capture."""
    done = 0
    for batch in text_batches(sequences, "test", options):
        width = batch.tokens.shape[1]
        for row in rows[(rows >= done) & (rows < done + len(batch.wanted))].tolist():
            sequence, at = divmod(int(batch.wanted[row - done]), width)
            length = int(batch.real[sequence].sum())
            ids = batch.tokens[sequence, :length].tolist()
            yield row, ids[max(0, at - CONTEXT) : at], ids[at], ids[at + 1 : at + 1 + CONTEXT]
        done += len(batch.wanted)
