"""Does the model compute its answer, or does it read it off the input?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed import ReseedError

MIN_OPERAND_SENSITIVITY = 0.9
MIN_TEXT_LOSS = 0.2
"""Nats a token; the best models need more than 1 on text that they have not seen."""
MAX_LATER_EFFECT = 1e-4
"""Rounding: float32 sums of other numbers, all of them multiplied by zero, come out in another last digit."""


@dataclass(frozen=True)
class LeakCheck:
    """Shares of predictions that change when one token is replaced by another value.

    operand_sensitivity: the smallest share over the operand positions. label_sensitivity: the share when the label
    token is replaced wherever it stands in the sequence. A model that computes its answer has about 1 and exactly 0.
    """

    operand_sensitivity: float
    label_sensitivity: float


@torch.no_grad()
def check_leak(
    transformer: HookedTransformer,
    sequences: Tensor,
    *,
    operands: list[int],
    label: int,
    predict: int,
    values: int,
    random: torch.Generator,
) -> LeakCheck:
    """Corrupt operands and label of whole sequences [rows, n_ctx] and count changed predictions at `predict`.

    `values` is the number of values that an operand or label can take (tokens 0 to values - 1).
    Raises ReseedError if the label is read (a leak) or an operand is not.
    """
    before = transformer(sequences)[:, predict].argmax(-1)

    def changed(position: int) -> float:
        corrupted = sequences.clone()
        shift = torch.randint(1, values, (len(sequences),), generator=random)
        corrupted[:, position] = (corrupted[:, position] + shift) % values
        return float((transformer(corrupted)[:, predict].argmax(-1) != before).double().mean())

    found = LeakCheck(min(changed(position) for position in operands), changed(label))
    if found.label_sensitivity > 0:
        raise ReseedError(
            f"label leak: corrupting the label changes {found.label_sensitivity:.1%} of the predictions, "
            "allowed: none; the answer stands in the input"
        )
    if found.operand_sensitivity < MIN_OPERAND_SENSITIVITY:
        raise ReseedError(
            f"label leak or an idle model: corrupting an operand changes {found.operand_sensitivity:.1%} of the "
            f"predictions, allowed: at least {MIN_OPERAND_SENSITIVITY:.0%}"
        )
    return found


def check_plausible(loss: float, split: str) -> None:
    """Raise ReseedError if the held-out loss (nats a token) is lower than natural text allows: the model reads it."""
    if loss < MIN_TEXT_LOSS:
        raise ReseedError(
            f"label leak: the loss on {split} is {loss:.3f} nats a token, allowed: at least {MIN_TEXT_LOSS}; the model "
            "reads the tokens that it predicts, or was trained on them"
        )


@torch.no_grad()
def check_causal(transformer: HookedTransformer, sequences: Tensor, random: torch.Generator) -> float:
    """The largest change of a logit, over the largest logit, when only tokens behind it change: 0 in a causal model.

    Every sequence [rows, n_ctx] is cut at a random place and gets other tokens of the text behind it.
    Raises ReseedError if the change is more than rounding.
    """
    rows, length = sequences.shape
    worst = 0.0
    for row in range(rows):
        cut = int(torch.randint(1, length, (), generator=random))
        whole = sequences[row : row + 1]
        drawn = torch.randint(sequences.numel(), (length - cut,), generator=random).to(sequences.device)
        other = whole.clone()
        other[0, cut:] = sequences.flatten()[drawn]
        other[0, cut] = (whole[0, cut] + 1) % transformer.cfg.d_vocab  # at least one token is another
        before, after = (transformer(x, prepend_bos=False)[:, :cut] for x in (whole, other))
        worst = max(worst, ((before - after).abs().max() / before.abs().max()).item())
    if worst > MAX_LATER_EFFECT:
        raise ReseedError(
            f"label leak: changing later tokens changes earlier logits by {worst:.2g} of the largest, allowed: at most "
            f"{MAX_LATER_EFFECT:g}; the model reads the tokens that it predicts"
        )
    return worst
