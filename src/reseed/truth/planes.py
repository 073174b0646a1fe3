"""Addition modulo p: the truth is a set of planes, and a latent is right if its decoder row lies in one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import subspace_angles

from reseed.artifacts import derive_seed
from reseed.matching import Array
from reseed.params import Stability
from reseed.stability.dictionaries import Dictionary
from reseed.stability.nulls import CovarianceNull, isotropic
from reseed.stability.recovery import RECOVERED_COSINE
from reseed.truth.concepts import Concepts
from reseed.truth.detection import Probed
from reseed.truth.figures import Figure, constant, figure
from reseed.truth.peers import Peer
from reseed.truth.states import Detected, Rows, latent_rows, split_and_absorbed
from reseed.truth.subject import Judged, Scores, decoder_of

SPLITTING = "latents_per_plane"
FIGURES = ("plane_cosine", "planes", "correct", SPLITTING)


@dataclass(frozen=True)
class Waves:
    """Mean activation of every answer as a sum of waves over the answer: what a model of addition encodes it by.

    frequencies: of the waves. constant [d_in]; cosine, sine [n_frequencies, d_in]: their amplitudes.
    """

    p: int
    frequencies: tuple[int, ...]
    constant: Array
    cosine: Array
    sine: Array

    @classmethod
    def of(cls, rows: Array, answers: NDArray[np.int64], p: int, frequencies: tuple[int, ...]) -> Waves:
        """Least squares on the mean rows [d_in] of the answers that there are (Nanda et al. 2023, arXiv 2301.05217).

        With every answer there, it is their discrete Fourier transform at these frequencies.
        """
        present = np.unique(answers)
        means = np.array([rows[answers == answer].mean(axis=0) for answer in present])
        found = np.linalg.lstsq(_design(present, p, frequencies), means)[0]
        return cls(p, frequencies, found[0], found[1::2], found[2::2])

    def planes(self) -> Array:
        """Orthonormal bases [n_frequencies, 2, d_in] of the planes in which an answer goes round a circle."""
        pairs = np.stack([self.cosine, self.sine], axis=1)
        return np.array([np.linalg.qr(pair.T)[0].T for pair in pairs]).reshape(pairs.shape)

    def roundness(self) -> Array:
        """Short over long axis [n_frequencies] of these circles: near 0 the truth is a line, and no plane."""
        pairs = np.stack([self.cosine, self.sine], axis=1)
        axes = np.linalg.svd(pairs, compute_uv=False)
        return np.asarray(axes[:, 1] / axes[:, 0])

    def r2(self, rows: Array, answers: NDArray[np.int64]) -> float:
        """Share of the variance of rows [rows, d_in] that these waves explain, fitted elsewhere or not."""
        amplitudes = np.vstack([self.constant, *np.stack([self.cosine, self.sine], axis=1)])
        left = rows - _design(answers, self.p, self.frequencies) @ amplitudes
        return float(1 - np.square(left).sum() / np.square(rows - rows.mean(axis=0)).sum())


def _design(answers: NDArray[np.int64], p: int, frequencies: tuple[int, ...]) -> Array:
    phases = 2 * math.pi * np.outer(answers, frequencies) / p
    waves = np.stack([np.cos(phases), np.sin(phases)], axis=2).reshape(len(answers), -1)
    return np.hstack([np.ones((len(answers), 1)), waves])


def plane_cosines(decoder: Array, planes: Array) -> Array:
    """Cosines [n, n_planes] of the angles between unit rows [n, d_in] and planes: the root of their energy share."""
    return np.asarray(np.linalg.norm(np.einsum("nd,ped->npe", decoder, planes), axis=2))


@dataclass(frozen=True)
class Recovered:
    """cosine [n]: of every row to its nearest plane, and which that is [n]. cosines [n_planes, 2]: of the principal
    angles between every plane and the one that is spanned by the rows nearest to it. latents [n_planes]: how many rows
    have a cosine above 0.8 to it."""

    cosine: Array
    nearest: NDArray[np.intp]
    cosines: Array
    latents: NDArray[np.int64]

    def figures(self) -> dict[str, float]:
        """plane_cosine: the mean over planes of the cosine of the larger principal angle. planes: the share of planes
        with both cosines above 0.8, which are found. correct: the share of rows with a cosine above 0.8 to a plane.
        latents_per_plane: the mean of `latents` over the planes found, of which two span one; left out if none is."""
        both = self.cosines.min(axis=1)
        found = both > RECOVERED_COSINE
        figures = {
            "plane_cosine": float(both.mean()),
            "planes": float(found.mean()),
            "correct": float((self.cosine > RECOVERED_COSINE).mean()),
        }
        return figures | ({SPLITTING: float(self.latents[found].mean())} if found.any() else {})


def recover_planes(decoder: Array, planes: Array) -> Recovered:
    """Which planes unit decoder rows [n, d_in] recover, n at least 2.

    The rows of a plane are those with a cosine above 0.8 to it, and at least the two with the most energy in it; their
    plane is that of their two leading (uncentred) principal directions, compared with the true one by the principal
    angles (Bjorck and Golub 1973; scipy.linalg.subspace_angles). A single wave is no plane, and neither are two rows of
    one direction: the second principal angle is then whatever is left.
    """
    cosine = plane_cosines(decoder, planes)
    latents = (cosine > RECOVERED_COSINE).sum(axis=0)
    angles = []
    for place, plane in enumerate(planes):
        order = np.argsort(-cosine[:, place], kind="stable")
        rows = decoder[order[: max(2, int(latents[place]))]]
        span = np.linalg.svd(rows, full_matrices=False)[2][:2]
        angles.append(np.sort(np.cos(subspace_angles(plane.T, span.T)))[::-1])
    return Recovered(cosine.max(axis=1), cosine.argmax(axis=1), np.array(angles), latents)


def score_planes(
    judged: Judged,
    waves: Waves,
    of_control: Waves,
    r2: tuple[float, float],
    least_r2: float,
    again: Waves,
    detected: Detected,
    answers: Concepts,
    probes: list[Probed],
    rows: tuple[Rows, Rows],
    peers: dict[str, Peer],
    options: Stability,
    key: str,
) -> Scores:
    """Judge SAEs by the planes of their model.

    of_control: the waves of the rows that the control SAEs read. r2: of the held-out rows, by the model's waves and by
    those of the control's rows; below `least_r2` there is no such truth, and nothing is scored. again: the waves of the
    test rows, whose planes are the ceiling. detected: the answers by single latents, which planes do not tell: a latent
    for every answer is a detector of it, and lies across all planes; probes: of the whole row, its ceiling. rows: what
    the SAEs and those of the control read. Splitting and absorption are of the answers too, which exclude each other as
    the values of a world's variable do. That of planes, `latents_per_plane`, stands only beside nulls that find a plane
    in every seed (and draw), and not at all where a seed of the SAE finds none.
    """
    groups = judged.groups
    figures = {name: found for name, found in detected.figures(groups, probes, answers).items() if name != "correct"}
    figures |= split_and_absorbed(detected, *rows, probes, answers, peers, groups).figures
    figures["fourier_r2"] = Figure(constant(r2[0], groups), {"control": constant(r2[1], groups)})
    facts: dict[str, Any] = {
        "truth": "planes",
        "detected": "coverage, recall, purity, enrichment, monosemanticity, splitting, absorption are of the answers",
        "frequencies": list(waves.frequencies),
        "testable": int(r2[0] >= least_r2 and len(waves.frequencies) > 0),
    }
    if not facts["testable"]:
        figures = {"fourier_r2": figures["fourier_r2"]}
        columns = ["seed", "latent", "alive", "concept", "plane_cosine", "correct"]
        return Scores(figures, pd.DataFrame(columns=columns), pd.DataFrame(columns=["seed", "concept"]), facts)
    planes, control_planes = waves.planes(), of_control.planes()
    names = [f"frequency={frequency}" for frequency in waves.frequencies]
    alive = [one.select(mask) for one, mask in zip(judged.seed_set.final(), judged.masks, strict=True)]
    gaussian = CovarianceNull.of(alive)
    own: dict[str, list[dict[str, float]]] = {}
    latents, concepts = [], []
    for place, seed in enumerate(judged.seed_set.seeds):
        mask, random = judged.masks[place], np.random.default_rng(derive_seed("truth", key, seed))
        found = recover_planes(alive[place].decoder, planes)
        one = {
            "trained": found.figures(),
            "untrained": recover_planes(decoder_of(judged.untrained[place])[mask], planes).figures(),
            "control": recover_planes(
                decoder_of(judged.control[place])[judged.control_masks[place]], control_planes
            ).figures(),
        }
        n, d_in = alive[place].decoder.shape
        for null, drawn in (
            ("isotropic", [isotropic(n, d_in, random) for _ in range(options.null_draws)]),
            ("covariance", [gaussian.draw(n, random) for _ in range(options.null_draws)]),
        ):
            one[null] = _mean_figures(drawn, planes)
        for name, values in one.items():
            own.setdefault(name, []).append(values)
        seen, by_latent = detected.seen["trained"][place], detected.found["trained"][place]
        by_answer = latent_rows(seed, mask, seen, by_latent, detected.permuted[place], answers)
        by_answer = by_answer.rename(columns={"concept": "answer"})
        latents.append(_latent_rows(seed, mask, found, names).merge(by_answer.drop(columns="correct")))
        concepts.append(_plane_rows(seed, mask, alive[place].decoder, planes, found, names))
    at_peers = {name: recover_planes(peer.atoms, planes).figures() for name, peer in peers.items()}
    # not a decoder: the planes of other rows of the same model are as near as rows can tell
    apart = np.array([
        np.cos(subspace_angles(a.T, b.T)).min() for a, b in zip(planes, again.planes(), strict=True)
    ])  # fmt: skip
    ceiling = {"plane_cosine": float(apart.mean()), "planes": float((apart > RECOVERED_COSINE).mean())}
    for name in FIGURES:
        shown = {peer: values[name] for peer, values in at_peers.items() if name in values}
        shown |= {"held_out_planes": ceiling[name]} if name in ceiling else {}
        by_arm = {arm: [one[name] for one in every] for arm, every in own.items() if all(name in one for one in every)}
        if trained := by_arm.pop("trained", None):
            figures[name] = figure(trained, groups, by_arm, shown, more_is_better=name != SPLITTING)
    facts |= {"roundness": {name: float(value) for name, value in zip(names, waves.roundness(), strict=True)}}
    return Scores(figures, pd.concat(latents, ignore_index=True), pd.concat(concepts, ignore_index=True), facts)


def _mean_figures(drawn: list[Dictionary], planes: Array) -> dict[str, float]:
    found = [recover_planes(one.decoder, planes).figures() for one in drawn]
    return {name: float(np.mean([one[name] for one in found])) for name in FIGURES if all(name in one for one in found)}


def _latent_rows(seed: int, mask: NDArray[np.bool_], found: Recovered, names: list[str]) -> pd.DataFrame:
    table = pd.DataFrame({"seed": seed, "latent": np.arange(len(mask)), "alive": mask})
    table["concept"] = None
    table.loc[mask, "concept"] = np.array(names, dtype=object)[found.nearest]
    table["plane_cosine"] = np.nan
    table.loc[mask, "plane_cosine"] = found.cosine
    table["correct"] = (table["plane_cosine"] > RECOVERED_COSINE).astype(int)
    return table


def _plane_rows(
    seed: int, mask: NDArray[np.bool_], decoder: Array, planes: Array, found: Recovered, names: list[str]
) -> pd.DataFrame:
    cosine = plane_cosines(decoder, planes)
    return pd.DataFrame(
        {
            "seed": seed,
            "concept": names,
            "best_latent": np.flatnonzero(mask)[cosine.argmax(axis=0)],
            "best_cosine": cosine.max(axis=0),
            "latents": found.latents,
            "smaller_angle_cosine": found.cosines[:, 0],
            "larger_angle_cosine": found.cosines[:, 1],
        }
    )
