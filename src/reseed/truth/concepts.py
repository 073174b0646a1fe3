"""Concepts: binary statements about the exact state of a world, and the rows on which detectors of them are judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.params import TruthRows
from reseed.text.traces import Traces

Mask = NDArray[np.bool_]

MIN_BASE_RATE = 0.01


@dataclass(frozen=True)
class Concepts:
    """Statements `variable=value` (or `variable!=value`, if that is the rarer), and where they hold.

    train, test: bool [rows, n_concepts], rows being whole sequences of `positions` rows each, one after another.
    train_places, test_places [rows]: where these rows stand among the captured ones of their split. untested: how many
    statements hold on too few or on nearly all rows.
    """

    names: tuple[str, ...]
    variables: tuple[str, ...]
    train: Mask
    test: Mask
    positions: int
    train_places: torch.Tensor
    test_places: torch.Tensor
    untested: int

    def __len__(self) -> int:
        return len(self.names)

    def permuted(self, random: np.random.Generator) -> Concepts:
        """The same statements on other sequences: a row keeps its position, rows of a sequence stay together."""
        return replace(self, train=_permuted(self.train, self.positions, random), test=_permuted(
            self.test, self.positions, random
        ))  # fmt: skip


def concepts_of(traces: Traces, rows: TruthRows, subject: str, least: float = MIN_BASE_RATE) -> Concepts:
    """All concepts of a world, on some of its training and test sequences.

    Training sequences are drawn by a generator of the subject, test sequences evenly spread. A variable of two values
    gives one concept unless some rows have neither (state -1, of which every statement is false). A statement is turned
    round where it holds on most training rows, since F1 of a common class is high by chance; it is tested if its rarer
    side is at least `least` of the training rows and there are test rows of both.
    Raises ReseedError if nothing can be tested.
    """
    positions = len(traces.predicted)
    n_train, n_test = len(traces.states["train"]), len(traces.states["test"])
    order = torch.randperm(n_train, generator=generator("truth", subject, "rows"))
    train = order[: max(1, rows.train // positions)].sort().values
    test = torch.linspace(0, n_test - 1, min(n_test, max(1, rows.test // positions)), dtype=torch.float64)
    chosen = {"train": train, "test": test.round().long()}
    states = {split: traces.states[split][places].flatten(0, 1).numpy() for split, places in chosen.items()}
    names, variables, columns, untested = [], [], [], 0
    for place, (variable, values) in enumerate(traces.variables.items()):
        own = {split: found[:, place] for split, found in states.items()}
        complementary = len(values) == 2 and (own["train"] >= 0).all() and (own["test"] >= 0).all()
        for value in range(1 if complementary else 0, len(values)):
            holds = {split: found == value for split, found in own.items()}
            common = bool(holds["train"].mean() > 0.5)
            if common:
                holds = {split: ~found for split, found in holds.items()}
            rarer = holds["train"].mean() >= least and holds["test"].any() and not holds["test"].all()
            if not rarer:
                untested += 1
                continue
            names.append(f"{variable}{'!=' if common else '='}{values[value]}")
            variables.append(variable)
            columns.append(holds)
    if not names:
        raise ReseedError(
            f"data/{subject}/tokens: found no value on {least:.0%} or more of the training rows and on as many not, "
            "allowed: one"
        )
    return Concepts(
        tuple(names),
        tuple(variables),
        np.column_stack([column["train"] for column in columns]),
        np.column_stack([column["test"] for column in columns]),
        positions,
        _places(train, positions),
        _places(chosen["test"], positions),
        untested,
    )


def _places(sequences: torch.Tensor, positions: int) -> torch.Tensor:
    return (sequences[:, None] * positions + torch.arange(positions)).flatten()


def _permuted(labels: Mask, positions: int, random: np.random.Generator) -> Mask:
    blocks = labels.reshape(-1, positions, labels.shape[1])
    return np.asarray(blocks[random.permutation(len(blocks))].reshape(labels.shape))
