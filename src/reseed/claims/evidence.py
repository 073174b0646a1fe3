"""What of a metric file a judgement reads, typed and checked as a whole before any of it counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reseed import ReseedError
from reseed.params import GAUSSIAN, RANDOM_MODEL, TRAINED

ARMS = (TRAINED, RANDOM_MODEL, GAUSSIAN)
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Read(BaseModel):
    """Strict about what is read, and silent about the rest of the file."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Interval(_Read):
    """A figure with its interval."""

    value: Number
    low: Number
    high: Number

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.high:
            raise ValueError("an interval whose low is not above its high")
        return self


class _Settled(_Read):
    converged: Literal[0, 1]
    plateau_change: Number


class _Arm(_Read):
    seeds_converged: Annotated[int, Field(ge=0)]
    cosine_to_init: Interval


class _Record(_Read):
    arm: str
    statistic: str
    latents: Literal["alive", "all"]
    kappa: Number | None = None
    kappa_deleted: list[Number] | None = None

    @model_validator(mode="after")
    def _with_its_deleted_values(self) -> Self:
        if (self.kappa is None) != (self.kappa_deleted is None):
            raise ValueError("kappa together with kappa_deleted")
        return self


class _HeldOut(_Read):
    rows: Annotated[int, Field(ge=1)]
    repeated: Share


class _Stability(_Read):
    seeds: Annotated[int, Field(ge=1)]
    group_size: Annotated[int, Field(ge=1)] = 1
    records: list[_Record]
    held_out: _HeldOut | None = None
    artefacts: dict[str, Digest] | None = None

    @model_validator(mode="after")
    def _one_record_each(self) -> Self:
        keys = [(one.arm, one.statistic, one.latents) for one in self.records]
        if len(set(keys)) < len(keys):
            raise ValueError("one record for each arm, statistic and latents")
        return self


class _Against(_Read):
    verdict: str
    kappa_difference: Interval | None = None


class _Row(_Read):
    architecture: str
    artefacts: dict[str, Digest] | None = None
    against_baseline: _Against | None = None


class _Comparison(_Read):
    baseline: str
    l0_tolerance: Number | None = None
    variants: dict[str, _Row]


class _Other(_Read):
    artefacts: dict[str, Digest] | None = None


def check_evidence(kind: str, content: Mapping[str, Any], path: str, statistic: str) -> None:
    """Raise ReseedError, one sentence for the first fault, unless what is read of the file is what it should be."""
    if kind == "comparison":
        _check(_Comparison, content, path, "")
        return
    if kind != "stability":
        _check(_Other, content, path, "")
        return
    _check(_Stability, content, path, "")
    for arm in (arm for arm in ARMS if arm in content):
        _check(_Arm, content[arm], path, f"{arm}.")
        _check(_Settled, content[arm].get(statistic), path, f"{arm}.{statistic}.")
        shown = content[arm][statistic].get("kappa")
        for one in content["records"]:
            if (one["arm"], one["statistic"], one["latents"]) == (arm, statistic, "alive") and one.get(
                "kappa"
            ) != shown:
                raise ReseedError(
                    f"{path}: {arm}.{statistic}.kappa: found {shown}, allowed: {one.get('kappa')}, as its record says"
                )


def check_interval(content: Any, path: str, where: str) -> None:
    """Raise ReseedError unless this is a figure with a finite interval."""
    _check(Interval, content, where, f"{path}: ")


def _check(kind: type[_Read], content: Any, path: str, prefix: str) -> None:
    try:
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(map(str, first["loc"]))
        found = first["input"] if not isinstance(first["input"], dict | list) else "a table"
        if first["type"] == "missing":
            raise ReseedError(f"{path}: found no {key!r}, allowed as evidence: a file with it") from error
        allowed = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        raise ReseedError(f"{path}: {key.rstrip('.: ') or 'the file'}: found {found!r}, allowed: {allowed}") from error
