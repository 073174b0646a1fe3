"""What users run on the exhibits, and how artefacts are rewritten by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typer.testing import CliRunner

from reseed import ReseedError
from reseed.activations.store import provenance_of, read_activations, write_activations
from reseed.artifacts import (
    activations_dir,
    lm_dir,
    read_json,
    read_tensors,
    sae_dir,
    sha256,
    tokens_dir,
    write_tensors,
)
from reseed.benchmarks.controls import load_sae
from reseed.benchmarks.core import check_as_recorded, run_core
from reseed.cli import app
from reseed.models.train import evaluate
from reseed.models.transformer import load_transformer, save_transformer, weights_sha256
from reseed.params import TRAINED, load_params, load_sae_training, load_subject
from reseed.stability.checks import check_apart, check_recorded, check_rows
from reseed.stability.dictionaries import read_seed_set
from reseed.stability.instruments import check_instruments
from reseed.text.tokens import read_tokens
from tests import scratch
from tests.conftest import stage
from tests.faults.bases import SEEDS
from tests.sweeps import toy

SUBJECT = "modular"


@cache
def run(name: str, *arguments: str) -> Callable[[], object]:
    """The stage with these arguments."""
    return lambda: stage(name)(*arguments)


def several(*attempts: Callable[[], object]) -> Callable[[], object]:
    """One after the other."""
    return lambda: [attempt() for attempt in attempts]


@cache
def read_seeds(variant: str, arm: str = TRAINED) -> Callable[[], object]:
    """Read the dictionaries of a variant, as the stages stability, certify and factorial do."""
    return lambda: read_seed_set(sae_dir(SUBJECT, variant, arm), load_params().variant(variant), arm, SEEDS)


@cache
def check_seeds(variant: str, subject: str = SUBJECT) -> Callable[[], object]:
    """What the stage stability checks before it makes a figure."""

    def attempt() -> None:
        params, path = load_params(), sae_dir(subject, variant)
        activations = read_activations(activations_dir(subject, TRAINED))
        check_rows(activations, activations_dir(subject, TRAINED))
        check_apart(read_seed_set(path, params.variant(variant), TRAINED, SEEDS), params.train, path)
        check_recorded(path, params.variant(variant), SEEDS, activations)

    return attempt


@cache
def tried(variant: str) -> Callable[[], object]:
    """The known cases that the stage stability asks its formulas and the trainer of the variant for, first of all."""
    return lambda: check_instruments(load_params().variant(variant), load_sae_training(SUBJECT))


@cache
def core(variant: str) -> Callable[[], object]:
    """SAEBench's core of the first seed, as the stage saebench runs it."""

    def attempt() -> None:
        config, tokens = load_subject(SUBJECT), read_tokens(tokens_dir(SUBJECT))
        model = load_transformer(config.model, lm_dir(SUBJECT), SUBJECT)
        folder = sae_dir(SUBJECT, variant) / "seed_0"
        sae = load_sae(folder, config.capture.hook_name, TRAINED, weights_sha256(model))
        scores = run_core(sae, model, tokens, evaluate(model, tokens, "test").loss, "museum", None)
        check_as_recorded(scores, read_json(folder / "metrics.json"), folder)

    return attempt


def audit() -> None:
    """`reseed audit`; where it exits with 1 its findings are the message."""
    done = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["audit"])
    if done.exit_code:
        found = (line.partition("→")[0].strip() for line in done.output.splitlines()[1:])
        raise ReseedError("; ".join(filter(None, found)))


def change_params(change: Callable[[dict[str, Any]], object]) -> None:
    scratch.edit(Path("params.yaml"), change)


def change_subject(change: Callable[[dict[str, Any]], object], name: str = SUBJECT) -> None:
    scratch.edit(Path("subjects") / f"{name}.yaml", change)


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change JSON by hand, without the care that `write_json` takes."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_tensors(path: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    write_tensors(path, {name: change(name, tensor.clone()) for name, tensor in read_tensors(path).items()})


def change_saes(
    variant: str, subject: str, config: Callable[[dict[str, Any]], object], without: tuple[str, ...]
) -> None:
    """Every seed's cfg.json changed by hand, and some of its weights left out: another architecture's checkpoint."""
    for seed in SEEDS:
        folder = sae_dir(subject, variant) / f"seed_{seed}"
        change_json(folder / "cfg.json", config)
        weights = read_tensors(folder / "sae_weights.safetensors")
        write_tensors(
            folder / "sae_weights.safetensors", {name: one for name, one in weights.items() if name not in without}
        )


def turn(variant: str, seeds: tuple[int, ...] = SEEDS) -> None:
    """Every decoder of a variant as [d_in, d_sae], in its weights and in its snapshots."""
    for seed in seeds:
        for file in ("sae_weights.safetensors", "snapshots.safetensors"):
            change_tensors(
                sae_dir(SUBJECT, variant) / f"seed_{seed}" / file,
                lambda name, tensor: tensor.T.contiguous() if name.endswith("W_dec") else tensor,
            )


def change_metrics(variant: str, change: Callable[[dict[str, Any]], object]) -> None:
    for seed in SEEDS:
        change_json(sae_dir(SUBJECT, variant) / f"seed_{seed}" / "metrics.json", change)


def rewrite_rows(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Write the activations of the trained arm anew, with other rows by split and everything else as it was."""
    folder = activations_dir(SUBJECT, TRAINED)
    found = read_activations(folder)
    rows = {split: rows.clone() for split, rows in found.splits.items()}
    shutil.rmtree(folder)
    write_activations(change(rows), provenance_of(found), "float32", folder)


def change_model(change: Callable[[str, Tensor], Tensor]) -> None:
    """Other weights in the place of the model's, with the hash that belongs to them."""
    config = load_subject(SUBJECT).model
    model, facts = load_transformer(config, lm_dir(SUBJECT), SUBJECT), read_json(lm_dir(SUBJECT) / "metrics.json")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(change(name, parameter.clone()))
    save_transformer(model, config, lm_dir(SUBJECT), facts)


def change_raw(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Other lines in a raw file, with the hash that belongs to them in its manifest."""
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
    entry = {"sha256": sha256(file)}
    change_json(file.parent / "manifest.json", lambda manifest: manifest["files"][file.name].update(entry))


def dvc(*arguments: str) -> None:
    toy.dvc_ok(Path(), *arguments)


def git(*arguments: str) -> None:
    toy.git(Path(), *arguments)
