"""Sparse probing by SAEBench: a planted latent is found, noise is at chance, stale files cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.benchmarks.probing import run_sparse_probing, write_task_activations
from reseed.benchmarks.results import write_result
from reseed.benchmarks.tasks import balanced_classes, baselines, dense_accuracy, gather, probe_scale
from reseed.models.transformer import build_transformer
from reseed.params import Model, SaeBench
from reseed.text.tokens import Tokens
from tests.benchmarks.builders import degraded, oracle

OPTIONS = SaeBench(k_values=(1, 2), frequencies=1, probe_train_rows=400, probe_test_rows=200, shuffles=19)
D_IN = 8


@pytest.fixture(scope="module")
def rows() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {"train": torch.randn(800, D_IN, generator=random), "test": torch.randn(400, D_IN, generator=random)}


@pytest.fixture(scope="module")
def tasks(rows: dict[str, torch.Tensor]) -> dict[str, dict[str, dict[str, list[int]]]]:
    """`planted` is the sign of dimension 3; `noise` has labels that nothing predicts."""
    random = torch.Generator().manual_seed(1)
    labels = {
        "planted": {split: (x[:, 3] > 0).long() for split, x in rows.items()},
        "noise": {split: torch.randint(2, (len(x),), generator=random) for split, x in rows.items()},
    }
    sizes = {"train": OPTIONS.probe_train_rows, "test": OPTIONS.probe_test_rows}
    return {
        task: {split: balanced_classes(found[split], sizes[split], f"{task}/{split}") for split in sizes}
        for task, found in labels.items()
    }


@pytest.fixture(scope="module")
def tiny(model: Model, tokens: Tokens) -> HookedTransformer:
    return build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny").eval()


def test_a_task_counts_only_where_the_dense_probe_beats_shuffled_labels(
    tasks: dict[str, dict[str, dict[str, list[int]]]], rows: dict[str, torch.Tensor]
) -> None:
    records = {record["task"]: record for record in baselines(tasks, rows, rows, OPTIONS)}
    assert records["planted"]["counts"] == 1
    assert records["planted"]["dense"] > 0.95
    assert records["planted"]["model_top_1"] > 0.95
    assert records["noise"]["counts"] == 0
    assert records["noise"]["dense"] == pytest.approx(0.5, abs=0.12)
    assert records["noise"]["shuffled_max"] >= records["noise"]["dense"]


def test_a_planted_latent_is_found_by_one_and_noise_by_none(
    tasks: dict[str, dict[str, dict[str, list[int]]]],
    rows: dict[str, torch.Tensor],
    tiny: HookedTransformer,
    tmp_path: Path,
) -> None:
    records = baselines(tasks, rows, rows, OPTIONS)
    folder = tmp_path / "acts"
    folder.mkdir()
    write_task_activations(tasks, rows, records, folder)
    result = tmp_path / "out" / "oracle_eval_results.json"
    found = run_sparse_probing(oracle(D_IN), tiny, list(tasks), folder, OPTIONS, "oracle", result)
    assert found["planted"][1] > 0.85  # each sign of the dimension has a latent of its own
    assert found["noise"][1] == pytest.approx(0.5, abs=0.12)
    first = result.read_bytes()
    again = run_sparse_probing(oracle(D_IN), tiny, list(tasks), folder, OPTIONS, "oracle", result)
    assert again == found
    assert result.read_bytes() == first
    assert "-1" not in {str(value) for value in read_json(result)["eval_result_metrics"]["sae"].values()}
    worse = [found["planted"][1]]
    for noise in (0.4, 4.0):
        scores = run_sparse_probing(degraded(D_IN, noise), tiny, list(tasks), folder, OPTIONS, "degraded", None)
        worse.append(scores["planted"][1])
    assert worse[0] > worse[1] > worse[2]


def test_a_folder_with_activations_of_another_run_is_refused(
    tasks: dict[str, dict[str, dict[str, list[int]]]], rows: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    (tmp_path / "planted_activations.pt").write_bytes(b"stale")
    with pytest.raises(ReseedError, match="allowed: an empty folder"):
        write_task_activations(tasks, rows, [], tmp_path)


def test_a_result_is_written_anew_or_the_stage_fails(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"eval_id": "stale"}')
    with pytest.raises(ReseedError, match="SAEBench wrote no result file"):
        write_result(path, lambda _: None, "mine")
    assert not path.exists()
    fresh = '{"eval_id": "u-u-i-d", "eval_result_metrics": {"sae": {"x": 1}}}'
    write_result(path, lambda where: Path(where).write_text(fresh), "mine")
    assert read_json(path) == {
        "datetime_epoch_millis": 0, "eval_id": "mine", "eval_result_metrics": {"sae": {"x": 1}},
        "sae_bench_commit_hash": "sae-bench 0.6.0",
    }  # fmt: skip


def test_classes_are_balanced_disjoint_and_repeatable() -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [-1] * 5 + [2] * 30)
    classes = balanced_classes(labels, 18, "t")
    assert {name: len(found) for name, found in classes.items()} == {"0": 6, "1": 6, "2": 6}
    assert all((labels[found] == int(name)).all() for name, found in classes.items())
    assert balanced_classes(labels, 18, "t") == classes
    assert {name: len(found) for name, found in balanced_classes(labels, 900, "t").items()} == {"0": 7, "1": 7, "2": 7}
    with pytest.raises(ReseedError, match="probe task t: found 1 classes, allowed: at least 2"):
        balanced_classes(torch.zeros(9, dtype=torch.long), 4, "t")


def test_the_probe_scale_takes_the_units_out(rows: dict[str, torch.Tensor]) -> None:
    x = rows["train"] * 1e-3 + 5
    scaled = x * probe_scale(x)
    assert (scaled - scaled.mean(0)).square().sum(1).mean().item() == pytest.approx(D_IN, rel=1e-4)


def test_the_dense_probe_is_a_logistic_regression_on_held_out_rows() -> None:
    random = torch.Generator().manual_seed(2)
    labels = torch.randint(2, (600,), generator=random)
    x = torch.randn(600, D_IN, generator=random)
    x[:, 0] += 4 * labels  # two unit Gaussians 4 apart: the best accuracy is Phi(2) = 0.977
    classes = {"0": (labels == 0).nonzero()[:, 0].tolist(), "1": (labels == 1).nonzero()[:, 0].tolist()}
    train = gather(x, {name: found[:200] for name, found in classes.items()})
    test = gather(x, {name: found[200:280] for name, found in classes.items()})
    assert dense_accuracy(train, test) == pytest.approx(0.977, abs=0.03)
