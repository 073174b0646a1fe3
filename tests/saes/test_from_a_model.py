"""Captures of several layers, of pairs of hook points and of token sequences, from a real transformer, trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from torch import Tensor

from reseed.activations.capture import capture
from reseed.activations.store import Activations, Provenance, read_activations, write_activations
from reseed.artifacts import read_json
from reseed.models.transformer import build_transformer, weights_sha256
from reseed.params import SPLITS, Convergence, Model, SaeTraining
from reseed.saes.export import write_sae
from reseed.saes.train import train_saes
from reseed.stability.dictionaries import read_seed_set
from reseed.text.tokens import Tokens
from tests.conftest import train_of, variant_of

CPU = torch.device("cpu")
LAYERS = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post")
POSITIONS = ("b", "equals")  # `a` alone is the same row in every sequence that begins with it
SEEDS = (0, 1, 2)
Splits = dict[str, Tensor]


class Hooks:
    """What a tiny transformer computes at each hook point, two tokens a sequence."""

    def __init__(self, model: Model, tokens: Tokens, path: Path) -> None:
        self.transformer = build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny").eval()
        # an untrained model gives every token nearly the same residual stream
        with torch.no_grad():
            for parameter in self.transformer.parameters():
                parameter.mul_(3)
        self.tokens, self.path = tokens, path

    def read(self, hook_name: str) -> Splits:
        return capture(self.transformer, self.tokens, hook_name, POSITIONS, CPU)

    def write(self, name: str, rows: Splits, hooks: Any, beside: Any = None, out: str | None = None) -> Activations:
        source = Provenance(
            "tiny", "trained", hooks, POSITIONS, "forward pass of the tiny model", weights_sha256(self.transformer),
            "t" * 64, out,
        )  # fmt: skip
        write_activations(rows, source, "float32", self.path / name, beside)
        return read_activations(self.path / name)


@pytest.fixture(scope="module")
def hooks(model: Model, tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Hooks:
    return Hooks(model, tokens, tmp_path_factory.mktemp("hooks"))


@pytest.fixture
def training(sae_training: SaeTraining) -> SaeTraining:
    change = {"batch_size": 64, "max_steps": 300, "min_steps": 200, "lr": 0.005}
    return sae_training.model_copy(update=change)


def trained_and_read_back(
    variant: Any, training: SaeTraining, tolerance: Convergence, activations: Activations, path: Path
) -> list[SAE[Any]]:
    for sae in train_saes(variant, training, train_of(SEEDS, tolerance), activations, CPU):
        write_sae(sae, variant, activations, "a" * 64, path / f"seed_{sae.seed}")
    read_seed_set(path, variant, "trained", SEEDS)
    return [SAE.load_from_disk(path / f"seed_{seed}", device="cpu") for seed in SEEDS]


@pytest.mark.parametrize("decoder", ["shared", "per_layer"])
def test_one_dictionary_over_the_layers_of_a_model(
    decoder: str, hooks: Hooks, training: SaeTraining, tolerance: Convergence, tmp_path: Path
) -> None:
    each = [hooks.read(name) for name in LAYERS]
    rows = {split: torch.stack([one[split] for one in each], 1) for split in SPLITS}
    activations = hooks.write(decoder, rows, LAYERS)
    variant = variant_of(architecture="routesae", d_sae=32, k=4, decoder=decoder)
    saes = trained_and_read_back(variant, training, tolerance, activations, tmp_path)
    x = rows["test"]
    with torch.no_grad():
        y, layer, _ = saes[0].route(x)
        residual = y - saes[0](x)
    explained = 1 - residual.square().sum() / (y - y.mean(0)).square().sum()
    assert explained > 0.5
    assert read_json(tmp_path / "seed_0" / "metrics.json")["explained_variance"] == pytest.approx(
        explained.item(), 1e-4
    )
    assert saes[0].cfg.metadata.hook_names == list(LAYERS)
    assert set(layer.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder"])
def test_a_transcoder_of_the_mlp_of_a_model(
    architecture: str, hooks: Hooks, training: SaeTraining, tolerance: Convergence, tmp_path: Path
) -> None:
    read, written = hooks.read("blocks.0.hook_resid_mid"), hooks.read("blocks.0.hook_mlp_out")
    beside = {split: {"target": written[split]} for split in SPLITS}
    activations = hooks.write(architecture, read, "blocks.0.hook_resid_mid", beside, "blocks.0.hook_mlp_out")
    variant = variant_of(architecture=architecture, d_sae=48, k=6)
    saes = trained_and_read_back(variant, training, tolerance, activations, tmp_path)
    with torch.no_grad():
        residual = written["test"] - saes[1](read["test"])
    explained = 1 - residual.square().sum() / (written["test"] - written["test"].mean(0)).square().sum()
    assert explained > 0.3
    assert read_json(tmp_path / "seed_1" / "metrics.json")["explained_variance"] == pytest.approx(
        explained.item(), 1e-4
    )
    assert saes[1].cfg.metadata.hook_name_out == "blocks.0.hook_mlp_out"


def test_tokens_of_a_sequence_and_labels_of_a_model(
    hooks: Hooks, tokens: Tokens, training: SaeTraining, tolerance: Convergence, tmp_path: Path
) -> None:
    """Smoothness makes neighbouring tokens more alike; a guided probe reads the operand that its rows hold."""
    rows = hooks.read(LAYERS[2])
    beside = {}
    for split in SPLITS:
        sequences = torch.arange(len(rows[split]) // 2).repeat_interleave(2).int()
        labels = torch.full((len(sequences),), -1, dtype=torch.int32)
        labels[::2] = tokens.splits[split][:, tokens.position("a")].int() % 2
        beside[split] = {"sequence": sequences, "labels": labels}
    activations = hooks.write("sequences", rows, LAYERS[2], beside)
    change, loss = {}, {}
    for name, objectives in (("plain", {}), ("both", {"temporal_smoothness": 1.0, "probe_guidance": 5.0})):
        variant = variant_of(architecture="topk", d_sae=32, k=4, objectives=objectives)
        saes = trained_and_read_back(variant, training, tolerance, activations, tmp_path / name)
        with torch.no_grad():
            acts = saes[0].encode(rows["test"]).unflatten(0, (-1, 2))
        change[name] = ((acts[:, 1:] - acts[:, :-1]).square().sum(-1).mean() / acts.square().sum(-1).mean()).item()
        curve = train_saes(variant, training, train_of((0,), tolerance), activations, CPU)[0].curve
        loss[name] = [row.get("loss/probe_guidance") for row in curve]
    assert change["both"] < 0.9 * change["plain"]
    assert loss["plain"][-1] is None
    assert loss["both"][-1] < 0.6 < loss["both"][0]  # guessing gives ln 2
