"""Activations of every shape that an architecture can ask for, made once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reseed.activations.store import Activations
from reseed.params import Variant
from tests.saes.builders import write_layers, write_pairs, write_sequences

Source = Callable[[Variant], Activations]


@pytest.fixture(scope="session", autouse=True)
def _flush_denormal() -> None:
    """As in a stage."""
    torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def layers(features: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return write_layers(features, tmp_path_factory.mktemp("layers") / "trained")


@pytest.fixture(scope="session")
def pairs(features: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return write_pairs(features, tmp_path_factory.mktemp("pairs") / "trained")


@pytest.fixture(scope="session")
def sequences(features: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return write_sequences(features, tmp_path_factory.mktemp("sequences") / "trained")


@pytest.fixture(scope="session")
def source(activations: Activations, layers: Activations, pairs: Activations) -> Source:
    """The activations that a variant's architecture trains on."""

    def of(variant: Variant) -> Activations:
        if variant.architecture == "routesae":
            return layers
        return pairs if "transcoder" in variant.architecture else activations

    return of


@pytest.fixture(autouse=True)
def _one_thread(_deterministic: None) -> None:
    """The data here are too small for a second thread, which only waits where other work is done meanwhile."""
    torch.set_num_threads(1)
