"""Worlds whose exact state is known at every step: what a trace is, how traces are split, and how they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import derive_seed, sha256, write_json
from reseed.params import MODEL_SPLIT, GraphTraversal, GridWalk, LogicPuzzle, StackMachine, TraceData
from reseed.subjects import graph, logic, stack, walker
from reseed.subjects.trace import Trace, TracedWorld

SHARES = {MODEL_SPLIT: 0.5, "train": 0.2, "validation": 0.1, "test": 0.2}
"""Of the instances. An instance belongs to one split, whatever else is drawn."""
PATIENCE = 20_000
"""Draws in a row that give no new sequence, after which the world counts as exhausted."""


def world_of(data: TraceData) -> TracedWorld:
    """The world that a subject's data describe."""
    match data:
        case StackMachine():
            return stack.world(data)
        case GraphTraversal():
            return graph.world(data)
        case GridWalk():
            return walker.world(data)
        case LogicPuzzle():
            return logic.world(data)


def split_of(instance: str, seed: int) -> str:
    """The split of an instance: a function of the instance alone, so that no two splits can share one."""
    place = derive_seed("split", seed, instance) / (1 << 63)
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return "test"


def draw_traces(data: TraceData) -> dict[str, list[Trace]]:
    """As many different traces of each split as `data.sequences` asks for, disjoint by instance.

    Raises ReseedError if the world has too few.
    """
    world, random = world_of(data), Random(derive_seed("world", data.generator, data.seed))
    wanted = {split: getattr(data.sequences, split) for split in SHARES}
    found: dict[str, list[Trace]] = {split: [] for split in SHARES}
    seen: set[tuple[str, ...]] = set()
    idle = 0
    while any(len(found[split]) < number for split, number in wanted.items()):
        trace = world.draw(random)
        split = split_of(trace.instance, data.seed)
        if trace.words in seen or len(found[split]) == wanted[split]:
            idle += 1
            if idle > PATIENCE:
                short = {split: len(found[split]) for split in SHARES if len(found[split]) < wanted[split]}
                raise ReseedError(
                    f"data.sequences: found {wanted}, allowed: what the world has; of {short} no more were found"
                )
            continue
        idle = 0
        seen.add(trace.words)
        found[split].append(trace)
    return found


def write_raw_traces(data: TraceData, path: Path) -> None:
    """Write one JSON-lines file a split and a manifest into the directory `path`.

    A line has the instance, the tokens as words, and for each variable its value at every predicted position (null
    where it has none). The manifest has source, licence, parameters, rows and sha256, and how to read the lines:
    vocabulary, predicted positions, variables and their values.
    """
    world = world_of(data)
    path.mkdir(parents=True)
    files = {}
    for split, traces in draw_traces(data).items():
        file = path / f"{split}.jsonl"
        with file.open("w") as out:
            for trace in traces:
                states = dict(zip(world.variables, zip(*trace.states, strict=True), strict=True))
                out.write(json.dumps({"instance": trace.instance, "words": trace.words, "states": states}) + "\n")
        files[file.name] = {"rows": len(traces), "sha256": sha256(file)}
    write_json(
        path / "manifest.json",
        {
            "source": f"generated: {world.source}",
            "licence": "MIT",
            "parameters": data.model_dump(mode="json"),
            "files": files,
            "vocabulary": world.vocabulary,
            "predicted": world.predicted,
            "variables": world.variables,
            "order": list(world.variables),
        },
    )


def state_vectors(states: Tensor, variables: dict[str, tuple[str, ...]]) -> Tensor:
    """The exact states [rows, n_variables] as vectors, float32 [rows, d_in]: one-hot, a variable after the other.

    Where a variable has no value (-1) its part is zero.
    """
    parts = []
    for column, values in zip(states.long().unbind(1), variables.values(), strict=True):
        parts.append((column.unsqueeze(1) == torch.arange(len(values))).float())
    return torch.cat(parts, dim=1)
