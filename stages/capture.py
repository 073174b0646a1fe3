"""capture: the activations of one arm of a subject, all splits, with what made them."""

from pathlib import Path
from typing import Any

from reseed import ReseedError
from reseed.activations.capture import beside_traces, capture_traces
from reseed.activations.capture import capture as capture_activations
from reseed.activations.language import capture_language
from reseed.activations.store import Provenance, write_activations
from reseed.activations.validation import check_captured, validate_capture
from reseed.artifacts import activations_dir, lm_dir, sha256, tokens_dir, writing
from reseed.models.context import context_dependence
from reseed.models.language import load_language_model
from reseed.models.transformer import build_transformer, load_transformer, weights_sha256
from reseed.params import (
    OOD,
    RANDOM_MODEL,
    TRAINED,
    LanguageSubject,
    is_language,
    is_traced,
    load_language,
    load_params,
    load_subject,
    load_traced,
)
from reseed.stage import device, run_stage
from reseed.text.sequences import check_same_tokenizer, read_sequences
from reseed.text.tokens import read_tokens
from reseed.text.traces import read_traces

MADE_BY = {
    TRAINED: "forward pass of the trained model",
    RANDOM_MODEL: "forward pass of the model at its own initialisation",
    OOD: "forward pass of the trained model over another subject's text",
}


def capture(subject: str, arm: str) -> dict[str, Any]:
    if is_traced(subject):
        return _of_traces(subject, arm)
    return _of_language(subject, arm) if is_language(subject) else _of_addition(subject, arm)


def _of_language(subject: str, arm: str) -> dict[str, Any]:
    config, params = load_language(subject), load_params()
    where, machine = config.capture, device(params.compute)
    _check_arm(subject, arm, where.arms)
    text = _text(subject, config) if arm == OOD else subject
    sequences = read_sequences(tokens_dir(text))
    check_same_tokenizer(sequences, read_sequences(tokens_dir(subject)))
    model = load_language_model(config.model, lm_dir(subject), arm, sequences, subject)
    provenance = Provenance(
        subject=subject,
        arm=arm,
        hook_name=where.hook_name,
        positions=(where.positions,),
        generator=MADE_BY[arm],
        model_sha256=weights_sha256(model),
        tokens_sha256=sha256(tokens_dir(text) / "index.json"),
        hook_name_out=where.hook_name_out,
    )
    names = (where.hook_name,) if isinstance(where.hook_name, str) else where.hook_name
    found = [context_dependence(model, name, sequences) for name in names]
    about: dict[str, Any] = {"text": text, "depends_on": {one.hook_name: one.depends_on for one in found}}
    if lookups := [
        f"{one.hook_name} is a lookup of the {one.depends_on}" for one in found if not one.context_dependent
    ]:
        # it may be studied, but no claim about what the model computes can rest on it
        about["quarantine"] = f"{', '.join(lookups)}, whatever stands around it"
    resumable = Path("checkpoints") / subject / f"activations@{arm}"
    out = activations_dir(subject, arm)
    capture_language(model, sequences, where, provenance, out, machine, params.budget, resumable, about=about)
    check_captured(model, sequences, where, machine, out)
    cost = validate_capture(model, sequences, where, machine)
    print(f"capture {subject} {arm}: {cost}")
    return {"capture": where, "budget": params.budget, "measured": cost.facts}


def _text(subject: str, config: LanguageSubject) -> str:
    """The subject whose text is out of this one's domain."""
    text = str(config.capture.ood)
    if load_language(text).data.corpus == config.data.corpus:
        raise ReseedError(
            f"subjects/{subject}.yaml: capture.ood: found {text!r}, whose corpus is {config.data.corpus} as well, "
            "allowed: a subject of another corpus"
        )
    return text


def _check_arm(subject: str, arm: str, arms: tuple[str, ...]) -> None:
    if arm not in arms:
        raise ReseedError(f"subjects/{subject}.yaml: capture.arms: found no {arm!r}; known: {arms}")


def _of_traces(subject: str, arm: str) -> dict[str, Any]:
    config = load_traced(subject)
    where = config.capture
    _check_arm(subject, arm, where.arms)
    traces = read_traces(tokens_dir(subject))
    if arm == RANDOM_MODEL:
        transformer = build_transformer(config.model, len(traces.vocabulary), traces.n_ctx, subject)
    else:
        transformer = load_transformer(config.model, lm_dir(subject), subject)
    splits = capture_traces(transformer, traces, where.hook_name, device(load_params().compute))
    provenance = Provenance(
        subject=subject,
        arm=arm,
        hook_name=where.hook_name,
        positions=("predicted",),
        generator=MADE_BY[arm],
        model_sha256=weights_sha256(transformer),
        tokens_sha256=sha256(tokens_dir(subject) / "index.json"),
    )
    with writing(activations_dir(subject, arm)) as path:
        write_activations(splits, provenance, where.dtype, path, beside_traces(traces, where.labels))
    return {"capture": where}


def _of_addition(subject: str, arm: str) -> dict[str, Any]:
    config = load_subject(subject)
    _check_arm(subject, arm, config.capture.arms)
    tokens = read_tokens(tokens_dir(subject))
    if arm == RANDOM_MODEL:
        transformer = build_transformer(config.model, tokens.vocabulary, tokens.n_ctx, subject)
    else:
        transformer = load_transformer(config.model, lm_dir(subject), subject)
    where, machine = config.capture, device(load_params().compute)
    splits = capture_activations(transformer, tokens, where.hook_name, where.positions, machine)
    beside = None
    if where.hook_name_out:
        targets = capture_activations(transformer, tokens, where.hook_name_out, where.positions, machine)
        beside = {split: {"target": rows} for split, rows in targets.items()}
    provenance = Provenance(
        subject=subject,
        arm=arm,
        hook_name=where.hook_name,
        positions=where.positions,
        generator=MADE_BY[arm],
        model_sha256=weights_sha256(transformer),
        tokens_sha256=sha256(tokens_dir(subject) / "index.json"),
        hook_name_out=where.hook_name_out,
    )
    with writing(activations_dir(subject, arm)) as path:
        write_activations(splits, provenance, where.dtype, path, beside)
    return {"capture": where}


if __name__ == "__main__":
    run_stage(capture)
