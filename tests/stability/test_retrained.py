"""A seed set made in memory is the one that would have been read from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reseed.activations.store import Activations
from reseed.params import Convergence, SaeTraining, Variant
from reseed.saes.export import write_sae
from reseed.saes.train import train_saes
from reseed.stability.dictionaries import read_seed_set
from reseed.stability.retrained import seed_set_of
from tests.conftest import train_of, variant_of
from tests.saes.builders import shortened, write_layers

_CPU = torch.device("cpu")
SEEDS = (0, 1, 2)
TOPK = variant_of(architecture="topk", d_sae=24, k=2)
PER_LAYER = variant_of(architecture="routesae", d_sae=24, k=2, decoder="per_layer")
MATRYOSHKA = variant_of(architecture="matryoshka", d_sae=24, k=2, widths=[8, 24])


@pytest.fixture(autouse=True)
def _one_thread(_deterministic: None) -> None:
    """The data here are too small for a second thread."""
    torch.set_num_threads(1)


@pytest.mark.parametrize("variant", [TOPK, PER_LAYER, MATRYOSHKA], ids=lambda v: v.architecture)
def test_it_equals_what_is_read_from_disk(
    variant: Variant,
    activations: Activations,
    features: Any,
    sae_training: SaeTraining,
    tolerance: Convergence,
    tmp_path: Path,
) -> None:
    if variant is PER_LAYER:
        activations = write_layers(features, tmp_path / "layers")
    train = train_of(SEEDS, tolerance)
    saes = train_saes(variant, shortened(sae_training, 40), train, activations, _CPU)
    for sae in saes:
        write_sae(sae, variant, activations, "a" * 64, tmp_path / "saes" / f"seed_{sae.seed}")
    read = read_seed_set(tmp_path / "saes", variant, "trained", SEEDS)
    made = seed_set_of(saes, variant, activations)
    assert made.seeds == read.seeds
    assert made.groups == read.groups
    for ours, theirs in zip(made.snapshots, read.snapshots, strict=True):
        assert list(ours) == list(theirs)
        for step, dictionary in theirs.items():
            np.testing.assert_allclose(ours[step].decoder, dictionary.decoder, atol=1e-7)
            np.testing.assert_allclose(ours[step].encoder, dictionary.encoder, atol=1e-7)
            np.testing.assert_array_equal(ours[step].firing_counts, dictionary.firing_counts)
    for ours, theirs in zip(made.metrics, read.metrics, strict=True):
        shared = [name for name in theirs if name not in ("explained_variance_of_prefix", "loss_fall", "cosine_change")]
        assert {name: ours[name] for name in shared} == pytest.approx({name: theirs[name] for name in shared}, rel=1e-4)


def test_each_k_is_evaluated_at_its_own_sparsity(
    activations: Activations, sae_training: SaeTraining, tolerance: Convergence
) -> None:
    train, short = train_of(SEEDS, tolerance), shortened(sae_training, 60)
    saes = train_saes(TOPK, short, train, activations, _CPU, ks=(2, 5))
    for k in (2, 5):
        found = seed_set_of([sae for sae in saes if sae.k == k], TOPK, activations)
        assert found.seeds == SEEDS
        assert all(metrics["l0"] <= k for metrics in found.metrics)
        assert np.mean([metrics["l0"] for metrics in found.metrics]) > k - 0.5
    with pytest.raises(ValueError, match=r"found SAEs of k = \[2, 5\]"):
        seed_set_of(saes, TOPK, activations)
