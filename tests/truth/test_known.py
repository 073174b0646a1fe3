"""The worlds of the project pass; one without its seed, of other states, or with one word for two does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import reseed.subjects.states as states_room
from reseed import ReseedError
from reseed.params import load_traced
from reseed.subjects.states import write_raw_traces
from reseed.text.traces import Traces, tokenize_traces
from reseed.truth.known import check_known
from tests.conftest import ROOT

SIZES = {"model": 30, "train": 200, "validation": 30, "test": 60}


def drawn(name: str, folder: Path) -> tuple[Traces, Any]:
    data = load_traced(name, ROOT / "subjects").data
    data = data.model_copy(update={"sequences": data.sequences.model_copy(update=SIZES)})
    write_raw_traces(data, folder / "raw")
    return tokenize_traces(folder / "raw"), data


@pytest.mark.parametrize("name", ["stack", "graph", "walker", "logic"])
def test_the_worlds_are_known(name: str, tmp_path: Path) -> None:
    check_known(*drawn(name, tmp_path), "data/world")


def test_a_graph_without_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states_room, "Random", lambda _: Random())
    traces, data = drawn("graph", tmp_path)
    with pytest.raises(ReseedError, match=r"data/world: (1[5-9]|20) of the first 20 sequences of 'train' are others"):
        check_known(traces, data, "data/world")


def test_another_seed_and_another_state(tmp_path: Path) -> None:
    traces, data = drawn("stack", tmp_path)
    with pytest.raises(ReseedError, match=r"sequences of 'train' are others .* data\.seed 7, allowed: the same"):
        check_known(traces, data.model_copy(update={"seed": 7}), "data/world")
    states = {split: found.clone() for split, found in traces.states.items()}
    states["test"][3, 0, 0] += 1
    with pytest.raises(ReseedError, match=r"data/world: 1 of the first 20 sequences of 'test' are others"):
        check_known(replace(traces, states=states), data, "data/world")


def test_states_behind_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values that are pushed are one word: the seed gives the same sequences, and the word does not tell which."""
    traces, data = drawn("stack", tmp_path)
    word = {text: place for place, text in enumerate(traces.vocabulary)}
    one, other = word["push 1"], word["push 2"]
    merged = {split: torch.where(found == other, one, found) for split, found in traces.splits.items()}
    monkeypatch.setattr("reseed.truth.known._check_drawn", lambda *_: None)
    check_known(traces, data, "data/world")
    with pytest.raises(ReseedError, match=r"data/world: \d+ states at position \d+ stand behind tokens that stand"):
        check_known(replace(traces, splits=merged), data, "data/world")
