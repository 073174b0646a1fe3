"""train: one SAE a seed, all seeds in one run, on one arm of a subject."""

from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, sae_dir, sha256, writing
from reseed.params import load_params, load_subject
from reseed.saes.export import write_curves, write_sae
from reseed.saes.train import train_saes
from reseed.stage import device, run_stage


def train(subject: str, variant: str, arm: str) -> dict[str, Any]:
    params, config = load_params(), load_subject(subject)
    chosen = params.variant(variant)
    source = activations_dir(subject, arm)
    activations = read_activations(source)
    saes = train_saes(
        chosen, config.sae, params.train.convergence, params.train.seeds, activations, device(params.compute)
    )
    with writing(sae_dir(subject, variant, arm)) as path:
        for sae in saes:
            write_sae(sae, chosen, activations, sha256(source / "index.json"), path / f"seed_{sae.seed}")
        write_curves(saes, path / "curves")
    return {"variant": chosen, "sae": config.sae, "train": params.train}


if __name__ == "__main__":
    run_stage(train)
