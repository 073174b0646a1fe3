"""Worlds with exact states: latents as detectors of what holds, probes on a few of them, splitting and absorption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens import SAE

from reseed.activations.store import Activations
from reseed.artifacts import derive_seed
from reseed.matching import Array, unit_rows
from reseed.params import Stability, Truth
from reseed.stability.activity import encode
from reseed.stability.recovery import recover
from reseed.truth.concepts import Concepts, Mask
from reseed.truth.detection import (
    DETECTS_F1,
    FIGURES,
    GOOD_F1,
    Detection,
    Firing,
    Permuted,
    Probed,
    Sparse,
    detect,
    permutation_null,
    probe,
    sparse_probes,
)
from reseed.truth.figures import Figure, figure, of_report
from reseed.truth.peers import Peer
from reseed.truth.subject import Judged, Scores, decoder_of, rows_at

KNOWN_F1 = 0.6
"""Absorption is asked of concepts that a linear probe knows that well (SAEBench)."""
ABSORBING_COSINE, ABSORBING_SHARE = 0.1, 0.4
"""An absorbing latent's cosine to the probe, and its share of the row's projection on it, at least (SAEBench)."""
ABSORBED = 0.05
"""A concept counts as absorbed if more than this share of the rows that a probe sees it on is."""
KS = (2, 5)
FEWER_IS_BETTER = ("latents_per_concept", "split_concepts", "absorption", "absorbed_concepts")


@dataclass(frozen=True)
class Seen:
    """One SAE on the rows of the concepts: which latents [n] are alive, their activations [rows, n], decoder rows."""

    latents: NDArray[np.intp]
    train: Array
    test: Array
    decoder: Array

    @property
    def firing(self) -> Firing:
        """A latent fires where its activation is above zero, as SAELens' classification metrics have it."""
        return Firing(self.train > 0, self.test > 0)


def score_states(
    judged: Judged,
    activations: Activations,
    control: Activations,
    concepts: Concepts,
    peers: dict[str, Peer],
    truth: Truth,
    options: Stability,
    key: str,
) -> Scores:
    """Judge SAEs by the concepts of their world; `control` holds the rows that the control SAEs are read on."""
    rows = {split: rows_at(activations, split, places) for split, places in _places(concepts).items()}
    of_control = {split: rows_at(control, split, places) for split, places in _places(concepts).items()}
    train = rows["train"].double().numpy()
    probes = linear_probes(train, rows["test"].double().numpy(), concepts)
    centred = rows["test"].double().numpy() - train.mean(axis=0)

    own: dict[str, list[dict[str, float]]] = {"trained": [], "untrained": [], "control": [], "permuted": []}
    variables: dict[str, list[dict[str, float]]] = {name: [] for name in own if name != "permuted"}
    latents, tables = [], []
    for place, seed in enumerate(judged.seed_set.seeds):
        random = np.random.default_rng(derive_seed("truth", key, seed, "permuted"))
        for name, sae, mask, read in (
            ("trained", judged.saes[place], judged.masks[place], rows),
            ("untrained", judged.untrained[place], np.ones_like(judged.masks[place]), rows),
            ("control", judged.control[place], judged.control_masks[place], of_control),
        ):
            seen = look(sae, mask, read)
            found = detect(seen.firing, concepts)
            sparse = sparse_probes(seen.train, seen.test, concepts)
            # the control arm's rows are of another model, whose probes are not these
            absorbed = absorption(seen, sparse, probes, centred, concepts) if read is rows else {}
            own[name].append(found.figures() | _averages(sparse, absorbed))
            variables[name].append(_by_variable(found, sparse, concepts))
            if name == "trained":
                null = permutation_null(seen.firing, concepts, found, truth.permutations, random)
                own["permuted"].append(null.figures)
                latents.append(_latent_rows(seed, mask, seen, found, null, concepts))
                tables.append(_concept_rows(seed, seen, found, sparse, absorbed, probes, concepts))

    at_peers = {name: detect(peer.firing(), concepts) for name, peer in peers.items()}
    peer_figures = {name: found.figures() for name, found in at_peers.items()}
    ceiling = np.array([one.f1 for one in probes])
    peer_figures["linear_probe"] = {"coverage": float(ceiling.mean()), "recall": float((ceiling > GOOD_F1).mean())}
    groups = judged.groups

    def shown(name: str) -> Figure:
        nulls = {null: [one[name] for one in own[null]] for null in ("untrained", "control", "permuted")
                 if all(name in one for one in own[null])}  # fmt: skip
        found = {peer: figures[name] for peer, figures in peer_figures.items() if name in figures}
        return figure([one[name] for one in own["trained"]], groups, nulls, found, name not in FEWER_IS_BETTER)

    averages = [name for name in own["trained"][0] if all(name in one for one in own["trained"])]
    directions = mean_differences(train, concepts)
    recovered = recover(judged.seed_set, directions, options, f"truth/{key}").figures
    figures = {name: shown(name) for name in [*FIGURES, *(name for name in averages if name not in FIGURES)]}
    figures |= {"gt_mcc": of_report(recovered["gt_mcc"], groups)}
    facts: dict[str, Any] = {
        "truth": "states",
        "directions": "gt_mcc is of the differences of class means, not of known directions",
        "concepts": len(concepts),
        "concepts_untested": concepts.untested,
        "rows": {"train": len(concepts.train), "test": len(concepts.test)},
        "variables": {
            name: {
                k: Figure.shown(
                    figure([one[f"{name}/{k}"] for one in variables["trained"]], groups, {
                        null: [one[f"{name}/{k}"] for one in variables[null]] for null in ("untrained", "control")
                    }, _variable_peers(name, k, at_peers, ceiling, concepts)),
                    options.confidence,
                )
                for k in ("best", *(f"best_{k}" for k in KS))
            }
            for name in dict.fromkeys(concepts.variables)
        },
    }  # fmt: skip
    return Scores(figures, pd.concat(latents, ignore_index=True), pd.concat(tables, ignore_index=True), facts)


def _places(concepts: Concepts) -> dict[str, torch.Tensor]:
    return {"train": concepts.train_places, "test": concepts.test_places}


def look(sae: SAE[Any], mask: Mask, rows: dict[str, torch.Tensor]) -> Seen:
    """What the latents of `mask` [d_sae] do on rows [rows, d_in] of the splits."""
    train, test = (encode(sae, rows[split])[:, mask] for split in ("train", "test"))
    return Seen(np.flatnonzero(mask), train, test, decoder_of(sae)[mask])


def linear_probes(train: Array, test: Array, concepts: Concepts) -> list[Probed]:
    """The ceiling: a probe on the whole activation for every concept."""
    return [probe(train, test, concepts.train[:, c], concepts.test[:, c]) for c in range(len(concepts))]


def mean_differences(train: Array, concepts: Concepts) -> Array:
    """Unit directions [n_concepts, d_in] from the mean row where a concept is false to that where it holds."""
    return unit_rows(np.array([train[holds].mean(axis=0) - train[~holds].mean(axis=0) for holds in concepts.train.T]))


def absorption(
    seen: Seen, sparse: Sparse, probes: Sequence[Probed], centred: Array, concepts: Concepts
) -> dict[int, float]:
    """{concept: the share of its rows that are absorbed}, of the test rows on which a linear probe sees it.

    Chanin et al. 2024 (arXiv 2409.14507), by the rule of SAEBench's full absorption, with exact states in the place of
    first letters: none of the latents that the concept is split into fires, and the latent with the largest
    contribution along the probe has a cosine of 0.1 to it and gives 0.4 of the row's own projection (or more). Of
    concepts that the probe knows (F1 of 0.6) and these latents detect (F1 of 0.5). centred [rows, d_in]: the test rows
    about the mean of the training rows.
    """
    shares = {}
    for concept, known in enumerate(probes):
        splits = int(sparse.splits[concept])
        if known.f1 < KNOWN_F1 or sparse.f1[concept, splits - 1] < DETECTS_F1:
            continue
        rows = known.says & concepts.test[:, concept]
        direction = known.direction / np.linalg.norm(known.direction)
        cosine = seen.decoder @ direction
        contribution = seen.test[rows] * cosine
        silent = (seen.test[rows][:, sparse.latents[concept, :splits]] <= 0).all(axis=1)
        largest = contribution.argmax(axis=1)
        projection = centred[rows] @ direction
        given = contribution[np.arange(len(largest)), largest]
        absorbed = silent & (cosine[largest] >= ABSORBING_COSINE)
        absorbed &= (projection > 0) & (given >= ABSORBING_SHARE * projection)
        shares[concept] = float(absorbed.mean())
    return shares


def _averages(sparse: Sparse, absorbed: dict[int, float]) -> dict[str, float]:
    found = {f"f1_best_{k}": float(sparse.f1[:, min(k, sparse.f1.shape[1]) - 1].mean()) for k in KS}
    found |= {"latents_per_concept": float(sparse.splits.mean()), "split_concepts": float((sparse.splits > 1).sum())}
    if absorbed:
        rates = np.array(list(absorbed.values()))
        found |= {"absorption": float(rates.mean()), "absorbed_concepts": float((rates > ABSORBED).sum())}
    return found


def _by_variable(found: Detection, sparse: Sparse, concepts: Concepts) -> dict[str, float]:
    """Mean F1 over the concepts of every variable, by the best latent and by probes on the best k."""
    by_name: dict[str, float] = {}
    for name in dict.fromkeys(concepts.variables):
        own = np.array([variable == name for variable in concepts.variables])
        by_name[f"{name}/best"] = float(found.f1[own].mean())
        by_name |= {f"{name}/best_{k}": float(sparse.f1[own, min(k, sparse.f1.shape[1]) - 1].mean()) for k in KS}
    return by_name


def _variable_peers(
    name: str, k: str, at_peers: dict[str, Detection], ceiling: Array, concepts: Concepts
) -> dict[str, float]:
    own = np.array([variable == name for variable in concepts.variables])
    found = {"linear_probe": float(ceiling[own].mean())}
    return found | ({peer: float(one.f1[own].mean()) for peer, one in at_peers.items()} if k == "best" else {})


def _latent_rows(
    seed: int, mask: Mask, seen: Seen, found: Detection, null: Permuted, concepts: Concepts
) -> pd.DataFrame:
    """One row a latent, dead ones with nothing but their place."""
    table = pd.DataFrame({"seed": seed, "latent": np.arange(len(mask)), "alive": mask})
    train_f1 = detect(Firing(seen.firing.train, seen.firing.train), concepts).own_f1
    own = {
        "concept": np.array(concepts.names, dtype=object)[found.own],
        "train_f1": train_f1,
        "test_f1": found.own_f1,
        "purity": found.precision,
        "base_rate": found.base,
        "enrichment": found.enrichment,
        "purity_null": null.precision,
        "p": null.p,
        "monosemantic": found.monosemantic.astype(float),
    }
    for name, column in own.items():
        table[name] = None if name == "concept" else np.nan
        table.loc[seen.latents, name] = column
    table["correct"] = (table["test_f1"] > GOOD_F1).astype(int)
    return table


def _concept_rows(
    seed: int,
    seen: Seen,
    found: Detection,
    sparse: Sparse,
    absorbed: dict[int, float],
    probes: Sequence[Probed],
    concepts: Concepts,
) -> pd.DataFrame:
    """One row a concept: its best latent, F1 by it and by probes, into how many latents it is split."""
    train_f1 = detect(Firing(seen.firing.train, seen.firing.train), concepts).f1
    return pd.DataFrame(
        {
            "seed": seed,
            "concept": concepts.names,
            "variable": concepts.variables,
            "base_rate": concepts.test.mean(axis=0),
            "best_latent": seen.latents[found.best],
            "train_f1": train_f1,
            "test_f1": found.f1,
            **{f"test_f1_best_{k}": sparse.f1[:, min(k, sparse.f1.shape[1]) - 1] for k in KS},
            "linear_probe_f1": [one.f1 for one in probes],
            "splits": sparse.splits,
            "absorption": [absorbed.get(c, np.nan) for c in range(len(concepts))],
        }
    )
