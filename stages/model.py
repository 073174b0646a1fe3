"""model: train the subject's transformer, or fetch its pretrained one, and refuse one that reads what it predicts."""

from typing import Any

from transformer_lens import HookedTransformer

from reseed.artifacts import generator, lm_dir, tokens_dir, write_csv, write_json, writing
from reseed.models.checks import check_causal, check_leak
from reseed.models.gpt import check_learned, language_facts, pretrain
from reseed.models.language import load_language_model, store_checkpoint
from reseed.models.train import evaluate, train_transformer
from reseed.models.transformer import build_transformer, save_transformer
from reseed.models.worlds import PATTERNS, best_head, check_reads_input, expected_keys, uniform_attention
from reseed.params import (
    MODEL_SPLIT,
    SPLITS,
    TRAINED,
    Gpt,
    TracedSubject,
    check_training_text,
    is_language,
    is_traced,
    load_language,
    load_params,
    load_subject,
    load_traced,
)
from reseed.stage import device, run_stage
from reseed.text.sequences import read_sequences
from reseed.text.tokens import read_tokens
from reseed.text.traces import Traces, read_traces

SEQUENCES_OF_A_FETCHED_MODEL = 256
"""Held-out sequences a split that measure a model which was not trained here: it may be a thousand times larger."""
SEQUENCES_OF_A_CAUSAL_CHECK = 64


def model(subject: str) -> dict[str, Any]:
    if is_traced(subject):
        return _traced(subject)
    return _language(subject) if is_language(subject) else _addition(subject)


def _language(subject: str) -> dict[str, Any]:
    config = load_language(subject)
    sequences, machine = read_sequences(tokens_dir(subject)), device(load_params().compute)
    with writing(lm_dir(subject)) as path:
        path.mkdir()
        if isinstance(config.model, Gpt):
            check_training_text(subject)
            transformer = build_transformer(config.model, sequences.vocabulary, sequences.n_ctx, subject)
            curve = pretrain(transformer, sequences, config.model.training, machine)
            facts = language_facts(transformer, sequences, machine)
            check_learned(facts, config.model)
            save_transformer(transformer, config.model, path, facts | {"steps": int(curve[-1]["step"])})
            write_csv(path / "training.csv", curve)
        else:
            store_checkpoint(config.model, path)
            loaded = load_language_model(config.model, path, TRAINED, sequences, subject)
            if isinstance(loaded, HookedTransformer):
                facts = language_facts(loaded, sequences, machine, SEQUENCES_OF_A_FETCHED_MODEL)
            else:  # an encoder sees every token: it has no loss of the next one
                facts = {"parameters": sum(parameter.numel() for parameter in loaded.parameters())}
            write_json(path / "metrics.json", facts)
    return {"model": config.model}


def _traced(subject: str) -> dict[str, Any]:
    config = load_traced(subject)
    traces = read_traces(tokens_dir(subject))
    transformer = build_transformer(config.model, len(traces.vocabulary), traces.n_ctx, subject)
    curve = train_transformer(transformer, traces, config.model.training, device(load_params().compute))
    random = generator("leak check", config.model.training.seed)
    scores = {split: evaluate(transformer, traces, split) for split in (MODEL_SPLIT, *SPLITS)}
    targets, test = traces.targets("test").flatten(), traces.splits["test"].long()
    facts = {
        "accuracy": {split: score.accuracy for split, score in scores.items()},
        "loss": {split: score.loss for split, score in scores.items()},
        "chance_accuracy": targets.bincount().max().item() / len(targets),
        "steps": int(curve[-1]["step"]),
        "input_sensitivity": check_reads_input(transformer, traces, "test", random),
        "effect_of_later_tokens": check_causal(transformer, test[:SEQUENCES_OF_A_CAUSAL_CHECK], random),
    }
    facts |= _attention(config, transformer, traces, subject)
    with writing(lm_dir(subject)) as path:
        path.mkdir()
        save_transformer(transformer, config.model, path, facts)
        write_csv(path / "training.csv", curve)
    return {"model": config.model}


def _attention(
    config: TracedSubject, transformer: HookedTransformer, traces: Traces, subject: str
) -> dict[str, dict[str, Any]]:
    """How far the best head looks where the algorithm must, beside what even attention and the untrained model do."""
    world, test = config.data.generator, traces.splits["test"]
    keys = expected_keys(world, traces, "test")
    if keys is None:
        return {}
    untrained = build_transformer(config.model, len(traces.vocabulary), traces.n_ctx, subject)
    found = best_head(transformer, test, traces.predicted, keys)
    return {
        "attention": {
            "pattern": PATTERNS[world],
            "layer": found.layer,
            "head": found.head,
            "trained": found.attention,
            "untrained": best_head(untrained, test, traces.predicted, keys).attention,
            "uniform": uniform_attention(traces.predicted, keys),
        }
    }


def _addition(subject: str) -> dict[str, Any]:
    config = load_subject(subject)
    tokens = read_tokens(tokens_dir(subject))
    transformer = build_transformer(config.model, tokens.vocabulary, tokens.n_ctx, subject)
    curve = train_transformer(transformer, tokens, config.model.training, device(load_params().compute))
    leak = check_leak(
        transformer,
        tokens.splits["test"].long(),
        operands=[tokens.position("a"), tokens.position("b")],
        label=tokens.position(tokens.target),
        predict=tokens.position(tokens.predict),
        values=config.data.p,
        random=generator("leak check", config.model.training.seed),
    )
    scores = {split: evaluate(transformer, tokens, split) for split in SPLITS}
    targets = tokens.splits["test"][:, tokens.position(tokens.target)]
    facts = {
        "accuracy": {split: score.accuracy for split, score in scores.items()},
        "loss": {split: score.loss for split, score in scores.items()},
        "chance_accuracy": targets.bincount().max().item() / len(targets),
        "steps": int(curve[-1]["step"]),
        "operand_sensitivity": leak.operand_sensitivity,
        "label_sensitivity": leak.label_sensitivity,
    }
    with writing(lm_dir(subject)) as path:
        path.mkdir()
        save_transformer(transformer, config.model, path, facts)
        write_csv(path / "training.csv", curve)
    return {"model": config.model}


if __name__ == "__main__":
    run_stage(model)
