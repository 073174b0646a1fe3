"""Alignment: from the characters of a reasoning step to its tokens, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reseed.text.documents import Document
from reseed.text.tokenizers import TextTokenizer

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Aligned:
    """The tokens of a document and, for each of its steps, the token span [start, end) and whether it is exact."""

    ids: list[int]
    spans: tuple[tuple[int, int], ...]
    exact: tuple[bool, ...]


def token_span(offsets: Ints, start: int, end: int) -> tuple[int, int]:
    """The smallest span [a, b) of tokens that covers the characters [start, end); empty if no token has any of them.

    offsets [tokens, 2]: the characters of each token, in order, as the tokenizer gives them.
    """
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    return first, max(first, int(np.searchsorted(offsets[:, 0], end, side="left")))


def align(documents: list[Document], tokenizer: TextTokenizer) -> list[Aligned]:
    """Tokenise whole documents and find the tokens of their steps.

    A span is exact if none of its tokens reaches over the step's border and decoding it gives back the step's text; for
    a tokenizer that normalises (lower case, spaces), the text as the tokenizer gives it back: decode(encode(step)). A
    byte-level tokenizer normalises nothing, so there it is the text itself.
    """
    encodings = tokenizer.tokenizer.encode_batch([made.text for made in documents], add_special_tokens=False)
    spans: list[list[tuple[int, int]]] = []
    inside: list[bool] = []
    pieces: list[list[int]] = []
    texts: list[str] = []
    for made, encoding in zip(documents, encodings, strict=True):
        ids, offsets = encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        spans.append([token_span(offsets, step.start, step.end) for step in made.steps])
        for step, (a, b) in zip(made.steps, spans[-1], strict=True):
            inside.append(a < b and bool(offsets[a, 0] >= step.start and offsets[b - 1, 1] <= step.end))
            pieces.append(ids[a:b])
            texts.append(made.text[step.start : step.end])
    same = _gives_back(pieces, texts, tokenizer)
    exact = iter(border and back for border, back in zip(inside, same, strict=True))
    return [
        Aligned(encoding.ids, tuple(found), tuple(next(exact) for _ in found))
        for encoding, found in zip(encodings, spans, strict=True)
    ]


def _gives_back(pieces: list[list[int]], texts: list[str], tokenizer: TextTokenizer) -> list[bool]:
    decoded = tokenizer.decode(pieces)
    same = [found == text for found, text in zip(decoded, texts, strict=True)]
    other = [i for i, equal in enumerate(same) if not equal]
    again = tokenizer.tokenizer.encode_batch([texts[i] for i in other], add_special_tokens=False)
    for i, normalised in zip(other, tokenizer.decode([encoding.ids for encoding in again]), strict=True):
        same[i] = decoded[i] == normalised
    return same
