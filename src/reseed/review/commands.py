"""`reseed claims`: register one, check all, show the whole chain behind one."""

from __future__ import annotations

import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from reseed import ReseedError
from reseed.claims.registry import ALWAYS
from reseed.review import check as checking
from reseed.review import show as showing
from reseed.review.behind import show_claim
from reseed.review.difference import check_base, difference
from reseed.review.register import register

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
        if base is not None:
            check_base(Path(), base)  # before a minute of judging
        found = checking.check()
        changed = difference(Path(), base, found) if base is not None else None
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
        show_claim(one, checking.Chain(Path()), Console())
    except ReseedError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error


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
        if metric is not None and (statistic is not None or figure != "trained"):
            raise ReseedError(
                f"--metric {metric}: found --{'statistic' if statistic is not None else 'figure'} beside it, allowed: "
                "a metric, or a statistic with its figure"
            )
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
        f"is written down as exploratory: its evidence {power.known} is there already"
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
