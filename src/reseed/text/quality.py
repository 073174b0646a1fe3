"""Quality of a tokenised subject: what would silently spoil every later number is counted, and refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.params import MODEL_SPLIT, SPLITS
from reseed.text.tokens import Tokens
from reseed.text.traces import Traces


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
        _refuse_faults(report[split], split)
        seen.update(inputs)
    return report


def traces_report(traces: Traces, instances: dict[str, list[str]]) -> dict[str, Any]:
    """Counts per split of a world, and the faults between its splits.

    instances: by split, what determines the trajectory of each sequence. `duplicates` repeats a sequence within its
    split; `leaked` is a sequence whose instance, or which itself, occurs in an earlier split (model, train, validation,
    test). `seen_prefixes`: the share of the predictions whose inputs occur in an earlier split, which is not a fault
    (short prefixes must repeat) but says how much could be known by heart. Raises ReseedError for a split that is
    empty, a state that its variable does not have, a duplicate or a leak.
    """
    known: set[str] = set()
    whole: set[tuple[int, ...]] = set()
    prefixes: set[tuple[int, ...]] = set()
    report: dict[str, Any] = {}
    for split in (MODEL_SPLIT, *SPLITS):
        rows = traces.splits.get(split, torch.empty(0, traces.n_ctx))
        if len(rows) == 0:
            raise ReseedError(f"tokens: the split {split!r} is empty, allowed: at least one sequence")
        highest = torch.tensor([len(values) for values in traces.variables.values()])
        states = traces.rows(split)
        if bool((states < -1).any()) or bool((states >= highest).any()):
            raise ReseedError(f"tokens: {split} has a state that its variable does not have, allowed: its values or -1")
        listed = [tuple(row) for row in rows.tolist()]
        inputs = [row[: position + 1] for row in listed for position in traces.predicted]
        targets = traces.targets(split).flatten()
        report[split] = {
            "sequences": len(rows),
            "instances": len(set(instances[split])),
            "duplicates": len(listed) - len(set(listed)),
            "leaked": sum(
                instance in known or row in whole for instance, row in zip(instances[split], listed, strict=True)
            ),
            "seen_prefixes": sum(prefix in prefixes for prefix in inputs) / len(inputs),
            "majority_target_share": targets.bincount().max().item() / len(targets),
        }
        _refuse_faults(report[split], split)
        known.update(instances[split])
        whole.update(listed)
        prefixes.update(inputs)
    return report


def _refuse_faults(counts: dict[str, Any], split: str) -> None:
    for fault in ("duplicates", "leaked"):
        if counts[fault]:
            raise ReseedError(f"tokens: {split} has {counts[fault]} {fault} sequences, allowed: 0")


def _as_sets(rows: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in rows.sort(dim=1).values.tolist()]
