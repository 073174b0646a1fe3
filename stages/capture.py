"""capture: the activations of one arm of a subject, all splits, with what made them."""

from typing import Any

from reseed import ReseedError
from reseed.activations.capture import capture as capture_activations
from reseed.activations.store import Provenance, write_activations
from reseed.artifacts import activations_dir, lm_dir, sha256, tokens_dir, writing
from reseed.models.transformer import build_transformer, load_transformer, weights_sha256
from reseed.params import RANDOM_MODEL, load_params, load_subject
from reseed.stage import device, run_stage
from reseed.text.tokens import read_tokens


def capture(subject: str, arm: str) -> dict[str, Any]:
    config = load_subject(subject)
    if arm not in config.capture.arms:
        raise ReseedError(f"subjects/{subject}.yaml: capture.arms: found no {arm!r}; known: {config.capture.arms}")
    tokens = read_tokens(tokens_dir(subject))
    if arm == RANDOM_MODEL:
        transformer = build_transformer(config.model, tokens.vocabulary, tokens.n_ctx, subject)
        made_by = "forward pass of the model at its own initialisation"
    else:
        transformer = load_transformer(config.model, lm_dir(subject), subject)
        made_by = "forward pass of the trained model"
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
        generator=made_by,
        model_sha256=weights_sha256(transformer),
        tokens_sha256=sha256(tokens_dir(subject) / "index.json"),
        hook_name_out=where.hook_name_out,
    )
    with writing(activations_dir(subject, arm)) as path:
        write_activations(splits, provenance, where.dtype, path, beside)
    return {"capture": where}


if __name__ == "__main__":
    run_stage(capture)
