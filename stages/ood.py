"""ood: what the SAEs of a variant explain where the model reads the text of another subject, beside untrained ones."""

from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, artefacts, fingerprint, metrics_dir, sae_dir, write_json
from reseed.params import OOD, TRAINED, load_params, load_sae_training
from reseed.saes.rows import seen_by
from reseed.stability.activity import with_untrained
from reseed.stability.dictionaries import read_seed_set
from reseed.stability.ood import IN, check_same_model, ood_summary
from reseed.stage import run_stage


def ood(subject: str, variant: str) -> dict[str, Any]:
    params = load_params()
    chosen = params.variant(variant)
    training = load_sae_training(subject).at_steps(chosen.steps)
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    path, elsewhere = sae_dir(subject, variant), activations_dir(subject, OOD)
    groups = read_seed_set(path, chosen, TRAINED, train.seeds).groups
    trained, outside = read_activations(activations_dir(subject, TRAINED)), read_activations(elsewhere)
    check_same_model(trained, outside)
    saes = with_untrained(path, chosen, training, train, trained)
    rows = {IN: seen_by(chosen, trained), OOD: seen_by(chosen, outside)}
    content = ood_summary(saes, rows, groups, params.stability.confidence)
    of = artefacts(subject, variant) | {elsewhere.as_posix(): fingerprint(elsewhere, "index.json")}
    write_json(metrics_dir(subject, variant) / "ood.json", content | {"artefacts": of})
    return {"variant": chosen, "train": train, "sae": training}


if __name__ == "__main__":
    run_stage(ood)
