"""A decoder is what its config says, row by row, or it is refused: shapes are never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reseed import ReseedError
from reseed.artifacts import read_json, read_tensors, write_json, write_tensors
from reseed.params import Variant
from reseed.stability.dictionaries import check_decoder, read_seed_set
from tests.conftest import unit

D_SAE, D_IN = 12, 8
VARIANT = Variant(architecture="topk", d_sae=D_SAE, k=4)
IDENTITY = {"reseed_architecture": "topk", "reseed_k": 4, "reseed_arm": "trained"}
FOLDER = Path("models/x/seed_0")


def write_seeds(path: Path, seeds: tuple[int, ...], d_sae: int = D_SAE) -> None:
    for seed in seeds:
        folder = path / f"seed_{seed}"
        folder.mkdir(parents=True)
        W_dec = unit(d_sae, D_IN, seed)
        write_json(folder / "cfg.json", {"d_sae": d_sae, "d_in": D_IN, "metadata": IDENTITY | {"reseed_seed": seed}})
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
    found = read_seed_set(tmp_path, VARIANT, "trained", (2, 0, 1))
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
        read_seed_set(tmp_path, VARIANT, "trained", (0, 1, 2))
    write_seeds(tmp_path, (2,), d_sae=D_SAE + 1)
    with pytest.raises(ReseedError, match=r"seed_2/cfg.json: d_sae: found 13, asked: 12"):
        read_seed_set(tmp_path, VARIANT, "trained", (0, 1, 2))


def test_weights_of_another_shape_than_their_config_are_refused(tmp_path: Path) -> None:
    write_seeds(tmp_path, (0, 1, 2))
    write_tensors(tmp_path / "seed_1" / "sae_weights.safetensors", {"W_dec": unit(D_SAE, D_IN + 1)})
    with pytest.raises(ReseedError, match=r"seed_1: W_dec has shape \[12, 9\], cfg.json says \[d_sae, d_in\]"):
        read_seed_set(tmp_path, VARIANT, "trained", (0, 1, 2))


def test_an_sae_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    """Copies of one seed agree fully; SAEs of noise or of another variant are evidence of something else."""
    write_seeds(tmp_path, (0, 1, 2))
    for wrong, sentence in (
        ({"reseed_seed": 0}, "seed: found 0, asked: 1"),
        ({"reseed_arm": "random_model"}, "arm: found 'random_model', asked: 'trained'"),
        ({"reseed_k": 8}, "k: found 8, asked: 4"),
        ({"reseed_architecture": "batchtopk"}, "architecture: found 'batchtopk', asked: 'topk'"),
    ):
        config = read_json(tmp_path / "seed_1" / "cfg.json")
        write_json(tmp_path / "seed_1" / "cfg.json", config | {"metadata": config["metadata"] | wrong})
        with pytest.raises(ReseedError, match=f"seed_1/cfg.json: {sentence}"):
            read_seed_set(tmp_path, VARIANT, "trained", (0, 1, 2))
        write_json(tmp_path / "seed_1" / "cfg.json", config)


def test_snapshots_are_checked_as_the_weights_are(tmp_path: Path) -> None:
    write_seeds(tmp_path, (0, 1, 2))
    file = tmp_path / "seed_2" / "snapshots.safetensors"
    named = read_tensors(file)
    turned = {name: tensor.clone() for name, tensor in named.items()}
    turned["00000100/W_dec"] = named["00000100/W_dec"].T.contiguous()
    write_tensors(file, turned)
    with pytest.raises(ReseedError, match=r"seed_2/snapshots.safetensors step 100: W_dec has shape \[8, 12\]"):
        read_seed_set(tmp_path, VARIANT, "trained", (0, 1, 2))
    other = {name: tensor.clone() for name, tensor in named.items()}
    other["00000200/W_dec"] = unit(D_SAE, D_IN, 99)
    write_tensors(file, other)
    with pytest.raises(ReseedError, match=r"the last decoder of snapshots.safetensors is not that of the weights"):
        read_seed_set(tmp_path, VARIANT, "trained", (0, 1, 2))
