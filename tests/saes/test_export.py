"""What is saved is what SAELens loads, with its config complete and its figures those that SAELens computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from sae_lens import SAE

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import read_json
from reseed.params import Convergence, SaeTraining, Variant
from reseed.saes.export import write_sae
from reseed.saes.record import write_curves
from reseed.saes.train import TrainedSae, train_saes
from tests.conftest import train_of, variant_of

SHA = "a" * 64


@pytest.fixture(params=["topk", "batchtopk"])
def trained(
    request: pytest.FixtureRequest, activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> tuple[Variant, list[TrainedSae]]:
    architecture: Literal["topk", "batchtopk"] = request.param
    variant = variant_of(architecture=architecture, d_sae=24, k=2)
    short = sae_training.model_copy(update={"max_steps": 300, "min_steps": 100})
    return variant, train_saes(variant, short, train_of((0, 1, 2), tolerance), activations, torch.device("cpu"))


def test_saelens_loads_it_and_its_figures_are_the_metrics(
    trained: tuple[Variant, list[TrainedSae]], activations: Activations, tmp_path: Path
) -> None:
    variant, saes = trained
    write_sae(saes[0], variant, activations, SHA, tmp_path / "seed_0")
    loaded = SAE.load_from_disk(tmp_path / "seed_0", device="cpu")
    assert loaded.cfg.architecture() == {"topk": "topk", "batchtopk": "jumprelu"}[variant.architecture]
    assert loaded.W_dec.shape == (24, 16)
    metadata = loaded.cfg.metadata
    assert (metadata.model_name, metadata.hook_name) == ("modular", "blocks.0.hook_resid_post")
    assert (metadata.reseed_variant, metadata.reseed_seed) == (
        {"architecture": variant.architecture, "d_sae": 24, "k": 2},
        0,
    )
    assert (metadata.reseed_activations_sha256, metadata.reseed_model_sha256) == (SHA, "m" * 64)
    x = activations.splits["test"]
    metrics = read_json(tmp_path / "seed_0" / "metrics.json")
    with torch.no_grad():
        acts = loaded.encode(x)
        residual = x - loaded.decode(acts)
    explained = 1 - residual.double().square().sum() / (x - x.mean(0)).double().square().sum()
    assert metrics["explained_variance"] == pytest.approx(explained.item(), rel=1e-5)
    assert metrics["l0"] == pytest.approx((acts > 0).double().sum(1).mean().item(), rel=1e-5)
    assert metrics["rows"] == len(x)
    assert metrics["converged"] == int(saes[0].converged)


def test_the_same_bytes_twice(
    trained: tuple[Variant, list[TrainedSae]], activations: Activations, tmp_path: Path
) -> None:
    variant, saes = trained
    for name in ("a", "b"):
        write_sae(saes[1], variant, activations, SHA, tmp_path / name)
        write_curves(saes, tmp_path / name / "curves")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert {str(file) for file in files} >= {"cfg.json", "sae_weights.safetensors", "snapshots.safetensors"}
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_an_encoder_that_saelens_would_read_otherwise_is_refused(
    trained: tuple[Variant, list[TrainedSae]], activations: Activations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, saes = trained
    load = SAE.load_from_disk

    def shifted(path: Path, device: str) -> SAE:
        sae = load(path, device=device)
        sae.b_enc.data += 0.1
        return sae

    monkeypatch.setattr(SAE, "load_from_disk", shifted)
    with pytest.raises(ReseedError, match=r"SAELens encodes \d+\.\d% of the rows otherwise"):
        write_sae(saes[0], variant, activations, SHA, tmp_path / "seed_0")


def test_curves_are_dvclive_files_of_every_seed(
    trained: tuple[Variant, list[TrainedSae]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, saes = trained
    write_curves(saes, tmp_path / "curves")
    lines = (tmp_path / "curves/plots/metrics/seed_1/unexplained_variance.tsv").read_text().splitlines()
    assert lines[0] == "step\tunexplained_variance"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(row["step"]) for row in saes[1].curve]
    latest = json.loads((tmp_path / "curves/metrics.json").read_text())
    assert latest["seed_2"]["unexplained_variance"] == pytest.approx(saes[2].curve[-1]["unexplained_variance"])
    assert not (tmp_path / "dvc.yaml").exists()
