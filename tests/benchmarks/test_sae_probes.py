"""Probes on sae-probes' data sets: against the package's own runs, planted features, and figures by hand."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sae_probes
import torch
from sae_probes.utils_data import get_class_imbalance, get_yvals
from scipy.stats import norm, t
from torch import Tensor

import reseed.benchmarks.sae_probes as probing
from reseed import ReseedError
from reseed.artifacts import sha256, write_json, write_tensors
from reseed.benchmarks.prompts import chosen_datasets, read_prompts
from reseed.benchmarks.sae_probes import (
    DENSE,
    Arm,
    features_of,
    principal_components,
    probe_all,
    probe_dataset,
    summarise,
)
from reseed.params import SaeProbes
from tests.benchmarks.builders import HOOK, lens_sae

# what the package asks of scikit-learn, which tells of each of its thousands of fits
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*penalty.*:FutureWarning", "ignore:Inconsistent values:UserWarning", "ignore:The max_iter was reached"
)

NAME, OTHER = "119_us_state_TX", "24_headline_isiran"
D = 6


def options(**fields: Any) -> SaeProbes:
    plain: dict[str, Any] = {
        "datasets": [NAME], "settings": ["normal"], "splits": [42], "ks": [1, 3], "control_seeds": 1,
    }  # fmt: skip
    return SaeProbes.model_validate(plain | fields)


def planted(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [n, D] that hold the class in direction 0, beside much noise in all directions."""
    classes = torch.from_numpy(get_yvals(name).astype(np.uint8))
    x = torch.randn(len(classes), D, generator=torch.Generator().manual_seed(seed))
    x[:, 0] = x[:, 0] * 0.3 + 2 * classes
    return x, classes


def prompts(path: Path, names: tuple[str, ...] = (NAME,), **change: Any) -> Path:
    path.mkdir(parents=True)
    index: dict[str, Any] = {"hook_name": HOOK, "model_sha256": "m" * 64, "datasets": {}}
    for name in names:
        x, classes = planted(name)
        write_tensors(path / f"{name}.safetensors", {"activations": x, "classes": classes} | change)
        index["datasets"][name] = {"sha256": sha256(path / f"{name}.safetensors"), "rows": len(x)}
    write_json(path / "index.json", index)
    return path


def saved_sae(path: Path, seed: int = 0) -> Path:
    sae = lens_sae(D, 16, 4)
    random = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(16, D, generator=random), dim=-1)
    sae.load_state_dict(
        {"W_dec": W_dec, "W_enc": W_dec.T.contiguous(), "b_enc": torch.zeros(16), "b_dec": torch.zeros(D)}
    )
    sae.save_model(path)
    return path


def basis(path: Path, directions: Tensor) -> Path:
    write_tensors(path, {"centre": torch.zeros(D), "directions": directions})
    return path


def of_the_package(path: Path, sae: Path, setting: str) -> pd.DataFrame:
    """What sae-probes' own entry points write for the same activations, SAE and split."""
    cache, results = path / "cache", path / "results"
    (cache / "model_activations_m").mkdir(parents=True)
    torch.save(planted(NAME)[0], cache / "model_activations_m" / f"{NAME}_{HOOK}.pt")
    same: dict[str, Any] = {
        "model_name": "m", "hook_name": HOOK, "setting": setting, "results_path": results, "model_cache_path": cache,
        "datasets": [NAME], "device": "cpu", "seed": 42,
    }  # fmt: skip
    sae_probes.run_sae_evals(sae=probing._sae(sae), reg_type="l1", ks=[1, 3], **same)
    sae_probes.run_baseline_evals(method="logreg", **same)
    found = []
    for arm, folder in (("sae", "sae_probes_m"), (DENSE, "baseline_results_m")):
        for file in sorted((results / folder / f"{setting}_setting").glob("*.json")):
            for record in json.loads(file.read_text()):
                condition = record["num_train"] if setting == "scarcity" else round(record.get("frac", 0), 2)
                found.append({"arm": arm, "condition": condition, "k": record.get("k", D)} | record)
    return pd.DataFrame(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "conditions"),
    [("normal", 1), pytest.param("scarcity", 19, marks=pytest.mark.weekly), ("imbalance", 19)],
)
def test_the_records_are_those_of_the_package(setting: str, conditions: int, tmp_path: Path) -> None:
    of, sae = prompts(tmp_path / "prompts"), saved_sae(tmp_path / "sae")
    ours = pd.DataFrame(probe_dataset(NAME, [Arm("sae", 0, of, sae), Arm(DENSE, 0, of)], options(settings=[setting])))
    theirs = of_the_package(tmp_path, sae, setting)
    assert len(ours) == len(theirs) == 3 * conditions
    if setting == "imbalance":
        assert sorted(ours["condition"].unique()) == pytest.approx(get_class_imbalance())
    both = ours.merge(theirs, on=["arm", "condition", "k"], validate="one_to_one")
    assert len(both) == len(ours)
    for metric, name in (("f1", "test_f1"), ("acc", "test_acc"), ("auc", "test_auc")):
        np.testing.assert_allclose(both[metric], both[name], atol=1e-12)
    np.testing.assert_allclose(both["val_auc_x"], both["val_auc_y"], atol=1e-12)


def test_an_oracle_and_its_degraded_copies_rank_as_they_must(tmp_path: Path) -> None:
    of, arms, expected = prompts(tmp_path / "prompts"), [], []
    for seed, angle in enumerate((0.0, 0.8, 1.2, np.pi / 2)):
        # the class' own direction, turned by an angle towards one that knows nothing of it
        direction = torch.zeros(D, 1)
        direction[0], direction[1] = np.cos(angle), np.sin(angle)
        arms.append(Arm("sae", seed, of, basis(tmp_path / f"{seed}.safetensors", direction)))
        # two normals 2 cos apart, of standard deviation 0.3 along the class and 1 across it
        apart, spread = 2 * np.cos(angle), np.hypot(0.3 * np.cos(angle), np.sin(angle))
        expected.append(norm.cdf(apart / spread / np.sqrt(2)))
    found = pd.DataFrame(probe_dataset(NAME, arms, options(ks=[1])))["auc"].tolist()
    assert found == pytest.approx(expected, abs=0.05)
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.999


def test_features_are_dimensions_components_or_latents(tmp_path: Path) -> None:
    x, _ = planted(NAME)
    assert torch.equal(features_of(Arm("neurons", 0, tmp_path), x), x)
    folder = saved_sae(tmp_path / "sae")
    torch.testing.assert_close(features_of(Arm("sae", 0, tmp_path, folder), x), probing._sae(folder).encode(x))
    components = principal_components(x)
    write_tensors(tmp_path / "pca.safetensors", components)
    scores = features_of(Arm("pca", 0, tmp_path, tmp_path / "pca.safetensors"), x)
    covariance = torch.cov(scores.T)
    spectrum = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)
    torch.testing.assert_close(covariance, torch.diag(spectrum), rtol=1e-4, atol=1e-4)


def test_a_run_takes_up_what_an_equal_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = prompts(tmp_path / "prompts", (NAME, OTHER))
    arms, kept = [Arm("neurons", 0, of), Arm(DENSE, 0, of)], tmp_path / "kept"
    asked: list[str] = []

    class InThreads(ThreadPoolExecutor):
        """A new process, as in the test of the stage, imports for ten times as long as it probes here."""

        def __init__(self, workers: int, **_: Any) -> None:
            super().__init__(workers)

        def submit(self, function: Any, name: str, *rest: Any) -> Any:  # type: ignore[override]
            asked.append(name)
            return super().submit(function, name, *rest)

    monkeypatch.setattr(probing, "ProcessPoolExecutor", InThreads)
    whole = probe_all([NAME, OTHER], arms, options(), kept, 2)
    assert whole["dataset"].unique().tolist() == [NAME, OTHER]
    assert sorted(file.name for file in kept.iterdir()) == [f"{NAME}.json", f"{OTHER}.json"]
    asked.clear()
    (kept / f"{OTHER}.json").unlink()
    pd.testing.assert_frame_equal(probe_all([NAME, OTHER], arms, options(), kept, 1), whole)
    assert asked == [OTHER]
    probe_all([NAME, OTHER], arms, options(ks=[1, 2]), kept, 2)
    assert asked == [OTHER, OTHER, NAME]  # of other options nothing is taken, and the larger one comes first


def table(**arms: list[list[float]]) -> pd.DataFrame:
    """arm=[[metric of data set 0, of 1, …] of seed 0, of seed 1, …], on one split, k 1; validation AUC the same."""
    return pd.DataFrame(
        {
            "dataset": f"set{i}", "setting": "normal", "split": 42, "condition": 0.0, "arm": arm, "seed": seed, "k": 1,
            "f1": value, "acc": value, "auc": value, "val_auc": value,
        }
        for arm, seeds in arms.items()
        for seed, values in enumerate(seeds)
        for i, value in enumerate(values)
    )  # fmt: skip


def test_the_summary_by_hand() -> None:
    records = table(
        dense=[[0.8, 0.6, 0.5, 0.9]],
        sae=[[0.9, 0.5, 0.5, 0.8], [0.9, 0.6, 0.5, 0.6], [0.9, 0.4, 0.5, 0.7]],
        random_sae=[[0.5] * 4, [0.6] * 4],
        neurons=[[0.7, 0.6, 0.5, 0.8]],
    )
    found = summarise(records, 0.95, 1)
    f1 = found["normal"]["top_1"]["f1"]
    means = np.array([-0.1 / 4, -0.2 / 4, -0.3 / 4])  # of the three seeds: 2.7, 2.6 and 2.5 less 2.8, over 4
    half = t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert f1["delta"] == pytest.approx({"value": -0.05, "low": -0.05 - half, "high": -0.05 + half})
    assert (f1["wins"], f1["losses"], f1["ties"]) == (1, 2, 1)
    assert f1["random_sae"] == pytest.approx(0.55 - 0.7)
    # the seeds that both have: -0.025 and -0.05 against 0.5 - 0.7 and 0.6 - 0.7
    assert f1["over_random_sae"]["value"] == pytest.approx(((-0.025 + 0.2) + (-0.05 + 0.1)) / 2)
    assert f1["neurons"] == pytest.approx(0.65 - 0.7)
    assert f1["over_neurons"]["value"] == pytest.approx(-0.05 + 0.05)
    assert "splits" not in f1
    assert found["normal"]["dense"]["auc"] == pytest.approx(0.7)
    assert found["datasets"] == 4


def test_k_is_chosen_on_validation_rows_alone() -> None:
    one = table(dense=[[0.5]], sae=[[0.6], [0.6]], random_sae=[[0.5], [0.5]])
    # better in the test, worse in validation
    two = table(sae=[[0.9], [0.9]], random_sae=[[0.5], [0.5]]).assign(k=2, val_auc=0.45)
    wide = table(sae=[[0.1], [0.1]]).assign(k=128, val_auc=1.0)  # the control was not probed with it
    found = summarise(pd.concat([one, two, wide]), 0.95, 1)["normal"]
    assert found["best_k"]["acc"]["delta"]["value"] == pytest.approx(0.1)
    assert found["top_2"]["acc"]["delta"]["value"] == pytest.approx(0.4)
    assert found["top_128"]["acc"]["delta"]["value"] == pytest.approx(-0.4)


def test_the_interval_over_splits() -> None:
    parts = []
    for split, value in ((42, 0.6), (43, 0.7), (44, 0.8)):
        parts.append(table(dense=[[0.5]], sae=[[value], [value]]).assign(split=split))
    found = summarise(pd.concat(parts), 0.95, 1)["normal"]["top_1"]["auc"]
    half = t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert found["splits"] == pytest.approx({"value": 0.2, "low": 0.2 - half, "high": 0.2 + half})
    assert found["delta"] == pytest.approx({"value": 0.2, "low": 0.2, "high": 0.2})


def test_wide_ks_are_of_the_first_split_and_not_of_controls(tmp_path: Path) -> None:
    of = prompts(tmp_path / "prompts")
    arms = [Arm("sae", 0, of, saved_sae(tmp_path / "sae")), Arm("random_sae", 0, of, saved_sae(tmp_path / "other", 1))]
    found = pd.DataFrame(probe_dataset(NAME, arms, options(ks=[1], wide_ks=[2, 400], splits=[42, 43])))
    assert sorted(zip(found["arm"], found["split"], found["k"], strict=True)) == [
        ("random_sae", 42, 1), ("random_sae", 43, 1), ("sae", 42, 1), ("sae", 42, 2), ("sae", 43, 1),
    ]  # fmt: skip


def test_bad_input_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match=r"found '119_us_state', allowed: names of sae-probes' 113 .* such as 119_us"):
        chosen_datasets(("119_us_state",))
    assert len(chosen_datasets("all")) == 113
    of = prompts(tmp_path / "prompts")
    with pytest.raises(ReseedError, match=f"found no data set '{OTHER}'; run the stage prompts"):
        read_prompts(of).read(OTHER)
    weights = saved_sae(tmp_path / "sae")
    broken = prompts(tmp_path / "broken", activations=torch.full((1000, D), torch.nan))
    with pytest.raises(ReseedError, match=f"NaN or infinite features on the data set '{NAME}'"):
        probe_dataset(NAME, [Arm("sae", 0, broken, weights)], options())
    (of / f"{NAME}.safetensors").write_bytes(b"edited")
    with pytest.raises(ReseedError, match="was truncated or edited"):
        read_prompts(of).read(NAME)
