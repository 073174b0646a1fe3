"""`reseed claims show`: everything behind one claim, for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reseed.review.check import Chain, Checked
from reseed.review.nulls import nulls, said
from reseed.review.show import verdict
from reseed.sweeps import locks
from reseed.sweeps.locks import Stage
from reseed.sweeps.parameters import value_of

INDENT = "  "


def show_claim(one: Checked, chain: Chain, console: Console) -> None:
    """Print it; raises ReseedError for a file of its evidence that cannot be read."""

    def say(*lines: str) -> None:
        for line in lines:
            console.print(line, highlight=False, markup=False)

    claim, judged = one.claim, one.judged
    stages = chain.behind([f"metrics/claims/{one.name}.json", *claim.sources])
    say(claim.statement, f"{one.name}: {verdict(one)}")
    say(*(f"fault: {fault}" for fault in one.faults), *(f"exploratory: {why}" for why in one.why_exploratory))
    if not judged.get("tests"):
        say(*(f"because: {reason}" for reason in one.reasons))
    _table(console, "Figures", ("figure", "value", "interval", "bound", "outcome"), [
        (t["figure"], said(t["value"]), f"[{said(t['low'])}, {said(t['high'])}]", t["bound"], t["outcome"])
        for t in judged.get("tests", [])
    ])  # fmt: skip
    say("Nulls and controls of what is read (intervals as in the files, before any correction)")
    for path, name, value, others in nulls(chain.root, claim):
        say(f"{INDENT}{path}: {name}: {said(value)}")
        width = max((len(other) for other, _ in others), default=0)
        say(*(f"{3 * INDENT}{other:<{width}}  {said(found)}" for other, found in others))
        if not others:
            say(f"{3 * INDENT}no null or control stands beside it in the file")
    _table(console, "Gates", ("gate", "of", "outcome", "because"), [
        (g["gate"], g["of"], g["outcome"], g["reason"]) for g in judged.get("gates", [])
    ])  # fmt: skip
    _table(console, "SAEs and activations that the evidence was computed from", ("path", "sha256"), sorted(
        judged.get("artefacts", {}).items()
    ))  # fmt: skip
    _table(console, "Stages behind it", ("stage", "pipeline", "revision", "started (UTC)"), [
        (stage.name, stage.file, facts.get("revision", "")[:7], facts.get("started", "")[:16])
        for stage in stages
        for facts in (locks.run_facts(stage, chain.tree),)
    ])  # fmt: skip
    read = {path for stage in stages for path in stage.deps} | {f"metrics/claims/{one.name}.json"}
    _table(console, "What they made of one another, by their locks", ("path", "md5"), sorted(
        (path, md5) for stage in stages for path, md5 in stage.locked("outs").items() if path in read
    ))  # fmt: skip
    say("Parameters that they read, by their locks")
    for key, value, kinds in parameters(stages, one.name):
        line = f"{key} ({', '.join(kinds)}): {value}"
        say(
            textwrap.fill(
                line, console.width, initial_indent=INDENT, subsequent_indent=3 * INDENT, break_on_hyphens=False
            )
        )
    tests = ", ".join(f"{t.figure} over {t.over} {_bound(t.above, t.below)}" for t in claim.tests)
    say(
        f"It asks for: {claim.statistic or claim.metric} ({claim.unit}), {tests}; {claim.minimum_seeds} seeds or more; "
        f"gates {', '.join(claim.gates)}.",
        f"Promised as it stands since {one.promised[:7] or 'no commit'}; settings tried: {one.tried}, intervals "
        f"corrected for {claim.tried}.",
        "To make it again:",
    )
    # not wrapped, to be copied
    command = f"git checkout {_revision(one, chain)} && dvc repro {chain.address(one.file, one.name)}"
    console.print(f"{INDENT}{command}", highlight=False, markup=False, soft_wrap=True)


def parameters(stages: Iterable[Stage], claim: str) -> list[tuple[str, str, list[str]]]:
    """Every parameter in the locks of the stages: FILE:KEY, its value as YAML in one line, the stages that read it.

    A key that stands in another is left out, and so is the claim itself. Where locks differ each value has its line.
    """
    found: dict[tuple[str, str], list[tuple[Any, list[str]]]] = {}
    for stage in stages:
        kind = stage.name.partition("@")[0]
        for (file, key), value in stage.locked_params().items():
            if key == f"claims.{claim}":
                continue
            known = found.setdefault((file, key), [])
            kinds = next((kinds for other, kinds in known if other == value), None)
            if kinds is None:
                known.append((value, kinds := []))
            if kind not in kinds:
                kinds.append(kind)
    shown = []
    for (file, key), values in sorted(found.items()):
        for value, kinds in values:
            wider = (
                others
                for (other, outer), held in found.items()
                for whole, others in held
                if other == file and key.startswith(f"{outer}.") and value_of(whole, key[len(outer) + 1 :]) == value
            )
            if (whole := next(wider, None)) is not None:
                whole += [kind for kind in kinds if kind not in whole]
                continue
            shown.append((f"{file}:{key}", _yaml(value), kinds))
    return shown


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.strip().removesuffix("\n...")


def _bound(above: float | None, below: float | None) -> str:
    return f"above {above:g}" if above is not None else f"below {below:g}"


def _revision(one: Checked, chain: Chain) -> str:
    stage = chain.by_output.get(f"metrics/claims/{one.name}.json")
    return str(locks.run_facts(stage, chain.tree).get("revision", "HEAD")) if stage else "HEAD"


def _table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
