"""synthesise: the rows of a world, and beside them the features that they are made of."""

from typing import Any

from reseed import installed_version
from reseed.activations.store import SYNTHETIC_HOOK, Provenance, Truth, write_activations
from reseed.artifacts import activations_dir, writing
from reseed.params import TRAINED, PublishedWorld, load_world
from reseed.stage import run_stage
from reseed.subjects.published import draw_published, fetch
from reseed.subjects.superposition import draw, features_sha256, parameters_sha256


def synthesise(subject: str) -> dict[str, Any]:
    world = load_world(subject)
    data = world.data
    drawn = draw_published(data, fetch(data)) if isinstance(data, PublishedWorld) else draw(data)
    made_of = Provenance(
        subject=subject,
        arm=TRAINED,
        hook_name=SYNTHETIC_HOOK,
        positions=("row",),
        generator=f"synthetic features drawn by sae_lens.synthetic {installed_version('sae-lens')}",
        model_sha256=features_sha256(drawn.directions),
        tokens_sha256=parameters_sha256(world.data),
    )
    with writing(activations_dir(subject, TRAINED)) as path:
        write_activations(drawn.rows, made_of, "float32", path, truth=Truth(drawn.directions, drawn.codes["test"]))
    return {"data": world.data}


if __name__ == "__main__":
    run_stage(synthesise)
