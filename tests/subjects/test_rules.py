"""One row of each corpus, as it is published, in the common form; and what makes a row malformed."""

from __future__ import annotations

from typing import Any

import pytest

from reseed.subjects import rules
from reseed.subjects.rules import Document, Malformed, Step


def plain(question: str, steps: list[str], answer: str) -> Document:
    return Document(question, tuple(Step(step) for step in steps), answer)


def test_gsm8k_keeps_its_annotations() -> None:
    row = {"question": "How much?", "answer": "He has 48/2 = <<48/2=24>>24.\n\nSo 24+1=<<24+1=25>>25\n#### 25"}
    assert rules.gsm8k(row) == plain("How much?", ["He has 48/2 = <<48/2=24>>24.", "So 24+1=<<24+1=25>>25"], "25")


def test_only_a_newline_ends_a_step() -> None:
    row = {"question": "a\u2028b", "answer": "One\u2028line \x0b.\nTwo.\n#### 1"}
    assert rules.gsm8k(row) == plain("a\u2028b", ["One\u2028line \x0b.", "Two."], "1")


def test_cot_collection_by_sentences() -> None:
    row = {"source": "Q: is it?", "rationale": "It is 3.5 m. That is far! So yes.", "target": "yes"}
    assert rules.cot_collection(row) == plain("Q: is it?", ["It is 3.5 m.", "That is far!", "So yes."], "yes")


def test_openr1_takes_the_first_trace_that_was_verified() -> None:
    right = "<think>\nFirst this,\nthen that.\n\nSo 4.\n</think>\n\nThe answer is 4."
    row = {
        "problem": "2+2?",
        "answer": "4",
        "generations": ["<think>wrong</think>5", right],
        "correctness_math_verify": [False, True],
    }
    assert rules.openr1_math(row) == plain("2+2?", ["First this, then that.", "So 4."], "4")


def test_openthoughts_by_its_markers() -> None:
    thought = "<|begin_of_thought|>\n\nHm.\n\nYes.\n\n<|end_of_thought|>"
    reply = f"{thought}\n\n<|begin_of_solution|>\n\n42\n\n<|end_of_solution|>"
    row = {"conversations": [{"from": "user", "value": "What?"}, {"from": "assistant", "value": reply}]}
    assert rules.openthoughts(row) == plain("What?", ["Hm.", "Yes."], "42")


def test_wiqa_has_the_procedure_as_steps() -> None:
    row = {
        "question": {
            "stem": "suppose less rain falls, how will it affect the river",
            "para_steps": ["Rain falls.", "Water runs down.", ""],
            "answer_label": "less",
        },
        "metadata": {},
    }
    assert rules.wiqa(row) == plain(row["question"]["stem"], ["Rain falls.", "Water runs down."], "less")


def test_general_text_has_paragraphs_alone() -> None:
    assert rules.general_text({"text": "One\nline.\n\n\nTwo."}) == plain("", ["One line.", "Two."], "")
    assert rules.general_text({"text": "One."}).key == "One."


def test_reveal_keeps_its_labels_a_chain_at_a_time() -> None:
    def step(chain: str, i: str, text: str, attribution: str, correctness: str) -> dict[str, str]:
        return {
            "answer_id": chain,
            "question": "Is it?",
            "full_answer": "Some text.\nSo no.",
            "step_idx": i,
            "step": text,
            "attribution_label": attribution,
            "correctness_label": correctness,
        }

    rows = [
        step("a", "0", "It costs 90.", "Contradictory", ""),
        step("a", "0", "It costs 90.", "Unsupported", ""),  # the same step against another passage
        step("b", "0", "Other.", "", ""),
        step("a", "1", "So no.", "", "Incorrect"),
    ]
    found = [rules.reveal(chain) for chain in rules.reveal_chains(rows)]
    assert found == [
        Document("Is it?", (Step("It costs 90.", "Contradictory"), Step("So no.", "Incorrect")), "So no."),
        Document("Is it?", (Step("Other.", None),), "So no."),
    ]


@pytest.mark.parametrize(
    ("rule", "row", "reason"),
    [
        (rules.gsm8k, {"question": 3, "answer": "a\n#### 1"}, "question is not text"),
        (rules.gsm8k, {"question": " ", "answer": "a\n#### 1"}, "question is empty"),
        (rules.gsm8k, {"question": "q", "answer": "a"}, "answer without one line `#### result`"),
        (rules.gsm8k, {"question": "q", "answer": "a\n#### 1\n#### 2"}, "answer without one line `#### result`"),
        (rules.gsm8k, {"question": "q", "answer": "\n#### 1"}, "answer without one line `#### result`"),
        (rules.gsm8k, {"question": "q", "answer": "a\n#### "}, "answer is empty"),
        (rules.cot_collection, {"source": "s", "rationale": None, "target": "t"}, "rationale is not text"),
        (
            rules.openr1_math,
            {"problem": "p", "answer": "a", "generations": ["x"], "correctness_math_verify": [False]},
            "no generation that was verified as correct",
        ),
        (
            rules.openr1_math,
            {"problem": "p", "answer": "a", "generations": ["<think>cut"], "correctness_math_verify": [True]},
            "no text between <think> and </think>",
        ),
        (
            rules.openr1_math,
            {"problem": "p", "answer": "a", "generations": "x", "correctness_math_verify": [True]},
            "generations and their verdicts are not lists of one length",
        ),
        (rules.openthoughts, {"conversations": []}, "conversations is not one question and one reply"),
        (rules.wiqa, {"question": {"stem": "s"}}, "question without para_steps"),
        (rules.general_text, {"text": b"bytes"}, "text is not text"),
    ],
)
def test_a_row_that_its_rule_cannot_use_has_a_reason(rule: Any, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed) as error:
        rule(row)
    assert str(error.value) == reason
