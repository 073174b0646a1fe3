"""A decoder is what its config says, row by row, or it is refused: shapes are never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reseed import ReseedError
from reseed.artifacts import read_json, read_tensors, write_json, write_tensors
from reseed.matching import unit_rows
from reseed.params import Variant
from reseed.stability.dictionaries import check_decoder, read_seed_set
from reseed.stability.jackknife import Groups
from reseed.stability.statistics import agreement
from tests.conftest import unit, variant_of

D_SAE, D_IN = 12, 8
VARIANT = variant_of(architecture="topk", d_sae=D_SAE, k=4)
FOLDER = Path("models/x/seed_0")


def write_seeds(
    path: Path,
    seeds: tuple[int, ...],
    d_sae: int = D_SAE,
    variant: Variant = VARIANT,
    d_out: int = D_IN,
    **shape: Any,
) -> None:
    """As write_sae does. shape: what cfg.json says beyond d_sae and d_in."""
    n_layers = shape.get("n_layers", 1)
    for place, seed in enumerate(seeds):
        folder = path / f"seed_{seed}"
        folder.mkdir(parents=True)
        group = list(seeds[place - place % variant.group_size :][: variant.group_size])
        identity = {"reseed_variant": variant.model_dump(mode="json", exclude_defaults=True), "reseed_arm": "trained"}
        metadata = identity | {"reseed_seed": seed, "reseed_group": group}
        write_json(folder / "cfg.json", {"d_sae": d_sae, "d_in": D_IN, "metadata": metadata, **shape})
        write_json(folder / "metrics.json", {"seed": seed, "converged": 1, "steps": 200, "constant_steps": 100})
        W_dec = unit(n_layers * d_sae, d_out, seed)
        layers = W_dec.unflatten(0, (n_layers, d_sae)) if n_layers > 1 else W_dec
        write_tensors(folder / "sae_weights.safetensors", {"W_dec": layers})
        named = {}
        for step, W in {0: unit(n_layers * d_sae, d_out, seed + 50), 100: W_dec, 200: W_dec}.items():
            W_enc = W[:d_sae].T if d_out == D_IN else unit(D_IN, d_sae, seed)
            entry = {"W_dec": W, "W_enc": W_enc, "firing_counts": torch.arange(d_sae)}
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
        ({"reseed_variant": {"architecture": "topk", "d_sae": D_SAE, "k": 8}}, "k: found 8, asked: 4$"),
        (
            {"reseed_variant": {"architecture": "batchtopk", "d_sae": 7, "k": 4}, "reseed_seed": 2},
            "seed: found 2, asked: 1; d_sae: found 7, asked: 12; architecture: found 'batchtopk', asked: 'topk'$",
        ),
        (
            {"reseed_variant": {"architecture": "topk", "d_sae": D_SAE, "k": 4, "objectives": {"weight_decay": 0.1}}},
            "objectives.weight_decay: found 0.1, asked: nothing$",
        ),
        ({"reseed_variant": {"architecture": "topk", "d_sae": D_SAE}}, "k: found nothing, asked: 4$"),
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


def test_a_parameter_with_more_digits_than_json_keeps_is_its_own(tmp_path: Path) -> None:
    long = variant_of(architecture="topk", d_sae=D_SAE, k=4, objectives={"weight_decay": 1 / 3})
    write_seeds(tmp_path, (0, 1, 2), variant=long)
    assert read_seed_set(tmp_path, long, "trained", (0, 1, 2)).seeds == (0, 1, 2)
    other = variant_of(architecture="topk", d_sae=D_SAE, k=4, objectives={"weight_decay": 0.33})
    with pytest.raises(ReseedError, match=r"objectives.weight_decay: found 0.333333, asked: 0.33$"):
        read_seed_set(tmp_path, other, "trained", (0, 1, 2))


def coupled(group_size: int) -> Variant:
    consistency = {"partner": "nearest", "coefficient": 1.0, "group_size": group_size}
    return variant_of(architecture="topk", d_sae=D_SAE, k=4, objectives={"consistency": consistency})


def test_coupled_seeds_are_read_as_groups_in_the_order_of_the_parameters(tmp_path: Path) -> None:
    write_seeds(tmp_path, (0, 1, 2, 3, 4, 5), variant=coupled(2))
    found = read_seed_set(tmp_path, coupled(2), "trained", (4, 5, 0, 1, 2, 3))
    assert found.groups == Groups(6, 2)
    with pytest.raises(ReseedError, match=r"the seeds trained together: found \[0, 1\], asked: \[0, 2\]"):
        read_seed_set(tmp_path, coupled(2), "trained", (0, 2, 1, 3, 4, 5))
    with pytest.raises(ReseedError, match=r"found 6 seeds in groups of 3 .*, allowed: 3 whole groups or more"):
        read_seed_set(tmp_path, coupled(3), "trained", (0, 1, 2, 3, 4, 5))
    write_seeds(tmp_path, (6,), variant=coupled(2))
    with pytest.raises(ReseedError, match=r"found 7 seeds in groups of 2 .*, allowed: 3 whole groups or more"):
        read_seed_set(tmp_path, coupled(2), "trained", tuple(range(7)))


TRANSCODER = variant_of(architecture="transcoder", d_sae=D_SAE, k=4)
PER_LAYER = variant_of(architecture="routesae", d_sae=D_SAE, k=4, decoder="per_layer")


def test_a_transcoder_has_decoder_rows_where_it_writes_and_encoder_rows_where_it_reads(tmp_path: Path) -> None:
    d_out = D_IN + 3
    write_seeds(tmp_path, (0, 1, 2), variant=TRANSCODER, d_out=d_out)
    for seed in range(3):  # without d_out the decoder would be that of an SAE
        file = tmp_path / f"seed_{seed}" / "cfg.json"
        with pytest.raises(ReseedError, match=r"W_dec has shape \[12, 11\], cfg.json says \[d_sae, d_in\] = \[12, 8\]"):
            read_seed_set(tmp_path, TRANSCODER, "trained", (0, 1, 2))
        write_json(file, read_json(file) | {"d_out": d_out})
    found = read_seed_set(tmp_path, TRANSCODER, "trained", (0, 1, 2)).final()[0]
    assert (found.decoder.shape, found.encoder.shape) == ((D_SAE, d_out), (D_SAE, D_IN))
    assert agreement(found, found, 0.7, 4)["shared_fraction"] == 1
    with pytest.raises(ReseedError, match=r"W_dec has shape \[11, 12\], cfg.json says \[d_sae, d_out\] = \[12, 11\]"):
        check_decoder(unit(D_SAE, d_out).T, {"d_sae": D_SAE, "d_in": D_IN, "d_out": d_out}, FOLDER)


def test_an_encoder_of_another_shape_than_its_config_is_refused(tmp_path: Path) -> None:
    write_seeds(tmp_path, (0, 1, 2))
    file = tmp_path / "seed_1" / "snapshots.safetensors"
    named = {name: tensor.clone() for name, tensor in read_tensors(file).items()}
    named["00000100/W_enc"] = named["00000100/W_enc"].T.contiguous()
    write_tensors(file, named)
    with pytest.raises(ReseedError, match=r"step 100: W_enc has shape \[12, 8\], cfg.json says \[d_in, d_sae\] = \[8"):
        read_seed_set(tmp_path, VARIANT, "trained", (0, 1, 2))


def test_a_cosine_of_decoders_per_layer_is_the_mean_over_the_layers(tmp_path: Path) -> None:
    n_layers = 3
    write_seeds(tmp_path, (0, 1, 2), variant=PER_LAYER, n_layers=n_layers, decoder="per_layer")
    a, b, _ = read_seed_set(tmp_path, PER_LAYER, "trained", (0, 1, 2)).final()
    assert (a.decoder.shape, a.encoder.shape) == ((D_SAE, n_layers * D_IN), (D_SAE, D_IN))
    np.testing.assert_allclose(np.linalg.norm(a.decoder, axis=1), 1)
    W_a, W_b = (
        read_tensors(tmp_path / f"seed_{seed}" / "sae_weights.safetensors")["W_dec"].double().numpy() for seed in (0, 1)
    )
    each = np.stack([unit_rows(W_a[layer]) @ unit_rows(W_b[layer]).T for layer in range(n_layers)])
    np.testing.assert_allclose(a.decoder @ b.decoder.T, each.mean(axis=0), atol=1e-9)


def test_decoders_per_layer_are_refused_where_they_are_not_what_the_config_says(tmp_path: Path) -> None:
    config = {"d_sae": D_SAE, "d_in": D_IN, "n_layers": 3, "decoder": "per_layer"}
    W_dec = unit(3 * D_SAE, D_IN).unflatten(0, (3, D_SAE))
    check_decoder(W_dec, config, FOLDER)
    with pytest.raises(ReseedError, match=r"\[3, 8, 12\], cfg.json says \[n_layers, d_sae, d_in\] = \[3, 12, 8\]"):
        check_decoder(W_dec.transpose(1, 2), config, FOLDER)
    with pytest.raises(ReseedError, match=r"norm off one by \d.*transposed"):
        check_decoder(W_dec[:, :D_IN].transpose(1, 2), config | {"d_sae": D_IN}, FOLDER)
    write_seeds(tmp_path, (0, 1, 2), variant=PER_LAYER, n_layers=3, decoder="per_layer")
    file = tmp_path / "seed_0" / "snapshots.safetensors"
    named = {name: tensor.clone() for name, tensor in read_tensors(file).items()}
    # a latent's layers after each other instead of a layer's latents
    named["00000200/W_dec"] = named["00000200/W_dec"].unflatten(0, (3, D_SAE)).transpose(0, 1).flatten(0, 1)
    write_tensors(file, named)
    with pytest.raises(ReseedError, match=r"the last decoder of snapshots.safetensors is not that of the weights"):
        read_seed_set(tmp_path, PER_LAYER, "trained", (0, 1, 2))
    named["00000200/W_dec"] = named["00000200/W_dec"][:D_SAE].contiguous()
    write_tensors(file, named)
    with pytest.raises(ReseedError, match=r"step 200: W_dec has shape \[12, 8\], cfg.json says \[n_layers"):
        read_seed_set(tmp_path, PER_LAYER, "trained", (0, 1, 2))
