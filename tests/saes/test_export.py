"""What is saved is what SAELens loads, with its config complete and its figures those that SAELens computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import read_json
from reseed.params import Convergence, SaeTraining, Variant
from reseed.saes import export
from reseed.saes.export import write_sae
from reseed.saes.record import write_curves
from reseed.saes.rows import seen_by
from reseed.saes.run import TrainedSae
from reseed.saes.train import train_saes
from tests.conftest import train_of, variant_of
from tests.saes.builders import ARCHITECTURES, CASES, CPU, case, shortened
from tests.saes.conftest import Source

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
    trained: tuple[Variant, list[TrainedSae]], activations: Activations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, saes = trained
    monkeypatch.setattr(export, "EVALUATED_ROWS", 100)  # in six batches, the last a short one
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


SAVED_AS = {
    "standard": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu", "gated": "gated",
    "matryoshka": "jumprelu", "hierarchical_topk": "hierarchical_topk", "routesae": "routesae",
    "transcoder": "jumprelu_transcoder", "skip_transcoder": "jumprelu_skip_transcoder",
}  # fmt: skip
FORMS = [(name, "unit") for name in CASES] + [
    (name, "free") for name in ARCHITECTURES if name not in ("matryoshka", "hierarchical_topk")
]


@pytest.mark.parametrize(
    ("name", "decoder_norm", "centre"),
    [(*form, "mean") for form in FORMS] + [(*form, "geometric_median") for form in FORMS if form[1] == "free"],
)
def test_every_architecture_survives_the_way_through_saelens(
    name: str, decoder_norm: str, centre: str, source: Source, sae_training: SaeTraining, tolerance: Convergence,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    variant = case(name)
    rows = source(variant)
    training = shortened(sae_training, 40, decoder_norm=decoder_norm, centre=centre)
    sae = train_saes(variant, training, train_of((0,), tolerance), rows, CPU)[0]
    write_sae(sae, variant, rows, SHA, tmp_path / "sae")
    lens = SAE.load_from_disk(tmp_path / "sae", device="cpu").requires_grad_(False)
    assert lens.cfg.architecture() == SAVED_AS[variant.architecture]
    for key, tensor in load_file(tmp_path / "sae" / "sae_weights.safetensors").items():
        assert tensor.equal(sae.weights[key]), key  # bit for bit
    assert lens.W_dec.norm(dim=-1).sub(1).abs().max() < 1e-5
    # what the trained stack computed in normalised units is what raw rows give now
    x, acts, out = sae.seen
    assert x.equal(rows.rows("validation").whole()[: len(x)])
    torch.testing.assert_close(lens.encode(x), acts, rtol=1e-3, atol=1e-4 * acts.abs().max().item())
    torch.testing.assert_close(lens(x), out, rtol=1e-3, atol=1e-4 * out.abs().max().item())
    assert 0 < (acts > 0).double().mean() < 1
    assert out.std() > 0.01
    seen = seen_by(variant, rows)
    whole = export.evaluate(lens, seen)
    with monkeypatch.context() as patch:
        patch.setattr(export, "EVALUATED_ROWS", 100)
        parts = export.evaluate(lens, seen)
    assert whole.keys() == parts.keys()
    for figure, value in whole.items():
        assert parts[figure] == pytest.approx(value, rel=1e-6), figure
    planted_faults(sae, variant, rows, tmp_path, monkeypatch)


def test_an_sae_of_a_pair_of_hook_points_is_that_of_the_first(
    pairs: Activations, sae_training: SaeTraining, tolerance: Convergence, tmp_path: Path
) -> None:
    variant, training = case("topk"), shortened(sae_training, 40)
    for name, rows in (("pair", pairs), ("first", pairs.without_target())):
        sae = train_saes(variant, training, train_of((0,), tolerance), rows, CPU)[0]
        write_sae(sae, variant, rows, SHA, tmp_path / name)
    assert pairs.has("target")
    for file in ("sae_weights.safetensors", "metrics.json"):
        assert (tmp_path / "pair" / file).read_bytes() == (tmp_path / "first" / file).read_bytes()


def planted_faults(
    sae: TrainedSae, variant: Variant, rows: Activations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = SAE.load_from_disk

    def shifted(lens: Any) -> None:
        for name in ("b_enc", "b_gate", "b_mag"):
            if getattr(lens, name, None) is not None:
                getattr(lens, name).data += 0.1

    def permuted(lens: Any) -> None:
        lens.W_dec.data = lens.W_dec.data.roll(1, -2)

    def turned(lens: Any) -> None:
        # a square part of it transposed: the shape stays, the norms of its rows, which a TopK SAE looks at, do not
        n = lens.W_dec.shape[-1]
        lens.W_dec.data[..., :n, :n] = lens.W_dec.data[..., :n, :n].transpose(-1, -2).clone()

    for fault, what in ((shifted, "encodes"), (permuted, "decodes"), (turned, "(en|de)codes")):

        def loading(path: Path, device: str, fault: Any = fault) -> Any:
            lens = load(path, device=device)
            fault(lens)
            return lens

        monkeypatch.setattr(SAE, "load_from_disk", loading)
        with pytest.raises(ReseedError, match=rf"SAELens {what} \d+ of \d+ rows otherwise"):
            write_sae(sae, variant, rows, SHA, tmp_path / "faulty")
    monkeypatch.undo()


def test_a_transposed_decoder_of_a_square_sae_is_refused(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence, tmp_path: Path
) -> None:
    variant = case("topk", d_sae=16)
    sae = train_saes(variant, shortened(sae_training, 40), train_of((0,), tolerance), activations, CPU)[0]
    sae.weights["W_dec"] = sae.weights["W_dec"].T.contiguous()
    with pytest.raises(ReseedError, match=r"SAELens (en|de)codes"):
        write_sae(sae, variant, activations, SHA, tmp_path / "seed_0")


def test_numbers_that_are_none_do_not_pass(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence, tmp_path: Path
) -> None:
    variant = case("topk")
    sae = train_saes(variant, shortened(sae_training, 40), train_of((0,), tolerance), activations, CPU)[0]
    for tensor in (*sae.weights.values(), *sae.seen[1:]):
        tensor.fill_(float("nan"))
    with pytest.raises(ReseedError):
        write_sae(sae, variant, activations, SHA, tmp_path / "seed_0")


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
