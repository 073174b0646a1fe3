"""causal: edits of a variant's latents, what the model makes of them behind the edit, beside controls of equal size."""

from typing import Any

from sae_lens import SAE

from reseed.activations.store import read_activations
from reseed.artifacts import (
    activations_dir,
    artefacts,
    lm_dir,
    metrics_dir,
    sae_dir,
    sha256,
    tokens_dir,
    write_csv,
    write_json,
)
from reseed.interventions.concepts import concepts_of, phases, traced_variables
from reseed.interventions.latents import Candidates
from reseed.interventions.protocol import signed_doses
from reseed.interventions.report import calibration_rows, causal_summary, dose_rows
from reseed.interventions.run import SeedSaes, about_read_outs, check_frozen, grounded, load_trained_here, run_protocol
from reseed.params import RANDOM_MODEL, TRAINED, load_params, load_sae_training
from reseed.stability.activity import with_untrained
from reseed.stability.arms import alive_masks
from reseed.stability.dictionaries import read_seed_set
from reseed.stage import progress, run_stage
from reseed.text.traces import check_traced, read_traces


def causal(subject: str, variant: str, frozen: str) -> dict[str, Any]:
    params = load_params()
    chosen, options, key = params.variant(variant), params.causal, f"{subject}/{variant}"
    check_frozen(params, chosen, frozen)
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    training = load_sae_training(subject).at_steps(chosen.steps)
    traces = read_traces(tokens_dir(subject))
    arms = {arm: read_activations(activations_dir(subject, arm)) for arm in (TRAINED, RANDOM_MODEL)}
    for arm, one in arms.items():
        check_traced(sha256(tokens_dir(subject) / "index.json"), one.index, activations_dir(subject, arm))
    activations = arms[TRAINED]
    model = load_trained_here(lm_dir(subject), subject, activations.index["model_sha256"])
    found = grounded(model, traces, activations, options, subject)
    states, values = traced_variables(traces)
    if set(states) == {"answer"}:  # addition modulo p, which has no other variable
        by_phase = phases(
            states["answer"], activations.splits["train"].float(), len(values["answer"]), options.frequencies
        )
        states |= by_phase
        values |= dict.fromkeys(by_phase, ("no", "yes"))
    concepts = concepts_of(states, values, options, subject)

    read = {  # the folder of each kind of SAE, and its variant and arm
        TRAINED: (sae_dir(subject, variant), chosen, TRAINED),
        "frozen_sae": (sae_dir(subject, frozen), params.variant(frozen), TRAINED),
        "random_model_sae": (sae_dir(subject, variant, RANDOM_MODEL), chosen, RANDOM_MODEL),
    }
    sets = {name: read_seed_set(path, of, arm, train.seeds) for name, (path, of, arm) in read.items()}
    masks = {name: alive_masks(one, params.stability, f"{key}/{name}") for name, one in sets.items()}
    rows = {arm: one.rows("train").take(found.train_rows).float() for arm, one in arms.items()}
    saes = []
    untrained = with_untrained(read[TRAINED][0], chosen, training, train, activations)
    for i, (seed, (sae, start)) in enumerate(zip(train.seeds, untrained, strict=True)):
        others = {"untrained_sae": Candidates.of(start, rows[TRAINED])}
        for name in ("frozen_sae", "random_model_sae"):
            path, _, arm = read[name]
            other = SAE.load_from_disk(path / f"seed_{seed}", device="cpu").requires_grad_(False)
            others[name] = Candidates.of(other, rows[arm], masks[name][i])
        saes.append(SeedSaes(seed, Candidates.of(sae, rows[TRAINED], masks[TRAINED][i]), others))
    with progress(len(concepts), f"causal {variant}", "concept") as bar:
        benches, measured, untold = run_protocol(found, concepts, saes, options, key, bar)
    out, doses = metrics_dir(subject, variant), [float(dose) for dose in signed_doses(options)]
    summary = causal_summary(benches, measured, untold, sets[TRAINED].groups, params.stability.confidence)
    write_json(out / "causal.json", summary | about_read_outs(found) | {"artefacts": artefacts(subject, variant)})
    write_csv(out / "causal_calibration.csv", calibration_rows(measured, doses))
    write_csv(out / "causal_doses.csv", dose_rows(measured, doses))
    return {"variant": chosen, "causal": options, "stability": params.stability}


if __name__ == "__main__":
    run_stage(causal)
