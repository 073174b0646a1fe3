"""Worlds of known directions: recovery as `stability.recovery` has it, by latent and beside more peers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reseed.matching import Array, cosines
from reseed.params import Stability
from reseed.stability.arms import Activity
from reseed.stability.jackknife import mean_over_seeds
from reseed.stability.recovery import RECOVERED_COSINE, recover, recovery
from reseed.truth.detection import probe
from reseed.truth.figures import figure, of_report
from reseed.truth.peers import Peer
from reseed.truth.subject import Judged, Scores, decoder_of


def score_directions(
    judged: Judged,
    directions: Array,
    codes: Array,
    activity: Activity,
    rows: Array,
    peers: dict[str, Peer],
    options: Stability,
    key: str,
) -> Scores:
    """Judge SAEs by known unit directions [m, d_in].

    codes [rows, m] and activity, of the same test rows [rows, d_in]. The ceiling of F1 is a linear probe on the first
    half of these rows, scored on the second, because training rows have no codes.
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
    half = len(rows) // 2
    on = codes > 0
    known = [c for c in range(on.shape[1]) if on[:half, c].any() and on[half:, c].any() and not on[:half, c].all()]
    figures["f1"].peers["linear_probe"] = float(
        np.mean([probe(rows[:half], rows[half:], on[:half, c], on[half:, c]).f1 for c in known])
    )
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
        {"truth": "directions", "features": len(directions)},
    )
