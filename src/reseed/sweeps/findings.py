"""What an audit finds, and how it is shown: in a terminal of 80 columns, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

STALE = "stale"
KINDS = {
    "corrupt": "an object of a cache or remote whose content is not what its name says",
    "incomplete": "a directory object whose files are not all there",
    "shard": "a file that is not the one which the manifest beside it lists",
    "output": "a result in the workspace that is not the one which its lock recorded",
    "lock": "a lock whose code, parameters or data are of no revision that git knows",
    "unlisted": "a lock entry of a stage that its pipeline no longer has: DVC neither checks nor pushes its outputs",
    "experiment": "a DVC experiment whose code, parameters or data are not those of its own lock",
    "provenance": "a lock of other code or parameters than the facts of its stage's last run",
    "frozen": "a stage that DVC never runs again, whatever changes",
    "orphan": "a folder or file that an interrupted run left behind",
    "unverified": "a remote from which DVC takes objects without rehashing them",
    STALE: "a lock of older code, parameters or data, which git has",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: of which kind (see KINDS), where, what was found there, and what to do about it."""

    kind: str
    where: str
    found: str
    todo: str


@dataclass(frozen=True)
class Report:
    """What an audit looked at, in words, and what it found there."""

    looked_at: tuple[str, ...]
    findings: tuple[Finding, ...]

    def failed(self, allow_stale: bool) -> bool:
        """Whether anything was found that is not allowed."""
        return any(finding.kind != STALE or not allow_stale for finding in self.findings)


def as_json(report: Report) -> str:
    """The report for a program: a list of what was looked at, a list of findings."""
    return json.dumps({"looked_at": report.looked_at, "findings": [asdict(f) for f in report.findings]}, indent=1)


def show(report: Report, allow_stale: bool, console: Console) -> None:
    """Print the report for a person, the gravest kind first."""
    console.print(f"Looked at {', '.join(report.looked_at)}.", highlight=False)
    if not report.findings:
        console.print("Nothing found.")
        return
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in in_order(report.findings):
        kind = "(stale)" if allow_stale and finding.kind == STALE else finding.kind
        # Text, because rich would take some of what a path may hold for markup
        table.add_row(kind, Text(f"{finding.where}: {finding.found}\n→ {finding.todo}"))
    console.print(table)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """The gravest kind first, then by place."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: (order.index(finding.kind), finding.where))
