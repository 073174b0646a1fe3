"""Which parts of addition modulo p the SAEs of a seed set cover, and whether their latents know that a + b = b + a."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import generator
from reseed.matching import Array
from reseed.stability.activity import encode
from reseed.stability.jackknife import Groups, mean_over_seeds
from reseed.stability.report import with_interval
from reseed.stability.statistics import standardised
from reseed.text.tokens import Tokens

BRITTLE = 0.5
"""A latent whose correlation under the swap of the operands is below this changes with their order."""


@dataclass(frozen=True)
class Swaps:
    """Rows (a, b) with a != b whose (b, a) is there too: their places [m] among all rows.

    partners [m]: where among those the swap of each stands. others [m]: where another row of them stands, at random.
    """

    places: Tensor
    partners: Tensor
    others: Tensor


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


def swaps_of(operands: Tensor) -> Swaps:
    """The rows of operands [rows, 2] that can be swapped; raises ReseedError if there are fewer than two pairs."""
    rows = [(int(a), int(b)) for a, b in operands.tolist()]
    place = {pair: i for i, pair in enumerate(rows)}
    places = [i for i, (a, b) in enumerate(rows) if a != b and (b, a) in place]
    if len(places) < 4:
        raise ReseedError(f"coverage: found {len(places)} test rows (a, b) whose (b, a) is there, allowed: 4 or more")
    among = {i: j for j, i in enumerate(places)}
    partners = [among[place[rows[i][::-1]]] for i in places]
    order = torch.randperm(len(places), generator=generator("relabelling", len(places)))
    others = torch.empty_like(order)
    others[order] = order.roll(1)  # a cycle: nobody meets itself
    return Swaps(torch.tensor(places), torch.tensor(partners), others)


def explained(target: Tensor, out: Tensor, masks: Iterable[Tensor]) -> list[float]:
    """Explained variance of the rows of each mask [rows], by out [rows, d_out] of target [rows, d_out].

    Variance is about the mean of all rows, so that the figure of all rows is the mean of those of its parts, weighted
    by their variance.
    """
    target = target.double()
    errors = (target - out).square().sum(1)
    spread = (target - target.mean(0)).square().sum(1)
    return [float(1 - errors[mask].sum() / spread[mask].sum()) for mask in masks]


def relabelled(acts: Array, swaps: Swaps) -> tuple[Array, Array]:
    """Correlation [n] of every latent between (a, b) and (b, a), and between (a, b) and another row at random.

    acts [rows, n]. A latent that does not vary on these rows correlates with nothing: 0.
    """
    own = standardised(acts[swaps.places.numpy()])
    by_swap, by_chance = ((own * own[where.numpy()]).sum(axis=0) for where in (swaps.partners, swaps.others))
    return by_swap, by_chance


def coverage_summary(
    saes: Iterable[tuple[SAE[Any], SAE[Any]]],
    alive: list[NDArray[np.bool_]],
    activations: Activations,
    operands: Tensor,
    p: int,
    groups: Groups,
    confidence: float,
) -> dict[str, Any]:
    """Figures over the seeds' (SAE, untrained SAE), each mean with its interval beside that of the untrained ones.

    operands [rows, 2]: a and b of every test row of `activations`. alive: one mask [d_sae] a seed, of its trained SAE;
    the untrained SAE is judged by the same latents.
    """
    x = activations.rows("test").whole().float()
    target = activations.rows("test", "target").whole().float() if activations.has("target") else x
    parts, answers = parts_of(operands, p)
    swaps = swaps_of(operands)
    trained: list[dict[str, float]] = []
    untrained: list[dict[str, float]] = []
    for (sae, start), mask in zip(saes, alive, strict=True):
        for one, into in ((sae, trained), (start, untrained)):
            into.append(_figures(one, x, target, parts, answers, mask, swaps))

    def figure(name: str) -> dict[str, Any]:
        shown = with_interval(mean_over_seeds([one[name] for one in trained], groups), confidence)
        return shown | {"untrained": _mean(untrained, name)}

    return {
        "rows": len(x),
        "swapped_rows": len(swaps.places),
        "answers_tested": len(answers) / p,
        "parts": {name: figure(name) for name in parts},
        "worst_answer": figure("worst_answer"),
        "relabelling": figure("relabelling") | {"null": _mean(trained, "chance")},
        "brittle": figure("brittle"),
    }


@torch.no_grad()
def _figures(
    sae: SAE[Any],
    x: Tensor,
    target: Tensor,
    parts: Mapping[str, Tensor],
    answers: list[Tensor],
    mask: NDArray[np.bool_],
    swaps: Swaps,
) -> dict[str, float]:
    out = sae(x)
    by_swap, by_chance = relabelled(encode(sae, x)[:, mask], swaps)
    return {
        **dict(zip(parts, explained(target, out, parts.values()), strict=True)),
        "worst_answer": min(explained(target, out, answers)),
        "relabelling": float(by_swap.mean()),
        "chance": float(by_chance.mean()),
        "brittle": float((by_swap < BRITTLE).mean()),
    }


def _mean(figures: list[dict[str, float]], name: str) -> float:
    return float(np.mean([one[name] for one in figures]))
