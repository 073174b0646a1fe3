"""`reseed claims`: register one, check all, show the whole chain behind one."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.claims.figures import record
from reseed.claims.registry import ALWAYS
from reseed.review import check as checking
from reseed.review import show as showing
from reseed.review.difference import difference
from reseed.review.register import register
from reseed.sweeps import locks

app = typer.Typer(no_args_is_help=True, help="What the project claims, and whether it may.")
BLOCKED, BAD_INPUT = 1, 2


class Format(StrEnum):
    terminal = "terminal"
    markdown = "markdown"
    json = "json"


@app.command()
def check(
    base: Annotated[str | None, typer.Option(help="a revision to compare with, such as origin/main")] = None,
    form: Annotated[Format, typer.Option("--format", help="for a person, a pull request, or a program")] = (
        Format.terminal
    ),
) -> None:
    """Judge every claim anew. Exits with 0: all may stand, 1: one may not until it is mended, 2: could not look."""
    try:
        found = checking.check()
        changed = difference(Path(), base, found) if base else None
    except ReseedError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error
    if form == Format.json:
        print(showing.as_json(found, changed))
    elif form == Format.markdown:
        print(showing.markdown(found, changed))
    else:
        showing.terminal(found, changed, Console())
    raise typer.Exit(BLOCKED if found.blocked else 0)


@app.command()
def show(name: Annotated[str, typer.Argument(help="the id of a claim")]) -> None:
    """Print the chain behind a claim: figures, nulls, gates, artefacts, revisions, parameters, how to make it again."""
    try:
        found = checking.check()
        one = next((claim for claim in found.claims if claim.name == name), None)
        if one is None:
            known = ", ".join(claim.name for claim in found.claims)
            raise ReseedError(f"claim {name!r}: found none of that id, allowed: {known}")
        _show(one, checking.Chain(Path()), Console())
    except ReseedError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error


def _show(one: checking.Checked, chain: checking.Chain, console: Console) -> None:
    def say(*lines: str) -> None:
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=False)

    say(one.claim.statement, f"{one.name}: {showing.verdict(one)}")
    say(*(f"fault: {fault}" for fault in one.faults), *(f"exploratory: {why}" for why in one.why_exploratory))
    _table(console, "Figures", ("figure", "value", "interval", "bound", "outcome"), [
        (t["figure"], f"{t['value']:.4g}", f"[{t['low']:.4g}, {t['high']:.4g}]", t["bound"], t["outcome"])
        for t in one.judged.get("tests", [])
    ])  # fmt: skip
    _table(console, "Nulls", ("seed set", "arm", "null", "value"), [
        (pair, arm, null, f"{value:.4g}")
        for pair in one.claim.speaks_of
        for arm, null, value in _nulls(pair, one)
    ])  # fmt: skip
    _table(console, "Gates", ("gate", "of", "outcome", "because"), [
        (g["gate"], g["of"], g["outcome"], g["reason"]) for g in one.judged.get("gates", [])
    ])  # fmt: skip
    _table(console, "Artefacts", ("path", "sha256"), sorted(one.judged.get("artefacts", {}).items()))
    rows = []
    for stage in {s.name: s for path in one.claim.sources for s in chain.upstream(path)}.values():
        facts = locks.run_facts(stage, chain.tree)
        outs = ", ".join(f"{path} {md5[:8]}" for path, md5 in stage.locked("outs").items())
        rows.append((stage.name, facts.get("revision", "")[:7], facts.get("started", "")[:16], outs))
    _table(console, "Stages behind it", ("stage", "revision", "started (UTC)", "outputs (md5)"), rows)
    parameters = {
        f"{file}:{key}": value
        for path in one.claim.sources
        for stage in chain.upstream(path)[:1]
        for (file, key), value in stage.locked_params().items()
    }
    _table(console, "Parameters", ("key", "value"), [(key, str(value)) for key, value in sorted(parameters.items())])
    say(
        f"promised as it stands since {one.promised[:7] or 'no commit'}; {one.tried} settings tried, intervals "
        f"corrected for {one.claim.tried}",
        f"to make it again: git checkout {_revision(one, chain)[:7]} && dvc repro {chain.address(one.file, one.name)}",
    )


def _nulls(pair: str, one: checking.Checked) -> list[tuple[str, str, float]]:
    path = Path(f"metrics/{pair}/stability.json")
    if not path.is_file() or one.claim.statistic is None:
        return []
    content, found = read_json(path), []
    for arm in dict.fromkeys(arm for test in one.claim.tests for arm in test.arms):
        held = record(content, arm, one.claim.statistic)
        found += [(arm, name, float(value)) for name, value in ((held or {}).get("nulls") or {}).items()]
    return found


def _revision(one: checking.Checked, chain: checking.Chain) -> str:
    stage = chain.by_output.get(f"metrics/claims/{one.name}.json")
    return str(locks.run_facts(stage, chain.tree).get("revision", "HEAD")) if stage else "HEAD"


def _table(console: Console, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


@app.command(name="register")
def add(
    name: Annotated[str, typer.Argument(help="the id: lower-case letters, digits and hyphens")],
    statement: Annotated[str, typer.Option(help="the sentence that would be said")],
    of: Annotated[
        list[str], typer.Option(help="a seed set, SUBJECT/VARIANT, with values it names: modular/topk-k4:k=4")
    ],
    statistic: Annotated[str | None, typer.Option(help="pw_mcc, mean_max_cos or shared_fraction: its kappa")] = None,
    metric: Annotated[str | None, typer.Option(help="another figure, KIND:PATH/TO/FIGURE")] = None,
    figure: Annotated[str, typer.Option(help="of a statistic: trained, or trained - random_model, ...")] = "trained",
    over: Annotated[str, typer.Option(help="each, or log2_k: the slope per doubling of k")] = "each",
    above: Annotated[float | None, typer.Option(help="the bound below the whole interval")] = None,
    below: Annotated[float | None, typer.Option(help="the bound above the whole interval")] = None,
    gate: Annotated[list[str] | None, typer.Option(help="a gate beside converged, alive, held_out, ...")] = None,
    benchmark: Annotated[str | None, typer.Option(help="the external figure that gates read, KIND:PATH")] = None,
    minimum_seeds: Annotated[int, typer.Option(min=3, help="fewer seeds leave it not testable")] = 5,
    tried: Annotated[int, typer.Option(min=1, help="settings to correct for")] = 1,
    file: Annotated[str, typer.Option(help="the claims file")] = "claims.yaml",
) -> None:
    """Write a claim down, before its evidence, and print the power that it has. Exits with 2 for bad input."""
    test: dict[str, Any] = {"over": over} | ({"figure": figure} if metric is None else {})
    test |= {key: value for key, value in (("above", above), ("below", below)) if value is not None}
    try:
        asked: dict[str, Any] = {
            "statement": statement,
            **({"metric": metric} if metric else {"statistic": statistic or "pw_mcc"}),
            "tests": [test],
            "speaks_of": dict(map(_values, of)),
            "minimum_seeds": minimum_seeds,
            "gates": list(dict.fromkeys([*ALWAYS, *(gate or [])])),
            **({"benchmark": benchmark} if benchmark else {}),
            "tried": tried,
        }
        power = register(Path(), file, name, asked)
    except (ReseedError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error
    here = "" if power.detectable is None else f", about {power.detectable:.3g} by the errors of the seed sets here"
    standing = (
        f"is written down as exploratory: its evidence {power.known} is committed already"
        if power.known
        else "is written down; commit it before its evidence"
    )
    print(
        f"{file}: {name} {standing}.\n"
        f"With {power.seeds} seeds and intervals at {100 * power.confidence:.4g} %, it can tell a distance from its "
        f"bound of {power.in_errors:.2f} standard errors{here}, four times out of five;\n"
        f"the smallest p that {power.seeds} seeds against {power.seeds} can reach is {power.attainable_p:.2g}."
    )


def _values(text: str) -> tuple[str, dict[str, Any]]:
    """`modular/topk-k4:k=4,d_sae=128` as the seed set and the values that the statement names.

    Raises ReseedError for a part that is no KEY=VALUE.
    """
    pair, _, rest = text.partition(":")
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, sign, value = part.partition("=")
        if not (key and sign and value):
            raise ReseedError(f"--of {text}: found {part!r}, allowed: KEY=VALUE, separated by commas")
        values[key] = _value(value)
    return pair, values


def _value(text: str) -> int | float | str:
    """A number where it is one, as params.yaml would have it."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text
