"""sae_probes: sae-probes' data sets on every seed of a variant, beside dense probes and five controls."""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from reseed.activations.store import read_activations
from reseed.artifacts import (
    activations_dir,
    artefacts,
    baselines_dir,
    metrics_dir,
    prompts_dir,
    write_json,
    write_parquet,
    writing,
)
from reseed.benchmarks.arms import with_controls
from reseed.benchmarks.prompts import chosen_datasets, read_prompts
from reseed.benchmarks.sae_probes import RECORDS, Arm, probe_all, summarise
from reseed.params import RANDOM_MODEL, TRAINED, load_params
from reseed.stage import run_stage


def sae_probes(subject: str, variant: str, frozen: str) -> dict[str, Any]:
    params = load_params()
    chosen = params.variant(variant)
    options = params.sae_probes
    activations = read_activations(activations_dir(subject, TRAINED))
    prompts = {arm: read_prompts(prompts_dir(subject, arm)) for arm in (TRAINED, RANDOM_MODEL)}
    names = chosen_datasets(options.datasets)
    out = metrics_dir(subject, variant)
    resumable = Path("checkpoints") / subject / f"{variant}@sae_probes"
    with writing(out / "sae_probes") as results, tempfile.TemporaryDirectory() as temporary:
        models = {arm: found.index["model_sha256"] for arm, found in prompts.items()}
        saes = with_controls(
            params, options.control_seeds, subject, variant, frozen, activations, models, Path(temporary)
        )
        arms = [Arm(one.name, one.seed, prompts[one.reads].path, one.folder) for one in saes]
        table = probe_all(names, arms, options, resumable, params.compute.threads)
        results.mkdir()
        write_parquet(results / RECORDS, table)
    table = pd.concat([pd.read_parquet(baselines_dir(subject) / RECORDS), table])
    summary = summarise(table, params.stability.confidence, chosen.group_size)
    write_json(out / "sae_probes.json", summary | {"artefacts": artefacts(subject, variant)})
    for kept in resumable.glob("*.json"):
        kept.unlink()
    return {"variant": chosen, "sae_probes": options}


if __name__ == "__main__":
    run_stage(sae_probes)
