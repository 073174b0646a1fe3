"""The quality report passes the real tokens and refuses each planted fault."""

from dataclasses import replace

import pytest
import torch

from reseed import ReseedError
from reseed.text.quality import quality_report
from reseed.text.tokens import Tokens
from tests.conftest import P


def test_the_real_tokens_pass(tokens: Tokens) -> None:
    report = quality_report(tokens)
    assert {split: counts["sequences"] for split, counts in report.items()} == {
        split: len(rows) for split, rows in tokens.splits.items()
    }
    assert all(counts["leaked"] == counts["duplicates"] == 0 for counts in report.values())
    assert 1 / P <= report["train"]["majority_target_share"] < 3 / P


def planted(tokens: Tokens, split: str, rows: torch.Tensor) -> Tokens:
    return replace(tokens, splits=tokens.splits | {split: rows.to(torch.int32)})


def test_a_held_out_mirror_of_a_training_pair_is_a_leak(tokens: Tokens) -> None:
    a, b, equals, answer = next(row for row in tokens.splits["train"].tolist() if row[0] != row[1])
    mirror = torch.tensor([[b, a, equals, answer]])
    train = tokens.splits["train"]
    train = train[~((train[:, 0] == b) & (train[:, 1] == a))]
    faulty = planted(planted(tokens, "train", train), "test", torch.cat([tokens.splits["test"], mirror]))
    with pytest.raises(ReseedError, match="test has 1 leaked sequences, allowed: 0"):
        quality_report(faulty)


def test_duplicates_empty_splits_and_foreign_tokens_are_refused(tokens: Tokens) -> None:
    train = tokens.splits["train"]
    with pytest.raises(ReseedError, match="train has 2 duplicates sequences"):
        quality_report(planted(tokens, "train", torch.cat([train, train[:2]])))
    with pytest.raises(ReseedError, match="the split 'validation' is empty"):
        quality_report(planted(tokens, "validation", train[:0]))
    foreign = train.clone()
    foreign[0, 0] = P + 1
    with pytest.raises(ReseedError, match=f"found token {P + 1}, allowed: 0 to {P}"):
        quality_report(planted(tokens, "train", foreign))
