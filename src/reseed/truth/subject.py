"""What all scores of a seed set share: its SAEs beside untrained ones and those of a control arm; their fidelity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sae_lens import SAE
from scipy.stats import binomtest

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import read_json
from reseed.matching import Array, unit_rows
from reseed.params import GAUSSIAN, RouteSae, SkipTranscoder, Stability, Transcoder, Variant
from reseed.saes.export import evaluate
from reseed.stability.arms import alive_masks
from reseed.stability.dictionaries import SeedSet
from reseed.stability.jackknife import Groups, mean_over_seeds
from reseed.truth.concepts import Mask
from reseed.truth.figures import Figure, constant, figure
from reseed.truth.peers import explained_by_components


@dataclass(frozen=True)
class Judged:
    """The SAEs of a seed set, one a seed, with what each is held against.

    untrained: the SAE that the seed trained from. control: the same seed's SAE of the control arm; control_arm names
    it. masks, control_masks: alive latents [d_sae].
    """

    seed_set: SeedSet
    saes: list[SAE[Any]]
    untrained: list[SAE[Any]]
    control: list[SAE[Any]]
    control_arm: str
    masks: list[Mask]
    control_masks: list[Mask]

    @property
    def groups(self) -> Groups:
        return self.seed_set.groups

    @classmethod
    def of(
        cls,
        seed_set: SeedSet,
        pairs: list[tuple[SAE[Any], SAE[Any]]],
        control: SeedSet,
        control_path: Path,
        control_arm: str,
        options: Stability,
        key: str,
    ) -> Judged:
        """pairs: every seed's (SAE, untrained SAE); control_path: models/<subject>/<variant>@<control_arm>."""
        saes, untrained = [list(every) for every in zip(*pairs, strict=True)]
        controls = [
            SAE.load_from_disk(control_path / f"seed_{seed}", device="cpu").requires_grad_(False)
            for seed in control.seeds
        ]
        return cls(
            seed_set,
            saes,
            untrained,
            controls,
            control_arm,
            alive_masks(seed_set, options, key),
            alive_masks(control, options, f"{key}@{control_arm}"),
        )


@dataclass(frozen=True)
class Scores:
    """What a kind of truth says: figures, tables with one row a seed and latent, and a seed and concept, and facts."""

    figures: dict[str, Figure]
    latents: pd.DataFrame
    concepts: pd.DataFrame
    facts: dict[str, Any]


def check_scorable(variant: Variant, subject: str) -> None:
    """Raise ReseedError for a variant that does not reconstruct the one hook point that it reads."""
    if isinstance(variant, Transcoder | SkipTranscoder | RouteSae):
        raise ReseedError(
            f"{subject}: variant of the architecture {variant.architecture!r}, allowed in `scored`: one that "
            "reconstructs the one hook point that it reads"
        )


def control_rows(trained: Activations, control: Activations) -> Activations:
    """The rows on which the SAEs of the control arm are read.

    A model with random weights reads the same tokens, so that its rows have the states of the trained model's (as the
    SAEs on a random GPT of Karvonen et al. 2024, arXiv 2408.00113). Gaussian noise has none: what was learned from it
    is read on the rows of the trained model. Raises ReseedError if the control read other tokens.
    """
    if control.index["arm"] == GAUSSIAN:
        return trained
    found, wanted = (str(arm.index["tokens_sha256"]) for arm in (control, trained))
    if found != wanted:
        raise ReseedError(
            f"data/{trained.index['subject']}/activations/{control.index['arm']}: tokens_sha256: found {found[:12]}…, "
            f"allowed: {wanted[:12]}…, that of the trained arm, so that a row has the same state"
        )
    return control


def decoder_of(sae: SAE[Any]) -> Array:
    """Unit decoder rows [d_sae, d_in]."""
    return unit_rows(sae.W_dec.detach().double().numpy())


def fidelity(
    judged: Judged, activations: Activations, control: Activations, train: Array, test: Array
) -> tuple[dict[str, Figure], float]:
    """Held-out explained variance (`fidelity`) with `l0` and `l0_over_d_in`; and the last one's value.

    All SAEs on all test rows, those of the control arm on `control` (see `control_rows`): how well the same recipe
    explains a model that learned nothing, and not how badly it explains rows of another size. pca_at_l0: as many
    principal components as latents fire. train, test: rows [rows, d_in] that these are fitted to and judged by.
    """
    groups = judged.groups
    found = {
        name: [evaluate(sae, rows.without_target()) for sae in saes]
        for name, saes, rows in (
            ("trained", judged.saes, activations),
            ("untrained", judged.untrained, activations),
            ("control", judged.control, control),
        )
    }
    explained = {name: [one["explained_variance"] for one in every] for name, every in found.items()}
    l0 = [one["l0"] for one in found["trained"]]
    components = explained_by_components(train, test, round(float(np.mean(l0))))
    density = figure([value / activations.d_in for value in l0], groups, {})
    figures = {
        "fidelity": figure(explained.pop("trained"), groups, explained, {"pca_at_l0": components}),
        "l0": figure(l0, groups, {}),
        "l0_over_d_in": density,
    }
    return figures, density.value.value


def accuracy(model: Path, groups: Groups) -> Figure | None:
    """Held-out accuracy of the trained model in models/<subject>/lm beside chance; None if it does not tell it."""
    if not (model / "metrics.json").is_file():
        return None
    metrics = read_json(model / "metrics.json")
    value, chance = metrics.get("accuracy"), metrics.get("chance_accuracy", 0.0)
    found = value.get("test") if isinstance(value, dict) else value
    if found is None:
        return None
    return Figure(constant(float(found), groups), {"chance": constant(float(chance), groups)})


def attention(model: Path, groups: Groups) -> Figure | None:
    """How much the best head of the model in models/<subject>/lm attends to where its algorithm must look.

    Beside even attention over all earlier positions and the best head of the untrained model; None where no such place
    is known.
    """
    found = read_json(model / "metrics.json").get("attention") if (model / "metrics.json").is_file() else None
    if found is None:
        return None
    nulls = {name: constant(float(found[name]), groups) for name in ("uniform", "untrained")}
    return Figure(constant(float(found["trained"]), groups), nulls)


def over_predictions(right: Figure, predictions: int, confidence: float) -> dict[str, Any]:
    """The accuracy as it stands in truth.json: it is of one model, so that seeds give it no interval.

    Its interval and that of its margin are the exact ones of a share of so many predictions (Clopper and Pearson 1934;
    scipy.stats.binomtest), which are taken as independent; chance is a fixed number. Rules read the share itself.
    """
    share, chance = right.value.value, right.nulls["chance"].value
    ends = binomtest(round(share * predictions), predictions).proportion_ci(confidence)
    low, high = float(ends.low), float(ends.high)
    content = right.shown(confidence) | {"low": low, "high": high, "exceeds_nulls": int(low > chance)}
    content["margin"] |= {"low": low - chance, "high": high - chance}
    return content


def alive_fraction(judged: Judged) -> Figure:
    return Figure(mean_over_seeds([float(mask.mean()) for mask in judged.masks], judged.groups))
