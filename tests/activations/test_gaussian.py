"""The Gaussian arm has the second moments of the rows and none of their structure."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from reseed.activations import gaussian
from reseed.activations.gaussian import gaussian_rows
from reseed.activations.store import Activations, provenance_of, read_activations, write_activations
from tests.conftest import planted_rows, provenance, unit


def gaussian_like(activations: Activations) -> dict[str, dict[str, Tensor]]:
    """{name: {split: all its noise}}."""
    made: dict[str, dict[str, list[Tensor]]] = {}
    for split, block in gaussian_rows(activations):
        for name, rows in block.items():
            made.setdefault(name, {}).setdefault(split, []).append(rows)
    return {name: {split: torch.cat(blocks) for split, blocks in splits.items()} for name, splits in made.items()}


def test_it_has_mean_and_covariance_of_the_training_rows_and_is_gaussian(activations: Activations) -> None:
    real = activations.splits["train"].double()
    noise = gaussian_like(activations)
    found = noise["activations"]["train"].double()
    assert {split: rows.shape for split, rows in noise["activations"].items()} == {
        split: rows.shape for split, rows in activations.splits.items()
    }
    size = real.var(0).max()
    assert (found.mean(0) - real.mean(0)).abs().max() < 0.06 * size.sqrt()
    assert (torch.cov(found.T) - torch.cov(real.T)).abs().max() < 0.06 * size
    along = (found - found.mean(0)) @ unit(1, 16, seed=3)[0].double()
    kurtosis = along.pow(4).mean() / along.pow(2).mean() ** 2
    assert abs(kurtosis - 3) < 0.25  # 3 for a Gaussian
    again = gaussian_like(activations)["activations"]
    assert all(torch.equal(again[split], noise["activations"][split]) for split in again)
    assert not torch.equal(noise["activations"]["test"], noise["activations"]["validation"])


def test_targets_keep_their_covariance_with_the_rows(tmp_path: Path) -> None:
    sizes = {"train": 4096, "validation": 64, "test": 64}
    splits = {split: planted_rows(n, unit(24, 16), k=2, seed=i) for i, (split, n) in enumerate(sizes.items())}
    beside = {split: {"target": 2 * rows[:, :5] - 1} for split, rows in splits.items()}
    write_activations(splits, provenance(), "float32", tmp_path / "a", beside)
    noise = gaussian_like(read_activations(tmp_path / "a"))
    # the target is a function of the rows, and a joint Gaussian of a singular covariance keeps it one
    assert torch.allclose(noise["target"]["test"], 2 * noise["activations"]["test"][:, :5] - 1, atol=1e-3)


def test_where_rows_come_from_is_read_back_from_their_index(activations: Activations) -> None:
    assert provenance_of(activations) == provenance()


def test_several_shards_with_documents_give_noise_of_the_same_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"train": 4000, "validation": 50, "test": 50}
    splits = {split: planted_rows(n, unit(24, 16), k=2, seed=i) + 5 for i, (split, n) in enumerate(sizes.items())}
    beside = {
        split: {"target": rows[:, :3], "sequence": torch.arange(len(rows)) // 9, "labels": torch.zeros(len(rows))}
        for split, rows in splits.items()
    }
    write_activations(splits, provenance(), "float32", tmp_path / "a", beside, rows_per_shard=700)
    monkeypatch.setattr(gaussian, "MOMENT_ELEMENTS", 19 * 256)
    blocks = list(gaussian_rows(read_activations(tmp_path / "a")))
    assert max(len(block["activations"]) for _, block in blocks) == 256
    noise = gaussian_like(read_activations(tmp_path / "a"))
    assert noise.keys() == {"activations", "target"}
    assert {split: len(rows) for split, rows in noise["target"].items()} == sizes
    found, real = noise["activations"]["train"].double(), splits["train"].double()
    assert (found.mean(0) - real.mean(0)).abs().max() < 0.06 * real.std(0).max()
    assert (torch.cov(found.T) - torch.cov(real.T)).abs().max() < 0.06 * real.var(0).max()
    # the target is a part of the rows, and so it is in the noise
    assert torch.allclose(noise["target"]["train"], noise["activations"]["train"][:, :3], atol=1e-4)
