"""Clean claims on worlds of known features: a gate that refused them would be of no more use than one that cannot."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reseed.artifacts import read_json
from reseed.claims.registry import SLOTS
from reseed.params import TRAINED
from tests import scratch
from tests.conftest import ROOT, stage
from tests.faults import bases

SUBJECT, VARIANT, CLAIM = "world", "found", "recovers"
GATES = ["converged", "alive", "held_out", "between_groups", "multiplicity", "random_dictionary", "correctness"]


@dataclass(frozen=True)
class Positive:
    """A world of `n_features` in `d_in` dimensions, `l0` of them on in a row, and the SAE that should find them."""

    name: str
    n_features: int
    d_in: int
    l0: int
    seed: int
    variant: dict[str, Any]


def _positive(name: str, n: int, d_in: int, l0: int, seed: int, **variant: Any) -> Positive:
    return Positive(name, n, d_in, l0, seed, {"d_sae": n, "k": l0} | variant)


POSITIVES = (
    _positive("batchtopk_20_in_40", 20, 40, 3, 1, architecture="batchtopk"),
    _positive("batchtopk_16_in_40", 16, 40, 3, 2, architecture="batchtopk"),
    _positive("batchtopk_24_in_48", 24, 48, 3, 3, architecture="batchtopk"),
    _positive("batchtopk_20_in_24", 20, 24, 3, 4, architecture="batchtopk"),
    _positive("batchtopk_22_in_44", 22, 44, 3, 5, architecture="batchtopk"),
    _positive("batchtopk_30_in_40", 30, 40, 4, 6, architecture="batchtopk"),
    _positive("batchtopk_18_in_60", 18, 60, 3, 7, architecture="batchtopk"),
    _positive("batchtopk_20_in_32", 20, 32, 4, 8, architecture="batchtopk"),
    _positive("batchtopk_26_in_52", 26, 52, 3, 9, architecture="batchtopk"),
    _positive("matryoshka_16_in_32", 16, 32, 3, 10, architecture="matryoshka", widths=[8, 16]),
)


def show(positive: Positive, folder: Path) -> dict[str, Any]:
    """The verdict on the claim that the SAEs of five seeds agree and have found the features, made from nothing."""
    bases.parameters(folder)
    shutil.copy(ROOT / "subjects/superposition.yaml", folder / f"subjects/{SUBJECT}.yaml")
    rows = {"train": 8000, "validation": 1000, "test": 1000}
    data = {
        "generator": "superposition", "n_features": positive.n_features, "d_in": positive.d_in, "l0": positive.l0,
        "orthogonal": True, "magnitude_std": 0.2, "noise_std": 0.05, "rows": rows, "seed": positive.seed,
    }  # fmt: skip
    training = {"batch_size": 128, "warm_up_steps": 50, "min_steps": 2400, "max_steps": 8000, "check_every": 50}

    def world(subject: dict[str, Any]) -> None:
        subject["data"] = data
        subject["sae"] |= training

    scratch.edit(folder / f"subjects/{SUBJECT}.yaml", world)

    def found(params: dict[str, Any]) -> None:
        params["variants"] |= {VARIANT: positive.variant}
        params["train"]["seeds"] = [0, 1, 2, 3, 4]

    scratch.edit(folder / "params.yaml", found)
    path = f"metrics/{SUBJECT}/{VARIANT}/stability.json"
    claim = {
        "statement": "These SAEs agree across seeds, on features that are there.", "statistic": "pw_mcc",
        "unit": "kappa", "tests": [{"figure": "trained", "over": "each", "above": 0.5}], "evidence": [path] * SLOTS,
        "speaks_of": {f"{SUBJECT}/{VARIANT}": {"k": positive.l0}}, "minimum_seeds": 5, "gates": GATES,
        "registered": "a" * 40,
    }  # fmt: skip
    (folder / "claims.yaml").write_text(yaml.safe_dump({"claims": {CLAIM: claim}}))
    with bases.inside(folder):
        stage("synthesise")(SUBJECT)
        stage("train")(SUBJECT, VARIANT, TRAINED)
        stage("stability")(SUBJECT, VARIANT, TRAINED, TRAINED)
        stage("claims")("claims.yaml", CLAIM)
        return read_json(Path("metrics/claims") / f"{CLAIM}.json")
