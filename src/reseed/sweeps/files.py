"""Sweep files: experiments worth keeping in git, as a grid, a list, or seeds times L0."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from reseed import ReseedError
from reseed.params import Positive, Strict, load

Values = dict[str, Annotated[list[Any], Field(min_length=1)]]


class SweepBudget(Strict):
    """What one sweep may cost; one that is estimated above it does not start."""

    hours: Positive | None = None
    gigabytes: Positive | None = None


class Sweep(Strict):
    """sweeps/<name>.yaml. A key is that of params.yaml, or FILE:KEY of another parameter file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    target: str | None = None
    """The pipeline file; if not given, the one whose stages read every key."""
    grid: Values | None = None
    listed: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = Field(None, alias="list")
    """Each an experiment; `name` beside its keys names it, else its values do."""
    seeds: Annotated[list[list[int]], Field(min_length=1)] | None = None
    """Sets of seeds, each an experiment, with `l0`."""
    l0: Values | None = None
    budget: SweepBudget = SweepBudget()

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.seeds is None) != (self.l0 is None):
            raise ValueError("seeds together with l0")
        if sum(form is not None for form in (self.grid, self.listed, self.seeds)) != 1:
            raise ValueError("exactly one of grid, list, and seeds with l0")
        if self.grid == {} or self.l0 == {}:
            raise ValueError("a key and its values: an empty grid is no experiment")
        return self


def load_sweep(path: Path) -> Sweep:
    """Read and check a sweep file; raises ReseedError with one sentence for the first fault."""
    return load(Sweep, path)


def experiments(sweep: Sweep, path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Parameters as {file: {key: value}} by the name of the experiment; raises ReseedError for two of one name."""
    if sweep.listed is not None:
        asked = sweep.listed
    else:
        grid = sweep.grid or {"train.seeds": sweep.seeds or [], **(sweep.l0 or {})}
        asked = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in asked:
        values = {key: value for key, value in entry.items() if key != "name"}
        parts = [f"{key.rpartition('.')[2]}{_short(value)}" for key, value in values.items()]
        name = "-".join([sweep.name, *([entry["name"]] if "name" in entry else parts)])
        if name in found:
            raise ReseedError(f"{path}: found two experiments {name!r}, allowed: every combination of values once")
        found[name] = {}
        for key, value in values.items():
            file, _, inner = key.rpartition(":")
            found[name].setdefault(file or "params.yaml", {})[inner] = value
    return found


def _short(value: Any) -> str:
    """A value as part of a name: a run of integers by its ends."""
    if isinstance(value, list):
        if len(value) > 2 and all(isinstance(v, int) for v in value) and value == list(range(value[0], value[-1] + 1)):
            return f"{value[0]}_{value[-1]}"
        return "_".join(_short(item) for item in value)
    if isinstance(value, dict):
        return "_".join(f"{key}{_short(item)}" for key, item in value.items())
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in str(value)).strip(".")
