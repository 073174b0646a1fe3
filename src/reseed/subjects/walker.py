"""A walker on a square grid with walls: moves interleaved with where each of them leads."""

from __future__ import annotations

from random import Random

from reseed.params import GridWalk
from reseed.subjects.trace import YES_NO, Trace, TracedWorld, numbers, yes

MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
Cell = tuple[int, int]


def allowed(cell: Cell, move: str, size: int, walls: frozenset[Cell]) -> bool:
    """Whether a move from a cell stays on the grid and off the walls."""
    row, column = after(cell, move)
    return 0 <= row < size and 0 <= column < size and (row, column) not in walls


def after(cell: Cell, move: str) -> Cell:
    return cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]


def world(data: GridWalk) -> TracedWorld:
    """Sequences [wall, …, start, move, cell, move, cell, …]: walls in increasing order, cells predicted.

    A move that is not allowed leaves the walker where it is. States: `row` and `column` after the move;
    `allowed_<move>` before it, at the cell that it begins at; `blocked`: this move was not allowed.
    """
    cells = [(row, column) for row in range(data.size) for column in range(data.size)]

    def name(cell: Cell) -> str:
        return f"{cell[0]},{cell[1]}"

    def draw(random: Random) -> Trace:
        chosen = random.sample(cells, data.walls + 1)
        walls, cell = frozenset(chosen[1:]), chosen[0]
        words = [*(f"wall {name(wall)}" for wall in sorted(walls)), name(cell)]
        layout = " ".join(name(wall) for wall in sorted(walls))
        states = []
        for move in random.choices(list(MOVES), k=data.moves):
            free = [allowed(cell, other, data.size, walls) for other in MOVES]
            blocked = not allowed(cell, move, data.size, walls)
            cell = cell if blocked else after(cell, move)
            words += [move, name(cell)]
            states.append((str(cell[0]), str(cell[1]), *map(yes, free), yes(blocked)))
        return Trace(layout, tuple(words), tuple(states))

    coordinates = numbers(data.size)
    return TracedWorld(
        "random walks on grids with walls",
        (*(f"wall {name(cell)}" for cell in cells), *(name(cell) for cell in cells), *MOVES),
        tuple(range(data.walls + 1, data.walls + 1 + 2 * data.moves, 2)),
        {"row": coordinates, "column": coordinates}
        | {f"allowed_{move}": YES_NO for move in MOVES}
        | {"blocked": YES_NO},
        draw,
    )
