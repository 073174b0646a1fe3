"""Worlds of known directions: recovery as `stability.recovery` has it, by latent and beside more peers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from reseed.matching import Array, cosines
from reseed.params import Stability
from reseed.stability.arms import Activity
from reseed.stability.jackknife import mean_over_seeds
from reseed.stability.recovery import RECOVERED_COSINE, recover, recovery
from reseed.truth.concepts import Concepts
from reseed.truth.figures import figure, of_report
from reseed.truth.peers import Peer
from reseed.truth.states import detect_by_arm, linear_probes, split_and_absorbed
from reseed.truth.subject import Judged, Scores, decoder_of


def score_directions(
    judged: Judged,
    directions: Array,
    codes: Array,
    activity: Activity,
    rows: Array,
    peers: dict[str, Peer],
    permutations: int,
    options: Stability,
    key: str,
) -> Scores:
    """Judge SAEs by known unit directions [m, d_in].

    codes [rows, m] and activity, of the same test rows [rows, d_in]. Training rows have no codes: what detects a
    feature, that is that its code is above zero, is chosen on the first half of these rows and scored on the second, so
    are linear probes, the ceiling. SAEs of the control arm are read on the same rows.
    """
    groups = judged.groups
    report = recover(judged.seed_set, directions, options, f"truth/{key}", activity, codes).figures
    control = [
        recovery(decoder_of(sae)[mask], directions)
        for sae, mask in zip(judged.control, judged.control_masks, strict=True)
    ]
    at_peers = {name: recovery(peer.dictionary, directions) for name, peer in peers.items()}
    figures = {}
    for name, of_arm in report.items():
        found = of_report(of_arm, groups, {peer: values[name] for peer, values in at_peers.items() if name in values})
        if name in control[0]:
            found.nulls["control"] = mean_over_seeds([one[name] for one in control], groups)
        figures[name] = found
    on = codes > 0
    features = active_features(on)
    half = len(features.train)
    read = {"train": torch.from_numpy(rows[:half]).float(), "test": torch.from_numpy(rows[half:]).float()}
    halves = {name: replace(peer, train=peer.test[:half], test=peer.test[half:]) for name, peer in peers.items()}
    detected = detect_by_arm(judged, read, read, features, halves, permutations, key)
    probes = linear_probes(rows[:half], rows[half:], features)
    # recall and correct are those of directions, and not of detectors
    figures |= {
        name: found
        for name, found in detected.figures(groups, probes, features).items()
        if name not in ("recall", "correct")
    }
    figures |= split_and_absorbed(detected, read, read, probes, features, halves, groups).figures
    figures["f1"].peers["linear_probe"] = float(np.mean([one.f1 for one in probes]))
    latents, concepts = [], []
    shares: dict[str, list[float]] = {"trained": [], "untrained": [], "control": []}
    for place, seed in enumerate(judged.seed_set.seeds):
        mask = judged.masks[place]
        similarity = cosines(decoder_of(judged.saes[place])[mask], directions)
        for name, decoder in (
            ("trained", decoder_of(judged.saes[place])[mask]),
            ("untrained", decoder_of(judged.untrained[place])[mask]),
            ("control", decoder_of(judged.control[place])[judged.control_masks[place]]),
        ):
            shares[name].append(float((cosines(decoder, directions).max(axis=1) > RECOVERED_COSINE).mean()))
        table = pd.DataFrame({"seed": seed, "latent": np.arange(len(mask)), "alive": mask, "concept": None})
        table.loc[mask, "concept"] = [f"feature={best}" for best in similarity.argmax(axis=1)]
        table["cosine"] = np.nan
        table.loc[mask, "cosine"] = similarity.max(axis=1)
        table["correct"] = (table["cosine"] > RECOVERED_COSINE).astype(int)
        latents.append(table)
        concepts.append(
            pd.DataFrame(
                {
                    "seed": seed,
                    "concept": [f"feature={feature}" for feature in range(len(directions))],
                    "base_rate": on.mean(axis=0),
                    "best_latent": np.flatnonzero(mask)[similarity.argmax(axis=0)],
                    "cosine": similarity.max(axis=0),
                    "latents": (similarity > RECOVERED_COSINE).sum(axis=0),
                }
            )
        )
    figures["correct"] = figure(shares.pop("trained"), groups, shares)
    return Scores(
        figures,
        pd.concat(latents, ignore_index=True),
        pd.concat(concepts, ignore_index=True),
        {
            "truth": "directions",
            "features": len(directions),
            "features_untested": features.untested,
            "detected": "coverage to absorption are of features that are on, on the second half of the rows with codes",
        },
    )


def active_features(on: NDArray[np.bool_]) -> Concepts:
    """The statements that a feature is on [rows, m], chosen on the first half of the rows, judged on the second.

    One is tested if it is on in either half and not always. Rows are drawn independently: each is a sequence.
    """
    half = len(on) // 2
    train, test = on[:half], on[half:]
    known = np.flatnonzero(train.any(0) & test.any(0) & ~train.all(0) & ~test.all(0))
    names = tuple(f"feature={feature}" for feature in known)
    places = torch.arange(len(on))
    return Concepts(
        names, names, train[:, known], test[:, known], 1, places[:half], places[half:], on.shape[1] - len(known)
    )
