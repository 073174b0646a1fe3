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
"""A latent that varies changes with what should not matter if its correlation under the relabelling is below this."""
LEAST_PAIRS = 4


@dataclass(frozen=True)
class Domain:
    """Held-out rows, the parts of the domain that they are in, and rows of which some are put another way.

    rows [rows, d_in], target [rows, d_out]: what the SAE reads and reconstructs. parts: by name, the masks [rows] of
    which the one that is explained worst speaks for the part. classes: the masks of all classes of `class_name`;
    tested: the share of the classes that have rows. own, relabelled [pairs, d_in]: a row, and the row of the same token
    once what stands before it has been put in another way that leaves its meaning. alike [pairs]: a number for each
    token (and place), since two rows of it have that in common already. relabelling: how, in words.
    """

    rows: Tensor
    target: Tensor
    parts: Mapping[str, Sequence[Tensor]]
    class_name: str
    classes: Sequence[Tensor]
    tested: float
    own: Tensor
    relabelled: Tensor
    alike: Tensor
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


def kept(own: Array, relabelled: Array) -> Array:
    """Correlation [n] of each column of own [pairs, n] with that of relabelled; 0 for one that does not vary."""
    return np.asarray((standardised(own) * standardised(relabelled)).sum(axis=0))


def others_alike(alike: Tensor) -> tuple[Tensor, Tensor]:
    """Places [m] of the pairs that are not alone in their kind (alike [pairs]), and for each another of its kind."""
    order = torch.randperm(len(alike), generator=generator("relabelling", len(alike)))
    order = order[alike[order].argsort(stable=True)]
    _, counts = alike[order].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    following = order.roll(-1)
    following[ends - 1] = order[ends - counts]  # a cycle in every kind: nobody meets itself
    several = counts.repeat_interleave(counts) > 1
    return order[several], following[several]


def coverage_summary(
    saes: Iterable[tuple[SAE[Any], SAE[Any]]],
    alive: list[NDArray[np.bool_]],
    domain: Domain,
    groups: Groups,
    confidence: float,
) -> dict[str, Any]:
    """Figures over the seeds' (SAE, untrained SAE), each mean with its interval beside that of the untrained ones.

    alive: one mask [d_sae] a seed, of its trained SAE; the untrained SAE is judged by the same latents. What a latent
    keeps is asked only of those that vary on the pairs; `unvaried` is the share of the others. Of the relabelling also
    `null`, correlation with another row of the same token, and `model`, what the dimensions of the rows themselves
    keep: an SAE inherits what its model makes of the relabelling. Raises ReseedError for fewer than LEAST_PAIRS pairs.
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
        return mean(trained, name) | {"untrained": mean(untrained, name)}

    def mean(figures: list[dict[str, float]], name: str) -> dict[str, Any]:
        return with_interval(mean_over_seeds([one[name] for one in figures], groups), confidence)

    of_model = kept(domain.own.numpy(), domain.relabelled.numpy())
    worst = f"worst_{domain.class_name}"
    return {
        "rows": len(domain.rows),
        "relabelled_rows": len(domain.own),
        "relabelled_by": domain.relabelling,
        f"{domain.class_name}s_tested": domain.tested,
        "parts": {name: figure(name) for name in domain.parts},
        worst: figure(worst),
        "relabelling": figure("relabelling") | {"null": mean(trained, "chance"), "model": float(of_model.mean())},
        "brittle": figure("brittle"),
        "unvaried": figure("unvaried"),
    }


@torch.no_grad()
def _figures(sae: SAE[Any], domain: Domain, mask: NDArray[np.bool_]) -> dict[str, float]:
    out = sae(domain.rows)
    own, relabelled = (encode(sae, rows)[:, mask] for rows in (domain.own, domain.relabelled))
    varies = (own != own[0]).any(axis=0) | (relabelled != relabelled[0]).any(axis=0)
    by_relabelling = kept(own[:, varies], relabelled[:, varies])
    places, others = (where.numpy() for where in others_alike(domain.alike))
    by_chance = kept(own[places][:, varies], relabelled[others][:, varies])
    return {
        **{name: min(explained(domain.target, out, masks)) for name, masks in domain.parts.items()},
        f"worst_{domain.class_name}": min(explained(domain.target, out, domain.classes)),
        "relabelling": _share(by_relabelling),
        "chance": _share(by_chance),
        "brittle": _share(by_relabelling < BRITTLE),
        "unvaried": float(1 - varies.mean()),
    }


def _share(values: NDArray[Any]) -> float:
    """The mean, 0 where there is no latent that varies."""
    return float(values.mean()) if len(values) else 0.0
