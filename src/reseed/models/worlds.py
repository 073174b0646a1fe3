"""What is checked of a transformer that reads a world: it goes by its input, and looks where the algorithm must."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.text.traces import Traces

MIN_INPUT_SENSITIVITY = 0.2
PATTERNS = {"walker": "the cell before the move", "stack": "the output that showed what a pop brings back"}


@dataclass(frozen=True)
class HeadOnPattern:
    """The head that attends most to what the algorithm reads: mean weight over all queries that have such a key."""

    layer: int
    head: int
    attention: float


@torch.no_grad()
def check_reads_input(transformer: HookedTransformer, traces: Traces, split: str, random: torch.Generator) -> float:
    """The share of predictions that change when the word at the predicting position becomes another sequence's there.

    At each position it counts the sequences whose word does become another. A model that goes by position or by the
    rest of the sequence has about 0. Raises ReseedError if the share is below 0.2.
    """
    sequences, changed, counted = traces.splits[split].long(), 0, 0
    before = transformer(sequences, prepend_bos=False).argmax(-1)
    for position in traces.predicted:
        corrupted = sequences.clone()
        corrupted[:, position] = sequences[torch.randperm(len(sequences), generator=random), position]
        other = corrupted[:, position] != sequences[:, position]
        after = transformer(corrupted, prepend_bos=False)[:, position].argmax(-1)
        changed += int((after != before[:, position])[other].sum())
        counted += int(other.sum())
    share = changed / max(counted, 1)
    if share < MIN_INPUT_SENSITIVITY:
        raise ReseedError(
            f"label leak or an idle model: another word changes {share:.1%} of the predictions made at it, allowed: at "
            f"least {MIN_INPUT_SENSITIVITY:.0%}"
        )
    return share


def expected_keys(world: str, traces: Traces, split: str) -> Tensor | None:
    """Where the prediction at each predicting position must look, int64 [n_sequences, n_predicted]; -1: not known.

    world: the generator. walker: every move starts from the cell one token before. stack: a `pop` brings back what
    stands under the top, which the output after the matching push showed, or the last one that showed it on top since.
    None for a world whose algorithm does not fix where it must look.
    """
    sequences = traces.splits[split]
    if world == "walker":
        return torch.tensor(traces.predicted).sub(1).expand(len(sequences), -1)
    if world == "stack":
        words = [[traces.vocabulary[token] for token in row] for row in sequences.tolist()]
        room = len(traces.variables["depth"]) - 1
        return torch.tensor([_shown_by(row[::2], room) for row in words])[:, -len(traces.predicted) :]
    return None


def _shown_by(instructions: list[str], room: int) -> list[int]:
    """For each instruction of a stack machine the position that showed what a pop brings to the top, else -1."""
    takes = {"push": 0, "dup": 1, "pop": 1, "add": 2, "swap": 2}
    shown: list[int] = []  # for each element of the stack, top last: the output that last had it on top
    keys = []
    for i, instruction in enumerate(instructions):
        kind, output = instruction.split()[0], 2 * i + 1
        runs = len(shown) >= takes[kind] and not (kind in ("push", "dup") and len(shown) == room)
        if runs:
            match kind:
                case "push" | "dup":
                    shown.append(output)
                case "pop":
                    shown.pop()
                case "add":
                    shown[-2:] = [output]
                case "swap":
                    shown[-2:] = [shown[-1], output]
        keys.append(shown[-1] if kind == "pop" and runs and shown else -1)
        if shown:
            shown[-1] = output
    return keys


@torch.no_grad()
def best_head(
    transformer: HookedTransformer, sequences: Tensor, predicted: tuple[int, ...], keys: Tensor
) -> HeadOnPattern:
    """The head with the most attention from `predicted` to `keys` [n_sequences, n_predicted], -1 left out."""
    at = torch.tensor(predicted)
    row, column = (keys >= 0).nonzero(as_tuple=True)
    best = HeadOnPattern(0, 0, -1.0)
    _, cache = transformer.run_with_cache(
        sequences.long(), names_filter=lambda name: name.endswith("hook_pattern"), return_type=None, prepend_bos=False
    )
    for layer in range(transformer.cfg.n_layers):
        weights = cache["pattern", layer][row, :, at[column], keys[row, column]].double().mean(0)
        head = int(weights.argmax())
        if weights[head] > best.attention:
            best = HeadOnPattern(layer, head, float(weights[head]))
    return best


def uniform_attention(predicted: tuple[int, ...], keys: Tensor) -> float:
    """What attention that is spread evenly over all earlier positions (and its own) has on the keys, on average."""
    even = 1 / (torch.tensor(predicted).double() + 1)
    return float(even.expand(len(keys), -1)[keys >= 0].mean())
