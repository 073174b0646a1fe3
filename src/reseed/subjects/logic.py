"""A 4x4 sudoku solved by constraint propagation: the puzzle, then one naked single after the other."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from random import Random

from reseed.params import LogicPuzzle
from reseed.subjects.trace import YES_NO, Trace, TracedWorld, numbers, yes

SIZE, BOX = 4, 2
CELLS = range(SIZE * SIZE)
DIGITS = tuple(str(digit) for digit in range(1, SIZE + 1))
BLANK = "_"
Grid = tuple[int, ...]
"""16 digits, row after row; 0 is a blank."""


def units(cell: int) -> tuple[int, int, int]:
    """The row, the column and the 2x2 box of a cell."""
    row, column = divmod(cell, SIZE)
    return row, column, row // BOX * BOX + column // BOX


PEERS = tuple(
    tuple(
        other
        for other in CELLS
        if other != cell and any(a == b for a, b in zip(units(cell), units(other), strict=True))
    )
    for cell in CELLS
)


@cache
def solutions() -> tuple[Grid, ...]:
    """All 288 solved grids, increasing: row after row, whatever fits the rows above."""
    rows = list(permutations(range(1, SIZE + 1)))
    grids: list[Grid] = [()]
    for _ in range(SIZE):
        grids = [grid + row for grid in grids for row in rows if _fits(grid + row)]
    return tuple(grids)


def _fits(part: Grid) -> bool:
    return all(part[cell] != part[peer] for cell in range(len(part)) for peer in PEERS[cell] if peer < len(part))


def propagate(puzzle: Grid) -> list[tuple[int, int]]:
    """The steps (cell, digit) by which naked singles fill a puzzle: always the first blank cell, row after row, whose
    row, column and box leave it one digit. They end where there is no such cell."""
    grid, steps = list(puzzle), []
    while True:
        for cell in CELLS:
            left = {1, 2, 3, 4} - {grid[peer] for peer in PEERS[cell]}
            if grid[cell] == 0 and len(left) == 1:
                grid[cell] = left.pop()
                steps.append((cell, grid[cell]))
                break
        else:
            return steps


def world(data: LogicPuzzle) -> TracedWorld:
    """Sequences [16 cells, blank or digit, then cell, digit, cell, digit, …]; the digits are predicted.

    States, before the digit is written: `filled_<cell>`; `filled`, how many; and of the step: `cell` and `digit`.
    """
    names = numbers(SIZE * SIZE)

    def draw(random: Random) -> Trace:
        solution = random.choice(solutions())
        while True:
            blanks = set(random.sample(CELLS, data.blanks))
            puzzle = tuple(0 if cell in blanks else solution[cell] for cell in CELLS)
            steps = propagate(puzzle)
            if len(steps) == data.blanks:
                break
        words = [str(digit) if digit else BLANK for digit in puzzle]
        states, filled = [], set(CELLS) - blanks
        for cell, digit in steps:
            words += [f"cell {cell}", str(digit)]
            states.append((*(yes(c in filled) for c in CELLS), str(len(filled)), str(cell), str(digit)))
            filled.add(cell)
        return Trace("".join(map(str, solution)), tuple(words), tuple(states))

    return TracedWorld(
        "4x4 sudoku puzzles that naked singles solve",
        (*DIGITS, BLANK, *(f"cell {cell}" for cell in CELLS)),
        tuple(range(len(CELLS), len(CELLS) + 2 * data.blanks, 2)),
        {f"filled_{cell}": YES_NO for cell in CELLS} | {"filled": names, "cell": names, "digit": DIGITS},
        draw,
    )
