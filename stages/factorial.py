"""factorial: initialisations crossed with orders of the rows, on models of one task that differ in their seed."""

from pathlib import Path
from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, write_json
from reseed.params import TRAINED, load_params, load_subject
from reseed.saes.train import train_saes
from reseed.stability.components import LEVELS, check_models, cross, factorial_summary
from reseed.stability.retrained import seed_set_of
from reseed.stage import device, run_stage


def factorial(name: str, variant: str, subject1: str, subject2: str, subject3: str) -> dict[str, Any]:
    params = load_params()
    chosen = params.variant(variant)
    subjects = {subject: load_subject(subject) for subject in (subject1, subject2, subject3)}
    check_models(subjects)
    levels = params.seeds(chosen)[:LEVELS]
    models = {}
    for subject, config in subjects.items():
        activations = read_activations(activations_dir(subject, TRAINED))
        sets = []
        for order in levels:
            train = params.train.model_copy(update={"seeds": levels, "vary": "init", "held": order})
            saes = train_saes(chosen, config.sae, train, activations, device(params.compute))
            sets.append(seed_set_of(saes, chosen, activations))
        models[subject] = cross(sets, params.stability, f"factorial/{name}/{subject}")
    content = {"variant": variant, "levels": levels} | factorial_summary(models, params.stability)
    write_json(Path("metrics") / "factorial" / f"{name}.json", content)
    return {"variant": chosen, "train": params.train, "stability": params.stability} | {
        subject: config.sae for subject, config in subjects.items()
    }


if __name__ == "__main__":
    run_stage(factorial)
