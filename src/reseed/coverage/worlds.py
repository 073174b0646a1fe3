"""Worlds with traces: every value of every state variable, and histories told in another way that leaves the states.

What may be told otherwise is a fact of each world: walls that no step of the walk comes near stand elsewhere; an
instruction of the stack machine is replaced by another one of the same outcome, every other time that there is one (so
that such instructions stay among the rows); the edges of a graph are listed in
another order; the digits of a puzzle trade places (there alone one state variable, the digit, changes with them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed.activations.capture import capture_traces
from reseed.artifacts import derive_seed
from reseed.coverage.domain import Domain
from reseed.params import SPLITS, GraphTraversal, GridWalk, LogicPuzzle, StackMachine
from reseed.subjects.logic import DIGITS
from reseed.subjects.stack import step
from reseed.subjects.walker import MOVES, Cell, after
from reseed.text.traces import Traces

Words = list[str]
Retold = Callable[[Words, Random], Words | None]
"""The words of a sequence told in another way, None where there is no other."""


def far_walls(data: GridWalk) -> Retold:
    """Walls that are no neighbour of a cell of the walk stand on other cells that are none, in increasing order."""

    def cell(word: str) -> Cell:
        row, column = word.removeprefix("wall ").split(",")
        return int(row), int(column)

    def retell(words: Words, random: Random) -> Words | None:
        walls = [cell(word) for word in words[: data.walls]]
        visited = {cell(word) for word in words[data.walls :] if word not in MOVES}
        seen = visited | {after(at, move) for at in visited for move in MOVES}
        far = [wall for wall in walls if wall not in seen]
        free = [
            (row, column)
            for row in range(data.size)
            for column in range(data.size)
            if (row, column) not in seen and (row, column) not in walls
        ]
        moved = min(len(far), len(free))
        if not moved:
            return None
        gone = set(random.sample(far, moved))
        standing = sorted([wall for wall in walls if wall not in gone] + random.sample(free, moved))
        return [f"wall {row},{column}" for row, column in standing] + words[data.walls :]

    return retell


def other_instructions(data: StackMachine) -> Retold:
    """Instructions replaced, every other time, by one of the same outcome.

    Such are `dup` and `push` of the top, `pop` and `add` where the top is 0, and any two that cannot run.
    """
    everything = [*(f"push {value}" for value in range(data.modulus)), "pop", "dup", "add", "swap"]

    def retell(words: Words, random: Random) -> Words | None:
        stack: tuple[int, ...] = ()
        told = list(words)
        for i in range(0, len(words), 2):
            outcome = step(stack, words[i], data.modulus, data.max_depth)
            others = [
                other
                for other in everything
                if other != words[i] and step(stack, other, data.modulus, data.max_depth) == outcome
            ]
            if others and random.random() < 0.5:
                told[i] = random.choice(others)
            stack = outcome[0]
        return told if told != words else None

    return retell


def other_order(data: GraphTraversal) -> Retold:
    """The edges in another order."""

    def retell(words: Words, random: Random) -> Words | None:
        told = random.sample(words[: data.edges], data.edges) + words[data.edges :]
        return told if told != words else None

    return retell


def other_digits() -> Retold:
    """Every digit replaced by the one that a permutation without a fixed point gives it."""

    def retell(words: Words, random: Random) -> Words | None:
        turned = random.randrange(1, len(DIGITS))
        new = {digit: DIGITS[(i + turned) % len(DIGITS)] for i, digit in enumerate(DIGITS)}
        return [new.get(word, word) for word in words]

    return retell


def retold_by(data: GridWalk | StackMachine | GraphTraversal | LogicPuzzle) -> tuple[Retold, str]:
    """How the sequences of a world are told in another way, and that in words."""
    match data:
        case GridWalk():
            return far_walls(data), "walls that the walk does not come near stand elsewhere"
        case StackMachine():
            return other_instructions(data), "instructions replaced by others with the same outcome"
        case GraphTraversal():
            return other_order(data), "the edges listed in another order"
        case LogicPuzzle():
            return other_digits(), "the digits trade places"


def retold(traces: Traces, retell: Retold, subject: str) -> tuple[Tensor, Tensor]:
    """Test sequences [n, n_ctx] told in another way, and the places [n] of those that they are of."""
    token = {word: i for i, word in enumerate(traces.vocabulary)}
    random = Random(derive_seed("retold", subject))
    told, places = [], []
    for place, sequence in enumerate(traces.splits["test"].tolist()):
        if (found := retell([traces.vocabulary[i] for i in sequence], random)) is not None:
            told.append([token[word] for word in found])
            places.append(place)
    return torch.tensor(told, dtype=torch.int32).reshape(-1, traces.n_ctx), torch.tensor(places, dtype=torch.long)


def same_token(before: Tensor, now: Tensor, predicted: tuple[int, ...]) -> Tensor:
    """Where [n, len(predicted)] sequences [n, n_ctx] have kept the token at a predicted position, not all before it."""
    changed = before != now
    earlier = changed.cumsum(1) > 0
    at = list(predicted)
    return earlier[:, at] & ~changed[:, at]


def classes_of(traces: Traces) -> tuple[dict[str, list[Tensor]], float]:
    """By variable, the masks [rows] of its values that test rows have; and their share of the values of all splits."""
    states = traces.rows("test")
    found, values = {}, 0
    for column, (name, names) in enumerate(traces.variables.items()):
        masks = [states[:, column] == value for value in range(len(names))]
        found[name] = [mask for mask in masks if mask.any()]
        everywhere = torch.cat([traces.rows(split)[:, column] for split in traces.states])
        values += len(everywhere[everywhere >= 0].unique())
    return found, sum(map(len, found.values())) / values


def world_domain(
    model: HookedTransformer,
    traces: Traces,
    hook_name: str,
    data: GridWalk | StackMachine | GraphTraversal | LogicPuzzle,
    device: torch.device,
    subject: str,
) -> Domain:
    """The test rows of a world, as `capture` reads them. Raises ReseedError for an unknown hook point."""
    retell, how = retold_by(data)
    others, places = retold(traces, retell, subject)
    empty = {split: traces.splits[split][:0] for split in SPLITS}
    before = traces.splits["test"][places]

    def read(sequences: Tensor) -> Tensor:
        told = replace(traces, splits=empty | {"test": sequences})
        rows: Tensor = capture_traces(model, told, hook_name, device)["test"]
        return rows.reshape(len(sequences), len(traces.predicted), -1)

    x = read(traces.splits["test"])
    chosen = same_token(before, others, traces.predicted)
    variables, tested = classes_of(traces)
    rows = x.flatten(0, 1)
    token = before[:, list(traces.predicted)].long()
    alike = token * len(traces.predicted) + torch.arange(len(traces.predicted))
    return Domain(
        rows=rows,
        target=rows,
        parts={"all": [torch.ones(len(rows), dtype=torch.bool)]} | variables,
        class_name="value",
        classes=[mask for masks in variables.values() for mask in masks],
        tested=tested,
        own=x[places][chosen],
        relabelled=read(others)[chosen],
        alike=alike[chosen],
        relabelling=how,
    )
