"""sae_probes: sae-probes' data sets on every seed of a variant, beside dense probes and five controls."""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from reseed import ReseedError
from reseed.activations.store import Activations, read_activations
from reseed.artifacts import (
    activations_dir,
    baselines_dir,
    metrics_dir,
    prompts_dir,
    sae_dir,
    write_json,
    write_parquet,
    writing,
)
from reseed.benchmarks.controls import load_sae, random_sae
from reseed.benchmarks.prompts import Prompts, chosen_datasets, read_prompts
from reseed.benchmarks.sae_probes import RECORDS, SAE_ARM, Arm, probe_all, summarise
from reseed.params import RANDOM_MODEL, TRAINED, Params, Variant, load_params, load_sae_training
from reseed.stage import run_stage


def sae_probes(subject: str, variant: str, frozen: str) -> dict[str, Any]:
    params = load_params()
    chosen = params.variant(variant)
    options = params.sae_probes
    _check_frozen(params, chosen, frozen)
    activations = read_activations(activations_dir(subject, TRAINED))
    prompts = {arm: read_prompts(prompts_dir(subject, arm)) for arm in (TRAINED, RANDOM_MODEL)}
    names = chosen_datasets(options.datasets)
    out = metrics_dir(subject, variant)
    resumable = Path("checkpoints") / subject / f"{variant}@sae_probes"
    with writing(out / "sae_probes") as results, tempfile.TemporaryDirectory() as temporary:
        arms = _arms(params, subject, variant, frozen, activations, prompts, Path(temporary))
        table = probe_all(names, arms, options, resumable, params.compute.threads)
        results.mkdir()
        write_parquet(results / RECORDS, table)
    table = pd.concat([pd.read_parquet(baselines_dir(subject) / RECORDS), table])
    write_json(out / "sae_probes.json", summarise(table, params.stability.confidence, chosen.group_size))
    for kept in resumable.glob("*.json"):
        kept.unlink()
    return {"variant": chosen, "sae_probes": options}


def _check_frozen(params: Params, chosen: Variant, frozen: str) -> None:
    """A control must differ from what it controls in its decoder alone."""
    other = params.variant(frozen)
    if not other.soft_frozen or other.model_copy(update={"soft_frozen": chosen.soft_frozen}) != chosen:
        raise ReseedError(
            f"params.yaml: variants.{frozen}: found {other.model_dump(exclude_defaults=True)}, allowed as a control: "
            f"{chosen.model_dump(exclude_defaults=True)} with soft_frozen"
        )


def _arms(
    params: Params,
    subject: str,
    variant: str,
    frozen: str,
    activations: Activations,
    prompts: dict[str, Prompts],
    temporary: Path,
) -> list[Arm]:
    chosen, training = params.variant(variant), load_sae_training(subject)
    seeds = params.seeds(chosen)
    trained, untrained = prompts[TRAINED], prompts[RANDOM_MODEL]
    found: dict[tuple[str, int], Arm] = {}
    for i, seed in enumerate(seeds):
        folder = sae_dir(subject, variant) / f"seed_{seed}"
        sae = load_sae(folder, trained.index["hook_name"], TRAINED, trained.index["model_sha256"])
        found[SAE_ARM, seed] = Arm(SAE_ARM, seed, trained.path, folder)
        if i >= params.sae_probes.control_seeds:
            continue
        random = temporary / f"random_{seed}"
        random_sae(sae, chosen, training, params.train, seed, activations).save_model(random)
        found["random_sae", seed] = Arm("random_sae", seed, trained.path, random)
        for name, of, arm, at in (
            ("frozen_sae", frozen, TRAINED, trained),
            ("random_model_sae", variant, RANDOM_MODEL, untrained),
        ):
            folder = sae_dir(subject, of, arm) / f"seed_{seed}"
            load_sae(folder, at.index["hook_name"], arm, at.index["model_sha256"])
            found[name, seed] = Arm(name, seed, at.path, folder)
    return [arm for _, arm in sorted(found.items())]


if __name__ == "__main__":
    run_stage(sae_probes)
