"""Documents: a row of a corpus as one text, with the character span and the label of every reasoning step.

The text is the question, every step on its own line, then `#### answer`; what a row leaves empty is left out. Space
around a question, a step or an answer is layout and is dropped.

A step has the corpus' own label where there is one (confidence 1), else the first of these that its text shows:

- `equation`, confidence 1: a calculator annotation `<<expression=result>>` (GSM8K);
- `equation`, 0.8: an `=` right between two numbers, without annotation (`40+5 = 45`);
- `equation`, 0.7: an `=` with a number somewhere on either side (`3 yards = 9 feet`, `2x = 24`);
- `comparison`, 0.6: a word or phrase that compares quantities (`more`, `twice`, `as many as`, ...);
- `other`, 0.5: none of these.

The confidences rank the kinds of evidence; they are not measured probabilities.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reseed import ReseedError

LABELS = ("equation", "comparison", "other")
"""The labels that a text itself can show; those of a corpus come after them."""

_ANNOTATION = re.compile(r"<<[^<>]*=[^<>]*>>")
# between the digits and the sign only what belongs to a number: units of money, percent, brackets, signs, points
_EQUATION = re.compile(r"\d[\s$€£%().,]*=[\s$€£(.+-]*\d")
_LOOSE_EQUATION = re.compile(r"\d[^=]*=[^=]*\d")
_COMPARISON = re.compile(
    r"\b(?:more|less|fewer|greater|larger|smaller|bigger|higher|lower|longer|shorter|older|younger|heavier|lighter"
    r"|faster|slower|cheaper|than|twice|thrice|double|triple|half as|as (?:many|much|old|long|tall|big) as|times as"
    r"|most|least|compared (?:to|with))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Step:
    """A reasoning step: characters start to end of the document's text."""

    start: int
    end: int
    label: str
    confidence: float


@dataclass(frozen=True)
class Document:
    text: str
    steps: tuple[Step, ...]


def document(row: Any) -> Document:
    """The document of a row {question, steps: [{text, label}], answer}.

    Raises ReseedError, without the file's name, for a row that lacks a field, a field of another type, an empty step,
    or a row without any text.
    """
    if not isinstance(row, dict):
        raise ReseedError(f"found {type(row).__name__}, allowed: an object with question, steps and answer")
    question, answer, given = _string(row, "question").strip(), _string(row, "answer").strip(), row.get("steps")
    if not isinstance(given, list) or not all(isinstance(step, dict) for step in given):
        raise ReseedError("the key 'steps' is missing or no list of objects, allowed: [{text, label}, ...]")
    text = question
    steps = []
    for step in given:
        body, label = _string(step, "text").strip(), step.get("label")
        if not body or (label is not None and not (isinstance(label, str) and label)):
            raise ReseedError(
                f"found the step {body[:40]!r} with the label {label!r}, allowed: text, and a name or null"
            )
        text += "\n" if text else ""
        steps.append(Step(len(text), len(text) + len(body), *((label, 1.0) if label else label_of(body))))
        text += body
    if answer:
        text += ("\n" if text else "") + f"#### {answer}"
    if not text:
        raise ReseedError("found a row without any text, allowed: a question, steps or an answer")
    return Document(text, tuple(steps))


def label_of(step: str) -> tuple[str, float]:
    """Label and confidence of a step by its text alone (rules in the module's docstring)."""
    if _ANNOTATION.search(step):
        return "equation", 1.0
    if _EQUATION.search(step):
        return "equation", 0.8
    if _LOOSE_EQUATION.search(step):
        return "equation", 0.7
    if _COMPARISON.search(step):
        return "comparison", 0.6
    return "other", 0.5


def read_documents(file: Path, offset: int = 0) -> Iterator[tuple[int, Document]]:
    """The documents of a raw JSON-lines file from byte `offset` on, each with the byte where the next one starts.

    Raises ReseedError that names the file and the line (its byte, if not read from the start) for a broken row.
    """
    if not file.is_file():
        raise ReseedError(f"{file}: the file does not exist; run the stage `download`")
    with file.open("rb") as lines:
        lines.seek(offset)
        position = offset
        for number, line in enumerate(lines, 1):
            place = f"line {number}" if offset == 0 else f"byte {position}"
            position += len(line)
            try:
                made = document(json.loads(line))
            except ReseedError as error:
                raise ReseedError(f"{file}: {place}: {error}") from error
            except ValueError as error:
                raise ReseedError(f"{file}: {place}: not valid JSON ({error})") from error
            yield position, made


def _string(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise ReseedError(f"the key {key!r}: found {type(value).__name__ if key in row else 'nothing'}, allowed: text")
    return value
