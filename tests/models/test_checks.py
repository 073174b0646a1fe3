"""The leak check passes a model that computes and fails one that reads, copies or does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from reseed import ReseedError
from reseed.models.checks import LeakCheck, check_leak
from reseed.models.train import train_transformer
from reseed.models.transformer import build_transformer
from reseed.params import Model
from reseed.text.tokens import Tokens
from tests.conftest import P


def check(model: Callable[[Tensor], Tensor], sequences: Tensor, **where: Any) -> LeakCheck:
    places = {"operands": [0, 1], "label": 3, "predict": 2} | where
    random = torch.Generator().manual_seed(0)
    return check_leak(model, sequences, values=P, random=random, **places)  # type: ignore[arg-type]


def answering(rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A model that gives the answer of `rule` at every position."""
    return lambda rows: one_hot(rule(rows) % P, P).float().unsqueeze(1).expand(-1, rows.shape[1], -1)


def test_an_exact_adder_passes_with_full_marks(tokens: Tokens) -> None:
    rows = tokens.splits["test"].long()
    assert check(answering(lambda x: x[:, 0] + x[:, 1]), rows) == LeakCheck(1.0, 0.0)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (lambda x: x[:, 3], "corrupting the label changes 100.0% of the predictions, allowed: none"),
        (lambda x: x[:, 0] + x[:, 1] + (x[:, 3] == 0), "corrupting the label changes"),
        (lambda x: x[:, 0] * 0, "an idle model: corrupting an operand changes 0.0%"),
        (lambda x: x[:, 0], "an idle model: corrupting an operand changes 0.0%"),
    ],
    ids=["copies the label", "reads it sometimes", "constant", "ignores b"],
)
def test_a_model_that_does_not_compute_is_refused(
    rule: Callable[[Tensor], Tensor], sentence: str, tokens: Tokens
) -> None:
    with pytest.raises(ReseedError, match=sentence):
        check(answering(rule), tokens.splits["train"].long())


def test_a_transformer_trained_with_the_answer_in_its_input_is_refused(model: Model, tokens: Tokens) -> None:
    """HUSAI's set-up: [a, b, answer, =], answer wanted at `=`. It reaches full accuracy, and is no adder."""
    leaky = replace(
        tokens,
        splits={split: rows[:, [0, 1, 3, 2]] for split, rows in tokens.splits.items()},
        positions={"a": 0, "b": 1, "answer": 2, "equals": 3},
    )
    transformer = build_transformer(model, leaky.vocabulary, leaky.n_ctx, "leaky")
    training = model.training.model_copy(update={"lr": 0.01, "max_steps": 400, "min_accuracy": 0.99})
    curve = train_transformer(transformer, leaky, training, torch.device("cpu"))
    assert curve[-1]["validation_accuracy"] >= 0.99  # accuracy alone would have passed it
    with pytest.raises(ReseedError, match="label leak: corrupting the label changes"):
        check(transformer, leaky.splits["test"].long(), label=2, predict=3)
