"""Sequences of a world beside the exact state behind every token that the model is to predict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import check_sha256, read_json, read_tensors, sha256, write_json, write_tensors
from reseed.text.tokens import Tokens, read_tokens

TRACES = "traces"
"""The folder of traces beside rows that are the states of a world themselves."""


@dataclass(frozen=True)
class Traces:
    """Sequences and states. Activations are captured at `predicted`, one row a sequence and position, in that order.

    splits: name -> int32 [n_sequences, n_ctx]. vocabulary: the text of every token. predicted: the positions whose next
    token the model is to predict, increasing. variables: name -> the names of its values. states: split -> int16
    [n_sequences, len(predicted), n_variables], the value of each variable at these positions, -1 where it has none.
    """

    splits: dict[str, Tensor]
    vocabulary: tuple[str, ...]
    predicted: tuple[int, ...]
    variables: dict[str, tuple[str, ...]]
    states: dict[str, Tensor]

    @property
    def n_ctx(self) -> int:
        return next(iter(self.splits.values())).shape[1]

    def targets(self, split: str) -> Tensor:
        """The tokens [n_sequences, len(predicted)] to predict."""
        return self.splits[split][:, [position + 1 for position in self.predicted]].long()

    def rows(self, split: str) -> Tensor:
        """States [rows, n_variables] in the order of the captured rows."""
        return self.states[split].flatten(0, 1)


def write_traces(traces: Traces, path: Path) -> None:
    """Write one shard a split (tokens, states) and index.json into the new directory `path`."""
    path.mkdir(parents=True)
    splits: dict[str, Any] = {}
    for split, rows in traces.splits.items():
        file = path / f"{split}.safetensors"
        write_tensors(file, {"tokens": rows.to(torch.int32), "states": traces.states[split].to(torch.int16)})
        splits[split] = {"sequences": len(rows), "shards": [{"file": file.name, "sha256": sha256(file)}]}
    write_json(
        path / "index.json",
        {
            "n_ctx": traces.n_ctx,
            "vocabulary": list(traces.vocabulary),
            "predicted": list(traces.predicted),
            "variables": {name: list(values) for name, values in traces.variables.items()},
            "order": list(traces.variables),
            "pads": "none: every sequence has the full length",
            "splits": splits,
        },
    )


def read_traces(path: Path) -> Traces:
    """Read and verify data/<subject>/tokens; raises ReseedError for a missing, truncated or edited shard.

    Of addition modulo p, whose one variable is the answer, at the one position where it is predicted.
    """
    index = read_json(path / "index.json")
    if "variables" not in index:
        return _of_addition(read_tokens(path))
    splits, states = {}, {}
    for split, entry in index["splits"].items():
        (shard,) = entry["shards"]
        check_sha256(path / shard["file"], shard["sha256"])
        tensors = read_tensors(path / shard["file"])
        splits[split], states[split] = tensors["tokens"], tensors["states"]
    variables = {name: tuple(index["variables"][name]) for name in index["order"]}
    return Traces(splits, tuple(index["vocabulary"]), tuple(index["predicted"]), variables, states)


def tokenize_traces(raw: Path) -> Traces:
    """Read raw/*.jsonl of a world, verified against its manifest; a word is its place in the vocabulary.

    Raises ReseedError for an edited file.
    """
    manifest = read_json(raw / "manifest.json")
    variables = {name: tuple(manifest["variables"][name]) for name in manifest["order"]}
    token = {word: i for i, word in enumerate(manifest["vocabulary"])}
    value = {name: {text: i for i, text in enumerate(values)} | {None: -1} for name, values in variables.items()}
    splits, states = {}, {}
    for file in manifest["files"]:
        lines = _raw_lines(raw, file)
        splits[Path(file).stem] = torch.tensor([[token[word] for word in line["words"]] for line in lines]).int()
        columns = [[[value[name][text] for text in line["states"][name]] for line in lines] for name in variables]
        states[Path(file).stem] = torch.tensor(columns).permute(1, 2, 0).short()
    return Traces(splits, tuple(manifest["vocabulary"]), tuple(manifest["predicted"]), variables, states)


def read_instances(raw: Path) -> dict[str, list[str]]:
    """By split, the instance of every sequence of a world: what determines its trajectory."""
    files = read_json(raw / "manifest.json")["files"]
    return {Path(file).stem: [line["instance"] for line in _raw_lines(raw, file)] for file in files}


def _raw_lines(raw: Path, file: str) -> list[dict[str, Any]]:
    """The lines of a file of raw data; raises ReseedError unless it is what the manifest promises."""
    check_sha256(raw / file, read_json(raw / "manifest.json")["files"][file]["sha256"])
    return [json.loads(line) for line in (raw / file).read_text().splitlines()]


def check_traced(traces_sha256: str, activations: dict[str, Any], where: Path) -> None:
    """Raise ReseedError unless activations (their index) are of these tokens, so that a row has its state."""
    found = activations["tokens_sha256"]
    if found != traces_sha256:
        raise ReseedError(
            f"{where}: tokens_sha256: found {found[:12]}…, allowed: {traces_sha256[:12]}…, the tokens whose states are "
            "known"
        )


def _of_addition(tokens: Tokens) -> Traces:
    p = tokens.vocabulary - 1
    numbers = tuple(str(number) for number in range(p))
    target = tokens.position(tokens.target)
    return Traces(
        tokens.splits,
        (*numbers, "="),
        (tokens.position(tokens.predict),),
        {"answer": numbers},
        {split: rows[:, None, [target]].to(torch.int16) for split, rows in tokens.splits.items()},
    )
