"""The quality of tokenised text: figures by hand, and every planted fault refused with its own sentence."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.params import Quality
from reseed.text.documents import Document, document
from reseed.text.language_quality import changed_tokens, normalised, refuse_breaches
from reseed.text.packing import write_language_tokens
from reseed.text.tokenizers import train_bpe
from tests.text.builders import across_lines, corpus, look_alikes, word_piece, write_rows

Rows = dict[str, list[dict[str, Any]]]


def splits() -> Rows:
    return {"train": look_alikes(60, seed=1), "validation": look_alikes(20, seed=2), "test": look_alikes(20, seed=3)}


def report(rows: Rows, folder: Path, **fields: Any) -> dict[str, Any]:
    raw = write_rows(rows, folder / "raw")
    write_language_tokens(corpus(**fields), raw, folder / "work", folder / "tokens", 0, 1, "subjects/x.yaml")
    return read_json(folder / "tokens" / "quality.json")


def test_the_figures_of_a_report(tmp_path: Path) -> None:
    rows = splits()
    found = report(rows, tmp_path)
    tokenizer = train_bpe([document(row).text for row in rows["train"]], 400)
    for split, counts in found.items():
        ids = [tokenizer.tokenizer.encode(document(row).text).ids for row in rows[split]]
        lengths = sorted(map(len, ids))
        labels = [s.label for row in rows[split] for s in document(row).steps]
        assert counts["documents"] == len(ids)
        assert counts["tokens"] == sum(lengths)
        assert counts["lengths"]["0%"] == lengths[0]
        assert counts["lengths"]["50%"] == lengths[len(ids) // 2 - 1]
        assert counts["lengths"]["100%"] == lengths[-1]
        assert counts["steps"] == {label: labels.count(label) for label in ("equation", "comparison", "other")}
        assert counts["vocabulary_used"] == pytest.approx(len({i for row in ids for i in row}) / 400, rel=1e-5)
        assert (counts["aligned"], counts["with_steps"]) == (1, 1)
        assert counts["duplicates"] == counts["leaked"] == counts["unknown"] == counts["pads"] == 0
        sample = counts["samples"][0]
        first = document(rows[split][0])
        assert sample["text"] == first.text
        assert [s["text"] for s in sample["steps"]] == [first.text[s.start : s.end] for s in first.steps]
    assert [len(counts["samples"]) for counts in found.values()] == [3, 3, 3]


def test_a_split_without_steps_has_no_share_of_aligned_steps(tmp_path: Path) -> None:
    rows = splits()
    rows["test"] = [row | {"steps": []} for row in rows["test"]]
    found = report(rows, tmp_path)["test"]
    assert "aligned" not in found
    assert found["with_steps"] == 0


def doubled(rows: Rows, folder: Path) -> dict[str, Any]:  # noqa: ARG001
    rows["train"] += rows["train"][:2]
    return {}


def foreign(rows: Rows, folder: Path) -> dict[str, Any]:
    config = word_piece([document(row).text for row in rows["train"]], folder / "tokenizer")
    rows["test"][0]["question"] += " ☃ ♞" * 20
    return {"tokenizer": config.model_dump()}


def short(rows: Rows, folder: Path) -> dict[str, Any]:  # noqa: ARG001
    return {"packing": "padded", "n_ctx": 4096}


def long(rows: Rows, folder: Path) -> dict[str, Any]:  # noqa: ARG001
    return {"packing": "padded", "n_ctx": 8}


def spaced(rows: Rows, folder: Path) -> dict[str, Any]:  # noqa: ARG001
    for row in rows["validation"]:
        row["question"] = unicodedata.normalize("NFD", row["question"]).replace(" ", "   ")
    return {}


def straddled(rows: Rows, folder: Path) -> dict[str, Any]:
    for found in rows.values():
        for row in found:  # such a tokenizer also changes more where blanks are doubled, which is another fault
            row["question"] = " ".join(row["question"].split())
    config = across_lines([document(row).text for row in rows["train"]], folder / "tokenizer")
    return {"tokenizer": config.model_dump()}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (doubled, r"max_duplicates: found 0\.03226 in the split 'train', allowed: at most 0\.01"),
        (foreign, r"max_unknown: found 0\.0\d+ in the split 'test', allowed: at most 0\.001"),
        (short, r"max_pads: found 0\.9\d+ in the split 'train', allowed: at most 0\.9"),
        (long, r"max_truncated: found 1 in the split 'train', allowed: at most 0\.05"),
        (spaced, r"max_changed: found 0\.\d+ in the split 'validation', allowed: at most 0\.01"),
        (straddled, r"min_aligned: found 0\.\d+ in the split 'train', allowed: at least 0\.99"),
    ],
)
def test_a_breach_names_its_key(fault: Callable[[Rows, Path], dict[str, Any]], sentence: str, tmp_path: Path) -> None:
    rows = splits()
    fields = fault(rows, tmp_path)
    with pytest.raises(ReseedError, match=rf"^subjects/x\.yaml: data\.quality\.{sentence}$"):
        report(rows, tmp_path, **fields)
    # and by its own limit alone: with that one off, the rest of the report passes
    key = sentence.split(":")[0]
    loose = {key: 0.0 if key.startswith("min") else 1.0}
    (tmp_path / "again").mkdir()
    assert report(rows, tmp_path / "again", quality=loose, **fields)


def test_a_training_document_among_the_held_out_ones_is_refused(tmp_path: Path) -> None:
    rows = splits()
    rows["test"].append(rows["train"][5])
    with pytest.raises(ReseedError, match="test has 1 documents that are training documents, allowed: 0"):
        report(rows, tmp_path)


def test_limits_are_inclusive() -> None:
    counts = {"leaked": 0, "duplicates": 0.01, "aligned": 0.99}
    refuse_breaches({"train": counts}, Quality(), "f")
    with pytest.raises(ReseedError, match="max_duplicates"):
        refuse_breaches({"train": counts | {"duplicates": 0.0101}}, Quality(), "f")


def test_normalised_text_and_what_it_changes() -> None:
    assert normalised("a  b\tc \n Zoe\u0308") == "a b c\nZoë"
    tokenizer = train_bpe(["one two three"], 260)
    texts = ["one two", "one   two", "Zoe\u0308"]
    ids = [tokenizer.tokenizer.encode(text).ids for text in texts]
    each = [changed_tokens([Document(text, ())], [own], tokenizer) for text, own in zip(texts, ids, strict=True)]
    # two blanks more; e, and the two bytes of U+0308, become the two bytes of ë
    assert each == [0, 2, 3]
    assert changed_tokens([Document(text, ()) for text in texts], ids, tokenizer) == 5
