"""examples: what the latents of a variant are most active on, and their partners in the other seeds."""

from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, metrics_dir, sae_dir, tokens_dir, write_parquet, writing
from reseed.params import TRAINED, is_language, load_language, load_params, load_subject
from reseed.stability.arms import alive_masks
from reseed.stability.dictionaries import read_seed_set
from reseed.stability.examples import addition_texts, check_tokens, language_texts, partners, top_rows
from reseed.stage import run_stage
from reseed.text.sequences import read_sequences
from reseed.text.tokenizers import read_tokenizer
from reseed.text.tokens import read_tokens


def examples(subject: str, variant: str) -> dict[str, Any]:
    params = load_params()
    chosen, options = params.variant(variant), params.stability
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    path, tokens = sae_dir(subject, variant), tokens_dir(subject)
    activations = read_activations(activations_dir(subject, TRAINED))
    check_tokens(activations, tokens)
    seed_set = read_seed_set(path, chosen, TRAINED, train.seeds)
    masks = alive_masks(seed_set, options, f"{subject}/{variant}/{TRAINED}")
    found = top_rows(path, seed_set, masks, activations)
    rows = found["row"].unique()
    if is_language(subject):
        where = load_language(subject).capture
        texts = language_texts(read_sequences(tokens), read_tokenizer(tokens), where, rows)
    else:
        texts = addition_texts(read_tokens(tokens), load_subject(subject).capture.positions, rows)
    with writing(metrics_dir(subject, variant) / "examples") as out:
        out.mkdir()
        write_parquet(out / "examples.parquet", found.merge(texts, on="row", how="left"))
        write_parquet(out / "partners.parquet", partners(seed_set, masks))
    return {"variant": chosen, "train": train, "alive_min_count": options.alive_min_count}


if __name__ == "__main__":
    run_stage(examples)
