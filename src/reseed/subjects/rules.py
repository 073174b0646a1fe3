"""From a row of a corpus to question, steps and answer: one rule a corpus, strings only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A line of reasoning, and what the corpus itself says of it (None where it says nothing)."""

    text: str
    label: str | None = None


@dataclass(frozen=True)
class Document:
    """A row in the common form; general text has neither question nor answer, its paragraphs are the steps."""

    question: str
    steps: tuple[Step, ...]
    answer: str

    @property
    def key(self) -> str:
        """What decides its split and whether it repeats another: the question, or all text where there is none."""
        return self.question or "\n".join(step.text for step in self.steps)

    @property
    def text(self) -> str:
        """Everything in it, a line each, for comparisons; what a model reads is made in the next room."""
        return "\n".join((self.question, *(step.text for step in self.steps), self.answer))


class Malformed(Exception):
    """A row that its rule cannot use; the message is the reason by which such rows are counted."""


def gsm8k(row: Mapping[str, Any]) -> Document:
    """The answer's lines up to `#### result`, with their `<<expression=result>>` annotations as they are."""
    solution, marker, result = _text(row, "answer").partition("\n####")
    if not marker or "####" in result:
        raise Malformed("answer without one line `#### result`")
    return _document(_text(row, "question"), solution.split("\n"), result)


def cot_collection(row: Mapping[str, Any]) -> Document:
    """The sentences of the rationale."""
    sentences = re.split(r"(?<=[.!?])\s+", _text(row, "rationale"))
    return _document(_text(row, "source"), sentences, _text(row, "target"))


def openr1_math(row: Mapping[str, Any]) -> Document:
    """The paragraphs of the first trace that Math-Verify found correct, between `<think>` and `</think>`."""
    traces, correct = row["generations"], row["correctness_math_verify"]
    if not isinstance(traces, list) or not isinstance(correct, list) or len(traces) != len(correct):
        raise Malformed("generations and their verdicts are not lists of one length")
    trace = next((trace for trace, right in zip(traces, correct, strict=True) if right is True), None)
    if trace is None:
        raise Malformed("no generation that was verified as correct")
    thought = _between(_text({"generation": trace}, "generation"), "<think>", "</think>")
    return _document(_text(row, "problem"), _paragraphs(thought), _text(row, "answer"))


def openthoughts(row: Mapping[str, Any]) -> Document:
    """The paragraphs of the assistant's thought; its solution is the answer."""
    turns = row["conversations"]
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, Mapping) for turn in turns):
        raise Malformed("conversations is not one question and one reply")
    question, reply = (_text(turn, "value") for turn in turns)
    thought = _between(reply, "<|begin_of_thought|>", "<|end_of_thought|>")
    solution = _between(reply, "<|begin_of_solution|>", "<|end_of_solution|>")
    return _document(question, _paragraphs(thought), solution)


def reveal(row: Mapping[str, Any]) -> Document:
    """One chain of thought of `reveal_chains`, its steps labelled."""
    steps = [Step(_text(step, "step"), _label(step)) for step in row["steps"]]
    last_line = _text(row, "full_answer").rpartition("\n")[2]
    return Document(_text(row, "question"), tuple(steps), last_line.strip())


def reveal_chains(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """REVEAL has a row a step (and several with the same step: one a passage of evidence): one row a chain."""
    chains: dict[str, dict[str, Any]] = {}
    for row in rows:
        chain = chains.setdefault(
            str(row["answer_id"]), {"question": row["question"], "full_answer": row["full_answer"], "by_step": {}}
        )
        chain["by_step"].setdefault(row["step_idx"], row)
    for chain in chains.values():
        steps = list(chain["by_step"].values())  # in the order of the file
        yield {"question": chain["question"], "full_answer": chain["full_answer"], "steps": steps}


def wiqa(row: Mapping[str, Any]) -> Document:
    """The steps of the procedure; the question asks what a change does, the answer is more, less or no_effect."""
    question = row["question"]
    if not isinstance(question, Mapping) or not isinstance(question.get("para_steps"), list):
        raise Malformed("question without para_steps")
    steps = [_text({"para_steps": step}, "para_steps") for step in question["para_steps"] if step != ""]
    return _document(_text(question, "stem"), steps, _text(question, "answer_label"))


def general_text(row: Mapping[str, Any]) -> Document:
    """Text without question or answer: its paragraphs."""
    return _document("", _paragraphs(_text(row, "text")), "")


def prompt(row: Mapping[str, Any]) -> Document:
    """A prompt as it stands, which is its only step: most are one line, and a class is no answer of theirs."""
    return _document("", [_text(row, "prompt")], "")


def _document(question: str, steps: Iterable[str], answer: str) -> Document:
    kept = tuple(Step(step.strip()) for step in steps if step.strip())
    if not kept:
        raise Malformed("no steps")
    if question and not answer.strip():
        raise Malformed("answer is empty")
    return Document(question, kept, answer.strip())


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise Malformed(f"{field} is not text")
    if not value.strip():
        raise Malformed(f"{field} is empty")
    return value.strip()


def _label(step: Mapping[str, Any]) -> str | None:
    """The verdict on the step: on its logic where it has one, else on its attribution to the evidence."""
    for field in ("correctness_label", "attribution_label"):
        if isinstance(step.get(field), str) and step[field].strip():
            return str(step[field]).strip()
    return None


def _between(text: str, start: str, end: str) -> str:
    _, opened, rest = text.partition(start)
    inside, closed, _ = rest.partition(end)
    if not opened or not closed:
        raise Malformed(f"no text between {start} and {end}")
    return inside


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
