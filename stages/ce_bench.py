"""ce_bench: contrastive and independence scores of every seed of a variant, beside SAEs of the same width and L0."""

import tempfile
from pathlib import Path
from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, artefacts, metrics_dir, write_json
from reseed.benchmarks.arms import with_controls
from reseed.benchmarks.ce_bench import judge
from reseed.params import RANDOM_MODEL, TRAINED, load_params
from reseed.stage import device, run_stage


def ce_bench(subject: str, variant: str, frozen: str) -> dict[str, Any]:
    params = load_params()
    chosen, options = params.variant(variant), params.ce_bench
    activations = {arm: read_activations(activations_dir(subject, arm)) for arm in (TRAINED, RANDOM_MODEL)}
    models = {arm: found.index["model_sha256"] for arm, found in activations.items()}
    with tempfile.TemporaryDirectory() as temporary:
        saes = with_controls(
            params, options.control_seeds, subject, variant, frozen, activations[TRAINED], models, Path(temporary)
        )
        summary = judge(saes, subject, params, device(params.compute), chosen.group_size)
    write_json(metrics_dir(subject, variant) / "ce_bench.json", summary | {"artefacts": artefacts(subject, variant)})
    return {"variant": chosen, "ce_bench": options}


if __name__ == "__main__":
    run_stage(ce_bench)
