"""What the generators of worlds give: words, and the state behind every word that is to be predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Trace:
    """One sequence of a world.

    instance: what determines the trajectory, in a canonical form; the split goes by it. words: the tokens. states: at
    each predicted position the value of each variable, None where it has none.
    """

    instance: str
    words: tuple[str, ...]
    states: tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True)
class TracedWorld:
    """A world: how it is described, the words that it uses, and how a trace is drawn.

    predicted: positions whose next word is to be predicted. variables: name -> the names of its values.
    """

    source: str
    vocabulary: tuple[str, ...]
    predicted: tuple[int, ...]
    variables: dict[str, tuple[str, ...]]
    draw: Callable[[Random], Trace]


YES_NO = ("no", "yes")


def yes(condition: bool) -> str:
    return YES_NO[condition]


def numbers(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))
