"""certify: the seeds of a variant trained four times longer, and whether that leaves the intervals of the short run."""

from pathlib import Path
from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, metrics_dir, sae_dir, write_json
from reseed.params import TRAINED, load_params, load_sae_training
from reseed.saes.train import train_saes
from reseed.stability.arms import analyse
from reseed.stability.certificates import certificate_summary, check_certificates, check_same_run, four_times_longer
from reseed.stability.dictionaries import read_seed_set
from reseed.stability.retrained import seed_set_of
from reseed.stage import device, run_stage


def certify(subject: str, variant: str) -> dict[str, Any]:
    params = load_params()
    chosen, options = params.variant(variant), params.stability
    training = load_sae_training(subject).at_steps(chosen.steps)
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    activations = read_activations(activations_dir(subject, TRAINED))
    path = sae_dir(subject, variant)
    short = read_seed_set(path, chosen, TRAINED, train.seeds)
    longer = four_times_longer(training, short)
    checkpoint = Path("checkpoints") / subject / f"{variant}-certificate.safetensors"
    saes = train_saes(chosen, longer, train, activations, device(params.compute), checkpoint=checkpoint)
    long = seed_set_of(saes, chosen, activations)
    check_same_run(short, long, str(path))
    # by the same key, so that the nulls of both runs come from the same draws
    reports = [analyse(seed_set, options, f"{subject}/{variant}/{TRAINED}") for seed_set in (short, long)]
    checks = check_certificates(*reports)
    summary = certificate_summary(checks, short, long, chosen.architecture, options)
    write_json(metrics_dir(subject, variant) / "certificate.json", summary)
    print(f"{subject}/{variant}: {summary['verdict']}")
    return {"variant": chosen, "train": train, "sae": training, "stability": options}


if __name__ == "__main__":
    run_stage(certify)
