"""truth: what the SAEs of a variant say of a subject whose states, planes or directions are known, and go or no-go."""

from typing import Any

import numpy as np
import torch

from reseed.activations.store import Activations, read_activations, read_truth
from reseed.artifacts import (
    activations_dir,
    artefacts,
    generator,
    lm_dir,
    metrics_dir,
    sae_dir,
    sha256,
    tokens_dir,
    write_json,
    write_parquet,
    writing,
)
from reseed.params import (
    TRAINED,
    Stability,
    Truth,
    generator_of,
    is_states,
    is_traced,
    load_params,
    load_phase,
    load_sae_training,
    load_states,
    load_traced,
)
from reseed.stability.activity import held_out_activity, held_out_places, with_untrained
from reseed.stability.dictionaries import read_seed_set
from reseed.stage import run_stage
from reseed.subjects.modular import key_frequencies
from reseed.text.traces import TRACES, check_traced, read_traces
from reseed.truth.concepts import concepts_of
from reseed.truth.directions import score_directions
from reseed.truth.edits import clamped
from reseed.truth.figures import decide
from reseed.truth.known import check_known
from reseed.truth.peers import peers
from reseed.truth.planes import Waves, score_planes
from reseed.truth.states import detect_by_arm, linear_probes, rows_of, score_states
from reseed.truth.subject import (
    Judged,
    Scores,
    accuracy,
    alive_fraction,
    attention,
    check_scorable,
    control_rows,
    fidelity,
    over_predictions,
)


def truth(subject: str, variant: str, control: str) -> dict[str, Any]:
    params, phase = load_params(), load_phase(subject)
    chosen, options, settings = params.variant(variant), params.stability, params.truth
    check_scorable(chosen, subject)
    training = load_sae_training(subject).at_steps(chosen.steps)
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    path, control_path, key = sae_dir(subject, variant), sae_dir(subject, variant, control), f"{subject}/{variant}"
    activations = read_activations(activations_dir(subject, TRAINED)).without_target()
    elsewhere = control_rows(activations, read_activations(activations_dir(subject, control)).without_target())
    judged = Judged.of(
        read_seed_set(path, chosen, TRAINED, train.seeds),
        list(with_untrained(path, chosen, training, train, activations)),
        read_seed_set(control_path, chosen, control, train.seeds),
        control_path,
        control,
        options,
        key,
    )
    known = read_truth(activations_dir(subject, TRAINED))
    if known is not None:
        fitted, held_out = _rows(activations, settings, subject), held_out_places(len(known.codes))
        test = _double(activations, "test", held_out)
        beside = peers(fitted, test, subject)
        activity = held_out_activity(path, chosen, training, train, activations)
        directions, codes = known.directions.double().numpy(), known.codes[held_out].numpy()
        scores = score_directions(
            judged, directions, codes, activity, test, beside, settings.permutations, options, key
        )
    elif generator_of(subject) == "modular_addition":
        scores, fitted, test = _planes(subject, judged, activations, elsewhere, settings, options, key)
    else:
        if exact := (beside_rows := activations_dir(subject, TRAINED) / TRACES).is_dir():  # rows are states themselves
            traces = read_traces(beside_rows)
        else:
            traces = read_traces(tokens_dir(subject))
            tokens = sha256(tokens_dir(subject) / "index.json")
            check_traced(tokens, activations.index, activations_dir(subject, TRAINED))
        if is_traced(subject) or is_states(subject):
            data = load_states(subject).data.world if exact else load_traced(subject).data
            check_known(traces, data, f"data/{subject}")
        concepts = concepts_of(traces, settings.rows, subject)
        fitted = _double(activations, "train", concepts.train_places)
        test = _double(activations, "test", concepts.test_places)
        beside = peers(fitted, test, subject)
        scores = score_states(judged, activations, elsewhere, concepts, beside, settings, options, key)
        if exact:
            edited = clamped(judged, activations, concepts, scores.concepts, traces.variables)
            scores.facts["edits"] = {"causal_tests": 0} | {
                name: found.shown(options.confidence) for name, found in edited.items()
            }
    explained, l0_over_d_in = fidelity(judged, activations, elsewhere, fitted, test)
    figures = {"alive_fraction": alive_fraction(judged)} | explained | scores.figures
    if (looks := attention(lm_dir(subject), judged.groups)) is not None:
        figures["attention"] = looks
    if (right := accuracy(lm_dir(subject), judged.groups)) is not None:
        figures["accuracy"] = right
    content: dict[str, Any] = scores.facts | {
        "control": control,
        "seeds": len(judged.groups),
        "figures": {name: found.shown(options.confidence) for name, found in figures.items()},
        "artefacts": artefacts(subject, variant),
    }
    if right is not None:
        predictions = len(activations.rows("test"))
        content["figures"]["accuracy"] = over_predictions(right, predictions, options.confidence)
    if l0_over_d_in >= 1:
        content["figures"]["fidelity"]["no_evidence"] = "L0 >= d_in: as many latents as dimensions explain everything"
    if phase is not None:
        content["phase"] = {"question": phase.question} | decide(
            phase.rules, figures, l0_over_d_in, options.confidence, chosen.objectives.probe_guidance is not None
        )
    out = metrics_dir(subject, variant)
    write_json(out / "truth.json", content)
    with writing(out / "truth") as tables:
        tables.mkdir()
        write_parquet(tables / "latents.parquet", scores.latents)
        write_parquet(tables / "concepts.parquet", scores.concepts)
    return {"variant": chosen, "train": train, "sae": training, "stability": options, "truth": settings, "phase": phase}


def _planes(
    subject: str,
    judged: Judged,
    activations: Activations,
    elsewhere: Activations,
    settings: Truth,
    options: Stability,
    key: str,
) -> tuple[Scores, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    traces = read_traces(tokens_dir(subject))
    check_traced(sha256(tokens_dir(subject) / "index.json"), activations.index, activations_dir(subject, TRAINED))
    p = len(traces.variables["answer"])
    answers = {split: traces.rows(split)[:, 0].long() for split in ("train", "test")}
    rows = {split: activations.splits[split].double().numpy() for split in ("train", "test")}
    frequencies = tuple(key_frequencies(activations.splits["train"].float(), answers["train"], p))
    waves = Waves.of(rows["train"], answers["train"].numpy(), p, frequencies)
    other = {split: elsewhere.splits[split].double().numpy() for split in ("train", "test")}
    of_control = Waves.of(other["train"], answers["train"].numpy(), p, frequencies)
    again = Waves.of(rows["test"], answers["test"].numpy(), p, frequencies)
    r2 = (
        waves.r2(rows["test"], answers["test"].numpy()),
        of_control.r2(other["test"], answers["test"].numpy()),
    )
    concepts = concepts_of(traces, settings.rows, subject, least=0.5 / p)
    fitted = _double(activations, "train", concepts.train_places)
    test = _double(activations, "test", concepts.test_places)
    beside = peers(fitted, test, subject)
    own, others = rows_of(activations, concepts), rows_of(elsewhere, concepts)
    detected = detect_by_arm(judged, own, others, concepts, beside, settings.permutations, key)
    probes = linear_probes(fitted, test, concepts)
    scores = score_planes(
        judged, waves, of_control, r2, settings.min_fourier_r2, again, detected, concepts, probes, (own, others),
        beside, options, key,
    )  # fmt: skip
    return scores, fitted, test


def _rows(activations: Activations, settings: Truth, subject: str) -> np.ndarray[Any, Any]:
    """Training rows that peers are fitted to, drawn by a generator of the subject."""
    count = len(activations.rows("train"))
    order = torch.randperm(count, generator=generator("truth", subject, "rows"))
    return _double(activations, "train", order[: settings.rows.train].sort().values)


def _double(activations: Activations, split: str, places: torch.Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(activations.rows(split).take(places).double().numpy())


if __name__ == "__main__":
    run_stage(truth)
