"""coverage: which parts of its domain the SAEs of a variant cover, and what their latents make of a relabelling."""

from typing import Any

from reseed import ReseedError
from reseed.activations.store import Activations, read_activations
from reseed.artifacts import activations_dir, artefacts, lm_dir, metrics_dir, sae_dir, sha256, tokens_dir, write_json
from reseed.coverage.addition import addition_domain, held_out_operands
from reseed.coverage.domain import Domain, coverage_summary
from reseed.coverage.language import language_domain
from reseed.coverage.worlds import world_domain
from reseed.models.language import load_language_model
from reseed.models.transformer import load_transformer, weights_sha256
from reseed.params import (
    TRAINED,
    is_language,
    is_traced,
    load_language,
    load_params,
    load_sae_training,
    load_subject,
    load_traced,
)
from reseed.saes.rows import seen_by
from reseed.stability.activity import with_untrained
from reseed.stability.arms import alive_masks
from reseed.stability.dictionaries import read_seed_set
from reseed.stage import device, run_stage
from reseed.text.sequences import read_sequences
from reseed.text.tokenizers import read_tokenizer
from reseed.text.tokens import read_tokens
from reseed.text.traces import read_traces


def coverage(subject: str, variant: str) -> dict[str, Any]:
    params = load_params()
    chosen = params.variant(variant)
    training = load_sae_training(subject).at_steps(chosen.steps)
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    path = sae_dir(subject, variant)
    activations = read_activations(activations_dir(subject, TRAINED))
    seeds = read_seed_set(path, chosen, TRAINED, train.seeds)
    content = coverage_summary(
        with_untrained(path, chosen, training, train, activations),
        alive_masks(seeds, params.stability, f"{subject}/{variant}/{TRAINED}"),
        _domain(subject, seen_by(chosen, activations)),
        seeds.groups,
        params.stability.confidence,
    )
    out = metrics_dir(subject, variant) / "coverage.json"
    write_json(out, content | {"artefacts": artefacts(subject, variant)})
    return {"variant": chosen, "train": train, "sae": training}


def _domain(subject: str, activations: Activations) -> Domain:
    tokens, lm, machine = tokens_dir(subject), lm_dir(subject), device(load_params().compute)
    if is_traced(subject):
        world, traces = load_traced(subject), read_traces(tokens)
        transformer = load_transformer(world.model, lm, subject)
        _check_model(weights_sha256(transformer), activations)
        return world_domain(transformer, traces, world.capture.hook_name, world.data, machine, subject)
    if is_language(subject):
        config, sequences = load_language(subject), read_sequences(tokens)
        model = load_language_model(config.model, lm, TRAINED, sequences, subject)
        _check_model(weights_sha256(model), activations)
        return language_domain(model, sequences, read_tokenizer(tokens), config.capture, machine)
    operands = held_out_operands(activations, read_tokens(tokens), sha256(tokens / "index.json"))
    return addition_domain(activations, operands, load_subject(subject).data.p)


def _check_model(found: str, activations: Activations) -> None:
    allowed = activations.index["model_sha256"]
    if found != allowed:
        raise ReseedError(
            f"models/{activations.index['subject']}/lm: found a model {found[:12]}…, allowed: {allowed[:12]}…, whose "
            "activations the SAEs were trained on"
        )


if __name__ == "__main__":
    run_stage(coverage)
