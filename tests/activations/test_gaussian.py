"""The Gaussian arm has the second moments of the rows and none of their structure."""

from pathlib import Path

import torch

from reseed.activations.gaussian import gaussian_like
from reseed.activations.store import Activations, provenance_of, read_activations, write_activations
from tests.conftest import planted_rows, provenance, unit


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
