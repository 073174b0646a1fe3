"""The registered claims: claims.yaml, typed and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from reseed.params import Count, Strict, load, lookup


class Test(Strict):
    """One bound that must hold: the whole interval of the figure lies above, or below, a number fixed beforehand."""

    figure: str = Field(pattern=r"^(trained|random_model|gaussian)( - (trained|random_model|gaussian))?$")
    over: Literal["each", "log2_k"]
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("exactly one of above and below")
        return self

    @property
    def arms(self) -> list[str]:
        """The arm that the figure reads, or the two that it subtracts."""
        return self.figure.split(" - ")


class Claim(Strict):
    statement: str
    statistic: Literal["pw_mcc", "mean_max_cos", "shared_fraction"]
    tests: tuple[Test, ...] = Field(min_length=1)
    evidence: tuple[str, str, str, str]
    k: tuple[Count, Count, Count, Count]
    minimum_seeds: Count
    gates: tuple[Literal["converged"], Literal["alive"]]
    """Always both: they are written in the claim so that its reader sees them."""

    @model_validator(mode="after")
    def _one_k_a_file(self) -> Self:
        for path, k in zip(self.evidence, self.k, strict=True):
            if self.sources[path] != k:
                raise ValueError(f"one k a file ({path} has {k} and {self.sources[path]})")
        return self

    @property
    def sources(self) -> dict[str, int]:
        """The distinct evidence files and the k that each must have, in the order of the claim."""
        return dict(zip(self.evidence, self.k, strict=True))


class Registry(Strict):
    claims: dict[str, Claim]


def load_claim(path: Path, name: str) -> Claim:
    """The claim called `name`; raises ReseedError for an unknown one or the first fault of the file."""
    return lookup(load(Registry, path).claims, name, f"{path}: claims")
