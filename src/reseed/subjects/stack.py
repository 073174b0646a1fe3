"""A stack machine: instructions interleaved with what stands on top after each of them."""

from __future__ import annotations

from random import Random

from reseed.params import StackMachine
from reseed.subjects.trace import YES_NO, Trace, TracedWorld, numbers, yes

EMPTY = "empty"
WEIGHTS = {"push": 4, "pop": 3, "dup": 1, "add": 1, "swap": 1}
"""How often each kind of instruction is drawn."""


def step(stack: tuple[int, ...], instruction: str, modulus: int, max_depth: int) -> tuple[tuple[int, ...], bool]:
    """The stack (top last) after an instruction, and whether the instruction could not run.

    `push v`, `pop`, `dup` (the top again), `add` (the two topmost become their sum modulo `modulus`), `swap` (of the
    two topmost). One that cannot run, for want of operands or of room, leaves the stack as it is.
    """
    kind, _, value = instruction.partition(" ")
    match kind:
        case "push" if len(stack) < max_depth:
            return (*stack, int(value)), False
        case "pop" if stack:
            return stack[:-1], False
        case "dup" if stack and len(stack) < max_depth:
            return (*stack, stack[-1]), False
        case "add" if len(stack) > 1:
            return (*stack[:-2], (stack[-2] + stack[-1]) % modulus), False
        case "swap" if len(stack) > 1:
            return (*stack[:-2], stack[-1], stack[-2]), False
    return stack, True


def world(data: StackMachine) -> TracedWorld:
    """Streams [instruction, output, instruction, output, …] of a machine that starts empty.

    The outputs are predicted, but for the first `unpredicted`. States, after the instruction: `depth`; `top` and
    `second`, without a value where the stack is too short; `overflow`: this instruction could not run.
    """

    def draw(random: Random) -> Trace:
        stack: tuple[int, ...] = ()
        words, states = [], []
        kinds = random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=data.instructions)
        instructions = [f"push {random.randrange(data.modulus)}" if kind == "push" else kind for kind in kinds]
        for instruction in instructions:
            stack, overflow = step(stack, instruction, data.modulus, data.max_depth)
            top, second = (str(stack[-i]) if len(stack) >= i else None for i in (1, 2))
            words += [instruction, top or EMPTY]
            states.append((str(len(stack)), top, second, yes(overflow)))
        return Trace("; ".join(instructions), tuple(words), tuple(states[data.unpredicted :]))

    values = numbers(data.modulus)
    return TracedWorld(
        "streams of a stack machine",
        (*(f"push {value}" for value in values), "pop", "dup", "add", "swap", *values, EMPTY),
        tuple(range(2 * data.unpredicted, 2 * data.instructions, 2)),
        {"depth": numbers(data.max_depth + 1), "top": values, "second": values, "overflow": YES_NO},
        draw,
    )
