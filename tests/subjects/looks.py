"""Small look-alikes of corpora, written as their files are, and the subject keys that name them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from reseed.params import Corpus
from reseed.subjects import corpora
from reseed.subjects.corpora import CORPORA, Registered
from reseed.subjects.sources import File

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon")
THINGS = ("apples", "stamps", "marbles", "pencils", "shells", "tickets", "coins", "books", "beads", "cards")
PLACES = ("market", "school", "harbour", "library", "garden", "station", "museum", "bakery", "castle", "forest")


def data(**keys: Any) -> Corpus:
    """The data of a subject, with other values for some keys."""
    usual = {
        "generator": "corpus",
        "corpus": "gsm8k",
        "validation_fraction": 0.1,
        "seed": 0,
        "tokenizer": {"kind": "bpe", "vocabulary": 300},
        "n_ctx": 64,
        "packing": "packed",
    }
    return TypeAdapter(Corpus).validate_python({**usual, **keys})


def question(i: int) -> dict[str, Any]:
    """A row as GSM8K has them; any two of them share few words in a row."""
    name, thing, place = NAMES[i % 10], THINGS[i // 10 % 10], PLACES[i // 100 % 10]
    a, b = 3 + i, 2 + i % 7
    return {
        "question": f"{name} has {a} {thing}. At the {place} {b} {thing} {i} are lost. How many has {name} {i} left?",
        "answer": f"At the {place} {b} are lost.\nThat leaves {a}-{b} = <<{a}-{b}={a - b}>>{a - b}.\n#### {a - b}",
    }


def write_lines(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def register(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> Registered:
    """A registered corpus with other facts, for this test."""
    changed = replace(CORPORA[name], **changes)
    monkeypatch.setitem(corpora.CORPORA, name, changed)
    return changed


def gsm8k_folder(
    monkeypatch: pytest.MonkeyPatch,
    base: Path,
    train: Iterable[Mapping[str, Any] | str],
    test: Iterable[Mapping[str, Any] | str],
) -> Path:
    """A folder of corpora with a look-alike of GSM8K, registered by its hashes; the folder of the look-alike."""
    files = tuple(
        File(f"{split}.jsonl", split, sha256=digest(write_lines(base / "gsm8k" / f"{split}.jsonl", rows)))
        for split, rows in (("train", train), ("test", test))
    )
    register(monkeypatch, "gsm8k", files=files, rows=())
    monkeypatch.setenv("RESEED_CORPORA", str(base))
    return base / "gsm8k"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def written(path: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / f"{split}.jsonl").read_text().splitlines()]
