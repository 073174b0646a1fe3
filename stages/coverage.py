"""coverage: which parts of addition modulo p the SAEs of a variant cover, and what their latents make of b + a."""

from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, artefacts, metrics_dir, sae_dir, sha256, tokens_dir, write_json
from reseed.params import TRAINED, load_params, load_subject
from reseed.saes.rows import seen_by
from reseed.stability.activity import with_untrained
from reseed.stability.arms import alive_masks
from reseed.stability.coverage import coverage_summary, held_out_operands
from reseed.stability.dictionaries import read_seed_set
from reseed.stage import run_stage
from reseed.text.tokens import read_tokens


def coverage(subject: str, variant: str) -> dict[str, Any]:
    params, config = load_params(), load_subject(subject)
    chosen = params.variant(variant)
    training = config.sae.at_steps(chosen.steps)
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    path, tokens = sae_dir(subject, variant), tokens_dir(subject)
    activations = read_activations(activations_dir(subject, TRAINED))
    operands = held_out_operands(activations, read_tokens(tokens), sha256(tokens / "index.json"))
    seeds = read_seed_set(path, chosen, TRAINED, train.seeds)
    content = coverage_summary(
        with_untrained(path, chosen, training, train, activations),
        alive_masks(seeds, params.stability, f"{subject}/{variant}/{TRAINED}"),
        seen_by(chosen, activations),
        operands,
        config.data.p,
        seeds.groups,
        params.stability.confidence,
    )
    out = metrics_dir(subject, variant) / "coverage.json"
    write_json(out, content | {"artefacts": artefacts(subject, variant)})
    return {"variant": chosen, "train": train, "sae": training}


if __name__ == "__main__":
    run_stage(coverage)
