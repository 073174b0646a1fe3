"""Quality of tokenised text: what would silently spoil every later number is counted, and refused above its limit."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from reseed import ReseedError
from reseed.params import Quality
from reseed.text.alignment import Aligned
from reseed.text.documents import Document
from reseed.text.tokenizers import TextTokenizer

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
Arrays = dict[str, npt.NDArray[Any]]


@dataclass
class Counts:
    """What is counted of one split while it is laid out."""

    vocabulary: int
    labels: tuple[str, ...]
    lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Tokens of each document."""
    hashes: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """`text_hash` of each document."""
    exact: int = 0
    with_steps: int = 0
    changed: int = 0
    truncated: int = 0
    pads: int = 0
    dropped: int = 0
    """Tokens of the last incomplete sequence, separators included."""

    def __post_init__(self) -> None:
        self.of_token = np.zeros(self.vocabulary, dtype=np.int64)
        self.of_label = np.zeros(len(self.labels), dtype=np.int64)

    def add(self, part: Arrays) -> None:
        """Count the documents of a part (`packing`)."""
        self.lengths = np.concatenate([self.lengths, part["lengths"]])
        self.hashes = np.concatenate([self.hashes, part["hashes"]])
        self.of_token += np.bincount(part["ids"], minlength=self.vocabulary)
        self.of_label += np.bincount(part["steps"][:, -2], minlength=len(self.labels))
        self.exact += int(part["steps"][:, -1].sum())
        self.with_steps += len(np.unique(part["steps"][:, 0]))
        self.changed += int(part["changed"][0])


def text_hash(text: str) -> int:
    """63 bits of the SHA-256 of a text: equal for equal texts, practically never for others."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def normalised(text: str) -> str:
    """The text in Unicode's NFC with every run of space inside a line as one blank."""
    return "\n".join(" ".join(line.split()) for line in unicodedata.normalize("NFC", text).split("\n"))


def changed_tokens(documents: list[Document], ids: list[list[int]], tokenizer: TextTokenizer) -> int:
    """How many tokens change when the documents, whose tokens are `ids`, are normalised and tokenised again.

    Of one document: the tokens of the longer version that have no partner in the other (as multisets).
    """
    other = [(i, again) for i, made in enumerate(documents) if (again := normalised(made.text)) != made.text]
    encodings = tokenizer.tokenizer.encode_batch([text for _, text in other], add_special_tokens=False)
    return sum(
        max(len(ids[i]), len(encoding.ids)) - (Counter(ids[i]) & Counter(encoding.ids)).total()
        for (i, _), encoding in zip(other, encodings, strict=True)
    )


def split_report(
    counts: Counts, sequences: int, positions: int, unknown: int | None, training: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """The report of one split of `sequences` sequences, which hold `positions` tokens together.

    Shares: `duplicates` of the documents that repeat an earlier one; `unknown` and `changed` of the tokens of the
    text; `pads` of the positions; `truncated` of the documents; `aligned` of the steps (absent without steps);
    `vocabulary_used` of the vocabulary; `with_steps` of the documents. `leaked` counts documents that are also among
    the `training` documents (their text hashes); `tokens` and `lengths` are of the text, before it is packed.
    """
    documents, tokens, steps = len(counts.lengths), int(counts.lengths.sum()), int(counts.of_label.sum())
    report: dict[str, Any] = {
        "sequences": sequences,
        "documents": documents,
        "tokens": tokens,
        "dropped_tokens": counts.dropped,
        "lengths": {f"{q:.0%}": int(np.quantile(counts.lengths, q, method="inverted_cdf")) for q in QUANTILES},
        "duplicates": (documents - len(np.unique(counts.hashes))) / documents,
        "leaked": int(np.isin(counts.hashes, training).sum()),
        "unknown": 0.0 if unknown is None else int(counts.of_token[unknown]) / max(tokens, 1),
        "pads": counts.pads / positions,
        "changed": counts.changed / max(tokens, 1),
        "truncated": counts.truncated / documents,
        "vocabulary_used": int((counts.of_token > 0).sum()) / counts.vocabulary,
        "with_steps": counts.with_steps / documents,
        "steps": {label: int(n) for label, n in zip(counts.labels, counts.of_label, strict=True)},
    }
    return report | ({"aligned": counts.exact / steps} if steps else {})


def samples(documents: list[Document], aligned: list[Aligned], tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    """Documents to look at: the text, its tokens one by one, and each step as its tokens give it back."""
    return [
        {
            "text": made.text,
            "tokens": tokenizer.decode([[token] for token in found.ids]),
            "steps": [
                {"text": text, "label": step.label, "confidence": step.confidence, "exact": exact}
                for step, text, exact in zip(
                    made.steps, tokenizer.decode([found.ids[a:b] for a, b in found.spans]), found.exact, strict=True
                )
            ],
        }
        for made, found in zip(documents, aligned, strict=True)
    ]


def refuse_breaches(reports: dict[str, dict[str, Any]], limits: Quality, where: str) -> None:
    """Raise ReseedError for the first limit that a split breaks; `where` is the file that holds `data.quality`."""
    for split, report in reports.items():
        if report["leaked"]:
            raise ReseedError(
                f"tokens: {split} has {report['leaked']} documents that are training documents, allowed: 0"
            )
        for key, limit in limits.model_dump().items():
            bound, _, name = key.partition("_")
            found = report.get(name)
            if found is not None and (found > limit if bound == "max" else found < limit):
                word = "at most" if bound == "max" else "at least"
                raise ReseedError(
                    f"{where}: data.quality.{key}: found {found:.4g} in the split {split!r}, allowed: {word} {limit:g}"
                )
