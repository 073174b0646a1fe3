"""The probe task of operations: what its texts are, and that SAEBench's own functions make their data sets of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sae_bench.evals.scr_and_tpp.dataset_creation as creation
import sae_bench.evals.scr_and_tpp.main as scr_and_tpp
import sae_bench.sae_bench_utils.dataset_info as dataset_info
import sae_bench.sae_bench_utils.dataset_utils as dataset_utils

from reseed import ReseedError
from reseed.benchmarks.operations import MONEY, NO_MONEY, TASK, offer, operations
from tests.text.builders import gsm8k, needs_gsm8k, operation_rows, step, write_rows


def raw(path: Path, **splits: int) -> Path:
    return write_rows({split: operation_rows(n, seed) for seed, (split, n) in enumerate(splits.items())}, path)


@pytest.fixture
def _own_saebench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that `offer` changes comes back after the test."""
    monkeypatch.setattr(dataset_info, "chosen_classes_per_dataset", dict(dataset_info.chosen_classes_per_dataset))
    monkeypatch.setattr(dataset_info, "dataset_metadata", dict(dataset_info.dataset_metadata))
    monkeypatch.setattr(scr_and_tpp, "COLUMN2_VALS_LOOKUP", dict(scr_and_tpp.COLUMN2_VALS_LOOKUP))
    for module, name in (
        (dataset_utils, "get_multi_label_train_test_data"),
        (creation, "get_train_test_data"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))


def test_the_text_is_the_step_without_its_calculation(tmp_path: Path) -> None:
    steps = [
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.", "She makes $18 every day.", "multiplication", MONEY),
        ("It takes 2/2=<<2/2=1>>1 bolt of white fiber", "It takes 1 bolt of white fiber", "division", NO_MONEY),
        ("Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs a day.", "Janet sells 9 eggs a day.", "subtraction", NO_MONEY),
        ("So the jars cost <<5+7=12>>12 cents in all", "So the jars cost 12 cents in all", "addition", MONEY),
    ]
    left_out = [
        "She has 3*4-2 = <<3*4-2=10>>10 eggs for her friends.",  # two operations
        "She has 3+4 = 7 eggs for her friends.",  # no annotation
        "She has 3+4 = <<3+4=7>>7, 1+1=2 eggs for her friends.",  # a sign would be left
        "It is 3+4 = <<3+4=7>>7",  # too short to say anything
    ]
    row = {"question": "How many?", "answer": "1"}
    train = [row | {"steps": [step(text) for text in [*(one[0] for one in steps), *left_out]]}]
    # the test split repeats a text of the training split, which stays there
    test = [row | {"steps": [step(one[0].replace("day", "week").replace("fiber", "wool")) for one in steps]}]
    test[0]["steps"][3] = step("Both the jars together hold <<5+7=12>>12 litres.")
    test[0]["steps"].append(step(steps[0][0]))
    found = operations(write_rows({"train": train, "test": test}, tmp_path / "raw"))
    assert found["train"].to_numpy().tolist() == [list(one[1:]) for one in steps]
    assert found["test"]["text"].tolist() == [
        "She makes $18 every week.",
        "It takes 1 bolt of white wool",
        "Janet sells 9 eggs a week.",
        "Both the jars together hold 12 litres.",
    ]


@needs_gsm8k
def test_no_sign_is_left_in_gsm8k(tmp_path: Path) -> None:
    found = operations(write_rows({split: gsm8k(split) for split in ("train", "test")}, tmp_path / "raw"))
    assert len(found["train"]) > 15_000
    assert len(found["test"]) > 3_000
    for table in found.values():
        assert not table["text"].str.contains(r"[+*/=<>]").any()
        assert not table["text"].str.contains(r"\d\s*-\s*\d").any()
        assert set(table["operation"]) == {"addition", "subtraction", "multiplication", "division"}
    assert not set(found["train"]["text"]) & set(found["test"]["text"])


@pytest.mark.usefixtures("_own_saebench")
def test_saebench_makes_its_data_sets_of_them(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", train=400, test=120)
    tables = operations(folder)
    offer(folder)
    train, test = dataset_utils.get_multi_label_train_test_data(TASK, 80, 20, 42)
    assert {of: len(texts) for of, texts in train.items()} == dict.fromkeys(train, 40)
    assert sorted(test) == ["addition", "division", "multiplication", "subtraction"]
    label = dict(zip(tables["train"]["text"], tables["train"]["operation"], strict=True))
    assert all(label[text] == of for of, texts in train.items() for text in texts)
    pair, of_money = ("multiplication", "addition"), (MONEY, NO_MONEY)
    paired, _ = creation.get_train_test_data(TASK, True, 40, 20, 42, pair, of_money)
    rows = tables["train"].set_index("text")
    biased = rows.loc[paired["male_professor / female_nurse"]]
    assert set(zip(biased["operation"], biased["money"], strict=True)) == {("multiplication", MONEY)}
    assert set(rows.loc[paired["nurse_data_only"]]["operation"]) == {"addition"}
    assert rows.loc[paired["professor / nurse"]]["money"].value_counts().to_dict() == {MONEY: 10, NO_MONEY: 10}
    with pytest.raises(ValueError, match="Dataset elsewhere not supported"):
        dataset_utils.get_multi_label_train_test_data("elsewhere", 80, 20, 42)


@pytest.mark.usefixtures("_own_saebench")
def test_too_few_texts_are_refused(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", train=40, test=40)
    offer(folder)
    with pytest.raises(ReseedError, match=r"'operations' has \d+ train texts of \w+, asked for: 500; allowed: a small"):
        dataset_utils.get_multi_label_train_test_data(TASK, 1000, 20, 42)
    with pytest.raises(ReseedError, match=r"train texts of \w+ with (no )?money, asked for: "):
        creation.get_train_test_data(TASK, True, 1000, 20, 42, ("multiplication", "addition"), (MONEY, NO_MONEY))
    rows = [
        row for row in operation_rows(40, 0) if "<<" in row["steps"][0]["text"] and "/" not in row["steps"][0]["text"]
    ]
    bare = write_rows({"train": rows, "test": rows}, tmp_path / "bare")
    with pytest.raises(ReseedError, match=r"train\.jsonl: found no step annotated with division"):
        operations(bare)
