"""From a step's characters to its tokens and back: the real GSM8K where it is, look-alikes always."""

from pathlib import Path

import numpy as np
import pytest

from reseed.text.alignment import align, token_span
from reseed.text.documents import Document, Step, document
from reseed.text.tokenizers import TextTokenizer, make_tokenizer, train_bpe
from tests.text.builders import across_lines, gsm8k, look_alikes, needs_gsm8k, word_piece


def check_round_trip(documents: list[Document], tokenizer: TextTokenizer, lossless: bool) -> int:
    """Every span, decoded by the tokenizer itself, gives back its step; the number of steps."""
    plain = tokenizer.tokenizer
    checked = 0
    for made, found in zip(documents, align(documents, tokenizer), strict=True):
        assert found.ids == plain.encode(made.text, add_special_tokens=False).ids
        for step, (a, b), exact in zip(made.steps, found.spans, found.exact, strict=True):
            text = made.text[step.start : step.end]
            expected = text if lossless else plain.decode(plain.encode(text, add_special_tokens=False).ids)
            assert exact
            assert plain.decode(found.ids[a:b]) == expected
            checked += 1
    return checked


@pytest.mark.parametrize("source", ["generated look-alikes", pytest.param("the whole of GSM8K", marks=needs_gsm8k)])
def test_the_round_trip_from_token_span_to_text_is_exact(source: str) -> None:
    if source == "the whole of GSM8K":
        train, test = gsm8k("train"), gsm8k("test")
        assert (len(train), len(test)) == (7473, 1319)
        rows = train + test
    else:
        train, test = look_alikes(400, seed=2), look_alikes(100, seed=3)
        rows = train + test
    tokenizer = train_bpe([document(row).text for row in train], 2000)
    steps = check_round_trip([document(row) for row in rows], tokenizer, lossless=True)
    assert steps == sum(len(row["steps"]) for row in rows)


def test_a_tokenizer_that_normalises_gives_back_what_it_makes_of_the_step(tmp_path: Path) -> None:
    documents = [document(row) for row in look_alikes(100, seed=4)]
    tokenizer = make_tokenizer(word_piece([made.text for made in documents], tmp_path / "folder"), [])
    assert check_round_trip(documents, tokenizer, lossless=False) == sum(len(made.steps) for made in documents)


def test_a_token_over_the_border_is_covered_and_called_inexact(tmp_path: Path) -> None:
    documents = [document(row) for row in look_alikes(200, seed=5)]
    tokenizer = make_tokenizer(across_lines([made.text for made in documents], tmp_path / "folder"), [])
    straddling = 0
    for made, found in zip(documents, align(documents, tokenizer), strict=True):
        pieces = tokenizer.decode([[token] for token in found.ids])
        ends = np.cumsum([len(piece) for piece in pieces])
        if "�" in "".join(pieces):  # a character cut into tokens of bytes: lengths of pieces mean nothing
            continue
        for step, (a, b), exact in zip(made.steps, found.spans, found.exact, strict=True):
            covered = made.text[ends[a] - len(pieces[a]) : ends[b - 1]]
            assert made.text[step.start : step.end] in covered
            assert exact == (covered == made.text[step.start : step.end])
            # the smallest: without its first or last token it would not cover the step
            assert ends[a] > step.start
            assert ends[b - 1] - len(pieces[b - 1]) < step.end
            straddling += not exact
    assert straddling > 10


def test_token_spans_by_hand() -> None:
    # "ab cd" as a|b| cd; then a character of two bytes as two tokens
    offsets = np.array([[0, 1], [1, 2], [2, 5], [5, 6], [5, 6]])
    assert token_span(offsets, 0, 2) == (0, 2)
    assert token_span(offsets, 3, 5) == (2, 3)
    assert token_span(offsets, 1, 3) == (1, 3)
    assert token_span(offsets, 5, 6) == (3, 5)
    assert token_span(np.array([[0, 1], [3, 4]]), 1, 3) == (1, 1)


def test_a_step_without_any_token_is_inexact_and_empty(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(word_piece(["a b c"], tmp_path / "folder"), [])
    made = Document("a\n\u200b\x00\nb", (Step(2, 4, "other", 0.5), Step(5, 6, "other", 0.5)))
    found = align([made], tokenizer)[0]
    assert found.spans[0][0] == found.spans[0][1]
    assert found.exact == (False, True)
