"""Does an activation depend on its context, or is it a lookup of the token (and its position)?

A hook point in front of the first attention gives every token the same row wherever it stands. What an SAE finds there
are features of the vocabulary, not of anything that the model computed from the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.models.families import Hooked
from reseed.models.gpt import read_text
from reseed.models.language import forward
from reseed.text.sequences import Sequences

ROUNDING = 1e-4
"""Largest distance of two rows, over the larger of their norms, that counts as the same."""
ROWS = 32

DependsOn = Literal["context", "token and position", "token", "position", "nothing"]


@dataclass(frozen=True)
class ContextDependence:
    """What the activation at a hook point is a function of, and the largest relative change that the context made."""

    hook_name: str
    depends_on: DependsOn
    context_effect: float

    @property
    def context_dependent(self) -> bool:
        """False: a lookup, and no claim about the model's computation can rest on it."""
        return self.depends_on == "context"


def context_dependence(model: Hooked, hook_name: str, sequences: Sequences, split: str = "test") -> ContextDependence:
    """Test a hook point on up to 32 pairs of real sequences.

    A text token of one sequence is put into the other, at its own position (does its row change with the context?) and
    at another (with the position?), and another token is put in its place (with the token?).
    Raises ReseedError for an unknown hook point, one without a row for every position, or a split with fewer than two
    different sequences.
    """
    tokens, text = read_text(sequences, split, ROWS)
    pairs = _pairs(tokens.long(), text, generator("context", hook_name))
    if pairs is None:
        raise ReseedError(
            f"{sequences.path}: the split {split!r} holds no two sequences that differ around a text token, allowed: "
            "at least two, without which the context of a hook point cannot be tested"
        )
    whole, real, other, other_real, at, elsewhere = pairs
    row = torch.arange(len(whole))
    token = whole[row, at]
    moved, shifted, replaced = other.clone(), other.clone(), whole.clone()
    moved[row, at] = token
    shifted[row, elsewhere] = token
    replaced[row, at] = (token + 1) % sequences.vocabulary
    reference = _rows(model, hook_name, whole, real, at)
    by_context = _distance(reference, _rows(model, hook_name, moved, other_real, at))
    by_position = _distance(reference, _rows(model, hook_name, shifted, other_real, elsewhere)) > ROUNDING
    by_token = _distance(reference, _rows(model, hook_name, replaced, real, at)) > ROUNDING
    lookups: dict[tuple[bool, bool], DependsOn] = {
        (True, True): "token and position",
        (True, False): "token",
        (False, True): "position",
        (False, False): "nothing",
    }
    depends_on = "context" if by_context > ROUNDING else lookups[by_token, by_position]
    return ContextDependence(hook_name, depends_on, by_context)


def _pairs(tokens: Tensor, text: Tensor, random: torch.Generator) -> tuple[Tensor, ...] | None:
    """Rows, their real positions, the rows beside them, theirs, a place that is text in both, and another such place.

    None if no two neighbouring rows have two such places behind the first position and differ before the first of them.
    """
    other, other_text = tokens.roll(1, 0), text.roll(1, 0)
    chosen = []
    for i in range(len(tokens)):
        places = (text[i] & other_text[i]).nonzero()[:, 0]
        places = places[places > 0]
        if len(places) > 1:
            at, elsewhere = places[torch.randperm(len(places), generator=random)[:2]].tolist()
            if not tokens[i, :at].equal(other[i, :at]):
                chosen.append((i, at, elsewhere))
    if not chosen:
        return None
    rows, at_, elsewhere_ = torch.tensor(chosen).T
    return tokens[rows], _real(text)[rows], other[rows], _real(other_text)[rows], at_, elsewhere_


def _real(text: Tensor) -> Tensor:
    """Positions up to the last text token: special tokens among the text are read, padding behind it is not."""
    return text.flip(1).cumsum(1).flip(1) > 0


def _rows(model: Hooked, hook_name: str, tokens: Tensor, real: Tensor, at: Tensor) -> Tensor:
    """The activations [rows, d] at one position of each sequence."""
    found: list[Tensor] = []
    forward(model, tokens, real, [(hook_name, lambda x, hook: found.append(x.detach().float().cpu()))])  # noqa: ARG005
    rows = found[0]
    if rows.shape[:2] != tokens.shape:
        raise ReseedError(
            f"capture.hook_name: {hook_name!r} has the shape {list(rows.shape)}, allowed: a row for every position, "
            f"{list(tokens.shape)} and d_in"
        )
    return rows[torch.arange(len(rows)), at].flatten(1)


def _distance(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm(dim=1) / torch.maximum(a.norm(dim=1), b.norm(dim=1)).clamp(min=1e-12)).max())
