"""evals: SAEBench's own evals on every seed of a variant of a language model, beside the controls."""

import tempfile
from pathlib import Path
from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, artefacts, metrics_dir, write_json, writing
from reseed.benchmarks.arms import with_controls
from reseed.benchmarks.evals import judge
from reseed.params import RANDOM_MODEL, TRAINED, load_params
from reseed.stage import device, run_stage


def evals(subject: str, variant: str, frozen: str) -> dict[str, Any]:
    params = load_params()
    chosen, options = params.variant(variant), params.evals
    activations = {arm: read_activations(activations_dir(subject, arm)) for arm in (TRAINED, RANDOM_MODEL)}
    models = {arm: found.index["model_sha256"] for arm, found in activations.items()}
    out, work = metrics_dir(subject, variant), Path("checkpoints") / subject / f"{variant}@evals"
    with writing(out / "evals") as results, tempfile.TemporaryDirectory() as temporary:
        results.mkdir()
        saes = with_controls(
            params, options.control_seeds, subject, variant, frozen, activations[TRAINED], models, Path(temporary)
        )
        summary = judge(saes, subject, models, params, device(params.compute), chosen.group_size, results, work)
    write_json(out / "evals.json", summary | {"artefacts": artefacts(subject, variant)})
    return {"variant": chosen, "evals": options}


if __name__ == "__main__":
    run_stage(evals)
