"""The museum: faults of two earlier systems, each planted in a small clean run, and what refuses it there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from reseed import ReseedError
from tests.faults import bases


@dataclass
class Exhibit:
    """A copy of a clean base, in which a fault may be planted; it is the working directory of the attempt."""

    folder: Path
    stack: ExitStack

    def replace(self, where: Any, name: str, value: Any) -> None:
        """Replace code until the exhibit is closed: `value` for the attribute `name` of a module or class."""
        self.stack.enter_context(patch.object(where, name, value))


@dataclass(frozen=True)
class Fault:
    """What happened once, how it is planted here, and the sentence that must refuse it."""

    name: str
    source: str
    """Section and number of the reference on the two systems."""
    title: str
    story: str
    """What the earlier system did, and why its figure was wrong."""
    planted: str
    """The one edit, in words."""
    base: bases.Base
    plant: Callable[[Exhibit], object]
    """Changes artefacts, parameters or code; nothing that the refusing check would read as a flag."""
    attempt: Callable[[], object]
    """What a user runs, in the folder of the exhibit; without the planted edit it must succeed."""
    refusal: str
    """A regular expression that the message must match."""


@dataclass(frozen=True)
class Outcome:
    """The message that refused the planted fault (None: it passed), and the one that refused its clean twin."""

    refused: str | None
    twin_refused: str | None

    def for_its_own_reason(self, fault: Fault) -> bool:
        return self.refused is not None and re.search(fault.refusal, self.refused) is not None


@dataclass
class Museum:
    """Makes every base once, in a folder that lasts as long as the `opened` block."""

    folder: Path
    made: dict[str, Path] = field(default_factory=dict)
    twins: dict[tuple[bases.Base, Callable[[], object]], str | None] = field(default_factory=dict)
    """What refused the clean twin, which faults of one base and one attempt share."""
    shown: int = 0

    def show(self, fault: Fault) -> Outcome:
        """Attempt the fault's twin and the fault, each in a copy of its own."""
        twin = (fault.base, fault.attempt)
        if twin not in self.twins:
            self.twins[twin] = self._attempt(fault, planted=False)
        return Outcome(self._attempt(fault, planted=True), self.twins[twin])

    def _attempt(self, fault: Fault, planted: bool) -> str | None:
        self.shown += 1
        folder = self.folder / f"{fault.name}-{self.shown}"
        bases.copy(self._base(fault.base), folder)
        with ExitStack() as stack, bases.inside(folder):
            if planted:
                fault.plant(Exhibit(folder, stack))
            try:
                fault.attempt()
            except ReseedError as error:
                return told(str(error), folder)
        return None

    def new(self, name: str) -> Path:
        """An empty folder."""
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _base(self, base: bases.Base) -> Path:
        if base.__name__ not in self.made:
            folder = self.folder / base.__name__
            folder.mkdir()
            base(folder)
            self.made[base.__name__] = folder
        return self.made[base.__name__]


@contextmanager
def opened() -> Iterator[Museum]:
    with tempfile.TemporaryDirectory(prefix="reseed-museum-") as temporary:
        yield Museum(Path(temporary).resolve())


_VARYING = (
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,64}\b"), "…"),
    (re.compile(r"-?\d+\.\d+(e-?\d+)?|\d+e-\d+|\bnan\b"), "#"),
)


def told(message: str, folder: Path) -> str:
    """The message as every machine tells it: no folder, hash or fraction, which differ from one to another."""
    message = " ".join(message.replace(f"{folder}/", "").replace(str(folder), ".").split())
    for pattern, mark in _VARYING:
        message = pattern.sub(mark, message)
    return message.replace("……", "…")
