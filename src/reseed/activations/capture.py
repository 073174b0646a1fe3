"""Capture: one forward pass with a hook, the wanted positions kept."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.models.transformer import check_hook
from reseed.params import SPLITS, Capture
from reseed.stage import progress
from reseed.text.tokens import Tokens
from reseed.text.traces import Traces

SEQUENCES_PER_BATCH = 2048


def check_capture(options: Capture, tokens: Tokens) -> None:
    """Raise ReseedError unless there is one activation a sequence, where the answer is predicted, in some block.

    That is what benchmarks of a sequence's answer need: the row number is the sequence number.
    """
    if options.positions != (tokens.predict,) or not re.match(r"blocks\.\d+\.", options.hook_name):
        raise ReseedError(
            f"capture: found {options.hook_name!r} at {list(options.positions)}, allowed for benchmarks: a hook point "
            f"blocks.<layer>.… at ['{tokens.predict}']"
        )


def capture(
    transformer: HookedTransformer, tokens: Tokens, hook_name: str, positions: tuple[str, ...], device: torch.device
) -> dict[str, Tensor]:
    """Activations [n_sequences * n_positions, d_in] of every split at the named positions, in sequence order.

    Raises ReseedError for an unknown hook point or position.
    """
    wanted = sorted({tokens.position(name) for name in positions})
    if wanted[-1] > tokens.position(tokens.predict):
        raise ReseedError(
            f"capture.positions: found {tokens.target!r} or later among {list(positions)}, allowed: positions up to "
            f"{tokens.predict!r}; activations behind it hold the answer"
        )
    return _capture(transformer, tokens.splits, hook_name, wanted, device)


def capture_traces(
    transformer: HookedTransformer, traces: Traces, hook_name: str, device: torch.device
) -> dict[str, Tensor]:
    """Activations [n_sequences * n_predicted, d_in] of every split of the SAEs at the predicting positions.

    A row has its state in the same row of `traces.rows(split)`. Raises ReseedError for an unknown hook point.
    """
    return _capture(transformer, traces.splits, hook_name, list(traces.predicted), device)


def beside_traces(traces: Traces, variable: str) -> dict[str, dict[str, Tensor]]:
    """By split, beside the rows of a world: `sequence`, the sequence of a row, and `labels`, the value of a variable.

    Raises ReseedError for a variable that the world does not have.
    """
    if variable not in traces.variables:
        raise ReseedError(f"capture.labels: found {variable!r}, allowed: {', '.join(traces.variables)}")
    place = list(traces.variables).index(variable)
    return {
        split: {
            "sequence": torch.arange(len(traces.splits[split])).repeat_interleave(len(traces.predicted)),
            "labels": traces.rows(split)[:, place].long(),
        }
        for split in SPLITS
    }


@torch.no_grad()
def _capture(
    transformer: HookedTransformer,
    sequences: dict[str, Tensor],
    hook_name: str,
    wanted: list[int],
    device: torch.device,
) -> dict[str, Tensor]:
    """The sequence is cut after the last wanted position, so nothing that comes later can reach it."""
    check_hook(transformer, hook_name)
    transformer.to(device, print_details=False)
    splits = {}
    total = sum(len(sequences[split]) for split in SPLITS)
    with progress(total, f"capture {hook_name}", "sequence") as bar:
        for split in SPLITS:
            blocks = []
            for rows in sequences[split][:, : wanted[-1] + 1].long().split(SEQUENCES_PER_BATCH):
                _, cache = transformer.run_with_cache(
                    rows.to(device), names_filter=hook_name, return_type=None, prepend_bos=False
                )
                if cache[hook_name].ndim != 3:
                    raise ReseedError(
                        f"capture.hook_name: {hook_name!r} has the shape {list(cache[hook_name].shape)}, allowed: hook "
                        "points of shape [sequences, positions, d_in]"
                    )
                blocks.append(cache[hook_name][:, wanted].flatten(0, 1).float().cpu())
                bar.update(len(rows))
            splits[split] = torch.cat(blocks)
    return splits
