"""The worlds against independent accounts of them: an interpreter, networkx, a grid of numbers, a sudoku checker."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from reseed import ReseedError
from reseed.artifacts import read_json, sha256
from reseed.params import SPLITS, TraceData
from reseed.subjects.logic import propagate, solutions
from reseed.subjects.stack import step
from reseed.subjects.states import SHARES, draw_traces, split_of, state_vectors, world_of, write_raw_traces
from reseed.subjects.trace import Trace

Traced = list[tuple[Trace, list[dict[str, str | None]]]]
SEQUENCES = {"model": 60, "train": 24, "validation": 8, "test": 24}
WORLDS: dict[str, dict[str, Any]] = {
    "stack": {"modulus": 4, "max_depth": 3, "instructions": 14},
    "graph": {"nodes": 6, "edges": 8},
    "walker": {"size": 4, "walls": 3, "moves": 10},
    "logic": {"blanks": 7},
}


def data_of(generator: str, **changes: Any) -> Any:
    content = {"generator": generator, "sequences": SEQUENCES, "seed": 0} | WORLDS[generator] | changes
    return TypeAdapter(TraceData).validate_python(content)


def traces_of(generator: str, count: int = 200) -> Traced:
    """Traces, and the states of each as one mapping a predicted position."""
    world, random = world_of(data_of(generator)), Random(1)
    drawn = [world.draw(random) for _ in range(count)]
    for trace in drawn:
        assert len(trace.states) == len(world.predicted)
        assert world.predicted[-1] == len(trace.words) - 2
        assert set(trace.words) <= set(world.vocabulary)
    return [(trace, [dict(zip(world.variables, state, strict=True)) for state in trace.states]) for trace in drawn]


def check_stack(traces: Traced) -> None:
    """An interpreter of its own."""
    overflows = set()
    for trace, states in traces:
        stack: list[int] = []
        for i, state in enumerate(states):
            instruction, output = trace.words[2 * i : 2 * i + 2]
            before = list(stack)
            try:
                if instruction.startswith("push") or instruction == "dup":
                    value = stack[-1] if instruction == "dup" else int(instruction[-1])
                    if len(stack) == 3:
                        raise IndexError
                    stack.append(value)
                else:
                    top = stack.pop()
                    if instruction == "add":
                        stack.append((stack.pop() + top) % 4)
                    elif instruction == "swap":
                        second = stack.pop()
                        stack += [top, second]
                failed = False
            except IndexError:  # of an empty list, or a full stack
                stack, failed = before, True
            overflows.add((instruction.split()[0], failed))
            assert state == {
                "depth": str(len(stack)),
                "top": str(stack[-1]) if stack else None,
                "second": str(stack[-2]) if len(stack) > 1 else None,
                "overflow": "yes" if failed else "no",
            }
            assert output == (str(stack[-1]) if stack else "empty")
    assert overflows == set(product(("push", "pop", "dup", "add", "swap"), (False, True)))


@pytest.mark.parametrize(
    ("stack", "instruction", "expected"),
    [
        ((), "pop", ((), True)),
        ((3,), "dup", ((3, 3), False)),
        ((1, 2, 3), "push 0", ((1, 2, 3), True)),
        ((1, 2, 3), "add", ((1, 1), False)),
        ((1, 2), "swap", ((2, 1), False)),
        ((1,), "swap", ((1,), True)),
    ],
)
def test_a_step_of_the_stack_machine(stack: Any, instruction: str, expected: Any) -> None:
    assert step(stack, instruction, modulus=4, max_depth=3) == expected


def check_graph(traces: Traced) -> None:
    """By networkx."""
    nodes, edges = 6, 8
    seen = set()
    for trace, states in traces:
        graph = nx.Graph([tuple(map(int, word.split("-"))) for word in trace.words[:edges]])
        assert nx.is_connected(graph)
        assert (len(graph), graph.size()) == (nodes, edges)
        mode, start, walked = trace.words[edges], int(trace.words[edges + 1]), list(map(int, trace.words[edges + 2 :]))
        of = {"bfs": nx.bfs_edges, "dfs": nx.dfs_edges}[mode]
        expected = list(of(graph, start, sort_neighbors=sorted))
        assert list(zip(walked[::2], walked[1::2], strict=True)) == expected
        if mode == "bfs":
            distance = nx.shortest_path_length(graph, start)
        else:
            distance = nx.shortest_path_length(nx.dfs_tree(graph, start, sort_neighbors=sorted), start)
        found = {start}
        for i, (parent, child) in enumerate(expected):
            for state, node in zip(states[2 * i : 2 * i + 2], (None, str(child)), strict=True):
                assert {n for n in range(nodes) if state[f"visited_{n}"] == "yes"} == found
                open_ones = {n for n in found if set(graph[n]) - found}
                assert {n for n in range(nodes) if state[f"frontier_{n}"] == "yes"} == open_ones
                assert (state["parent"], state["node"]) == (str(parent), node)
                assert state["distance"] == str(distance[child])
            found.add(child)
        seen.add((mode, tuple(expected)))
    assert len(seen) > 100


def check_walker(traces: Traced) -> None:
    """On a padded grid."""
    blocked = 0
    for trace, states in traces:
        grid = np.pad(np.zeros((4, 4), dtype=bool), 1, constant_values=True)  # a wall around
        for word in trace.words[:3]:
            row, column = map(int, word.removeprefix("wall ").split(","))
            grid[row + 1, column + 1] = True
        assert grid[1:-1, 1:-1].sum() == 3
        place = np.array([int(number) for number in trace.words[3].split(",")])
        towards = {"up": [-1, 0], "down": [1, 0], "left": [0, -1], "right": [0, 1]}
        for i, state in enumerate(states):
            move, cell = trace.words[4 + 2 * i : 6 + 2 * i]
            free = {name: not grid[tuple(place + 1 + vector)] for name, vector in towards.items()}
            assert {name: state[f"allowed_{name}"] == "yes" for name in towards} == free
            assert (state["blocked"] == "no") == free[move]
            blocked += not free[move]
            place = place + np.array(towards[move]) * free[move]
            assert not grid[tuple(place + 1)]
            assert cell == f"{place[0]},{place[1]}" == f"{state['row']},{state['column']}"
    assert 0.1 < blocked / sum(len(states) for _, states in traces) < 0.9


def units_hold(grid: np.ndarray[Any, Any]) -> bool:
    boxes = grid.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    return all(sorted(unit) == [1, 2, 3, 4] for units in (grid, grid.T, boxes) for unit in units.tolist())


def check_logic(traces: Traced) -> None:
    """One naked single after the other, looked for in numpy."""
    for trace, states in traces:
        grid = np.array([0 if word == "_" else int(word) for word in trace.words[:16]]).reshape(4, 4)
        assert (grid == 0).sum() == 7
        for i, state in enumerate(states):
            singles = {}
            for row, column in zip(*np.nonzero(grid == 0), strict=True):
                box = grid[row // 2 * 2 : row // 2 * 2 + 2, column // 2 * 2 : column // 2 * 2 + 2]
                left = {1, 2, 3, 4} - {*grid[row], *grid[:, column], *box.flatten()}
                if len(left) == 1:
                    singles[4 * row + column] = left.pop()
            first = min(singles)
            assert trace.words[16 + 2 * i : 18 + 2 * i] == (f"cell {first}", str(singles[first]))
            assert (state["cell"], state["digit"]) == (str(first), str(singles[first]))
            filled = [state[f"filled_{cell}"] == "yes" for cell in range(16)]
            assert filled == (grid != 0).flatten().tolist()
            assert state["filled"] == str(sum(filled))
            grid[divmod(first, 4)] = singles[first]
        assert units_hold(grid)
        assert trace.instance == "".join(map(str, grid.flatten()))


def test_all_solved_grids_are_there() -> None:
    assert len(set(solutions())) == 288  # OEIS A107739
    assert all(units_hold(np.array(grid).reshape(4, 4)) for grid in solutions())
    assert propagate((0,) * 16) == []  # no cell is left one digit


CHECKS = {"stack": check_stack, "graph": check_graph, "walker": check_walker, "logic": check_logic}


@pytest.mark.parametrize("generator", WORLDS)
def test_every_state_of_a_world_is_that_of_an_independent_account(generator: str) -> None:
    CHECKS[generator](traces_of(generator))


@pytest.mark.parametrize("generator", sorted(WORLDS))
def test_splits_are_disjoint_by_what_determines_a_trajectory(generator: str) -> None:
    data = data_of(generator)
    drawn = draw_traces(data)
    assert {split: len(traces) for split, traces in drawn.items()} == SEQUENCES
    words = [trace.words for traces in drawn.values() for trace in traces]
    assert len(set(words)) == len(words)
    owner: dict[Any, str] = {}
    for split, traces in drawn.items():
        for trace in traces:
            # the instance anew, from the words alone
            instance = {
                "stack": tuple(trace.words[::2]),
                "graph": frozenset(trace.words[:8]),
                "walker": frozenset(trace.words[:3]),
                "logic": trace.instance,
            }[generator]
            assert owner.setdefault(instance, split) == split
    assert draw_traces(data) == drawn
    assert draw_traces(data_of(generator, seed=1)) != drawn


def test_the_first_outputs_of_a_program_may_be_shown_and_not_predicted() -> None:
    everything, behind = (world_of(data_of("stack", unpredicted=count)) for count in (0, 5))
    assert behind.predicted == everything.predicted[5:] == tuple(range(10, 28, 2))
    assert behind.vocabulary == everything.vocabulary
    for _ in range(20):
        whole, late = everything.draw(Random(3)), behind.draw(Random(3))
        assert (late.instance, late.words) == (whole.instance, whole.words)
        assert late.states == whole.states[5:]
    with pytest.raises(ValidationError, match="below 14, the number of instructions"):
        data_of("stack", unpredicted=14)


def test_instances_fall_into_splits_by_their_shares() -> None:
    counts = dict.fromkeys(SHARES, 0)
    for i in range(4000):
        counts[split_of(str(i), 0)] += 1
    for split, share in SHARES.items():
        assert abs(counts[split] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_world_that_has_too_few_sequences_is_refused() -> None:
    with pytest.raises(ReseedError, match=r"data\.sequences: found .* allowed: what the world has; of .*'test': \d"):
        draw_traces(data_of("stack", instructions=1))


def test_raw_data_are_readable_lines_and_a_manifest_that_tells_how(tmp_path: Path) -> None:
    data = data_of("walker")
    write_raw_traces(data, tmp_path / "raw")
    manifest = read_json(tmp_path / "raw" / "manifest.json")
    assert manifest["licence"] == "MIT"
    assert manifest["parameters"] == data.model_dump(mode="json")
    drawn = draw_traces(data)
    for split in ("model", *SPLITS):
        file = tmp_path / "raw" / f"{split}.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert manifest["files"][file.name] == {"rows": len(lines), "sha256": sha256(file)}
        assert [tuple(line["words"]) for line in lines] == [trace.words for trace in drawn[split]]
        assert lines[0]["states"]["row"] == [state[0] for state in drawn[split][0].states]


def test_state_vectors_are_one_hot_by_variable() -> None:
    variables = {"depth": ("0", "1", "2"), "overflow": ("no", "yes")}
    states = torch.tensor([[2, 0], [-1, 1]], dtype=torch.int16)
    assert state_vectors(states, variables).tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
