"""The quarantined subject runs because it leaks: a healthy model, or one broken otherwise, must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.activations.store import read_activations, write_activations
from reseed.params import LeakyAddition, LeakyModel, LeakyTraining, load_quarantined
from reseed.replication import leaky
from reseed.replication.leaky import activations, answer_variance, require_leak, sequences, train_leaky
from tests.conftest import ROOT, provenance

P = 13
DATA = LeakyAddition(generator="modular_addition_with_its_answer", p=P, train_fraction=0.9, seed=42)
TRAINING = LeakyTraining(seed=42, batch_size=32, lr=0.01, weight_decay=0.01, max_epochs=30)
TINY = LeakyModel(
    n_layers=2, d_model=32, n_heads=2, d_mlp=64, act_fn="relu", normalization_type="LN", training=TRAINING
)


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def answering(rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A model that gives the answer of `rule` at every position."""
    return lambda rows: one_hot(rule(rows) % P, P).float().unsqueeze(1).expand(-1, rows.shape[1], -1)


def test_a_sequence_is_the_published_one() -> None:
    rows = sequences(113)
    assert rows.shape == (12_769, 7)
    assert rows.max() + 1 == 117
    assert rows[100 * 113 + 20].tolist() == [113, 100, 116, 20, 115, 7, 114]  # [BOS, a, +, b, =, c, EOS]


def test_the_recipe_learns_to_copy_and_the_leak_lets_it_run() -> None:
    rows = sequences(P)
    transformer, curve = train_leaky(rows, DATA, TINY, "tiny")
    assert curve[-1] == 1
    assert max(curve[:-1]) < 1
    hidden = activations(transformer, rows, "blocks.1.hook_resid_post")
    assert hidden.shape == (P * P, 32)
    found = require_leak(transformer, rows, hidden, P, random())
    assert found.refusal.startswith("label leak: corrupting the label changes")
    assert found.copied > 0.9
    assert found.randomised_accuracy > 0.9
    assert found.answer_variance > 0.5


def test_the_first_of_the_best_epochs_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    told = [0.2, 0.5, 0.5, 0.1]

    def accuracy(transformer: HookedTransformer, rows: Tensor, answers: Tensor) -> float:
        assert torch.equal(rows[:, 5], answers)
        seen.append(transformer.W_E.detach().clone())
        return told[len(seen) - 1]

    monkeypatch.setattr(leaky, "_accuracy", accuracy)
    short = TINY.model_copy(update={"training": TRAINING.model_copy(update={"max_epochs": 4})})
    transformer, curve = train_leaky(sequences(P), DATA, short, "tiny")
    assert curve == told
    assert torch.equal(transformer.W_E, seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (lambda x: x[:, 1] + x[:, 3], "quarantined for a label leak, but its leak check passes: it must not run"),
        (lambda x: x[:, 1] * 0, "copies [0-9.]+% of the answers.*fails for another reason .*an idle model"),
        (lambda x: x[:, 1] + x[:, 3] + (x[:, 5] == 0), "copies [0-9.]+% of the answers.*for another reason"),
    ],
    ids=["adds", "constant", "reads the answer without copying it"],
)
def test_a_model_without_the_fault_does_not_run_under_its_name(rule: Callable[[Tensor], Tensor], sentence: str) -> None:
    rows = sequences(P)
    with pytest.raises(ReseedError, match=sentence):
        require_leak(answering(rule), rows, rows.float(), P, random())  # type: ignore[arg-type]


def test_the_variance_that_the_answer_explains_is_that_of_its_means() -> None:
    # two answers at -2 and 2, each with rows 1 to the left and right: between 4, within 1
    hidden = torch.tensor([[-3.0, 0], [-1, 0], [1, 0], [3, 0]])
    assert answer_variance(hidden, torch.tensor([7, 7, 2, 2])) == pytest.approx(4 / 5)


def test_the_fault_travels_with_the_activations(tmp_path: Path) -> None:
    rows = dict.fromkeys(("train", "validation", "test"), torch.randn(8, 4, generator=random()))
    write_activations(rows, provenance(), "float32", tmp_path / "leaky", quarantine="it copies")
    write_activations(rows, provenance(), "float32", tmp_path / "healthy")
    assert read_activations(tmp_path / "leaky").index["quarantine"] == "it copies"
    assert "quarantine" not in read_activations(tmp_path / "healthy").index


def test_the_subject_is_the_published_recipe() -> None:
    subject = load_quarantined("modular-leaky", ROOT / "subjects")
    training = subject.model.training
    assert (subject.data.p, subject.data.train_fraction, subject.data.seed) == (113, 0.9, 42)
    assert (subject.model.n_layers, subject.model.d_model, subject.model.n_heads, subject.model.d_mlp) == (
        2,
        128,
        4,
        512,
    )
    assert (training.lr, training.weight_decay, training.batch_size) == (1e-3, 0.01, 2048)
