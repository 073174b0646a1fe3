"""What a latent may be a label of: one value of one state variable, on or off in every captured row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.params import Causal
from reseed.subjects.modular import key_frequencies, probe_tasks
from reseed.text.traces import Traces

LEAST_ROWS = 8
"""Held-out rows that a concept needs on either side."""

States = dict[str, Tensor]
"""split -> [rows], the place of the value of one variable, -1 where it has none."""


@dataclass(frozen=True)
class Concept:
    """`name` is variable=value. labels: split -> int8 [rows], 1 on, 0 off, -1 where the variable has no value."""

    name: str
    variable: str
    labels: dict[str, Tensor]

    def prevalence(self, split: str) -> float:
        """The share of rows that are on, among those where the variable has a value."""
        known = self.labels[split] >= 0
        return float((self.labels[split][known] == 1).double().mean()) if known.any() else 0.0


def traced_variables(traces: Traces) -> tuple[dict[str, States], dict[str, tuple[str, ...]]]:
    """The states of every variable of a world, and the names of their values."""
    rows = {split: traces.rows(split).long() for split in traces.states}
    states = {name: {split: found[:, i] for split, found in rows.items()} for i, name in enumerate(traces.variables)}
    return states, dict(traces.variables)


def phases(answers: States, activations: Tensor, p: int, at_most: int) -> dict[str, States]:
    """The sign of cosine and sine of the answer's phase at the strongest key frequencies of addition modulo p.

    activations [training rows, d_in], by which the model's key frequencies are found.
    """
    frequencies = list(key_frequencies(activations, answers["train"], p))[:at_most]
    found: dict[str, States] = {}
    for split, answer in answers.items():
        tasks = probe_tasks(torch.stack([answer, torch.zeros_like(answer)], dim=1), p, frequencies)
        for name, labels in tasks.items():
            if name.startswith("phase_"):
                found.setdefault(name, {})[split] = labels
    return found


def concepts_of(
    states: Mapping[str, States], values: Mapping[str, tuple[str, ...]], options: Causal, subject: str
) -> list[Concept]:
    """At most `options.concepts` concepts: kinds of variables in turns (`visited_0`, `visited_1` … are of one kind), in
    a kind its variables in turns, the values nearest to half of the rows first.

    Of a variable of two values the second alone: the first is its opposite. Left out is what is rarer (or commoner)
    than `min_prevalence` on training rows, and what fewer than 8 test rows are (or are not).
    Raises ReseedError if nothing is left.
    """
    kinds: dict[str, list[list[Concept]]] = {}
    for variable, found in states.items():
        names = values[variable]
        wanted = [1] if len(names) == 2 else range(len(names))
        concepts = [_concept(variable, names[value], value, found) for value in wanted]
        kept = [one for one in concepts if _can_be_tested(one, options)]
        kind = variable.rstrip("0123456789").rstrip("_")
        nearest = sorted(kept, key=lambda one: round(abs(one.prevalence("train") - 0.5), 9))
        kinds.setdefault(kind, []).append(nearest)
    in_turns = _in_turns([_in_turns(of_kind) for of_kind in kinds.values()])
    if not in_turns:
        raise ReseedError(
            f"data/{subject}/tokens: no value of {', '.join(states) or 'any variable'} is on in more than "
            f"{options.min_prevalence:g} of the training rows and {LEAST_ROWS} test rows; nothing can be intervened on"
        )
    return in_turns[: options.concepts]


def _in_turns(lists: Sequence[Sequence[Concept]]) -> list[Concept]:
    return [one for turn in zip_longest(*lists) for one in turn if one is not None]


def _concept(variable: str, value: str, place: int, states: States) -> Concept:
    labels = {
        split: torch.where(found < 0, -1, (found == place).long()).to(torch.int8) for split, found in states.items()
    }
    return Concept(f"{variable}={value}", variable, labels)


def _can_be_tested(concept: Concept, options: Causal) -> bool:
    test = concept.labels["test"]
    enough = min(int((test == 1).sum()), int((test == 0).sum())) >= LEAST_ROWS
    return enough and options.min_prevalence <= concept.prevalence("train") <= 1 - options.min_prevalence
