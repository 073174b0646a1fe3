"""Published worlds: what is drawn is what the model on disk says, and without a hub one sentence says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sae_lens.synthetic import (
    HierarchyConfig,
    LowRankCorrelationConfig,
    SyntheticModel,
    SyntheticModelConfig,
    ZipfianFiringProbabilityConfig,
)

from reseed import ReseedError
from reseed.activations.store import read_activations, read_truth
from reseed.artifacts import activations_dir
from reseed.params import PublishedWorld, Rows, load_sae_training, load_world
from reseed.subjects import published
from reseed.subjects.published import FILES, draw_published, fetch
from stages.synthesise import synthesise
from tests.conftest import ROOT

DATA = PublishedWorld(
    generator="published", hub_id="someone/world", revision="a" * 40, rows=Rows(train=3000, validation=50, test=1500),
    seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub keeps of a model, written by SAELens: correlated features in a hierarchy."""
    path = tmp_path_factory.mktemp("hub")
    config = SyntheticModelConfig(
        num_features=40, hidden_dim=12, firing_probability=ZipfianFiringProbabilityConfig(),
        hierarchy=HierarchyConfig(total_root_nodes=4, branching_factor=2, max_depth=2),
        correlation=LowRankCorrelationConfig(rank=3), std_firing_magnitudes=0.2, seed=3,
    )  # fmt: skip
    SyntheticModel(config).save(path)
    return path


def test_the_files_are_those_that_saelens_writes(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_rows_are_codes_times_unit_features_plus_the_bias_of_the_model(folder: Path) -> None:
    drawn, model = draw_published(DATA, folder), SyntheticModel.load_from_disk(folder)
    assert drawn.directions.shape == (40, 12)
    assert drawn.directions.norm(dim=1) == pytest.approx(1, abs=1e-6)
    assert {split: len(rows) for split, rows in drawn.rows.items()} == {"train": 3000, "validation": 50, "test": 1500}
    expected = drawn.codes["test"] @ drawn.directions + model.feature_dict.bias
    assert torch.allclose(drawn.rows["test"], expected, atol=1e-5)
    assert (drawn.codes["test"] > 0).double().mean() > 0.01


def test_the_draw_depends_on_its_seed_and_leaves_torchs_generator_alone(folder: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw_published(DATA, folder)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert draw_published(DATA, folder).rows["train"].equal(first.rows["train"])
    other = draw_published(DATA.model_copy(update={"seed": 1}), folder)
    assert not other.rows["train"].equal(first.rows["train"])
    assert not first.rows["train"][:50].equal(first.rows["validation"])


def test_without_a_hub_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ReseedError, match=r"someone/world at a{40} is not in the hub's cache and could not be fetched"):
        fetch(DATA)


def test_the_preset_names_the_benchmark_and_the_stage_writes_its_truth(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_world("synthsaebench-16k", ROOT / "subjects").data
    assert isinstance(data, PublishedWorld)
    assert (data.hub_id, data.revision) == (
        "decoderesearch/synth-sae-bench-16k-v1", "b2efd8b919ae46d6d487c73d46db5ee52813621d",
    )  # fmt: skip
    assert load_sae_training("synthsaebench-16k", ROOT / "subjects").batch_size == 1024
    (tmp_path / "subjects").mkdir()
    preset = (ROOT / "subjects/synthsaebench-16k.yaml").read_text()
    (tmp_path / "subjects/small.yaml").write_text(preset.replace("train: 200000", "train: 1500"))
    monkeypatch.chdir(tmp_path)

    def downloaded(hub_id: str, revision: str, **_: object) -> str:
        assert (hub_id, revision) == (data.hub_id, data.revision)
        return str(folder)

    monkeypatch.setattr(published, "snapshot_download", downloaded)
    synthesise("small")
    path = activations_dir("small", "trained")
    truth = read_truth(path)
    assert truth is not None
    assert truth.codes.shape == (2000, 40)
    assert len(read_activations(path).splits["train"]) == 1500
