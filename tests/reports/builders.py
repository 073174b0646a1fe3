"""A site's project of which every number is known: tables of latents, causal tests and P(correct), by rule."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from reseed.artifacts import (
    activations_dir,
    artefacts,
    read_json,
    sae_dir,
    write_csv,
    write_json,
    write_parquet,
    write_tensors,
)
from reseed.claims.registry import SLOTS
from reseed.interventions.protocol import EDIT_NULLS, LATENT, NULLS, REFERENCES, Measured
from reseed.interventions.report import calibration_rows, causal_summary, dose_rows
from reseed.stability.detector import detection
from reseed.stability.jackknife import Groups
from reseed.stability.planted import HONEST
from reseed.stability.reliability import content, diagram
from tests.conftest import ROOT
from tests.stability.test_detector import found, world_of
from tests.stability.test_reliability import family

VARIANTS = ("modular/topk-k4", "modular/topk-k8", "gsm8k-gpt/gpt-topk-16", "superposition/even-topk-12")
WITH_TABLES = "modular/topk-k4"
SEEDS, LATENTS = (0, 1, 2), 60
CLAIM = "low-l0-agreement"
EDITED = "known-features-recovered"
"""Its verdict was changed by hand."""
CACHED = shutil.ignore_patterns("tables", "examples", "saebench", "evals", "sae_probes")
"""What DVC caches, which a clone may or may not have."""


def planted_tables(folder: Path) -> None:
    """Tables of latents, examples and partners whose every number is known by rule."""
    seeds, latents = (column.ravel() for column in np.meshgrid(SEEDS, np.arange(LATENTS), indexing="ij"))
    alive = latents < 50
    table = pd.DataFrame(
        {
            "seed": seeds, "latent": latents, "firing_count": np.where(alive, 100 * (latents + 1), 0), "alive": alive,
            "reappearance": np.where(alive, (latents % 3) / 2, np.nan),
            "partner_cosine": np.where(alive, latents / 50, np.nan),
        }
    )  # fmt: skip
    arms = [table.assign(arm=arm) for arm in ("trained", "random_model", "gaussian")]
    write_parquet(folder / "tables" / "latents.parquet", pd.concat(arms))
    living = table[table.alive]
    examples = [
        {"seed": seed, "latent": latent, "row": 10 * latent + i, "activation": 3.5 - i, "before": f"{latent} + {i} ",
         "token": "=", "after": f" {latent + i} <&>"}
        for seed, latent in living[["seed", "latent"]].itertuples(index=False) for i in range(3)
    ]  # fmt: skip
    write_parquet(folder / "examples" / "examples.parquet", pd.DataFrame(examples))
    partners = [
        {"seed": seed, "latent": latent, "other_seed": other, "partner": 49 - latent, "decoder_cosine": 0.875,
         "encoder_cosine": 0.625}
        for seed, latent in living[["seed", "latent"]].itertuples(index=False) for other in SEEDS if other != seed
    ]  # fmt: skip
    write_parquet(folder / "examples" / "partners.parquet", pd.DataFrame(partners))


def with_p_correct(folder: Path) -> None:
    """Give the planted table the columns that it has where a model of P(correct) is shipped."""
    file = folder / "tables" / "latents.parquet"
    table = pd.read_parquet(file)
    columns = {name: (table["latent"] / by).where(table["alive"]) for name, by in (("c_dec", 1000), ("p_correct", 100))}
    write_parquet(file, table.assign(**columns))


def planted_artefacts(root: Path) -> dict[str, str]:
    """SAEs and activations, with the hashes that a stage gives them; then some are changed and some removed."""
    known = {}
    with chdir(root):  # a stage names its artefacts from the root
        for subject, variant in (("modular", "topk-k4"), ("modular", "topk-k8"), ("superposition", "even-topk-12")):
            for seed in SEEDS:
                folder = sae_dir(subject, variant) / f"seed_{seed}"
                write_json(folder / "cfg.json", {"d_sae": LATENTS, "seed": seed})
                write_tensors(folder / "sae_weights.safetensors", {"W_dec": torch.full((2, 2), float(seed))})
            write_json(activations_dir(subject, "trained") / "index.json", {"subject": subject})
            known |= artefacts(subject, variant)
        write_tensors(sae_dir("modular", "topk-k8") / "seed_1" / "sae_weights.safetensors", {"W_dec": torch.ones(3)})
        shutil.rmtree(activations_dir("modular", "trained"))
    return known


def judged(root: Path, name: str, evidence: Sequence[str], wrote: Mapping[str, Any]) -> None:
    """Let the claim rest on this evidence, and its stage have written that verdict from it."""
    evidence = [*evidence, *[evidence[-1]] * (SLOTS - len(evidence))]
    registered = yaml.load((root / "claims.yaml").read_text(), yaml.CSafeLoader)
    claim = registered["claims"][name]
    pairs = ("/".join(path.split("/")[1:3]) for path in evidence)
    claim |= {"evidence": evidence, "speaks_of": {pair: claim["speaks_of"].get(pair, {}) for pair in pairs}}
    (root / "claims.yaml").write_text(yaml.dump(registered, Dumper=yaml.CSafeDumper, sort_keys=False))
    verdict = root / f"metrics/claims/{name}.json"
    write_json(verdict, wrote)
    lock = yaml.load((root / "dvc.lock").read_text(), yaml.CSafeLoader)
    stage = lock["stages"][f"claims@{name}"]
    md5s = {path: hashlib.md5((root / path).read_bytes()).hexdigest() for path in evidence}
    stage["deps"] = [{"path": path, "hash": "md5", "md5": md5} for path, md5 in md5s.items()]
    stage["params"] = {"claims.yaml": {f"claims.{name}": claim}}
    own = {f"metrics/claims/{name}.json": hashlib.md5(verdict.read_bytes()).hexdigest()}
    stage["outs"] = [{"path": path, "hash": "md5", "md5": md5} for path, md5 in own.items()]
    (root / "dvc.lock").write_text(yaml.dump(lock, Dumper=yaml.CSafeDumper, sort_keys=False))
    facts = root / f"runs/claims@{name}.json"
    write_json(facts, read_json(facts) | {"wrote": own})


def planted_causal(folder: Path) -> None:
    """causal.json and its curves, by their own writers, of five seeds whose effects are 0.01 apart.

    digit=1 is beyond every control; digit=2, whose effect is 0.5, is not: a principal component pushes the other way by
    0.9, at equal KL the soft-frozen SAE by 0.7, and at equal norm the untrained SAE moves it by 1.2.
    """
    doses = [-1.0, 1.0]

    def measured(latent: float, untrained: float, seed: int) -> Measured:
        directions = dict.fromkeys((*NULLS, *REFERENCES), 0.1) | {LATENT: latent + 0.01 * (seed - 2)}
        effect = {"norm": directions | {"pca": -0.9, "untrained_sae": untrained + 0.01 * (seed - 2)}}
        effect["kl"] = directions | {"frozen_sae": -0.7}
        curves = {name: np.array([-size, size]) for name, size in effect["norm"].items()}
        figures = {"slope": latent / 2, "calibration_error": 0.03125, "monotone": 1.0, "specificity": 0.625}
        figures |= {"ablation": latent + 0.01 * seed, "interchange": 0.25}
        figures |= {
            f"{edit}_{null}{kl}": 0.5
            for edit in ("ablation", "interchange")
            for null in EDIT_NULLS
            for kl in ("", "_kl")
        }
        return Measured(effect, latent=seed, figures=figures, curves=curves, predicted=np.array([-2.0, 2.0]))

    every = {
        name: [measured(*sizes, seed) for seed in range(5)]
        for name, sizes in {"digit=1": (2.0, 0.0), "digit=2": (0.5, 1.2)}.items()
    }
    read_out, on = SimpleNamespace(kind="output", auc=0.9), torch.tensor([True, False])
    concept = SimpleNamespace(prevalence=lambda _: 0.25)
    bench: Any = SimpleNamespace(concept=concept, on=on, judges=(read_out,), read_outs=(read_out,), suffixes=("",))
    untold = {"digit=3": {"output": 0.5}}
    write_json(folder / "causal.json", causal_summary(dict.fromkeys(every, bench), every, untold, Groups(5), 0.95))
    write_csv(folder / "causal_calibration.csv", calibration_rows(every, doses))
    write_csv(folder / "causal_doses.csv", dose_rows(every, doses))


def planted_ood(folder: Path) -> None:
    """ood.json of an SAE that keeps half of its gain on other text."""

    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.0625, "high": value + 0.0625}

    content = {
        "explained_variance": {"in": figure(0.75), "ood": figure(0.375)},
        "null": {"in": figure(0.25), "ood": figure(0.125)},
        "over_null": figure(0.25), "retained": figure(0.5), "rows": {"in": 2000, "ood": 1000},
    }  # fmt: skip
    write_json(folder / "ood.json", content)


def planted_coverage(folder: Path) -> None:
    """coverage.json of a world whose latents keep less than the model does."""

    def figure(value: float, **more: Any) -> dict[str, Any]:
        return {"value": value, "low": value - 0.0625, "high": value + 0.0625} | more

    content = {
        "rows": 1000, "relabelled_rows": 240, "relabelled_by": "the edges listed in another order",
        "values_tested": 0.75,
        "parts": {"all": figure(0.875, untrained=figure(0.25)), "frontier_1": figure(0.75, untrained=figure(0.125))},
        "worst_value": figure(0.625, untrained=figure(0.0)),
        "relabelling": figure(0.5, untrained=figure(0.375), null=figure(0.0), model=0.9375),
        "brittle": figure(0.3125, untrained=figure(0.1875)),
        "unvaried": figure(0.125, untrained=figure(0.0625)),
    }  # fmt: skip
    write_json(folder / "coverage.json", content)


def planted_reliability(folder: Path) -> None:
    """metrics/reliability/worlds.json and its diagram, by their own writers, from a few planted families."""
    sets = [family(name, i, n=100) for i, name in enumerate("abc")]
    odd = [found("odd", HONEST, 6 + i, 0.95, i) for i in range(3)]  # honest, and look planted
    seed_sets = [*(one for name in "abc" for one in world_of(name, 4.0)), *odd]
    write_json(folder / "worlds.json", content(sets, 1, 0.95) | {"detector": detection(seed_sets, 0.8)})
    write_csv(folder / "worlds.csv", diagram(sets))


def planted_truth(metrics: Path) -> None:
    """Beside the committed truth of modular/topk-k4: one that is go, one of a subject without rules, and a made-up
    world of states that breaks a rule by its L0, one by its interval and lacks a figure."""
    known = read_json(ROOT / "metrics/superposition/known-12/truth.json")
    write_json(metrics / "superposition/known-12/truth.json", known)
    write_json(metrics / "superposition/unruled/truth.json", known | {"phase": known["phase"] | {"rules": {}}})
    interval = {"low": 0.7, "high": 0.9}
    nulls = {"untrained": 0.25, "control": 0.375, "permuted": 0.125}
    peers = {"neurons": 0.5, "pca": 0.5625, "ica": 0.4375, "linear_probe": 0.9375}
    # the largest null is not the strictest: the untrained SAEs differ more from seed to seed
    margin = {"value": 0.55, "low": 0.375, "high": 0.725, "over": "untrained"}
    figures = {
        "coverage": {
            "value": 0.8, **interval, "nulls": nulls, "margin": margin, "exceeds_nulls": 1, "peers": peers,
        },
        "accuracy": {"value": 0.875, "low": 0.8125, "high": 0.9375, "nulls": {"chance": 0.5}, "exceeds_nulls": 1},
        "absorption": {"value": 0.0625, "low": 0.0, "high": 0.125, "nulls": {"untrained": 0.5}},
        "fidelity": {"value": 0.96875, "low": 0.9, "high": 1.0, "no_evidence": "L0 >= d_in: as many latents as that"},
        **{name: {"value": value, "low": value, "high": value} for name, value in
           {"l0": 36.0, "l0_over_d_in": 1.125, "alive_fraction": 0.75}.items()},
    }  # fmt: skip
    rules = {
        "coverage": {"bound": 0.75, "met": 0, "found": 0.8, "low": 0.7, "exceeds_nulls": 1},
        "gt_mcc": {"bound": 0.9, "met": 0},
    }
    phase = {"question": "Are states found?", "rules": rules, "sparse": 0, "go": 0}
    facts = {"truth": "states", "control": "random_model", "seeds": 5, "concepts": 41, "concepts_untested": 7}
    write_json(metrics / "stack/made-up/truth.json", facts | {"figures": figures, "phase": phase})
