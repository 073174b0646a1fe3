"""The transformer: its training, its storage, and the rule that it must have learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.models.train import evaluate, rates, train_transformer
from reseed.models.transformer import build_transformer, load_transformer, save_transformer
from reseed.params import Model
from reseed.text.tokens import Tokens

CPU = torch.device("cpu")


def built(model: Model, tokens: Tokens) -> HookedTransformer:
    return build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny")


def test_training_lowers_the_loss_and_repeats_its_bytes(model: Model, tokens: Tokens) -> None:
    runs = []
    tokens = replace(tokens, splits=tokens.splits | {"validation": tokens.splits["train"]})  # too few to generalise
    for _ in range(2):
        transformer = built(model, tokens)
        before = evaluate(transformer, tokens, "train").loss
        curve = train_transformer(transformer, tokens, model.training, CPU)
        runs.append((curve, [parameter.detach().clone() for parameter in transformer.parameters()]))
        assert evaluate(transformer, tokens, "train").loss < 0.8 * before
    assert runs[0][0] == runs[1][0]
    assert [row["step"] for row in runs[0][0]] == [50, 100, 150, 200]
    assert all(a.equal(b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_the_learning_rate_warms_up_stays_and_falls_to_zero(model: Model) -> None:
    training = model.training.model_copy(update={"warm_up_steps": 10, "max_steps": 100, "decay_fraction": 0.4})
    for fraction, last in ((0.4, [1e-3, 0.00075, 0.0005, 0.00025]), (0, [1e-3] * 4)):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.AdamW([parameter], lr=1e-3)
        schedule = rates(optimizer, training.model_copy(update={"decay_fraction": fraction}))
        used = []
        for _ in range(100):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert used[:11:5] == pytest.approx([1e-4, 5.5e-4, 1e-3])
        assert used[10:61] == pytest.approx([1e-3] * 51)
        assert used[60::10] == pytest.approx(last)


def test_the_global_generator_is_left_alone(model: Model, tokens: Tokens) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    built(model, tokens)
    assert torch.rand(1) == expected


def test_a_model_that_does_not_generalise_fails(model: Model, tokens: Tokens) -> None:
    strict = model.training.model_copy(update={"min_accuracy": 0.99, "max_steps": 60})
    sentence = r"the model did not generalise: validation accuracy 0\.\d+ after 60 steps, allowed: at least 0\.99"
    with pytest.raises(ReseedError, match=sentence):
        train_transformer(built(model, tokens), tokens, strict, CPU)


def test_the_score_is_the_cross_entropy_at_the_answer_of_a_prefix_without_it(model: Model, tokens: Tokens) -> None:
    transformer = built(model, tokens).eval()
    rows = tokens.splits["test"].long()
    logits = transformer(rows)[:, 2]  # causal: the whole sequence gives the same logits at `=` as the prefix
    score = evaluate(transformer, tokens, "test")
    assert score.loss == pytest.approx(cross_entropy(logits, rows[:, 3]).item(), rel=1e-5)
    assert score.accuracy == (logits.argmax(-1) == rows[:, 3]).double().mean().item()


def test_a_stored_model_computes_the_same(model: Model, tokens: Tokens, tmp_path: Path) -> None:
    transformer = built(model, tokens)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.1)
    save_transformer(transformer, model, tmp_path, {"accuracy": 1.0})
    again = load_transformer(model, tmp_path, "tiny")
    rows = tokens.splits["test"].long()
    assert again(rows).equal(transformer.eval()(rows))


def test_edited_weights_and_another_architecture_are_refused(model: Model, tokens: Tokens, tmp_path: Path) -> None:
    save_transformer(built(model, tokens), model, tmp_path, {})
    wider = model.model_copy(update={"d_mlp": 64})
    with pytest.raises(ReseedError, match=r"of another architecture than subjects/tiny\.yaml: model"):
        load_transformer(wider, tmp_path, "tiny")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(ReseedError, match="truncated or edited"):
        load_transformer(model, tmp_path, "tiny")
