"""ce_bench: contrastive and independence scores of every seed of a variant, beside SAEs of the same width and L0."""

import tempfile
from pathlib import Path
from typing import Any

from sae_lens import SAE

from reseed.activations.language import Reader
from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, lm_dir, metrics_dir, raw_dir, tokens_dir, write_json
from reseed.benchmarks.arms import with_controls
from reseed.benchmarks.ce_bench import edited_pairs, hub_pairs, read_pairs, scores
from reseed.benchmarks.evals import summarise
from reseed.models.language import load_language_model
from reseed.params import RANDOM_MODEL, TRAINED, load_language, load_params
from reseed.stage import device, progress, run_stage
from reseed.text.sequences import read_sequences
from reseed.text.tokenizers import read_tokenizer


def ce_bench(subject: str, variant: str, frozen: str) -> dict[str, Any]:
    params, config = load_params(), load_language(subject)
    chosen, options = params.variant(variant), params.ce_bench
    sequences, tokenizer = read_sequences(tokens_dir(subject)), read_tokenizer(tokens_dir(subject))
    activations = {arm: read_activations(activations_dir(subject, arm)) for arm in (TRAINED, RANDOM_MODEL)}
    models = {arm: found.index["model_sha256"] for arm, found in activations.items()}
    if options.source == "hub":
        pairs = hub_pairs(options.revision, options.pairs)
    else:
        pairs = edited_pairs(raw_dir(subject) / "test.jsonl", options.pairs, options.seed)
    held = {}
    for arm in (TRAINED, RANDOM_MODEL):
        model = load_language_model(config.model, lm_dir(subject), arm, sequences, subject)
        held[arm] = read_pairs(Reader(model, config.capture, device(params.compute)), tokenizer, sequences.n_ctx, pairs)
    figures: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        saes = with_controls(
            params, options.control_seeds, subject, variant, frozen, activations[TRAINED], models, Path(temporary)
        )
        with progress(len(saes), f"CE-Bench-style {variant}", "SAE") as bar:
            for one in saes:
                sae = SAE.load_from_disk(one.folder, device="cpu")
                figures.setdefault(one.name, {})[one.seed] = scores(sae, held[one.reads])
                bar.update()
    summary: dict[str, Any] = summarise(figures, params.stability.confidence, chosen.group_size)
    about = {"pairs": len(pairs), "source": options.source, "d_sae": chosen.d_sae}
    write_json(metrics_dir(subject, variant) / "ce_bench.json", summary | about)
    return {"variant": chosen, "ce_bench": options}


if __name__ == "__main__":
    run_stage(ce_bench)
