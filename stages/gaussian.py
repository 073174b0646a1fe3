"""gaussian: the arm of noise that has the covariance of the subject's activations and no other structure."""

from dataclasses import replace
from typing import Any

from reseed.activations.gaussian import gaussian_like
from reseed.activations.store import provenance_of, read_activations, write_activations
from reseed.artifacts import activations_dir, writing
from reseed.params import GAUSSIAN, SPLITS, TRAINED
from reseed.stage import run_stage


def gaussian(subject: str) -> dict[str, Any]:
    trained = read_activations(activations_dir(subject, TRAINED))
    noise = gaussian_like(trained)
    made_of = replace(
        provenance_of(trained), arm=GAUSSIAN, generator="Gaussian of the mean and covariance of the trained arm"
    )
    targets = noise.get("target")
    beside = {split: {"target": targets[split]} for split in SPLITS} if targets else None
    with writing(activations_dir(subject, GAUSSIAN)) as path:
        write_activations(noise["activations"], made_of, str(trained.index["dtype"]), path, beside)
    return {}


if __name__ == "__main__":
    run_stage(gaussian)
