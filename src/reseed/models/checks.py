"""Does the model compute its answer from the operands, or does it read it off the input?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed import ReseedError

MIN_OPERAND_SENSITIVITY = 0.9


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
