"""synthesise: the rows of a world without a model, and beside them what is known of them.

Of superposed features: the features. Of the exact states of a world: the traces that have these states, in the folder
`traces` of the activations (`read_traces`).
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reseed import installed_version
from reseed.activations.store import SYNTHETIC_HOOK, Provenance, Truth, write_activations
from reseed.artifacts import activations_dir, writing
from reseed.params import SPLITS, TRAINED, PublishedWorld, is_states, load_states, load_world
from reseed.stage import run_stage
from reseed.subjects.published import draw_published, fetch
from reseed.subjects.states import state_vectors, write_raw_traces
from reseed.subjects.superposition import draw, features_sha256, parameters_sha256
from reseed.text.quality import traces_report
from reseed.text.traces import TRACES, read_instances, tokenize_traces, write_traces


def synthesise(subject: str) -> dict[str, Any]:
    if is_states(subject):
        return _of_states(subject)
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


def _of_states(subject: str) -> dict[str, Any]:
    data = load_states(subject).data
    with TemporaryDirectory() as raw:
        write_raw_traces(data.world, Path(raw) / "raw")
        traces, instances = tokenize_traces(Path(raw) / "raw"), read_instances(Path(raw) / "raw")
    traces_report(traces, instances)  # refuses leaks
    digest = parameters_sha256(data)
    made_of = Provenance(
        subject=subject,
        arm=TRAINED,
        hook_name=SYNTHETIC_HOOK,
        positions=("predicted",),
        generator=f"synthetic states, exact, of the world {data.world.generator}",
        model_sha256=digest,
        tokens_sha256=digest,
    )
    rows = {split: state_vectors(traces.rows(split), traces.variables) for split in SPLITS}
    with writing(activations_dir(subject, TRAINED)) as path:
        write_activations(rows, made_of, "float32", path)
        write_traces(traces, path / TRACES)
    return {"data": data}


if __name__ == "__main__":
    run_stage(synthesise)
