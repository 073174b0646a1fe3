"""A decoder is what its config says, row by row, or it is refused: shapes are never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reseed import ReseedError
from reseed.artifacts import write_json, write_tensors
from reseed.stability.dictionaries import check_decoder, read_seed_set
from tests.conftest import unit

D_SAE, D_IN = 12, 8
FOLDER = Path("models/x/seed_0")


def write_seeds(path: Path, seeds: tuple[int, ...], d_sae: int = D_SAE) -> None:
    for seed in seeds:
        folder = path / f"seed_{seed}"
        folder.mkdir(parents=True)
        W_dec = unit(d_sae, D_IN, seed)
        write_json(folder / "cfg.json", {"d_sae": d_sae, "d_in": D_IN})
        write_json(folder / "metrics.json", {"seed": seed, "converged": 1, "steps": 200, "constant_steps": 100})
        write_tensors(folder / "sae_weights.safetensors", {"W_dec": W_dec})
        counts = torch.arange(d_sae)
        snapshots = {0: unit(d_sae, D_IN, seed + 50), 100: W_dec, 200: W_dec}
        named = {}
        for step, W in snapshots.items():
            entry = {"W_dec": W, "W_enc": W.T, "firing_counts": counts}
            named |= {f"{step:08d}/{name}": tensor.clone() for name, tensor in entry.items()}
        write_tensors(folder / "snapshots.safetensors", named)


def test_a_seed_set_is_read_as_written(tmp_path: Path) -> None:
    write_seeds(tmp_path, (0, 1, 2))
    found = read_seed_set(tmp_path, (2, 0, 1))
    assert found.seeds == (2, 0, 1)
    np.testing.assert_allclose(found.final()[0].decoder, unit(D_SAE, D_IN, 2).numpy(), atol=1e-6)
    np.testing.assert_allclose(found.final()[0].encoder, found.final()[0].decoder, atol=1e-6)
    np.testing.assert_allclose(found.initial()[1].decoder, unit(D_SAE, D_IN, 50).numpy(), atol=1e-6)
    assert found.constant_steps == [0, 100]
    assert found.final()[0].alive(10).sum() == 2
    assert found.final()[0].select(found.final()[0].alive(10)).decoder.shape == (2, D_IN)


@pytest.mark.parametrize("shape", [(D_SAE, D_IN), (D_IN, D_IN)])
def test_a_transposed_decoder_is_refused_even_if_it_is_square(shape: tuple[int, int]) -> None:
    """HUSAI turned decoders by a guess from their shape, which made its largest effect."""
    config = {"d_sae": shape[0], "d_in": shape[1]}
    check_decoder(unit(*shape), config, FOLDER)
    with pytest.raises(ReseedError, match=r"W_dec has shape \[8, 12\], cfg.json says|norm off one by \d.*transposed"):
        check_decoder(unit(*shape).T, config, FOLDER)


def test_missing_extra_and_unlike_seeds_are_refused(tmp_path: Path) -> None:
    write_seeds(tmp_path, (0, 1))
    with pytest.raises(ReseedError, match=r"found the seeds \[0, 1\], params.yaml: train.seeds asks for \[0, 1, 2\]"):
        read_seed_set(tmp_path, (0, 1, 2))
    write_seeds(tmp_path, (2,), d_sae=D_SAE + 1)
    with pytest.raises(ReseedError, match=r"different shapes \[d_sae, d_in\]: \[\(12, 8\), \(13, 8\)\]"):
        read_seed_set(tmp_path, (0, 1, 2))


def test_weights_of_another_shape_than_their_config_are_refused(tmp_path: Path) -> None:
    write_seeds(tmp_path, (0, 1, 2))
    write_tensors(tmp_path / "seed_1" / "sae_weights.safetensors", {"W_dec": unit(D_SAE, D_IN + 1)})
    with pytest.raises(ReseedError, match=r"seed_1: W_dec has shape \[12, 9\], cfg.json says \[d_sae, d_in\]"):
        read_seed_set(tmp_path, (0, 1, 2))
