"""Checks and differences for a terminal of 80 columns, for a comment under a pull request, or for a program."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reseed.review.check import Checked, Checks
from reseed.review.difference import BEYOND, Difference, Moved

MARKER = "<!-- reseed claims check -->"
"""By which the workflow finds its own comment to update it."""
SHOWN = 30
"""Rows of a table in a comment; the rest is counted."""


def verdict(one: Checked) -> str:
    return one.verdict + (" (exploratory)" if one.standing == "exploratory" else "")


def terminal(checks: Checks, changed: Difference | None, console: Console) -> None:
    """Print for a person."""
    table = Table(title="Claims", title_justify="left")
    table.add_column("claim", overflow="fold")
    table.add_column("verdict", overflow="fold")
    table.add_column("because", overflow="fold", ratio=1)
    for one in checks.claims:
        # Text, because rich would take some of what a path may hold for markup
        table.add_row(one.name, verdict(one), Text("\n".join(_because(one))))
    console.print(table)
    if checks.phases:
        table = Table(title="Phases", title_justify="left")
        for column in ("phase", "verdict", "because"):
            table.add_column(column, overflow="fold")
        for phase in checks.phases:
            table.add_row(phase.label, phase.verdict, Text("\n".join((*phase.faults, *phase.reasons))))
        console.print(table)
    if changed is not None:
        _changes(changed, console)
    if checks.stale:
        console.print(f"To be run again: {_several(checks.stale)}", highlight=False, markup=False)
    for fault in (*checks.faults, *checks.rules):
        console.print(fault, highlight=False, markup=False)
    console.print(
        f"Blocked by: {', '.join(checks.blocked)}" if checks.blocked else "Nothing blocks.",
        highlight=False,
        markup=False,
    )


def _changes(changed: Difference, console: Console) -> None:
    if changed.claims:
        table = Table(title=f"Claims against {changed.base}", title_justify="left")
        for column in ("claim", "before", "now", "what changed"):
            table.add_column(column, overflow="fold")
        for claim in changed.claims:
            table.add_row(claim.name, claim.before, claim.after or "removed", Text("\n".join(claim.changes)))
        console.print(table)
    table = Table(title=f"Metrics that moved against {changed.base}", title_justify="left")
    for column in ("figure", "before", "after", "how far"):
        table.add_column(column, overflow="fold")
    for one in _foremost(changed.metrics):
        table.add_row(Text(f"{_short(one.file)} {one.key}"), _before(one), _number(one.after), one.how)
    console.print(table)
    for line in _lines(changed):
        console.print(line, highlight=False, markup=False)


def markdown(checks: Checks, changed: Difference | None) -> str:
    """The comment under a pull request."""
    lines = [MARKER]
    if changed is not None and changed.judge:
        files = ", ".join(f"`{path}`" for path in changed.judge)
        lines += [f"**This changes what judges: {files}.** Read these first.", ""]
    lines += ["## Claims", "", "| claim | verdict | because |", "|---|---|---|"]
    lines += [f"| `{one.name}` | **{verdict(one)}** | {_cell('; '.join(_because(one)))} |" for one in checks.claims]
    if checks.phases:
        lines += ["", "| phase | verdict | because |", "|---|---|---|"]
        lines += [
            f"| `{one.label}` | **{one.verdict}** | {_cell('; '.join((*one.faults, *one.reasons)))} |"
            for one in checks.phases
        ]
    if changed is not None:
        if changed.claims:
            lines += ["", f"### Claims against `{changed.base}`", "", "| claim | before | now | what changed |"]
            lines += ["|---|---|---|---|"]
            lines += [
                f"| `{one.name}` | {one.before} | {one.after or 'removed'} | {_cell('; '.join(one.changes))} |"
                for one in changed.claims
            ]
        lines += ["", f"### Metrics that moved against `{changed.base}`", ""]
        rows = _foremost(changed.metrics)
        if rows:
            lines += ["| figure | before | after | how far |", "|---|---|---|---|"]
            lines += [
                f"| `{_short(one.file)}` {one.key} | {_before(one)} | {_number(one.after)} | {one.how} |"
                for one in rows
            ]
        if len(changed.metrics) > len(rows):
            lines += ["", f"and {len(changed.metrics) - len(rows)} more figures."]
        if not changed.metrics:
            lines.append("None.")
        lines += ["", *(f"- {line}" for line in _lines(changed))]
    lines += [f"- {fault}" for fault in (*checks.faults, *checks.rules)]
    if checks.stale:
        lines += ["", f"To be run again: {_several([f'`{name}`' for name in checks.stale])}"]
    lines += ["", f"**Blocked by {', '.join(checks.blocked)}.**" if checks.blocked else "Nothing blocks.", ""]
    return "\n".join(lines)


def as_json(checks: Checks, changed: Difference | None) -> str:
    """For a program: everything that was found."""
    content: dict[str, Any] = {
        "claims": [
            {
                "name": one.name, "file": one.file, "statement": one.claim.statement, "verdict": one.verdict,
                "recorded": one.recorded, "standing": one.standing, "why_exploratory": one.why_exploratory,
                "reasons": one.reasons, "faults": one.faults, "tried": one.tried,
            }
            for one in checks.claims
        ],
        "phases": [
            {"name": p.name, "file": p.file, "verdict": p.verdict, "reasons": p.reasons, "faults": p.faults}
            for p in checks.phases
        ],
        "faults": checks.faults,
        "rules": checks.rules,
        "stale": checks.stale,
        "blocked": checks.blocked,
    }  # fmt: skip
    if changed is not None:
        content["against"] = asdict(changed)
    return json.dumps(content, indent=1, allow_nan=False)


def _because(one: Checked) -> list[str]:
    exploratory = [f"exploratory: {reason}" for reason in one.why_exploratory]
    return [*one.faults, *exploratory, *one.reasons]


def _lines(changed: Difference) -> Iterable[str]:
    if changed.judge:
        yield "What judges has changed: " + ", ".join(changed.judge)
    if changed.evidence:
        yield "What computes the evidence of claims has changed: " + _several(changed.evidence)
    counts: dict[str, int] = {}
    for one in changed.metrics:
        counts[one.how] = counts.get(one.how, 0) + 1
    if counts:
        yield "Figures: " + ", ".join(f"{count} {how}" for how, count in sorted(counts.items()))
    if changed.parameters:
        shown = [f"{file}:{key} {_number(old)} → {_number(new)}" for file, key, old, new in changed.parameters[:SHOWN]]
        more = f" and {len(changed.parameters) - SHOWN} more" if len(changed.parameters) > SHOWN else ""
        yield "Parameters: " + ", ".join(shown) + more
    if changed.data:
        yield "Data and models: " + _several(changed.data)


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _foremost(metrics: Sequence[Moved]) -> list[Moved]:
    """What moved beyond its interval first."""
    return sorted(metrics, key=lambda one: (one.how != BEYOND, one.file, one.key))[:SHOWN]


def _before(one: Moved) -> str:
    if one.interval is None:
        return _number(one.before)
    return f"{_number(one.before)} [{_number(one.interval[0])}, {_number(one.interval[1])}]"


def _number(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short(path: str) -> str:
    return path.removeprefix("metrics/").removesuffix(".json")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
