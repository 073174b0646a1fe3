"""The stage on the world of the builders, with SAEs that the pipeline trains; what it refuses before it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.activations.store import write_activations
from reseed.artifacts import activations_dir, artefacts, lm_dir, metrics_dir, read_json, sha256, tokens_dir
from reseed.interventions.readouts import read
from reseed.models.transformer import save_transformer, weights_sha256
from reseed.params import Model, ModelTraining
from reseed.text.traces import Traces, write_traces
from tests.conftest import ROOT, provenance, stage
from tests.interventions.builders import BITS, HOOK, D, options, world
from tests.scratch import edit

SHAPE = {"n_layers": 2, "d_model": D, "n_heads": 2, "d_mlp": 2 * BITS, "act_fn": "relu", "normalization_type": "LN"}
SHORT = {"batch_size": 64, "warm_up_steps": 10, "max_steps": 600, "check_every": 50, "min_steps": 200}
VARIANTS = {
    "small": {"architecture": "topk", "d_sae": 24, "k": 6},
    "frozen": {"architecture": "topk", "d_sae": 24, "k": 6, "soft_frozen": 0.8},
    "other": {"architecture": "topk", "d_sae": 24, "k": 5, "soft_frozen": 0.8},
}


def capture(model: HookedTransformer, traces: Traces, arm: str) -> None:
    rows = {
        split: read(model, traces, split, torch.arange(len(found)), HOOK, final=False).residual
        for split, found in traces.splits.items()
    }
    made_of = provenance(arm)
    index = sha256(tokens_dir("modular") / "index.json")
    made_of = replace(made_of, hook_name=HOOK, model_sha256=weights_sha256(model), tokens_sha256=index)
    write_activations(rows, made_of, "float32", activations_dir("modular", arm))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("causal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        (path / "subjects").mkdir()
        for name in ("params.yaml", "subjects/modular.yaml"):
            (path / name).write_text((ROOT / name).read_text())
        edit(path / "subjects/modular.yaml", lambda content: content["sae"].update(SHORT))
        tried = options(probe_rows=1000).model_dump(mode="json")
        edit(path / "params.yaml", lambda content: content.update(variants=VARIANTS, causal=tried))
        edit(path / "params.yaml", lambda content: content["train"].update(seeds=[0, 1, 2]))
        model, traces = world("LN")
        write_traces(traces, tokens_dir("modular"))
        training = ModelTraining(
            seed=0, batch_size=64, lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98), warm_up_steps=10, max_steps=200,
            check_every=50, stop_loss=1e-9, min_accuracy=0.001,
        )  # fmt: skip
        lm_dir("modular").mkdir(parents=True)
        save_transformer(model, Model.model_validate(SHAPE | {"training": training}), lm_dir("modular"), {})
        torch.manual_seed(1)
        capture(model, traces, "trained")
        capture(HookedTransformer(model.cfg).requires_grad_(False), traces, "random_model")
        for variant, arm in (("small", "trained"), ("small", "random_model"), ("frozen", "trained")):
            stage("train")("modular", variant, arm)
        yield path


@pytest.mark.usefixtures("project")
def test_the_stage_judges_trained_saes() -> None:
    stage("causal")("modular", "small", "frozen")
    found = read_json(metrics_dir("modular", "small") / "causal.json")
    assert found["artefacts"] == artefacts("modular", "small")
    assert (found["hook_name"], found["seeds"], found["sign_p_floor"]) == (HOOK, 3, 1 / 8)
    assert set(found["concepts"]) == {*(f"bit_{bit}=1" for bit in range(BITS)), "idle=yes"}
    assert found["concepts"]["idle=yes"]["passes"] == 0
    assert found["mean"]["monotone"]["value"] > 0.5
    for bit in range(BITS):
        one = found["concepts"][f"bit_{bit}=1"]
        assert one["read_out"] == "output and decoder"
        effects = one["effect_at_equal_norm"]
        assert effects["latent"]["value"] > effects["random_direction"]["value"]
        assert effects["latent"]["value"] > effects["random_model_sae"]["value"]
    every = [found["concepts"][f"bit_{bit}=1"]["effect_at_equal_norm"] for bit in range(BITS)]
    mean = {name: sum(one[name]["value"] for one in every) for name in ("latent", "random_direction")}
    assert mean["latent"] > 2 * mean["random_direction"]
    assert found["null_saes"]["random_model_sae"] == found["null_saes"]["untrained_sae"] == 0
    curve = pd.read_csv(metrics_dir("modular", "small") / "causal_calibration.csv")
    assert len(curve) == 7 * 10
    doses = pd.read_csv(metrics_dir("modular", "small") / "causal_doses.csv")
    rising = doses[doses.direction == "latent"].sort_values("dose").change
    assert rising.is_monotonic_increasing
    first = (metrics_dir("modular", "small") / "causal.json").read_bytes()
    stage("causal")("modular", "small", "frozen")
    assert (metrics_dir("modular", "small") / "causal.json").read_bytes() == first


@pytest.mark.usefixtures("project")
def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ReseedError, match=r"variants.other: .* allowed as a control: .* with soft_frozen"):
        stage("causal")("modular", "small", "other")
    weights = (lm_dir("modular") / "model.safetensors", lm_dir("modular") / "cfg.json")
    kept = [path.read_bytes() for path in weights]
    model, _ = world("LN")
    model.W_E[0] += 1
    config = Model.model_construct(**SHAPE)
    save_transformer(model, config, lm_dir("modular"), {})
    with pytest.raises(ReseedError, match="did not make the activations"):
        stage("causal")("modular", "small", "frozen")
    for path, content in zip(weights, kept, strict=True):
        path.write_bytes(content)
