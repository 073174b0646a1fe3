"""The SAEs that a benchmark compares with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.benchmarks.controls import load_sae, random_sae, scaled
from reseed.params import Convergence, SaeTraining
from reseed.saes.export import write_sae
from reseed.saes.train import train_saes
from tests.benchmarks.builders import HOOK
from tests.conftest import train_of, variant_of


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_a_random_sae_is_the_initialisation_at_the_same_sparsity_and_a_scaled_one_is_the_same_sae(
    architecture: str, activations: Activations, sae_training: SaeTraining, tolerance: Convergence, tmp_path: Path
) -> None:
    variant = variant_of(architecture=architecture, d_sae=24, k=2)  # type: ignore[arg-type]
    short = sae_training.model_copy(update={"max_steps": 200, "min_steps": 100})
    trained = train_saes(variant, short, train_of((0, 1, 2), tolerance), activations, torch.device("cpu"))[1]
    write_sae(trained, variant, activations, "a" * 64, tmp_path / "seed_1")
    sae = load_sae(tmp_path / "seed_1", HOOK, "trained", "m" * 64)
    x = activations.splits["train"]
    untrained = random_sae(sae, variant, short, train_of((0, 1, 2), tolerance), 1, activations)
    torch.testing.assert_close(untrained.W_dec, trained.snapshots[0][0])
    assert (untrained.encode(x) > 0).double().sum(1).mean().item() == pytest.approx(2, abs=0.05)
    bigger = scaled(sae, 7.0)
    for found, expected in ((bigger.encode(7 * x), 7 * sae.encode(x)), (bigger(7 * x), 7 * sae(x))):
        # a pre-activation within rounding of the threshold may fall on either side of it
        assert ((found - expected).abs() > 1e-3 * expected.abs().max()).any(1).sum() <= 1
    for hook, arm, model, found in (
        ("blocks.0.hook_resid_pre", "trained", "m", "blocks.0.hook_resid_pre of the trained model mmmmmmmmmmmm"),
        (HOOK, "random_model", "m", "blocks.0.hook_resid_post of the random_model model mmmmmmmmmmmm"),
        (HOOK, "trained", "x", "blocks.0.hook_resid_post of the trained model xxxxxxxxxxxx"),
    ):
        with pytest.raises(ReseedError, match=f"the SAE reads .*, the benchmark asks for {found}"):
            load_sae(tmp_path / "seed_1", hook, arm, model * 64)
