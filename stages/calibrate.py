"""calibrate: search for the k of a variant, then train it, and a control, on seeds that had no part in the search."""

from pathlib import Path
from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, write_json
from reseed.params import TRAINED, SaeTraining, load_params, load_sae_training
from reseed.saes.train import train_saes
from reseed.stability.calibration import (
    Tried,
    calibration_summary,
    check_calibration,
    elbow,
    equal_budget,
    most_stable,
)
from reseed.stability.retrained import seed_set_of
from reseed.stage import device, run_stage


def calibrate(subject: str, variant: str) -> dict[str, Any]:
    params = load_params()
    chosen, options, calibration = params.variant(variant), params.stability, params.calibration
    training = load_sae_training(subject).at_steps(chosen.steps)
    seeds = params.seeds(chosen)
    check_calibration(calibration, chosen, seeds)
    activations = read_activations(activations_dir(subject, TRAINED))

    def tried(ks: list[int], training: SaeTraining, seeds: tuple[int, ...], stage: str) -> list[Tried]:
        train = params.train.model_copy(update={"seeds": seeds})
        saes = train_saes(chosen, training, train, activations, device(params.compute), ks=tuple(ks))
        sets = {k: seed_set_of([sae for sae in saes if sae.k == k], chosen, activations) for k in ks}
        return [Tried.of(k, sets[k], options, f"{subject}/calibration/{stage}/k{k}") for k in ks]

    searched = tried(sorted(set(calibration.ks)), training, calibration.search_seeds, "search")
    found = {"c_dec": elbow([one.k for one in searched], [one.c_dec.value for one in searched])}
    stable = most_stable(searched, calibration.explained_variance_floor, options.confidence)
    found |= {} if stable is None else {"stability": stable}
    # the budget is the same for all of them
    again = tried(sorted({*found.values(), calibration.control_k}), equal_budget(training), seeds, "chosen")
    summary = calibration_summary(variant, searched, found, {one.k: one for one in again}, calibration, options)
    write_json(Path("metrics") / subject / "calibration.json", summary)
    print(f"{subject}/{variant}: k = {found['c_dec']} by c_dec, {stable or 'none'} by stability")
    return {"variant": chosen, "train": params.train, "sae": training, "stability": options, "calibration": calibration}


if __name__ == "__main__":
    run_stage(calibrate)
