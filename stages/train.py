"""train: one SAE a seed, all seeds in one run, on one arm of a subject."""

from pathlib import Path
from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, sae_dir, sha256, writing
from reseed.params import check_training_text, load_params, load_sae_training
from reseed.saes.export import write_sae
from reseed.saes.record import wandb_run, write_curves
from reseed.saes.train import train_saes
from reseed.stage import device, revision, run_stage


def train(subject: str, variant: str, arm: str) -> dict[str, Any]:
    params = load_params()
    chosen = params.variant(variant)
    training = load_sae_training(subject).at_steps(chosen.steps)
    seeds = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    source, out = activations_dir(subject, arm), sae_dir(subject, variant, arm)
    activations = read_activations(source)
    check_training_text(activations.index.get("text", subject))
    used = {"variant": chosen, "sae": training, "train": seeds}
    checkpoint = Path("checkpoints") / subject / f"{out.name}.safetensors"
    name = f"{subject}/{out.name}/{revision()}"
    with wandb_run(name, {key: value.model_dump(mode="json") for key, value in used.items()}) as log:
        saes = train_saes(chosen, training, seeds, activations, device(params.compute), checkpoint=checkpoint, log=log)
    with writing(out) as path:
        for sae in saes:
            write_sae(sae, chosen, activations, sha256(source / "index.json"), path / f"seed_{sae.seed}")
        write_curves(saes, path / "curves")
    return used


if __name__ == "__main__":
    run_stage(train)
