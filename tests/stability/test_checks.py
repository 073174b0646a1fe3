"""Each check accepts what is right up to its bound, and refuses what is just beyond it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reseed import ReseedError
from reseed.activations.store import Activations, read_activations, write_activations
from reseed.artifacts import read_json, write_json
from reseed.params import Convergence, SaeTraining
from reseed.saes.export import write_sae
from reseed.saes.train import train_saes
from reseed.stability.checks import check_apart, check_control, check_recorded, check_rows
from tests.conftest import provenance, train_of
from tests.saes.builders import CPU, case, shortened, write_layers, write_pairs, write_plain
from tests.stability.builders import dictionary, seed_set

FOLDER = Path("data/x/activations/trained")


def activations_of(path: Path, train: torch.Tensor, test: torch.Tensor, dtype: str) -> Activations:
    validation = torch.randn(10, 4, generator=torch.Generator().manual_seed(9))
    write_activations({"train": train, "validation": validation, "test": test}, provenance(), dtype, path)
    return read_activations(path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_half_of_the_rows_of_a_split_may_be_rows_of_another(dtype: str, tmp_path: Path) -> None:
    rows = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    check_rows(activations_of(tmp_path / "half", rows[:30], rows[20:], dtype), FOLDER)
    with pytest.raises(ReseedError, match=r"trained: 55\.0% of the rows of the split 'test' are rows of 'train'"):
        check_rows(activations_of(tmp_path / "more", rows[:31], rows[20:], dtype), FOLDER)
    turned = rows[:, [1, 0, 2, 3]]  # the same numbers in another order are another row
    check_rows(activations_of(tmp_path / "turned", rows, turned, dtype), FOLDER)


@pytest.mark.parametrize("name", ["batchtopk", "transcoder", "routesae-per_layer"])
def test_what_was_recorded_is_found_again_and_nothing_else_passes(
    name: str, features: torch.Tensor, sae_training: SaeTraining, tolerance: Convergence, tmp_path: Path
) -> None:
    write = write_layers if "routesae" in name else write_pairs if "transcoder" in name else write_plain
    activations, variant = write(features, tmp_path / "rows"), case(name)
    (sae,) = train_saes(variant, shortened(sae_training, 40), train_of((0,), tolerance), activations, CPU)
    write_sae(sae, variant, activations, "a" * 64, tmp_path / "seed_0")
    check_recorded(tmp_path, variant, (0,), activations)
    metrics = tmp_path / "seed_0" / "metrics.json"
    recorded = read_json(metrics)
    for figure, apart in (("explained_variance", 0.0012), ("mse", 0.0012 * recorded["mse"]), ("l0", 0.003)):
        write_json(metrics, recorded | {figure: recorded[figure] + apart / 2})
        check_recorded(tmp_path, variant, (0,), activations)
        write_json(metrics, recorded | {figure: recorded[figure] + apart})
        with pytest.raises(ReseedError, match=rf"seed_0: the SAE as loaded has {figure} \S+ on the test rows"):
            check_recorded(tmp_path, variant, (0,), activations)


def test_seeds_of_one_start_are_refused_unless_only_the_order_varies(tolerance: Convergence) -> None:
    random = np.random.default_rng(0)
    found = seed_set([dictionary(random.standard_normal((6, 4))) for _ in range(3)], random)
    both, order = (train_of((0, 1, 2), tolerance, vary=vary) for vary in ("both", "order"))
    check_apart(found, both, FOLDER)
    one_start = [taken | {0: found.snapshots[0][0]} if i == 2 else taken for i, taken in enumerate(found.snapshots)]
    same = replace(found, snapshots=one_start)
    with pytest.raises(ReseedError, match=r"the seeds 0 and 2 began from the same decoder"):
        check_apart(same, both, FOLDER)
    check_apart(same, order, FOLDER)


def test_only_the_arm_of_random_weights_must_have_another_model() -> None:
    trained = {"arm": "trained", "model_sha256": "a" * 64}
    for arm, sha256 in (("random_model", "b"), ("gaussian", "a"), ("trained", "a")):
        check_control(trained, {"arm": arm, "model_sha256": sha256 * 64}, FOLDER)
    with pytest.raises(ReseedError, match=r"index\.json: model_sha256: found aaaaaaaaaaaa…, that of the trained arm"):
        check_control(trained, {"arm": "random_model", "model_sha256": "a" * 64}, FOLDER)
