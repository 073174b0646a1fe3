"""Worlds as tokens and states: nothing is lost on the way, and what would spoil a held-out figure is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reseed import ReseedError
from reseed.subjects.states import draw_traces, write_raw_traces
from reseed.text.quality import traces_report
from reseed.text.traces import Traces, read_instances, read_traces, tokenize_traces, write_traces
from tests.subjects.test_worlds import SEQUENCES, WORLDS, data_of


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stack") / "raw"
    write_raw_traces(data_of("stack"), path)
    return path


@pytest.mark.parametrize("generator", sorted(WORLDS))
def test_words_and_states_come_back(generator: str, tmp_path: Path) -> None:
    data = data_of(generator)
    write_raw_traces(data, tmp_path / "raw")
    write_traces(tokenize_traces(tmp_path / "raw"), tmp_path / "tokens")
    traces = read_traces(tmp_path / "tokens")
    for split, drawn in draw_traces(data).items():
        states = iter(traces.rows(split).tolist())
        for trace, row, targets in zip(drawn, traces.splits[split], traces.targets(split), strict=True):
            assert tuple(traces.vocabulary[token] for token in row) == trace.words
            assert [traces.vocabulary[t] for t in targets] == [trace.words[p + 1] for p in traces.predicted]
            for expected in trace.states:
                found = zip(traces.variables.values(), next(states), strict=True)
                assert tuple(None if i == -1 else values[i] for values, i in found) == expected
        assert next(states, None) is None


def test_the_report_counts_what_the_data_are(raw: Path) -> None:
    report = traces_report(tokenize_traces(raw), read_instances(raw))
    assert {split: counts["sequences"] for split, counts in report.items()} == SEQUENCES
    assert all(counts["duplicates"] == counts["leaked"] == 0 for counts in report.values())
    assert report["model"]["seen_prefixes"] == 0 < report["test"]["seen_prefixes"] < 0.5


def planted(traces: Traces, split: str, tokens: torch.Tensor, states: torch.Tensor) -> Traces:
    return replace(
        traces,
        splits=traces.splits | {split: torch.cat([traces.splits[split], tokens])},
        states=traces.states | {split: torch.cat([traces.states[split], states])},
    )


def test_planted_leaks_and_duplicates_are_refused(raw: Path) -> None:
    traces, instances = tokenize_traces(raw), read_instances(raw)
    again = planted(traces, "test", traces.splits["test"][:1], traces.states["test"][:1])
    longer = instances | {"test": [*instances["test"], "new"]}
    with pytest.raises(ReseedError, match="test has 1 duplicates sequences, allowed: 0"):
        traces_report(again, longer)
    leaked = planted(traces, "test", traces.splits["model"][:1], traces.states["model"][:1])
    with pytest.raises(ReseedError, match="test has 1 leaked sequences, allowed: 0"):
        traces_report(leaked, longer)
    shared = instances | {"train": [instances["model"][0], *instances["train"][1:]]}
    with pytest.raises(ReseedError, match="train has 1 leaked sequences, allowed: 0"):
        traces_report(traces, shared)
    wrong = traces.states["train"].clone()
    wrong[0, 0, 0] = 99
    with pytest.raises(ReseedError, match="train has a state that its variable does not have"):
        traces_report(replace(traces, states=traces.states | {"train": wrong}), instances)


def test_edited_raw_data_are_refused(tmp_path: Path) -> None:
    write_raw_traces(data_of("stack"), tmp_path / "raw")
    file = tmp_path / "raw" / "test.jsonl"
    file.write_text(file.read_text().replace("pop", "dup", 1))
    with pytest.raises(ReseedError, match=r"test\.jsonl: its sha256 is .* truncated or edited"):
        tokenize_traces(tmp_path / "raw")
