"""A probe task of a corpus with calculator annotations: which operation made the number in a sentence.

SAEBench's text tasks come from a hub. This one is in the subject's own documents: a step such as `She makes
9*2=$<<9*2=18>>18 a day.` is a multiplication. Its text is the step without the calculation (`She makes $18 a day.`), so
that the sign that names the class is not in the input. Training texts are of training documents, test texts of test
documents, and no text is in both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import sae_bench.sae_bench_utils.dataset_info as dataset_info
import sae_bench.sae_bench_utils.dataset_utils as dataset_utils

from reseed import ReseedError
from reseed.text.documents import read_documents

TASK = "operations"
"""Its name in `dataset_names` of SAEBench's sparse_probing, scr and tpp."""
OPERATIONS = {"+": "addition", "-": "subtraction", "*": "multiplication", "/": "division"}
SPLITS = ("train", "test")
MONEY, NO_MONEY = "money", "no money"
_CALCULATION = re.compile(r"[-+*/x()$%\d\s.,]*=?\s*(\$?)\s*<<([^<>=]*)=[^<>]*>>")
# also the signs of multiplication, division and minus (as a dash, too) that print has
_SIGN_LEFT = re.compile(r"[+*/=<>\u00d7\u00f7\u2013\u2212]|\d\s*[-x]\s*\d")
_MONEY = re.compile(r"\$|\bdollars?\b|\bcents?\b")
MIN_WORDS = 4


def operations(raw: Path) -> dict[str, pd.DataFrame]:
    """split -> the columns text, operation and money, of every step that one operation makes.

    Raises ReseedError if a split has no step of one of the operations.
    """
    tables: dict[str, pd.DataFrame] = {}
    seen: set[str] = set()
    for split in SPLITS:
        rows = []
        for _, document in read_documents(raw / f"{split}.jsonl"):
            for step in document.steps:
                found = _row(document.text[step.start : step.end])
                if found and found["text"] not in seen:
                    seen.add(found["text"])
                    rows.append(found)
        tables[split] = pd.DataFrame(rows, columns=["text", "operation", "money"])
        if missing := sorted(set(OPERATIONS.values()) - set(tables[split]["operation"])):
            raise ReseedError(
                f"{raw / split}.jsonl: found no step annotated with {missing[0]} (`<<3+4=7>>`), allowed for the task "
                f"{TASK!r}: {', '.join(OPERATIONS.values())}"
            )
    return tables


def offer(raw: Path) -> None:
    """Teach SAEBench the task in this process, under its name; every other data set stays as it is."""
    import sae_bench.evals.scr_and_tpp.dataset_creation as creation
    import sae_bench.evals.scr_and_tpp.main as scr_and_tpp

    tables = operations(raw)
    names = list(OPERATIONS.values())
    dataset_info.chosen_classes_per_dataset[TASK] = names
    dataset_info.dataset_metadata[TASK] = {
        "text_column_name": "text",
        "column1_name": "operation",
        "column2_name": "money",
        "column1_mapping": {name: name for name in names},
        "column2_mapping": {MONEY: MONEY, NO_MONEY: NO_MONEY},
    }
    scr_and_tpp.COLUMN2_VALS_LOOKUP[TASK] = (MONEY, NO_MONEY)
    theirs, theirs_paired = dataset_utils.get_multi_label_train_test_data, creation.get_train_test_data

    def texts(name: str, train_size: int, test_size: int, seed: int) -> Any:
        if name != TASK:
            return theirs(name, train_size, test_size, seed)
        sizes = dict(zip(SPLITS, (train_size, test_size), strict=True))
        for split, size in sizes.items():
            _check_rows(split, size // 2, tables[split]["operation"].value_counts().to_dict())
        # half of a set is one class, the other half the others
        return tuple(
            dataset_utils.gather_dataset_from_df(tables[split], names, size // 2, "operation", "text", seed)
            for split, size in sizes.items()
        )

    def paired(
        name: str, spurious: bool, train_size: int, test_size: int, seed: int, column1: Any = None, column2: Any = None
    ) -> Any:
        if name != TASK or not spurious:
            return theirs_paired(name, spurious, train_size, test_size, seed, column1, column2)
        made = []
        for split, size in zip(SPLITS, (train_size, test_size), strict=True):
            table = tables[split]
            counts = table.groupby(["operation", "money"]).size().to_dict()
            both = {of: counts.get(of, 0) for of in ((column1[0], MONEY), (column1[1], NO_MONEY))}
            either = {of: counts.get(of, 0) for of in ((column1[0], NO_MONEY), (column1[1], MONEY))}
            _check_rows(split, size // 2 + 1, both)
            _check_rows(split, size // 4, either)
            made.append(creation.get_spurious_corr_data(table, column1, column2, TASK, size // 4, seed))
        return tuple(made)

    dataset_utils.get_multi_label_train_test_data = texts
    creation.get_train_test_data = paired


def _row(step: str) -> dict[str, str] | None:
    """The row of a step, or None where not exactly one operation is annotated or something of it is left."""
    expressions = [expression for _, expression in _CALCULATION.findall(step)]
    signs = {sign for expression in expressions for sign in expression.strip().lstrip("-") if sign in OPERATIONS}
    text = " ".join(_CALCULATION.sub(r" \1", step).split())
    text = text.replace("$ ", "$")
    if len(expressions) != 1 or len(signs) != 1 or _SIGN_LEFT.search(text):
        return None
    if len(re.findall(r"[A-Za-z]+", text)) < MIN_WORDS:
        return None
    money = MONEY if _MONEY.search(text) else NO_MONEY
    return {"text": text, "operation": OPERATIONS[signs.pop()], "money": money}


def _check_rows(split: str, wanted: int, counts: dict[Any, int]) -> None:
    fewest = min(counts, key=lambda name: counts[name])
    if counts[fewest] < wanted:
        label = fewest if isinstance(fewest, str) else " with ".join(fewest)
        raise ReseedError(
            f"params.yaml: evals.settings: the task {TASK!r} has {counts[fewest]} {split} texts of {label}, "
            f"asked for: {wanted}; allowed: a smaller {split} set"
        )
