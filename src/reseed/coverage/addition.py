"""Addition modulo p: sums that wrap around, the answers, and the operands swapped, for a + b = b + a."""

from __future__ import annotations

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.coverage.domain import Domain
from reseed.text.tokens import Tokens


def held_out_operands(activations: Activations, tokens: Tokens, tokens_sha256: str) -> Tensor:
    """The operands (a, b) [rows, 2] of every test row.

    Raises ReseedError unless there is one row a sequence of these tokens, where the answer is predicted.
    """
    found = (activations.index["tokens_sha256"], tuple(activations.index["positions"]))
    if found != (tokens_sha256, (tokens.predict,)):
        raise ReseedError(
            f"data/{activations.index['subject']}/activations: found rows at {list(found[1])} of the tokens "
            f"{found[0][:12]}, allowed: at [{tokens.predict!r}] of {tokens_sha256[:12]}, so that a row has its operands"
        )
    return tokens.splits["test"][:, [tokens.position("a"), tokens.position("b")]].long()


def parts_of(operands: Tensor, p: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Which rows [rows] are in each part of the domain, and which have each of the answers that there are rows of.

    operands [rows, 2]. A part without rows is left out.
    """
    total = operands.sum(1)
    parts = {"all": total >= 0, "wraps": total >= p, "does_not_wrap": total < p}
    answers = [total % p == answer for answer in range(p)]
    return {name: mask for name, mask in parts.items() if mask.any()}, [mask for mask in answers if mask.any()]


def swaps_of(operands: Tensor) -> tuple[Tensor, Tensor]:
    """Places [m] of the rows (a, b), a != b, whose (b, a) is among operands [rows, 2] too, and the places of those."""
    rows = [(int(a), int(b)) for a, b in operands.tolist()]
    place = {pair: i for i, pair in enumerate(rows)}
    places = [i for i, (a, b) in enumerate(rows) if a != b and (b, a) in place]
    partners = [place[rows[i][::-1]] for i in places]
    return torch.tensor(places, dtype=torch.long), torch.tensor(partners, dtype=torch.long)


def addition_domain(activations: Activations, operands: Tensor, p: int) -> Domain:
    """operands [rows, 2]: a and b of every test row of `activations`."""
    x = activations.rows("test").whole().float()
    target = activations.rows("test", "target").whole().float() if activations.has("target") else x
    parts, answers = parts_of(operands, p)
    places, partners = swaps_of(operands)
    return Domain(
        rows=x,
        target=target,
        parts={name: [mask] for name, mask in parts.items()},
        class_name="answer",
        classes=answers,
        tested=len(answers) / p,
        own=x[places],
        relabelled=x[partners],
        alike=torch.zeros(len(places), dtype=torch.long),
        relabelling="the operands swapped",
    )
