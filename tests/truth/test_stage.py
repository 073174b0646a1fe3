"""The stage on trained SAEs of a small world of states, and of addition, as the pipeline runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import SAE
from sklearn.metrics import f1_score

from reseed import ReseedError
from reseed.activations.store import read_activations, write_activations
from reseed.artifacts import activations_dir, artefacts, metrics_dir, read_json, sha256, tokens_dir
from reseed.params import load_phase
from reseed.text.tokens import Tokens, write_tokens
from reseed.text.traces import read_traces
from tests.conftest import ROOT, P, provenance, stage
from tests.scratch import edit
from tests.truth.builders import world, write_world

SHORT = {"batch_size": 64, "warm_up_steps": 10, "max_steps": 600, "check_every": 50, "min_steps": 100}
PHASE = {"question": "Are the states found?", "rules": {"coverage": 0.99, "fidelity": 0.1}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subjects").mkdir()
    for name in ("params.yaml", "subjects/modular.yaml", "subjects/gsm8k-gpt.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    variant = {"architecture": "topk", "d_sae": 16, "k": 3}
    edit(tmp_path / "params.yaml", lambda content: content.update(variants={"small": variant}))
    edit(tmp_path / "params.yaml", lambda content: content["train"].update(seeds=[0, 1, 2]))
    for name in ("modular", "gsm8k-gpt"):
        edit(tmp_path / f"subjects/{name}.yaml", lambda content: content["sae"].update(SHORT))
    return tmp_path


def test_a_world_of_states(project: Path) -> None:
    # any subject whose generator is not that of addition is read by its traces
    (project / "subjects/gsm8k-gpt.yaml").rename(project / "subjects/toy.yaml")
    write_world("toy", world())
    for arm in ("trained", "random_model"):
        stage("train")("toy", "small", arm)
    stage("truth")("toy", "small", "random_model")
    out = metrics_dir("toy", "small")
    found = read_json(out / "truth.json")
    assert found["artefacts"] == artefacts("toy", "small")
    figures = found["figures"]
    trained = [read_json(Path(f"models/toy/small/seed_{seed}/metrics.json")) for seed in (0, 1, 2)]
    explained = float(np.mean([one["explained_variance"] for one in trained]))
    assert figures["fidelity"]["value"] == pytest.approx(explained, abs=1e-5)
    assert figures["l0_over_d_in"]["value"] == pytest.approx(figures["l0"]["value"] / 12, rel=1e-4)
    assert figures["coverage"]["value"] > figures["coverage"]["nulls"]["permuted"] + 0.3
    assert figures["coverage"]["value"] > figures["coverage"]["nulls"]["control"] + 0.2
    assert figures["coverage"]["peers"]["linear_probe"] > 0.95
    assert "phase" not in found
    # one latent's F1 again, by SAELens and scikit-learn alone
    concepts = pd.read_parquet(out / "truth/concepts.parquet").set_index(["seed", "concept"])
    row = concepts.loc[(1, "depth=3")]
    sae = SAE.load_from_disk("models/toy/small/seed_1", device="cpu")
    x = read_activations(activations_dir("toy", "trained")).splits["test"]
    fires = (sae.encode(x)[:, int(row["best_latent"])] > 0).numpy()
    holds = (read_traces(tokens_dir("toy")).rows("test")[:, 0] == 3).numpy()
    assert row["test_f1"] == pytest.approx(f1_score(holds, fires), rel=1e-4)
    latents = pd.read_parquet(out / "truth/latents.parquet")
    assert len(latents) == 48
    assert ((latents["test_f1"] > 0.8) == latents["correct"].astype(bool)).all()
    first = (out / "truth.json").read_bytes()
    stage("truth")("toy", "small", "random_model")
    assert (out / "truth.json").read_bytes() == first


def test_rows_that_are_states_themselves(project: Path) -> None:
    """From the raw draw on; their dimensions are the values of the variables, which the peers must say."""
    (project / "subjects/walker-states.yaml").write_text((ROOT / "subjects/walker-states.yaml").read_text())
    edit(project / "subjects/walker-states.yaml", lambda content: content["sae"].update(SHORT))
    sizes = {"model": 1, "train": 150, "validation": 50, "test": 80}
    edit(project / "subjects/walker-states.yaml", lambda content: content["data"]["world"].update(sequences=sizes))
    stage("synthesise")("walker-states")
    stage("gaussian")("walker-states")
    for arm in ("trained", "gaussian"):
        stage("train")("walker-states", "small", arm)
    stage("stability")("walker-states", "small", "gaussian", "gaussian")
    stability = read_json(metrics_dir("walker-states", "small") / "stability.json")
    assert stability["held_out"]["repeated"] > 0.5  # rows of a transformer would be refused for it
    assert stability["held_out"]["rows"] == 80 * 12
    stage("truth")("walker-states", "small", "gaussian")
    found = read_json(metrics_dir("walker-states", "small") / "truth.json")
    for figure in ("coverage", "recall", "purity"):
        assert found["figures"][figure]["peers"]["neurons"] == 1
    assert found["figures"]["coverage"]["nulls"]["permuted"] < 0.5 < found["figures"]["coverage"]["value"]
    assert found["edits"]["causal_tests"] == 0
    assert found["edits"]["reached"]["value"] > found["edits"]["reached"]["nulls"]["shuffled"]
    assert (found["control"], found["phase"]["go"]) == ("gaussian", 0)
    assert {rule for rule, row in found["phase"]["rules"].items() if not row["met"]} >= {"recall"}


def test_addition_and_its_go_table(project: Path, tokens: Tokens) -> None:
    edit(project / "subjects/modular.yaml", lambda content: (content["data"].update(p=P), content.update(phase=PHASE)))
    write_tokens(tokens, tokens_dir("modular"))
    made_of = replace(provenance(), tokens_sha256=sha256(tokens_dir("modular") / "index.json"))
    random = torch.Generator().manual_seed(0)
    planes = torch.linalg.qr(torch.randn(8, 4, generator=random)).Q.T.reshape(2, 2, 8)
    for arm in ("trained", "random_model"):
        rows = {}
        for split, found in tokens.splits.items():
            phases = 2 * torch.pi * found[:, 3:4].double() * torch.tensor([2.0, 5.0]) / P
            waves = torch.stack([phases.cos(), phases.sin()], dim=2)
            x = torch.einsum("nfw,fwd->nd", waves, planes.double()) if arm == "trained" else torch.zeros(len(found), 8)
            rows[split] = (x + 0.1 * torch.randn(len(found), 8, generator=random)).float()
        model = "m" if arm == "trained" else "r"
        source = replace(made_of, arm=arm, model_sha256=model * 64, generator=f"forward pass of the {arm}")
        write_activations(rows, source, "float32", activations_dir("modular", arm))
        stage("train")("modular", "small", arm)
    stage("truth")("modular", "small", "random_model")
    found = read_json(metrics_dir("modular", "small") / "truth.json")
    assert sorted(found["frequencies"]) == [2, 5]
    assert found["figures"]["fourier_r2"]["value"] > 0.9
    assert found["figures"]["fourier_r2"]["nulls"]["control"] < 0.1
    assert found["figures"]["planes"]["peers"]["held_out_planes"] == 1
    assert list(found["phase"]["rules"]) == ["coverage", "fidelity"]
    assert (found["phase"]["go"], found["phase"]["rules"]["coverage"]["met"]) == (0, 0)
    latents = pd.read_parquet(metrics_dir("modular", "small") / "truth/latents.parquet")
    assert set(latents["concept"].dropna()) <= {"frequency=2", "frequency=5"}
    assert {"plane_cosine", "correct", "answer", "test_f1"} <= set(latents.columns)


def test_a_phase_is_checked(project: Path) -> None:
    edit(project / "subjects/modular.yaml", lambda content: content.pop("phase"))
    assert load_phase("modular") is None
    edit(project / "subjects/modular.yaml", lambda content: content.update(phase=PHASE | {"rules": {"beauty": 0.5}}))
    with pytest.raises(ReseedError, match=r"subjects/modular.yaml: .*beauty"):
        load_phase("modular")
    edit(project / "subjects/modular.yaml", lambda content: content.update(phase=PHASE | {"rules": {"purity": 1.5}}))
    with pytest.raises(ReseedError, match=r"subjects/modular.yaml: rules.purity: found 1.5, allowed: less than"):
        load_phase("modular")
