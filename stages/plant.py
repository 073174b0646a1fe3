"""plant: seed sets of a world that agree and are wrong, beside their honest twins, to measure a detector on."""

import tempfile
from pathlib import Path
from typing import Any

from reseed import ReseedError
from reseed.artifacts import metrics_dir, write_json
from reseed.params import Superposition, load_params, load_sae_training, load_world
from reseed.stability import planted
from reseed.stage import device, run_stage
from reseed.subjects.superposition import draw


def plant(subject: str, variant: str) -> dict[str, Any]:
    params, data = load_params(), load_world(subject).data
    if not isinstance(data, Superposition):
        raise ReseedError(
            f"subjects/{subject}.yaml: data.generator: found {data.generator!r}, allowed: 'superposition'"
        )
    chosen = params.variant(variant)
    given = load_sae_training(subject)
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    drawn = draw(data)
    world = planted.World(drawn.directions, drawn.codes, drawn.rows)
    with tempfile.TemporaryDirectory() as folder:
        recipe = planted.Recipe(chosen, given.at_steps(planted.STEPS), train, device(params.compute))
        controls = planted.plant(world, recipe, Path(folder))
        directions = drawn.directions.double().numpy()
        content = planted.judged(controls, directions, params.stability, f"{subject}/{variant}/planted")
    write_json(metrics_dir(subject, variant) / "planted.json", content)
    return {"variant": chosen, "train": train, "sae": given, "stability": params.stability}


if __name__ == "__main__":
    run_stage(plant)
