"""baselines: sae-probes' data sets without any SAE: dense probes, principal components, the model's dimensions."""

import tempfile
from pathlib import Path
from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, baselines_dir, prompts_dir, write_parquet, write_tensors, writing
from reseed.benchmarks.prompts import chosen_datasets
from reseed.benchmarks.sae_probes import DENSE, RANDOM_DENSE, RECORDS, Arm, principal_components, probe_all
from reseed.params import RANDOM_MODEL, TRAINED, load_params
from reseed.saes.rows import evenly
from reseed.stage import run_stage

COMPONENT_ROWS = 1 << 16


def baselines(subject: str) -> dict[str, Any]:
    params = load_params()
    options = params.sae_probes
    rows = read_activations(activations_dir(subject, TRAINED)).rows("train")
    prompts = prompts_dir(subject, TRAINED)
    resumable = Path("checkpoints") / subject / "baselines"
    with writing(baselines_dir(subject)) as path, tempfile.TemporaryDirectory() as temporary:
        basis = Path(temporary) / "components.safetensors"
        write_tensors(basis, principal_components(rows.take(evenly(len(rows), COMPONENT_ROWS)).float()))
        arms = [
            Arm("pca", 0, prompts, basis),
            Arm("neurons", 0, prompts),
            Arm(DENSE, 0, prompts),
            Arm(RANDOM_DENSE, 0, prompts_dir(subject, RANDOM_MODEL)),
        ]
        table = probe_all(chosen_datasets(options.datasets), arms, options, resumable, params.compute.threads)
        path.mkdir()
        write_parquet(path / RECORDS, table)
    for kept in resumable.glob("*.json"):
        kept.unlink()
    return {"sae_probes": options}


if __name__ == "__main__":
    run_stage(baselines)
