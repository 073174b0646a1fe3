"""Quality of a tokenised subject: what would silently spoil every later number is counted, and refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.params import SPLITS
from reseed.text.tokens import Tokens


def quality_report(tokens: Tokens) -> dict[str, Any]:
    """Counts per split and the faults between them.

    `duplicates` repeats a sequence within its split; `leaked` is a held-out sequence whose inputs, as a set of
    tokens, occur in an earlier split (so a mirrored pair counts). Raises ReseedError for an empty split, a token
    outside the vocabulary, a duplicate, or a leaked sequence.
    """
    end = tokens.position(tokens.predict)
    seen: set[tuple[int, ...]] = set()
    report: dict[str, Any] = {}
    for split in SPLITS:
        rows = tokens.splits.get(split, torch.empty(0, tokens.n_ctx))
        if len(rows) == 0:
            raise ReseedError(f"tokens: the split {split!r} is empty; use a larger fraction or more data")
        if rows.min() < 0 or rows.max() >= tokens.vocabulary:
            raise ReseedError(f"tokens: found token {rows.max()}, allowed: 0 to {tokens.vocabulary - 1}")
        inputs = _as_sets(rows[:, :end])
        report[split] = {
            "sequences": len(rows),
            "duplicates": len(rows) - len(rows.unique(dim=0)),
            "leaked": sum(key in seen for key in inputs),
            "majority_target_share": rows[:, tokens.position(tokens.target)].bincount().max().item() / len(rows),
        }
        for fault in ("duplicates", "leaked"):
            if report[split][fault]:
                raise ReseedError(f"tokens: {split} has {report[split][fault]} {fault} sequences, allowed: 0")
        seen.update(inputs)
    return report


def _as_sets(rows: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in rows.sort(dim=1).values.tolist()]
