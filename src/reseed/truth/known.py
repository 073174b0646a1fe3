"""Whether the states of a world are known: its tokens tell them apart, and its seed gives them again."""

from __future__ import annotations

import numpy as np
import torch

from reseed import ReseedError
from reseed.params import MODEL_SPLIT, SPLITS, TraceData
from reseed.subjects.states import draw_traces, world_of
from reseed.text.traces import Traces

AGAIN = 20
"""So many first sequences of every split are drawn again."""


def check_known(traces: Traces, data: TraceData, where: str) -> None:
    """Raise ReseedError unless tokens and states of a world are those that `data` draws, and tokens tell the states.

    `where` names the traces.
    """
    _check_told(traces, where)
    _check_drawn(traces, data, where)


def _check_drawn(traces: Traces, data: TraceData, where: str) -> None:
    """The first sequences of every split, drawn once more: a world that does not follow its seed gives others."""
    world = world_of(data)
    counts = {split: min(AGAIN, getattr(data.sequences, split)) for split in (MODEL_SPLIT, *SPLITS)}
    again = draw_traces(data.model_copy(update={"sequences": data.sequences.model_copy(update=counts)}))
    token = {word: place for place, word in enumerate(traces.vocabulary)}
    value = {name: {text: place for place, text in enumerate(values)} for name, values in world.variables.items()}
    for split in SPLITS:
        found, states = traces.splits[split], traces.states[split]
        differ = 0
        for place, trace in enumerate(again[split]):
            columns = zip(world.variables, zip(*trace.states, strict=True), strict=True)
            drawn = torch.tensor([[value[name].get(text, -1) for text in texts] for name, texts in columns]).T
            words = torch.tensor([token.get(word, -1) for word in trace.words])
            differ += not (torch.equal(found[place].long(), words) and torch.equal(states[place].long(), drawn))
        if differ:
            raise ReseedError(
                f"{where}: {differ} of the first {len(again[split])} sequences of {split!r} are others when they are "
                f"drawn again with data.seed {data.seed}, allowed: the same; the world does not follow its seed, or "
                "its code has changed"
            )


def _check_told(traces: Traces, where: str) -> None:
    """Equal tokens up to a predicted position have equal states there, over all splits."""
    tokens = torch.cat([traces.splits[split] for split in SPLITS]).numpy()
    states = torch.cat([traces.states[split] for split in SPLITS]).numpy()
    for place, position in enumerate(traces.predicted):
        prefixes = np.unique(tokens[:, : position + 1], axis=0, return_inverse=True)[1].ravel()
        pairs = np.unique(np.column_stack([prefixes, states[:, place]]), axis=0)
        if more := len(pairs) - len(np.unique(prefixes)):
            raise ReseedError(
                f"{where}: {more} states at position {position} stand behind tokens that stand before another state, "
                "too, allowed: none; the encoding does not tell them apart"
            )
