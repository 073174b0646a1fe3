"""The text of a row, the spans of its steps, and the rules that label them."""

import json
from pathlib import Path
from typing import Any

import pytest

from reseed import ReseedError
from reseed.text.documents import Step, document, label_of, read_documents
from tests.text.builders import gsm8k, needs_gsm8k, step, write_rows

ROW = {
    "id": "train-00000",
    "question": " How many?\n",
    "steps": [step("He has 3+4 = <<3+4=7>>7 "), step("Cheap, he says.", "opinion")],
    "answer": "7",
}


def test_a_document_is_the_question_its_steps_and_the_answer_each_on_a_line() -> None:
    made = document(ROW)
    assert made.text == "How many?\nHe has 3+4 = <<3+4=7>>7\nCheap, he says.\n#### 7"
    assert made.steps == (Step(10, 33, "equation", 1.0), Step(34, 49, "opinion", 1.0))
    assert [made.text[s.start : s.end] for s in made.steps] == ["He has 3+4 = <<3+4=7>>7", "Cheap, he says."]


def test_what_a_row_leaves_empty_is_left_out() -> None:
    assert document({"question": "Just text.", "steps": [], "answer": ""}).text == "Just text."
    only_steps = document({"question": "", "steps": [step("a b"), step("c")], "answer": "9"})
    assert only_steps.text == "a b\nc\n#### 9"
    assert [(s.start, s.end) for s in only_steps.steps] == [(0, 3), (4, 5)]


@pytest.mark.parametrize(
    ("text", "label", "confidence"),
    [
        ("so $<<2*3.5=7.00>>7.00 more than before", "equation", 1.0),
        ("<<+30+46=76>>76", "equation", 1.0),
        ("S + 143 = 200 - 16 = 184", "equation", 0.8),
        ("that is (3+4) = $ 7", "equation", 0.8),
        ("50% = .5 of them", "equation", 0.8),
        ("9 sandwiches - 1 sandwich = 8 more", "equation", 0.7),
        ("we get 2x = 24", "equation", 0.7),
        ("x = 13", "other", 0.5),
        ("Let x = the price", "other", 0.5),
        ("2x = y is what we know", "other", 0.5),
        ("an empty << >> is no annotation", "other", 0.5),
        ("Twice as many", "comparison", 0.6),
        ("He is OLDER than Ann", "comparison", 0.6),
        ("a thousand lessons", "other", 0.5),
        ("", "other", 0.5),
    ],
)
def test_the_rules_of_labels(text: str, label: str, confidence: float) -> None:
    assert label_of(text) == (label, confidence)


def test_the_corpus_own_label_goes_before_the_text() -> None:
    made = document({"question": "q", "steps": [step("1+1 = <<1+1=2>>2", "attribution")], "answer": ""})
    assert (made.steps[0].label, made.steps[0].confidence) == ("attribution", 1.0)


def broken(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in (ROW | fields).items() if value is not ...}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (broken(question=...), "the key 'question': found nothing, allowed: text"),
        (broken(answer=7), "the key 'answer': found int, allowed: text"),
        (broken(steps=...), "the key 'steps' is missing or no list of objects"),
        (broken(steps=["text"]), "the key 'steps' is missing or no list of objects"),
        (broken(steps=[step("  ")]), "found the step '' with the label None, allowed: text"),
        (broken(steps=[step("a", "")]), "found the step 'a' with the label '', allowed: text, and a name or null"),
        (broken(question="", steps=[], answer=" "), "found a row without any text"),
        ([1], "found list, allowed: an object with question, steps and answer"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(row: object, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ReseedError, match=rf"train\.jsonl: line 2: {sentence}"):
        list(read_documents(file))


def test_reading_on_from_the_byte_after_a_document(tmp_path: Path) -> None:
    # U+2028 ends a line for str.splitlines, and not in JSON lines
    rows = [{"question": f"Zoë {i}\u2028?", "steps": [], "answer": str(i)} for i in range(4)]
    raw = write_rows({"train": rows}, tmp_path / "raw")
    raw.joinpath("train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    read = list(read_documents(raw / "train.jsonl"))
    assert [made.text for _, made in read] == [f"Zoë {i}\u2028?\n#### {i}" for i in range(4)]
    assert list(read_documents(raw / "train.jsonl", read[1][0])) == read[2:]
    (raw / "train.jsonl").write_text("{")
    with pytest.raises(ReseedError, match=r"train\.jsonl: line 1: not valid JSON"):
        list(read_documents(raw / "train.jsonl"))
    with pytest.raises(ReseedError, match=r"test\.jsonl: the file does not exist; run the stage `download`"):
        list(read_documents(raw / "test.jsonl"))


@needs_gsm8k
def test_every_annotated_step_of_gsm8k_is_an_equation() -> None:
    steps = [s for row in gsm8k("train") + gsm8k("test") for s in row["steps"]]
    annotated = [s for s in steps if "<<" in s["text"] and ">>" in s["text"]]
    assert len(annotated) > 20000
    wrong = [s["text"] for s in annotated if label_of(s["text"]) != ("equation", 1.0)]
    # annotations that the corpus itself has broken
    assert len(wrong) <= 10, wrong
