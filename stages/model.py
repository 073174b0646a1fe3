"""model: train the subject's transformer until it generalises, and refuse one that reads its answer off the input."""

from typing import Any

from reseed.artifacts import generator, lm_dir, tokens_dir, write_csv, writing
from reseed.models.checks import check_leak
from reseed.models.train import evaluate, train_transformer
from reseed.models.transformer import build_transformer, save_transformer
from reseed.params import SPLITS, load_params, load_subject
from reseed.stage import device, run_stage
from reseed.text.tokens import read_tokens


def model(subject: str) -> dict[str, Any]:
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
