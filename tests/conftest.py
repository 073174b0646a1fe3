"""Small real things that many tests share: a subject of a few numbers, activations with a planted dictionary."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn.functional import normalize

from reseed.activations.store import Activations, Provenance, read_activations, write_activations
from reseed.params import Convergence, Model, ModelTraining, ModularAddition, SaeTraining, Train, Variant
from reseed.subjects.modular import write_raw
from reseed.text.integers import tokenize_addition
from reseed.text.tokens import Tokens

ROOT = Path(__file__).parents[1]
P = 13
LONGEST = (
    "test_pipeline.py", "sweeps/test_faults.py", "benchmarks/test_language.py", "faults/test_museum.py",
    "review/test_pull_request.py", "sweeps/test_engines.py", "replication/test_husai.py", "test_results.py",
    "reports/test_site_in_a_browser.py", "reports/test_reports.py", "review/test_refused.py",
    "benchmarks/test_sae_probes.py", "saes/test_recovery.py",
)  # fmt: skip
"""Files that take minutes, the longest first; the first compiles the kernels, which the second does not need."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: one that is begun last leaves all workers but its own idle."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


def stage(name: str) -> Callable[..., dict[str, Any]]:
    """The body of stages/<name>.py, as the stage calls it with the command-line arguments."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "stages" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    body: Callable[..., dict[str, Any]] = getattr(module, name)
    return body


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """As in a stage: two threads, deterministic algorithms, and no gradient mode left over from SAEBench."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    with torch.autograd.grad_mode.set_grad_enabled(True):
        yield


@pytest.fixture(scope="session")
def data() -> ModularAddition:
    return ModularAddition(generator="modular_addition", p=P, train_fraction=0.7, validation_fraction=0.15, seed=0)


@pytest.fixture(scope="session")
def raw(data: ModularAddition, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modular") / "raw"
    write_raw(data, path)
    return path


@pytest.fixture(scope="session")
def tokens(raw: Path) -> Tokens:
    return tokenize_addition(raw, P)


@pytest.fixture(scope="session")
def model() -> Model:
    training = ModelTraining(
        seed=0, batch_size=64, lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98), warm_up_steps=10, max_steps=200,
        check_every=50, stop_loss=1e-9, min_accuracy=0.001,
    )  # fmt: skip
    return Model(n_layers=1, d_model=16, n_heads=2, d_mlp=32, act_fn="relu", normalization_type="LN", training=training)


@pytest.fixture
def sae_training() -> SaeTraining:
    return SaeTraining(
        batch_size=128, lr=0.01, warm_up_steps=20, max_steps=3000, decay_fraction=0.25, check_every=50, min_steps=400,
        aux_k=8, aux_coefficient=1 / 32, dead_after_steps=50,
    )  # fmt: skip


@pytest.fixture
def tolerance() -> Convergence:
    return Convergence(loss_tolerance=0.05, loss_rise_tolerance=0.1, cosine_tolerance=0.03, max_cosine_to_init=0.9)


def variant_of(**fields: Any) -> Variant:
    """The variant that params.yaml would give for these fields."""
    made: Variant = TypeAdapter(Variant).validate_python(fields)
    return made


def train_of(seeds: tuple[int, ...], tolerance: Convergence, **fields: Any) -> Train:
    """As params.yaml: train, also for fewer seeds than that allows."""
    return Train.model_construct(seeds=seeds, convergence=tolerance, **({"vary": "both"} | fields))


def planted_rows(rows: int, features: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """Rows [rows, d_in] that are sums of k of the unit features [n, d_in], each with a weight in [0.5, 1.5]."""
    random = torch.Generator().manual_seed(seed)
    chosen = torch.rand(rows, len(features), generator=random).topk(k, dim=1).indices
    weights = torch.zeros(rows, len(features)).scatter(1, chosen, 0.5 + torch.rand(rows, k, generator=random))
    return weights @ features + 0.3


def unit(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def provenance(arm: str = "trained", generator: str = "forward pass of the trained model") -> Provenance:
    return Provenance("modular", arm, "blocks.0.hook_resid_post", ("equals",), generator, "m" * 64, "t" * 64)


@pytest.fixture(scope="session")
def features() -> torch.Tensor:
    """The planted dictionary: 24 unit features in 16 dimensions."""
    return unit(24, 16, seed=7)


@pytest.fixture(scope="session")
def activations(features: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    path = tmp_path_factory.mktemp("planted") / "trained"
    sizes = {"train": 4096, "validation": 512, "test": 512}
    splits = {split: planted_rows(n, features, k=2, seed=i) for i, (split, n) in enumerate(sizes.items())}
    write_activations(splits, provenance(), "float32", path)
    return read_activations(path)
