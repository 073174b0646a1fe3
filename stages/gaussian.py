"""gaussian: the arm of noise that has the covariance of the subject's activations and no other structure."""

from dataclasses import replace
from typing import Any

from reseed.activations.gaussian import gaussian_rows
from reseed.activations.store import new_index, provenance_of, read_activations
from reseed.activations.writer import ActivationWriter
from reseed.artifacts import activations_dir, writing
from reseed.params import GAUSSIAN, TRAINED
from reseed.stage import run_stage


def gaussian(subject: str) -> dict[str, Any]:
    trained = read_activations(activations_dir(subject, TRAINED))
    made_of = replace(
        provenance_of(trained), arm=GAUSSIAN, generator="Gaussian of the mean and covariance of the trained arm"
    )
    most = max(shard["rows"] for shard in trained.index["splits"]["train"]["shards"])
    index, dtype = new_index(made_of, activations_dir(subject, GAUSSIAN)), str(trained.index["dtype"])
    with writing(activations_dir(subject, GAUSSIAN)) as path, ActivationWriter(path, index, dtype, most) as writer:
        for split, block in gaussian_rows(trained):
            writer.append(split, block.pop("activations"), block)
        writer.finish()
    return {}


if __name__ == "__main__":
    run_stage(gaussian)
