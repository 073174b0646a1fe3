"""Traversals of random connected graphs: the edges in any order, then breadth first or depth first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from random import Random

from reseed.params import GraphTraversal
from reseed.subjects.trace import YES_NO, Trace, TracedWorld, numbers, yes

BREADTH_FIRST, DEPTH_FIRST = "bfs", "dfs"
Edge = tuple[int, int]


def traversal(edges: list[Edge], start: int, mode: str) -> Iterator[Edge]:
    """The steps (parent, child) of a traversal; a node's neighbours are tried in increasing order.

    A step begins at a discovered node that still has an undiscovered neighbour: breadth first at the one discovered
    first, depth first at the one discovered last (all that are no ancestors of it are finished).
    """
    found = [start]
    while open_nodes := [node for node in found if undiscovered(edges, node, found)]:
        parent = open_nodes[0 if mode == BREADTH_FIRST else -1]
        child = undiscovered(edges, parent, found)[0]
        found.append(child)
        yield parent, child


def undiscovered(edges: list[Edge], node: int, found: list[int]) -> list[int]:
    """The neighbours of a node that are not yet found, increasing."""
    return sorted(b if a == node else a for a, b in edges if node in (a, b) and (b if a == node else a) not in found)


def random_graph(random: Random, nodes: int, edges: int) -> list[Edge]:
    """A connected graph: a uniform choice of edges, drawn again until it is connected."""
    everything = list(combinations(range(nodes), 2))
    while True:
        chosen = sorted(random.sample(everything, edges))
        if sum(1 for _ in traversal(chosen, 0, BREADTH_FIRST)) == nodes - 1:
            return chosen


def world(data: GraphTraversal) -> TracedWorld:
    """Sequences [edge, …, mode, start, parent, child, parent, child, …]; every parent and child is predicted.

    States of both predictions of a step, before it: `visited_<node>`, discovered; `frontier_<node>`, discovered with a
    neighbour that is not. And of the step: `parent`; `node`, its child (no value where the parent is predicted);
    `distance`, the steps of the traversal that lead from the start to the child (breadth first: its distance).
    """
    nodes = range(data.nodes)

    def draw(random: Random) -> Trace:
        edges = random_graph(random, data.nodes, data.edges)
        mode, start = random.choice((BREADTH_FIRST, DEPTH_FIRST)), random.randrange(data.nodes)
        shuffled = random.sample(edges, data.edges)
        words = [*(f"{a}-{b}" for a, b in shuffled), mode, str(start)]
        states: list[tuple[str | None, ...]] = []
        found, distance = [start], {start: 0}
        for parent, child in traversal(edges, start, mode):
            distance[child] = distance[parent] + 1
            sets = (
                *(yes(node in found) for node in nodes),
                *(yes(node in found and bool(undiscovered(edges, node, found))) for node in nodes),
            )
            for answer in (None, str(child)):
                states.append((*sets, str(parent), answer, str(distance[child])))
            words += [str(parent), str(child)]
            found.append(child)
        return Trace(" ".join(f"{a}-{b}" for a, b in edges), tuple(words), tuple(states))

    names = numbers(data.nodes)
    return TracedWorld(
        "traversals of random connected graphs",
        (*(f"{a}-{b}" for a, b in combinations(nodes, 2)), BREADTH_FIRST, DEPTH_FIRST, *names),
        tuple(range(data.edges + 1, data.edges + 2 * data.nodes - 1)),
        {f"visited_{node}": YES_NO for node in nodes}
        | {f"frontier_{node}": YES_NO for node in nodes}
        | {"parent": names, "node": names, "distance": names},
        draw,
    )
