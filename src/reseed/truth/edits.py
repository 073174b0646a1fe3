"""Edits of rows that are states themselves: what clamping a latent writes there. Reported, and no causal test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from reseed.activations.store import Activations
from reseed.matching import Array
from reseed.stability.activity import encode
from reseed.truth.concepts import Concepts
from reseed.truth.figures import Figure, figure
from reseed.truth.states import rows_of
from reseed.truth.subject import Judged

EVEN = 1e-3
"""By so much an entry of a row may be below the largest and count as large."""


def clamped(
    judged: Judged,
    activations: Activations,
    concepts: Concepts,
    best: pd.DataFrame,
    variables: Mapping[str, tuple[str, ...]],
) -> dict[str, Figure]:
    """What clamping the best latent of a concept makes of the states of test rows on which the concept is false.

    x + (v - a_j) d_j, v the mean activation of latent j where the concept holds on training rows. reached: the share of
    rows in whose part for the variable the entry of the concept's value is then as large as any (the value that held
    before is not taken away); spared: of the states of the other variables, the largest entries of their parts, that
    stay. Both are means over concepts `variable=value`, beside those
    of the same amount along the next row of the decoder (`shuffled`). best: `seed`, `concept`, `best_latent`.
    """
    rows = rows_of(activations, concepts)
    test = rows["test"].numpy()
    ends = np.cumsum([len(values) for values in variables.values()])
    parts = {name: slice(end - len(variables[name]), end) for name, end in zip(variables, ends, strict=True)}
    found: dict[str, dict[str, list[float]]] = {kind: {"trained": [], "shuffled": []} for kind in ("reached", "spared")}
    for seed, sae in zip(judged.seed_set.seeds, judged.saes, strict=True):
        latents = best[best["seed"] == seed].set_index("concept")["best_latent"]
        acts = {split: encode(sae, some) for split, some in rows.items()}
        decoder = sae.W_dec.detach().numpy()
        means: dict[str, dict[str, list[float]]] = {
            kind: {"trained": [], "shuffled": []} for kind in ("reached", "spared")
        }
        for c, name in enumerate(concepts.names):
            variable, _, value = name.partition("=")
            if variable not in variables:  # variable!=value says of no value that it holds
                continue
            j = int(latents[name])
            off = ~concepts.test[:, c] & (test[:, parts[variable]] > 0).any(axis=1)
            on = acts["train"][concepts.train[:, c], j]
            amount = (on[on > 0].mean() if (on > 0).any() else 0.0) - acts["test"][off, j]
            for arm, row in (("trained", decoder[j]), ("shuffled", decoder[(j + 1) % len(decoder)])):
                after = test[off] + amount[:, None] * row
                own = after[:, parts[variable]]
                of_value = own[:, variables[variable].index(value)]
                means["reached"][arm].append(float((of_value >= own.max(axis=1) - EVEN).mean()))
                kept = [_kept(test[off][:, part], after[:, part]) for of, part in parts.items() if of != variable]
                means["spared"][arm].append(float(np.mean(kept)) if kept else 1.0)
        for kind, by_arm in means.items():
            for arm, values in by_arm.items():
                found[kind][arm].append(float(np.mean(values)))
    return {kind: figure(by_arm.pop("trained"), judged.groups, by_arm) for kind, by_arm in found.items()}


def _kept(before: Array, after: Array) -> float:
    """The share of rows [rows, n_values] with a state that have the same one afterwards."""
    known = (before > 0).any(axis=1)
    return float((before[known].argmax(axis=1) == after[known].argmax(axis=1)).mean()) if known.any() else 1.0
