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
from reseed.stability.jackknife import Groups, mean_over_seeds
from reseed.stability.recovery import recover, recovery
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
    probed,
    sparse_probes,
)
from reseed.truth.figures import Figure, figure, of_report
from reseed.truth.peers import Peer
from reseed.truth.subject import Judged, Scores, decoder_of

KNOWN_F1 = 0.6
"""Absorption is asked of concepts that a linear probe knows that well (SAEBench)."""
ABSORBING_COSINE, ABSORBING_SHARE = 0.1, 0.4
"""An absorbing latent's cosine to the probe, and its share of the row's projection on it, at least (SAEBench)."""
ABSORBED = 0.05
"""A concept counts as absorbed if more than this share of the rows that a probe sees it on is."""
KS = (2, 5)
FEWER_IS_BETTER = ("latents_per_concept", "split_concepts", "absorption", "absorbed_concepts")


Rows = dict[str, torch.Tensor]
"""Rows [rows, d_in] of train and test on which the concepts are known."""


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


@dataclass(frozen=True)
class Detected:
    """By arm (trained, untrained, control), one a seed: what an SAE does on the rows, and how it detects the concepts.

    permuted: what the trained SAE makes of permuted concepts. peers: of units that no sparse training made.
    """

    seen: dict[str, list[Seen]]
    found: dict[str, list[Detection]]
    permuted: list[Permuted]
    peers: dict[str, Detection]

    def figures(self, groups: Groups, probes: Sequence[Probed], concepts: Concepts) -> dict[str, Figure]:
        """FIGURES beside their nulls and peers; probes: one a concept, on the whole row, the ceiling."""
        own = {arm: [one.figures() for one in every] for arm, every in self.found.items()}
        trained = own.pop("trained")
        own["permuted"] = [one.figures for one in self.permuted]
        peers = {name: one.figures() for name, one in self.peers.items()} | {"linear_probe": probed(probes, concepts)}
        return {
            name: figure(
                [one[name] for one in trained],
                groups,
                {null: [one[name] for one in every] for null, every in own.items()},
                {peer: values[name] for peer, values in peers.items()},
            )
            for name in FIGURES
        }


@dataclass(frozen=True)
class Split:
    """Figures of splitting and absorption; by arm, one a seed, and by peer: probes on few units, absorbed shares."""

    figures: dict[str, Figure]
    sparse: dict[str, list[Sparse]]
    peers: dict[str, Sparse]
    absorbed: dict[str, list[dict[int, float]]]


def detect_by_arm(
    judged: Judged,
    rows: Rows,
    control: Rows,
    concepts: Concepts,
    peers: dict[str, Peer],
    permutations: int,
    key: str,
) -> Detected:
    """All SAEs as detectors of the concepts; control: the rows that the control SAEs are read on.

    Of trained SAEs the alive latents count, of untrained ones all: the null is the stricter for it.
    """
    everything = [np.ones_like(mask) for mask in judged.masks]
    arms = {
        "trained": (judged.saes, judged.masks, rows),
        "untrained": (judged.untrained, everything, rows),
        "control": (judged.control, judged.control_masks, control),
    }
    seen = {
        arm: [look(sae, mask, read) for sae, mask in zip(saes, masks, strict=True)]
        for arm, (saes, masks, read) in arms.items()
    }
    found = {arm: [detect(one.firing, concepts) for one in every] for arm, every in seen.items()}
    permuted = [
        permutation_null(
            one.firing, concepts, own, permutations, np.random.default_rng(derive_seed("truth", key, seed, "permuted"))
        )
        for seed, one, own in zip(judged.seed_set.seeds, seen["trained"], found["trained"], strict=True)
    ]
    return Detected(seen, found, permuted, {name: detect(peer.firing(), concepts) for name, peer in peers.items()})


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
    groups = judged.groups
    rows = rows_of(activations, concepts)
    of_control = rows if control is activations else rows_of(control, concepts)
    detected = detect_by_arm(judged, rows, of_control, concepts, peers, truth.permutations, key)
    train = rows["train"].double().numpy()
    probes = linear_probes(train, rows["test"].double().numpy(), concepts)
    ceiling = np.array([one.f1 for one in probes])
    split = split_and_absorbed(detected, rows, of_control, probes, concepts, peers, groups)
    sparse, sparse_peers, absorbed = split.sparse, split.peers, split.absorbed
    figures = detected.figures(groups, probes, concepts) | split.figures
    directions = mean_differences(train, concepts)
    recovered = recover(judged.seed_set, directions, options, f"truth/{key}").figures
    at_peers = {name: recovery(peer.dictionary, directions)["gt_mcc"] for name, peer in peers.items()}
    at_peers["linear_probe"] = recovery(unit_rows(np.array([one.direction for one in probes])), directions)["gt_mcc"]
    figures["gt_mcc"] = of_report(recovered["gt_mcc"], groups, at_peers)
    known_by_mean = mean_differences(of_control["train"].double().numpy(), concepts)
    figures["gt_mcc"].nulls["control"] = mean_over_seeds(
        [
            recovery(decoder_of(sae)[mask], known_by_mean)["gt_mcc"]
            for sae, mask in zip(judged.control, judged.control_masks, strict=True)
        ],
        groups,
    )
    facts: dict[str, Any] = {
        "truth": "states",
        "directions": "gt_mcc is of the differences of class means, not of known directions",
        "concepts": len(concepts),
        "concepts_untested": concepts.untested,
        "rows": {"train": len(train), "test": len(rows["test"])},
        "variables": _variables(detected, sparse, sparse_peers, ceiling, concepts, groups, options.confidence),
    }
    latents = [
        latent_rows(seed, mask, seen, found, null, concepts)
        for seed, mask, seen, found, null in zip(
            judged.seed_set.seeds, judged.masks, detected.seen["trained"], detected.found["trained"], detected.permuted,
            strict=True,
        )
    ]  # fmt: skip
    tables = [
        _concept_rows(seed, seen, found, own_probes, shares, ceiling, concepts)
        for seed, seen, found, own_probes, shares in zip(
            judged.seed_set.seeds, detected.seen["trained"], detected.found["trained"], sparse["trained"],
            absorbed["trained"], strict=True,
        )
    ]  # fmt: skip
    return Scores(figures, pd.concat(latents, ignore_index=True), pd.concat(tables, ignore_index=True), facts)


def split_and_absorbed(
    detected: Detected,
    rows: Rows,
    control: Rows,
    probes: Sequence[Probed],
    concepts: Concepts,
    peers: dict[str, Peer],
    groups: Groups,
) -> Split:
    """How concepts are split over latents and absorbed by others; rows, control and peers as for `detect_by_arm`."""
    sparse = {
        arm: [sparse_probes(one.train, one.test, concepts) for one in every] for arm, every in detected.seen.items()
    }
    of_peers = {name: sparse_probes(peer.train, peer.test, concepts) for name, peer in peers.items()}
    arms = {"trained": rows, "untrained": rows, "control": control}
    absorbed = {}
    for arm, read in arms.items():
        train, test = (read[split].double().numpy() for split in ("train", "test"))
        known = probes if read is rows else linear_probes(train, test, concepts)
        absorbed[arm] = [
            absorption(one, own, known, test - train.mean(axis=0), concepts)
            for one, own in zip(detected.seen[arm], sparse[arm], strict=True)
        ]
    own = {
        arm: [_splitting(one) | _absorbing(shares) for one, shares in zip(sparse[arm], absorbed[arm], strict=True)]
        for arm in arms
    }
    figures = {}
    for name in own["trained"][0]:
        values = {arm: [one[name] for one in every] for arm, every in own.items() if all(name in one for one in every)}
        if trained := values.pop("trained", None):
            figures[name] = figure(trained, groups, values, more_is_better=name not in FEWER_IS_BETTER)
    for peer, found in of_peers.items():
        for name, value in _splitting(found).items():
            figures[name].peers[peer] = value
    for k in KS:
        figures[f"f1_best_{k}"].peers["linear_probe"] = float(np.mean([one.f1 for one in probes]))
    return Split(figures, sparse, of_peers, absorbed)


def rows_of(activations: Activations, concepts: Concepts) -> Rows:
    """The rows [rows, d_in] on which the concepts are known, of train and test."""
    places = {"train": concepts.train_places, "test": concepts.test_places}
    return {split: activations.rows(split).take(of_split).float() for split, of_split in places.items()}


def look(sae: SAE[Any], mask: Mask, rows: Rows) -> Seen:
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


def _splitting(sparse: Sparse) -> dict[str, float]:
    return {f"f1_best_{k}": float(sparse.best(k).mean()) for k in KS} | {
        "latents_per_concept": float(sparse.splits.mean()),
        "split_concepts": float((sparse.splits > 1).sum()),
    }


def _absorbing(shares: dict[int, float]) -> dict[str, float]:
    rates = np.array(list(shares.values()))
    if not len(rates):
        return {}
    return {"absorption": float(rates.mean()), "absorbed_concepts": float((rates > ABSORBED).sum())}


def _variables(
    detected: Detected,
    sparse: dict[str, list[Sparse]],
    sparse_peers: dict[str, Sparse],
    ceiling: Array,
    concepts: Concepts,
    groups: Groups,
    confidence: float,
) -> dict[str, Any]:
    """Mean F1 over the concepts of every variable: by the best latent of each, and by probes on the best k."""
    shown: dict[str, Any] = {}
    for variable in dict.fromkeys(concepts.variables):
        of = np.array([name == variable for name in concepts.variables])
        values = {"best": {arm: [float(one.f1[of].mean()) for one in every] for arm, every in detected.found.items()}}
        peers = {"best": {name: float(one.f1[of].mean()) for name, one in detected.peers.items()}}
        for k in KS:
            peers[f"best_{k}"] = {name: float(one.best(k)[of].mean()) for name, one in sparse_peers.items()}
            values[f"best_{k}"] = {
                arm: [float(one.best(k)[of].mean()) for one in every] for arm, every in sparse.items()
            }
        shown[variable] = {
            name: figure(by_arm.pop("trained"), groups, by_arm, peers[name]).shown(confidence)
            for name, by_arm in values.items()
        } | {"linear_probe": float(ceiling[of].mean())}
    return shown


def latent_rows(
    seed: int, mask: Mask, seen: Seen, found: Detection, null: Permuted, concepts: Concepts
) -> pd.DataFrame:
    """One row a latent, dead ones with nothing but their place."""
    table = pd.DataFrame({"seed": seed, "latent": np.arange(len(mask)), "alive": mask})
    own = {
        "concept": np.array(concepts.names, dtype=object)[found.own],
        "train_f1": found.own_train_f1,
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
    ceiling: Array,
    concepts: Concepts,
) -> pd.DataFrame:
    """One row a concept: its best latent, F1 by it and by probes, into how many latents it is split."""
    return pd.DataFrame(
        {
            "seed": seed,
            "concept": concepts.names,
            "variable": concepts.variables,
            "base_rate": concepts.test.mean(axis=0),
            "best_latent": seen.latents[found.best],
            "train_f1": found.train_f1,
            "test_f1": found.f1,
            **{f"test_f1_best_{k}": sparse.best(k) for k in KS},
            "linear_probe_f1": ceiling,
            "splits": sparse.splits,
            "absorption": [absorbed.get(c, np.nan) for c in range(len(concepts))],
        }
    )
