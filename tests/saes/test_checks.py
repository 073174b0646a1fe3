"""Planted faults: each is refused before a step is taken, by a sentence that says what and where."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.params import SaeTraining
from reseed.saes.checks import check_trainable, looks_like_noise
from reseed.saes.train import train_saes
from tests.conftest import train_of, unit
from tests.saes.builders import CPU, D_SAE, case

MODEL = "forward pass of the trained model"


def holding(train: Tensor, validation: Tensor | None = None, generator: str = MODEL, **beside: Tensor) -> Activations:
    """Activations that no writer would have let through."""
    held_out = train[:64] if validation is None else validation
    beside_it = {name: tensor[: len(held_out)] for name, tensor in beside.items()}
    return Activations(
        {
            "train": [{"activations": train} | beside],
            "validation": [{"activations": held_out} | beside_it],
        },
        {"generator": generator, "d_in": train.shape[-1]},
    )


def noise(rows: int = 2048, d: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(seed))


def planted(rows: int = 2048) -> Tensor:
    return noise(rows, 24).relu() @ unit(24, 16)


def refused(sentence: str, source: Activations, training: SaeTraining, name: str = "topk", **fields: Any) -> None:
    ks = fields.pop("ks", None)
    with pytest.raises(ReseedError, match=re.escape(sentence)):
        check_trainable(case(name, **fields), training, source, ks)


def test_shapes(activations: Activations, sae_training: SaeTraining) -> None:
    change: Callable[..., SaeTraining] = lambda **fields: sae_training.model_copy(update=fields)  # noqa: E731
    refused("k: found 16, allowed: less than d_in (16); an SAE with", activations, sae_training, k=16)
    refused("k: found 17, allowed: less than d_in (16)", activations, sae_training, ks=(2, 17))
    refused("k: found 9, allowed: at most d_sae (8)", activations, sae_training, d_sae=8, ks=(2, 9))
    refused("d_sae: found 5000, allowed: at most the 4096 training rows", activations, sae_training, d_sae=5000)
    refused("sae.batch_size: found 9999, allowed: at most the 4096 training", activations, change(batch_size=9999))
    refused("sae.buffer_rows: found 127, allowed: 0 or at least batch_size", activations, change(buffer_rows=127))
    for name in ("hierarchical_topk", "routesae", "standard"):
        refused(f"ks: found (2, 3) for {name}, allowed: an architecture", activations, sae_training, name, ks=(2, 3))
    wide = {"objectives": {"sparsity": {"penalty": "l1", "target_l0": 16}}}
    refused("target_l0: found 16, allowed: less than d_in (16)", activations, sae_training, "standard", **wide)
    for name in ("topk", "batchtopk", "matryoshka"):
        check_trainable(case(name), change(buffer_rows=128), activations, (1, 15))
    check_trainable(case("topk", d_sae=4096), change(batch_size=4096), activations)


def test_the_trainer_asks(activations: Activations, sae_training: SaeTraining, tolerance: Any) -> None:
    with pytest.raises(ReseedError, match="k: found 16, allowed: less than d_in"):
        train_saes(case("topk", k=16), sae_training, train_of((0, 1, 2), tolerance), activations, CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_numbers_that_are_none(value: float, split: str, sae_training: SaeTraining) -> None:
    train, validation = planted(), planted()[:100]
    (train if split == "train" else validation)[57, 3] = value
    refused(f"activations: split '{split}' holds NaN or infinite", holding(train, validation), sae_training)


def test_targets_are_looked_at_too(sae_training: SaeTraining) -> None:
    target = planted()[:, :10].clone()
    source = holding(planted(), target=target)
    check_trainable(case("transcoder"), sae_training, source)
    target[2000, 3] = float("nan")
    refused("target: split 'train' holds NaN or infinite numbers", source, sae_training, "transcoder")
    target[:] = 1.5
    refused("target: all training rows are the same, allowed: rows that vary", source, sae_training, "transcoder")


def test_rows_that_do_not_vary(sae_training: SaeTraining) -> None:
    refused("activations: all training rows are the same", holding(torch.ones(2048, 16)), sae_training)
    layers = torch.stack([planted(), torch.ones(2048, 16), planted()], 1)
    refused("activations: all training rows are the same", holding(layers), sae_training, "routesae")
    layers[5, 1, 3] = 2
    check_trainable(case("routesae"), sae_training, holding(layers))


@pytest.mark.parametrize(("share", "allowed"), [(0.45, True), (0.5, True), (0.51, False), (0.99, False)])
def test_copies(share: float, allowed: bool, sae_training: SaeTraining) -> None:
    rows = planted()
    copies = int(share * len(rows))
    rows[len(rows) - copies :] = rows[:1]  # the first row again: `copies` rows are copies of another
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]
    if allowed:
        check_trainable(case("topk"), sae_training, holding(rows))
    else:
        sentence = f"activations: {copies / len(rows):.1%} of the 2048 training rows are copies of another, allowed: "
        refused(sentence + "at most 50%; remove repeated text", holding(rows), sae_training)


def test_rows_that_differ_in_one_coordinate_are_no_copies(sae_training: SaeTraining) -> None:
    rows = planted()[:1].repeat(2048, 1)
    rows[:, 3] += torch.arange(2048) / 2048
    check_trainable(case("topk"), sae_training, holding(rows))


@pytest.mark.parametrize("d", [8, 16, 256])
@pytest.mark.parametrize("rows", [512, 4096])
def test_unit_noise_that_bears_a_models_name_is_refused(rows: int, d: int, sae_training: SaeTraining) -> None:
    for seed in range(3):
        source = holding(noise(rows, d, seed))
        refused(
            f"the training rows look like unit Gaussian noise, their index says '{MODEL}'; allowed: what that model",
            source, sae_training, k=2,
        )  # fmt: skip
        check_trainable(case("topk"), sae_training, holding(noise(rows, d, seed), generator="gaussian noise"))


def test_what_a_model_could_have_computed_is_not_noise(activations: Activations, sae_training: SaeTraining) -> None:
    check_trainable(case("topk"), sae_training, activations)
    white = noise(4096)
    mixed = white @ unit(16, 16, seed=3)
    assert looks_like_noise(white.double())
    for name, rows in {
        "correlated": mixed / mixed.std(0),
        "one direction": white + 0.5 * noise(4096, 1, seed=9),
        "off centre": white + 0.5,
        "another scale": 2 * white,
        "one loud coordinate": white * torch.tensor([2.0] + [1.0] * 15),
        "heavy tails": white.sign() * white.abs().pow(1.5) / 1.25,
        "light tails": (torch.rand(4096, 16, generator=torch.Generator().manual_seed(0)) - 0.5) * 12**0.5,
        "planted": (planted() - planted().mean(0)) / planted().std(0),
    }.items():
        assert not looks_like_noise(rows.double()), name
        check_trainable(case("topk"), sae_training, holding(rows))


def test_a_small_correlated_gaussian_of_a_model_is_allowed(sae_training: SaeTraining) -> None:
    """As the activations of a random model can be: Gaussian, a spectrum that falls off, few rows."""
    for seed in range(5):
        spectrum = torch.arange(1, 17).float().pow(-0.5)
        rows = noise(300, 16, seed) * spectrum @ torch.linalg.qr(noise(16, 16, seed + 1))[0]
        rows = (rows - rows.mean(0)) / rows.std(0)
        check_trainable(case("topk"), sae_training, holding(rows))
    assert D_SAE < 300
