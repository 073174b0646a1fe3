"""How well the parts of a domain are explained, and whether latents stay when what they read is put another way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.matching import Array
from reseed.stability.activity import encode
from reseed.stability.jackknife import Groups, mean_over_seeds
from reseed.stability.report import with_interval
from reseed.stability.statistics import standardised

BRITTLE = 0.5
"""A latent whose correlation under the relabelling is below this changes with what should not matter."""
LEAST_PAIRS = 4


@dataclass(frozen=True)
class Domain:
    """Held-out rows, the parts of the domain that they are in, and rows of which some are put another way.

    rows [rows, d_in], target [rows, d_out]: what the SAE reads and reconstructs. parts: by name, the masks [rows] of
    which the one that is explained worst speaks for the part. classes: the masks of all classes of `class_name`;
    tested: the share of the classes that have rows. own, relabelled [pairs, d_in]: a row, and the row of the same token
    once what stands before it has been put in another way that leaves its meaning. relabelling: how, in words.
    """

    rows: Tensor
    target: Tensor
    parts: Mapping[str, Sequence[Tensor]]
    class_name: str
    classes: Sequence[Tensor]
    tested: float
    own: Tensor
    relabelled: Tensor
    relabelling: str


def explained(target: Tensor, out: Tensor, masks: Iterable[Tensor]) -> list[float]:
    """Explained variance of the rows of each mask [rows], by out [rows, d_out] of target [rows, d_out].

    Variance is about the mean of all rows, so that the figure of all rows is the mean of those of its parts, weighted
    by their variance.
    """
    target = target.double()
    errors = (target - out).square().sum(1)
    spread = (target - target.mean(0)).square().sum(1)
    return [float(1 - errors[mask].sum() / spread[mask].sum()) for mask in masks]


def kept(own: Array, relabelled: Array) -> tuple[Array, Array]:
    """Correlation [n] of each column of own [pairs, n] with that of relabelled, and with that of other rows of it.

    A column that does not vary on these rows correlates with nothing: 0.
    """
    a, b = standardised(own), standardised(relabelled)
    order = torch.randperm(len(a), generator=generator("relabelling", len(a)))
    others = torch.empty_like(order)
    others[order] = order.roll(1)  # a cycle: nobody meets itself
    return (a * b).sum(axis=0), (a * b[others.numpy()]).sum(axis=0)


def coverage_summary(
    saes: Iterable[tuple[SAE[Any], SAE[Any]]],
    alive: list[NDArray[np.bool_]],
    domain: Domain,
    groups: Groups,
    confidence: float,
) -> dict[str, Any]:
    """Figures over the seeds' (SAE, untrained SAE), each mean with its interval beside that of the untrained ones.

    alive: one mask [d_sae] a seed, of its trained SAE; the untrained SAE is judged by the same latents. Of the
    relabelling also `null`, correlation with other rows, and `model`, what the dimensions of the rows themselves keep:
    an SAE inherits what its model makes of the relabelling. Raises ReseedError for fewer than LEAST_PAIRS pairs.
    """
    if len(domain.own) < LEAST_PAIRS:
        raise ReseedError(
            f"coverage: found {len(domain.own)} test rows that can be put another way ({domain.relabelling}), allowed: "
            f"{LEAST_PAIRS} or more"
        )
    trained: list[dict[str, float]] = []
    untrained: list[dict[str, float]] = []
    for (sae, start), mask in zip(saes, alive, strict=True):
        for one, into in ((sae, trained), (start, untrained)):
            into.append(_figures(one, domain, mask))

    def figure(name: str) -> dict[str, Any]:
        shown = with_interval(mean_over_seeds([one[name] for one in trained], groups), confidence)
        return shown | {"untrained": _mean(untrained, name)}

    of_model, _ = kept(domain.own.numpy().astype(float), domain.relabelled.numpy().astype(float))
    worst = f"worst_{domain.class_name}"
    return {
        "rows": len(domain.rows),
        "relabelled_rows": len(domain.own),
        "relabelled_by": domain.relabelling,
        f"{domain.class_name}s_tested": domain.tested,
        "parts": {name: figure(name) for name in domain.parts},
        worst: figure(worst),
        "relabelling": figure("relabelling") | {"null": _mean(trained, "chance"), "model": float(of_model.mean())},
        "brittle": figure("brittle"),
    }


@torch.no_grad()
def _figures(sae: SAE[Any], domain: Domain, mask: NDArray[np.bool_]) -> dict[str, float]:
    out = sae(domain.rows)
    by_relabelling, by_chance = kept(encode(sae, domain.own)[:, mask], encode(sae, domain.relabelled)[:, mask])
    return {
        **{name: min(explained(domain.target, out, masks)) for name, masks in domain.parts.items()},
        f"worst_{domain.class_name}": min(explained(domain.target, out, domain.classes)),
        "relabelling": float(by_relabelling.mean()),
        "chance": float(by_chance.mean()),
        "brittle": float((by_relabelling < BRITTLE).mean()),
    }


def _mean(figures: list[dict[str, float]], name: str) -> float:
    return float(np.mean([one[name] for one in figures]))
