"""Transformers that read worlds: their stages, and the checks of what they go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, lm_dir, read_json, sha256, tokens_dir
from reseed.models.train import evaluate
from reseed.models.transformer import build_transformer, load_transformer
from reseed.models.worlds import best_head, check_reads_input, expected_keys, uniform_attention
from reseed.params import load_traced
from reseed.text.traces import Traces, read_traces
from tests.conftest import ROOT, stage
from tests.subjects.test_worlds import data_of

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL: dict[str, Any] = {
    "n_layers": 2, "d_model": 32, "n_heads": 2, "d_mlp": 64, "act_fn": "relu", "normalization_type": "LN",
    "training": {
        "seed": 0, "batch_size": 64, "lr": 0.003, "weight_decay": 0.01, "betas": [0.9, 0.98], "warm_up_steps": 10,
        "max_steps": 300, "check_every": 50, "stop_loss": 0.05, "min_accuracy": 0.3,
    },
}  # fmt: skip


def write_subject(name: str, world: str, **changes: Any) -> None:
    sae = yaml.safe_load((ROOT / "subjects" / "modular.yaml").read_text())["sae"]
    sequences = {"model": 600, "train": 60, "validation": 30, "test": 60}
    data = data_of(world, sequences=sequences, **changes).model_dump(mode="json")
    capture = {"hook_name": "blocks.1.hook_resid_post", "dtype": "float32", "arms": ["trained", "random_model"]}
    labels = {"walker": "blocked", "stack": "depth"}[world]
    Path("subjects").mkdir(exist_ok=True)
    content = {"data": data, "model": MODEL, "capture": capture | {"labels": labels}, "sae": sae}
    Path(f"subjects/{name}.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def tokenized(name: str, world: str, **changes: Any) -> Traces:
    write_subject(name, world, **changes)
    stage("download")(name)
    stage("tokenize")(name)
    return read_traces(tokens_dir(name))


@pytest.mark.usefixtures("project")
def test_a_world_goes_from_its_file_to_rows_with_states() -> None:
    traces = tokenized("tiny", "walker", size=3, walls=1, moves=4)
    stage("model")("tiny")
    facts = read_json(lm_dir("tiny") / "metrics.json")
    config = load_traced("tiny")
    model = load_transformer(config.model, lm_dir("tiny"), "tiny")
    assert facts["accuracy"]["test"] == pytest.approx(evaluate(model, traces, "test").accuracy, abs=1e-6)
    assert facts["accuracy"]["test"] > 2 * facts["chance_accuracy"]
    assert facts["effect_of_later_tokens"] == 0
    for arm in ("trained", "random_model"):
        stage("capture")("tiny", arm)
    trained, random = (read_activations(activations_dir("tiny", arm)) for arm in ("trained", "random_model"))
    assert trained.index["tokens_sha256"] == sha256(tokens_dir("tiny") / "index.json")
    assert not trained.rows("test").whole().equal(random.rows("test").whole())
    rows = trained.rows("test").whole()
    assert len(rows) == len(traces.rows("test")) == 60 * 4
    sequence, place = 7, 2
    _, cache = model.run_with_cache(traces.splits["test"][sequence : sequence + 1].long(), prepend_bos=False)
    expected = cache["blocks.1.hook_resid_post"][0, traces.predicted[place]]
    assert torch.allclose(rows[4 * sequence + place], expected, atol=1e-5)
    assert trained.rows("test", "sequence").whole().tolist() == [i // 4 for i in range(240)]
    blocked = list(traces.variables).index("blocked")
    assert trained.rows("test", "labels").whole().equal(traces.rows("test")[:, blocked].long())
    stage("describe")("tiny", "random_model")
    assert read_json(Path("metrics/tiny/subject.json"))["sequences"]["model"] == 600

    content = yaml.safe_load(Path("subjects/tiny.yaml").read_text())
    content["capture"]["labels"] = "depth"
    Path("subjects/tiny.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ReseedError, match=r"capture\.labels: found 'depth', allowed: row, column, allowed_up"):
        stage("capture")("tiny", "trained")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("unpredicted", [0, 5])
def test_a_pop_brings_back_what_stands_at_the_expected_key(unpredicted: int) -> None:
    traces = tokenized("tiny", "stack", unpredicted=unpredicted)
    assert len(traces.predicted) == 14 - unpredicted
    keys = expected_keys("stack", traces, "test")
    assert keys is not None
    found = keys >= 0
    shown = traces.splits["test"].long().gather(1, keys.clamp(min=0))
    assert shown[found].equal(traces.targets("test")[found])
    depth, overflow = (traces.states["test"][..., list(traces.variables).index(v)] for v in ("depth", "overflow"))
    pops = traces.splits["test"][:, list(traces.predicted)] == traces.vocabulary.index("pop")
    assert found.equal(pops & (depth > 0) & (overflow == 0))
    assert expected_keys("logic", traces, "test") is None


def attending_evenly(traces: Traces) -> HookedTransformer:
    model = build_transformer(load_traced("tiny").model, len(traces.vocabulary), traces.n_ctx, "tiny")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
            block.attn.b_Q.zero_()
    return model


@pytest.mark.usefixtures("project")
def test_even_attention_is_the_uniform_null_and_an_idle_model_is_refused() -> None:
    traces = tokenized("tiny", "walker", size=3, walls=1, moves=4)
    keys = expected_keys("walker", traces, "test")
    assert keys is not None
    at = [traces.vocabulary[token] for token in traces.splits["test"].gather(1, keys)[:, 0]]
    assert all("," in cell and not cell.startswith("wall") for cell in at)
    model = attending_evenly(traces)
    even = uniform_attention(traces.predicted, keys)
    assert even == pytest.approx(sum(1 / (p + 1) for p in traces.predicted) / 4)
    assert best_head(model, traces.splits["test"], traces.predicted, keys).attention == pytest.approx(even, rel=1e-5)
    with torch.no_grad():
        model.W_U.zero_()
    with pytest.raises(ReseedError, match=r"another word changes 0\.0% of the predictions made at it"):
        check_reads_input(model, traces, "test", torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("project")
def test_a_model_that_has_not_learned_its_world_leaves_nothing() -> None:
    tokenized("tiny", "stack")
    content = yaml.safe_load(Path("subjects/tiny.yaml").read_text())
    content["model"]["training"] |= {"max_steps": 2, "min_accuracy": 0.99}
    Path("subjects/tiny.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ReseedError, match=r"the model did not generalise: validation accuracy 0\.\d+ after 2 steps"):
        stage("model")("tiny")
    assert not lm_dir("tiny").exists()


@pytest.mark.usefixtures("project")
def test_rows_that_are_states_stand_beside_their_traces() -> None:
    sae = yaml.safe_load((ROOT / "subjects" / "modular.yaml").read_text())["sae"]
    data = {"generator": "states", "world": data_of("stack").model_dump(mode="json")}
    Path("subjects").mkdir()
    Path("subjects/tiny.yaml").write_text(yaml.safe_dump({"data": data, "sae": sae}))
    stage("synthesise")("tiny")
    made, traces = (
        read_activations(activations_dir("tiny", "trained")),
        read_traces(activations_dir("tiny", "trained") / "traces"),
    )
    assert made.index["generator"] == "synthetic states, exact, of the world stack"
    assert made.d_in == sum(len(values) for values in traces.variables.values())
    rows, states = made.rows("test").whole(), traces.rows("test")
    assert rows[:, :4].argmax(1).equal(states[:, 0].long())  # depth, the first variable, has always a value
    assert rows.sum(1).equal((states >= 0).sum(1).float())
