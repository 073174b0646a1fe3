"""prompts: what a language model holds after the prompts of sae-probes' data sets, one arm."""

from typing import Any

from reseed.activations.language import Reader
from reseed.artifacts import lm_dir, prompts_dir, tokens_dir, writing
from reseed.benchmarks.prompts import chosen_datasets, write_prompts
from reseed.models.language import load_language_model
from reseed.models.transformer import weights_sha256
from reseed.params import load_language, load_params
from reseed.stage import device, run_stage
from reseed.text.sequences import read_sequences
from reseed.text.tokenizers import read_tokenizer


def prompts(subject: str, arm: str) -> dict[str, Any]:
    config, params = load_language(subject), load_params()
    names = chosen_datasets(params.sae_probes.datasets)
    sequences = read_sequences(tokens_dir(subject))
    model = load_language_model(config.model, lm_dir(subject), arm, sequences, subject)
    about = {"subject": subject, "arm": arm, "model_sha256": weights_sha256(model)}
    reader = Reader(model, config.capture, device(params.compute))
    with writing(prompts_dir(subject, arm)) as path:
        write_prompts(reader, read_tokenizer(tokens_dir(subject)), sequences.n_ctx, names, about, path)
    return {"capture": config.capture, "data_sets": len(names)}


if __name__ == "__main__":
    run_stage(prompts)
