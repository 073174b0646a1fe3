"""Evidence and claims as small as they come, every number of them chosen."""

from __future__ import annotations

from typing import Any

import numpy as np

from reseed.claims.gates import Options
from reseed.claims.registry import ALWAYS, SLOTS, Claim
from reseed.params import load_params
from tests.conftest import ROOT

KS = (4, 8, 16, 32)
PAIRS = tuple(f"modular/topk-k{k}" for k in KS)
PATHS = tuple(f"metrics/{pair}/stability.json" for pair in PAIRS)
ARMS = ("trained", "random_model", "gaussian")
PARAMS = load_params(ROOT / "params.yaml")
OPTIONS = Options(PARAMS.stability, PARAMS.train.convergence)
ABOVE_NULL = {"figure": "trained", "over": "each", "above": 0}
ABOVE_CONTROL = {"figure": "trained - random_model", "over": "each", "above": 0}


def deleted(value: float, spread: float, n: int = 5, shift: int = 0) -> list[float]:
    return [value + spread * x for x in np.roll(np.linspace(-1, 1, n), shift)]


def stability(
    kappas: dict[str, float], spread: float = 0.005, shift: int = 0, pair: str = PAIRS[0], **change: Any
) -> dict[str, Any]:
    """A stability.json of converged arms. shift: which seed is the odd one out; other arms may have another."""
    return {
        "k": 4,
        "d_sae": 128,
        "architecture": "topk",
        "seeds": 5,
        "artefacts": {f"models/{pair}": "a" * 64, "data/modular/activations/trained": "b" * 64},
        "held_out": {"rows": 1000, "repeated": 0.0},
        **{
            arm: {
                "seeds_converged": 5,
                "steps": 8000,
                "cosine_to_init": {"value": 0.2, "low": 0.19, "high": 0.21},
                "explained_variance": {"value": 0.9, "low": 0.89, "high": 0.91},
                "pw_mcc": {"converged": 1, "plateau_change": 0.001, "value": 0.9, "kappa": kappas[arm]},
            }
            for arm in kappas
        },
        "records": [
            {
                "arm": arm, "statistic": "pw_mcc", "latents": latents, "kappa": kappa,
                "kappa_deleted": deleted(kappa, spread, shift=shift + change.get("apart", 0) * (arm != "trained")),
            }
            for arm, kappa in kappas.items()
            for latents in ("alive", "all")
        ],
    }  # fmt: skip


def evidence(
    trained: tuple[float, ...] = (0.9, 0.7, 0.5, 0.3),
    control: tuple[float, ...] = (0.6, 0.6, 0.6, 0.6),
    spread: float = 0.005,
    common: bool = True,
) -> dict[str, dict[str, Any]]:
    """Four seed sets over k; with `common`, the same seed is the odd one out in both arms."""
    return {
        path: stability(
            {"trained": trained[i], "random_model": control[i], "gaussian": 0.0},
            spread,
            i,
            PAIRS[i],
            apart=0 if common else 2,
        )
        | {"k": k}
        for i, (path, k) in enumerate(zip(PATHS, KS, strict=True))
    }


def claim(*tests: dict[str, Any], pairs: tuple[str, ...] = PAIRS, files: tuple[str, ...] = (), **change: Any) -> Claim:
    """A claim about seed sets with k in their name; `files` are further evidence."""
    paths = [f"metrics/{pair}/stability.json" for pair in pairs] + list(files)
    return Claim.model_validate(
        {
            "statement": "A statement.", "statistic": "pw_mcc", "unit": "kappa", "tests": tests,
            "evidence": paths + [paths[-1]] * (SLOTS - len(paths)),
            "speaks_of": {pair: {"k": int(pair.rpartition("-k")[2])} for pair in pairs},
            "minimum_seeds": 5, "gates": ALWAYS, "registered": "0" * 40,
        } | change
    )  # fmt: skip
