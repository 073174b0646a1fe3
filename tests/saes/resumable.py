"""What a process of `test_checkpoint` does: trains one case to the end, or until somebody kills it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from reseed.activations.store import read_activations
from reseed.params import Convergence, SaeTraining, Train
from reseed.saes.run import TrainedSae
from reseed.saes.train import train_saes
from tests.conftest import train_of
from tests.saes.builders import CPU, case, pulled

CHECKPOINT_EVERY = 30
TOLERANCE = Convergence(loss_tolerance=0.5, loss_rise_tolerance=0.5, cosine_tolerance=0.5, max_cosine_to_init=0.99)
TRAINING = SaeTraining(
    batch_size=64, lr=0.01, warm_up_steps=20, max_steps=400, decay_fraction=0.25, check_every=20, min_steps=100,
    aux_k=8, aux_coefficient=1 / 32, dead_after_steps=20, checkpoint_every=CHECKPOINT_EVERY,
)  # fmt: skip
SETTINGS = {
    "topk": (case("topk", d_sae=32), TRAINING),
    "batchtopk-resampled": (
        case("batchtopk", d_sae=48),
        TRAINING.model_copy(update={"aux_k": 0, "resample_every": 25, "buffer_rows": 256}),
    ),
    "jumprelu": (case("jumprelu"), TRAINING),
    "topk-assigned": (case("topk", **pulled("assigned")), TRAINING),
    "skip_transcoder": (case("skip_transcoder"), TRAINING),
    "routesae": (case("routesae-per_layer"), TRAINING),
}


def seeds_of(name: str) -> Train:
    return train_of(tuple(range(6)) if name == "topk-assigned" else (3, 0, 1), TOLERANCE)


def everything(saes: list[TrainedSae]) -> dict[str, Tensor]:
    """All that a run leaves, as tensors under names."""
    found = {}
    for sae in saes:
        for name, tensor in sae.weights.items():
            found[f"{sae.seed}/weight/{name}"] = tensor
        for step, snapshot in sae.snapshots.items():
            found |= {f"{sae.seed}/snapshot/{step}/{i}": tensor for i, tensor in enumerate(snapshot)}
        found |= {f"{sae.seed}/seen/{i}": tensor for i, tensor in enumerate(sae.seen)}
        found[f"{sae.seed}/firing_counts"] = sae.firing_counts
        for i, row in enumerate(sae.curve):
            found |= {f"{sae.seed}/curve/{i}/{key}": torch.tensor(float(value)).double() for key, value in row.items()}
        figures = [sae.steps, sae.constant_steps, sae.converged, sae.loss_fall, sae.cosine_change, sae.cosine_to_init]
        found[f"{sae.seed}/figures"] = torch.tensor([float(value) for value in figures], dtype=torch.float64)
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}


def main(name: str, activations: str, checkpoint: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    variant, training = SETTINGS[name]
    saes = train_saes(
        variant, training, seeds_of(name), read_activations(Path(activations)), CPU, checkpoint=Path(checkpoint)
    )
    save_file(everything(saes), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
