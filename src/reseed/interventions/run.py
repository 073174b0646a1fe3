"""All concepts and seeds of a variant put through the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import generator, read_json
from reseed.interventions.concepts import Concept
from reseed.interventions.hooks import entry_layer, last_residual
from reseed.interventions.latents import Candidates, check_drawing
from reseed.interventions.protocol import Bench, Ground, Measured, bench, ground, judges_of, measure, read_outs_of
from reseed.interventions.readouts import ReadOut
from reseed.models.transformer import load_transformer, weights_sha256
from reseed.params import Causal, Model, Params, Variant
from reseed.stability.statistics import standardised
from reseed.text.traces import Traces

REPRODUCED = 1e-3
"""Largest difference of a recomputed activation from the captured one, relative to the largest activation."""


@dataclass(frozen=True)
class SeedSaes:
    """The SAEs of one seed on their own training rows: the trained one, and by name those of NULL_SAES."""

    seed: int
    trained: Candidates
    others: dict[str, Candidates]


def load_trained_here(path: Path, subject: str, model_sha256: str) -> HookedTransformer:
    """The transformer in models/<subject>/lm, frozen; raises ReseedError unless it made the captured activations."""
    # its own cfg.json says what it is: worlds differ in their subject files, not in how a model is saved
    architecture = read_json(path / "cfg.json")["architecture"]
    config = Model.model_construct(**architecture, training=SimpleNamespace(seed=0))
    model = load_transformer(config, path, subject).requires_grad_(False)
    if weights_sha256(model) != model_sha256:
        raise ReseedError(
            f"{path}: the model {weights_sha256(model)[:12]}… did not make the activations, which are of "
            f"{model_sha256[:12]}…; run `dvc repro`"
        )
    return model


def check_frozen(params: Params, chosen: Variant, frozen: str) -> None:
    """Raise ReseedError unless the variant `frozen` differs from the chosen one in its soft-frozen decoder alone."""
    other = params.variant(frozen)
    if not other.soft_frozen or other.model_copy(update={"soft_frozen": chosen.soft_frozen}) != chosen:
        raise ReseedError(
            f"params.yaml: variants.{frozen}: found {other.model_dump(exclude_defaults=True)}, allowed as a control: "
            f"{chosen.model_dump(exclude_defaults=True)} with soft_frozen"
        )


def chosen_rows(rows: int, at_most: int, key: str, split: str) -> Tensor:
    """Places of at most so many captured rows, drawn once for a subject, increasing."""
    order = torch.randperm(rows, generator=generator("causal", key, split))
    return order[:at_most].sort().values


def grounded(
    model: HookedTransformer, traces: Traces, activations: Activations, options: Causal, subject: str
) -> Ground:
    """The unedited model at training and test rows; raises ReseedError unless its activations are the captured ones."""
    hook_name, where = activations.index["hook_name"], f"data/{subject}/activations"
    if not isinstance(hook_name, str) or activations.has("target"):
        target = " with a target" if activations.has("target") else ""
        raise ReseedError(f"{where}: found rows of {hook_name!r}{target}, allowed for edits: one residual stream")
    rows = {}
    for split in ("train", "test"):
        captured, traced = len(activations.rows(split)), len(traces.rows(split))
        if captured != traced:
            raise ReseedError(
                f"{where}: found {captured} rows of the split {split!r}, allowed: {traced}, one a sequence and "
                "predicted position"
            )
        rows[split] = chosen_rows(captured, options.probe_rows, subject, split)
    decoder = entry_layer(model, hook_name) < model.cfg.n_layers
    found = ground(model, traces, hook_name, (rows["train"], rows["test"]), decoder)
    for split, unedited in (("train", found.train), ("test", found.test)):
        kept = activations.rows(split).take(rows[split]).float()
        if float((kept - unedited.residual).abs().max()) > REPRODUCED * float(kept.abs().max()):
            raise ReseedError(
                f"{where}: the rows of the split {split!r} are not what the model has at {hook_name}; run `dvc repro`"
            )
    return found


def about_read_outs(found: Ground) -> dict[str, str]:
    """Where the state is read, and why not elsewhere."""
    if found.has_decoder:
        return {
            "hook_name": found.hook_name,
            "decoder": f"{last_residual(found.model)}, less the edit that the skip connection carries there",
        }
    return {
        "hook_name": found.hook_name,
        "decoder": f"refused: {found.hook_name} is the last residual stream, and a decoder there would read the edit "
        "itself; the model's own output alone is read",
    }


def run_protocol(
    found: Ground, concepts: Sequence[Concept], saes: Sequence[SeedSaes], options: Causal, key: str, bar: Any
) -> tuple[dict[str, Bench], dict[str, list[Measured]], dict[str, dict[str, float]]]:
    """The bench of every concept that a read-out tells, what each seed's latent does there, and the concepts untold.

    saes: of every seed in order, on the training rows of `found`. bar: a progress bar, one step a concept.
    """
    check_drawing()
    available = {concept.name: read_outs_of(found, concept) for concept in concepts}
    judges = {name: judges for name, some in available.items() if (judges := judges_of(some, options))}
    untold = {name: {one.kind: one.auc for one in some} for name, some in available.items() if name not in judges}
    if not judges:
        raise ReseedError(
            f"{key}: no read-out behind {found.hook_name} tells any of {', '.join(available)} from unedited test rows "
            f"(auc of {options.min_auc:g} or more, causal.min_auc); no edit could be seen"
        )
    told = [concept for concept in concepts if concept.name in judges]
    apart = unassociated(told, found.train_rows, options.off_target_correlation)
    benches, measured = {}, {}
    for place, concept in enumerate(told):
        off: list[ReadOut] = [judges[told[other].name][0] for other in apart[place]]
        one = bench(found, concept, available[concept.name], off, options, key)
        labels = concept.labels["train"][found.train_rows]
        on, known = labels == 1, labels >= 0
        measured[concept.name] = [
            measure(
                one,
                of_seed.trained.best(on, known),
                of_seed.trained,
                {name: other.best(on, known) for name, other in of_seed.others.items()},
                options,
                f"{key}/{of_seed.seed}",
            )
            for of_seed in saes
        ]
        benches[concept.name] = one
        bar.update()
    return benches, measured, untold


def unassociated(concepts: Sequence[Concept], rows: Tensor, at_most: float) -> list[list[int]]:
    """For every concept the places of those whose labels correlate with its own by less than `at_most`, in size."""
    on = [(one.labels["train"][rows] == 1).numpy() for one in concepts]
    labels = standardised(np.array(on).reshape(len(concepts), len(rows)).T)
    return [[int(i) for i in np.flatnonzero(np.abs(row) < at_most)] for row in labels.T @ labels]
