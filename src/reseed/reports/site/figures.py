"""How the site writes a number: always with the file and the key that it was read from."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from reseed.reports.site.collect import Origin, Workspace

Cell = Markup | str


def shown(*values: float) -> list[str]:
    """Numbers for a reader: whole ones with thousands marked, others at the same 3 decimals, more if all are small."""
    if all(isinstance(value, int) or (value.is_integer() and abs(value) >= 1000) for value in values):
        return [f"{int(value):,}" for value in values]
    largest = max(abs(value) for value in values)
    decimals = 3 if largest >= 0.01 or largest == 0 else 2 - math.floor(math.log10(largest))
    return [f"{value:.{decimals}f}" for value in values]


def figure(content: Any) -> str:
    """value [low, high], or the number itself."""
    if not isinstance(content, dict):
        return shown(content)[0]
    return _interval(content, "value", "low", "high") if "low" in content else shown(content["value"])[0]


def kappa(content: dict[str, Any]) -> str:
    """kappa [low, high] of a statistic."""
    return _interval(content, "kappa", "kappa_low", "kappa_high")


def _interval(content: dict[str, Any], *names: str) -> str:
    value, low, high = shown(*(float(content[name]) for name in names))
    return f"{value} [{low}, {high}]"


FORMS = {"figure": figure, "kappa": kappa}


@dataclass
class Numbers:
    """The numbers of one page, and the files that they are read from."""

    workspace: Workspace
    files: list[str] = field(default_factory=list)

    def source(self, file: str) -> int:
        """The place of a file in the page's list of sources."""
        if file not in self.files:
            self.files.append(file)
        return self.files.index(file)

    def origins(self) -> list[Origin]:
        return [self.workspace.origin(file) for file in self.files]

    def of(self, file: str, *keys: str | int, form: str = "figure") -> Markup:
        """The number (with its interval) at `keys` of a JSON file; raises KeyError or IndexError if it is not there."""
        content: Any = self.workspace.json(file)
        for key in keys:
            content = content[key]
        return self.mark(FORMS[form](content), file, "/".join(map(str, keys)), form)

    def mark(self, text: str, file: str, key: str, form: str = "") -> Markup:
        """Any text that was read from `file` at `key`."""
        extra = Markup(' data-form="{}"').format(form) if form else ""
        return Markup('<span class="num" tabindex="0" data-file="{}" data-key="{}"{}>{}</span>').format(
            self.source(file), key, extra, text
        )

    def has(self, file: str, *keys: str | int) -> bool:
        content: Any = self.workspace.json(file) if self.workspace.has(file) else {}
        for key in keys:
            if not isinstance(content, dict) or key not in content:
                return False
            content = content[key]
        return True

    def maybe(self, file: str, *keys: str | int, form: str = "figure") -> Cell:
        """As `of`, and a dash where there is no such number."""
        return self.of(file, *keys, form=form) if self.has(file, *keys) else NOTHING

    def with_kappa(self, file: str, *keys: str | int) -> Cell:
        """Kappa of the statistic at `keys`, marked where it is not converged, or why there is none."""
        if not self.has(file, *keys):
            return NOTHING
        if not self.has(file, *keys, "kappa"):
            return "none: its null is too high"
        return self.of(file, *keys, form="kappa") + self.unsettled(file, *keys)

    def unsettled(self, file: str, *keys: str | int) -> Markup:
        """A mark on what is not converged, nothing on what is."""
        content: Any = self.workspace.json(file)
        for key in keys:
            content = content[key]
        return Markup("") if content.get("converged", 1) else UNSETTLED


NOTHING = Markup('<span class="none">&ndash;</span>')
UNSETTLED = Markup(' <span class="badge unsettled">not converged</span>')


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading."""

    caption: str
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    note: Cell = ""
    kind: str = "table"


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification without data, and the name of its data in the page's data file.

    caption: null, interval and convergence in words. choices: parameter -> (label, values) that a reader may set.
    """

    name: str
    title: str
    caption: Cell
    spec: dict[str, Any]
    choices: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    has_table: bool = True
    kind: str = "chart"


@dataclass(frozen=True)
class Text:
    html: Cell
    kind: str = "text"


@dataclass(frozen=True)
class Explorer:
    """The panel of latents: what it can choose from, and where its data lie."""

    folder: str
    arms: list[str]
    seeds: list[int]
    source: int
    data: str
    """The file of the latents, from the root of the site."""
    examples: str
    """Likewise of the examples, less the seed and `.js`; empty where there are none."""
    examples_source: int
    stage: str
    """What `dvc repro` calls the stage that makes the examples, empty where no study asks for them."""
    training_rows: int | None
    """Of the trained arm; its control arms have as many."""
    certificates: Cell
    """Which arms' agreement may be used, in words."""
    more: list[str]
    """Columns that only some tables have, and the list of latents then shows."""
    about: Cell
    """What these are."""
    kind: str = "explorer"


Block = Table | Chart | Text | Explorer


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: Sequence[Block]
    side_by_side: bool = False


@dataclass
class Page:
    """One page: its place below the output folder, and the data that its charts draw."""

    path: str
    title: str
    lead: Cell
    numbers: Numbers
    sections: Sequence[Section] = ()
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    up: tuple[str, str] | None = None
    """Link and name of the page above."""

    @property
    def root(self) -> str:
        return "../" * self.path.count("/")

    @property
    def data_path(self) -> str:
        return "data/" + self.path.removesuffix(".html") + ".js"

    def draw(self, chart: Chart, file: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Chart:
        """Give a chart its data: rows that were read from `file`, "" for several files."""
        source = self.numbers.source(file) if file else -1
        content = {"spec": chart.spec, "file": source, "columns": list(columns), "rows": [list(row) for row in rows]}
        self.data[chart.name] = content
        return chart

    def draw_csv(self, chart: Chart, file: str) -> Chart:
        """Give a chart all rows of a CSV file, in its order, so that a number's key is its row and column."""
        frame = self.numbers.workspace.csv(file)
        return self.draw(chart, file, [str(name) for name in frame], frame.to_numpy().tolist())


def code(text: str) -> Markup:
    """Text whose `quoted` parts are code and whose *starred* ones stand out."""
    quoted = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(Markup.escape(text)))
    return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", quoted))
