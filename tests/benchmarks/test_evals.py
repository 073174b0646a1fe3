"""SAEBench's evals: what can run where, and every way in which SAEBench lets a fault pass, planted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from reseed import ReseedError
from reseed.artifacts import raw_dir
from reseed.benchmarks import evals
from reseed.benchmarks.child import _check_unit_norm
from reseed.benchmarks.evals import EVALS, WRONG, flat, job_key, preflight, processes, run
from reseed.benchmarks.operations import TASK
from reseed.benchmarks.results import normalise
from reseed.params import EvalName
from tests.benchmarks.builders import lens_sae
from tests.text.builders import operation_rows, write_rows


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(evals.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 64e9}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def why(name: Any, model: str, encoder: bool = False, hub: bool = True, **settings: Any) -> list[str]:
    return preflight(name, model, encoder, hub, settings)


def test_what_runs_where(monkeypatch: pytest.MonkeyPatch) -> None:
    offline = {name for name in EVALS if not why(name, "gsm8k-gpt", hub=False)}
    assert offline == {"core", "sparse_probing_sae_probes", "absorption", "meta_structure"}
    ours, both = {"dataset_names": [TASK]}, {"dataset_names": [TASK, "fancyzhx/ag_news"]}
    write_rows({"train": operation_rows(8, 0), "test": operation_rows(8, 1)}, raw_dir("gsm8k-gpt"))
    for name in ("sparse_probing", "scr", "tpp"):
        assert why(name, "gsm8k-gpt", hub=False, **ours) == []
        assert why(name, "gsm8k-gpt", hub=False, **both)[0].startswith("its data (")
        missing = why(name, "pythia", hub=False, **ours)
        assert missing == ["data/pythia/raw/train.jsonl: the file does not exist; run the stage `download`"]
    online = {name for name in EVALS if not why(name, "gsm8k-gpt")}
    assert online == offline | {"sparse_probing", "scr", "tpp"}
    assert {name for name in EVALS if not why(name, "minilm", encoder=True)} == {"meta_structure"}
    monkeypatch.setenv("OPENAI_API_KEY", "planted")
    assert why("autointerp", "gsm8k-gpt", hub=False) == []
    assert {name for name, one in EVALS.items() if not one.gates} == {"scr", "tpp"}


def test_every_reason_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert why("ravel", "gemma-2-2b") == ["breaks with transformers 5 (decoder layers give tensors, it wants tuples)"]
    monkeypatch.setattr(evals, "installed_version", lambda _: "4.51.3")
    assert why("ravel", "google/gemma-2-2b") == []
    assert why("unlearning", "gemma-2-2b-it") == [
        "sae_bench/evals/unlearning/data/bio-forget-corpus.jsonl is missing, a gated file that SAEBench does not fetch"
    ]
    file = tmp_path / "sae_bench" / "evals" / "unlearning" / "data" / "bio-forget-corpus.jsonl"
    file.parent.mkdir(parents=True)
    file.touch()
    assert why("unlearning", "gemma-2-2b-it") == []
    monkeypatch.setattr(evals.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 8e9}))
    assert why("unlearning", "gemma-2-2b-it") == ["needs 24 GB of memory, 8 are there"]


def result(path: Path, **categories: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"eval_result_metrics": categories}))
    return path


def test_figures_are_flat_and_nan_in_disguise_is_refused(tmp_path: Path) -> None:
    file = result(
        tmp_path / "a.json", meta={"explained": 0.5, "train_time_seconds": 3.2, "absent": None}, more={"x": 2}
    )
    assert flat(file) == {"meta.explained": 0.5, "more.x": 2.0}
    with pytest.raises(ReseedError, match=r"a\.json: meta\.kl: found -1, SAEBench's mark for NaN"):
        flat(result(tmp_path / "a.json", meta={"kl": -1}))
    with pytest.raises(ReseedError, match=r"a\.json: found no figure"):
        flat(result(tmp_path / "a.json", meta={}))


def test_a_score_of_scr_can_be_minus_one(tmp_path: Path) -> None:
    file = result(tmp_path / "scr.json", scr_metrics={"scr_dir1_threshold_2": -1})
    assert flat(file, minus_one_is_nan=False) == {"scr_metrics.scr_dir1_threshold_2": -1.0}
    with pytest.raises(ReseedError, match="found nan, SAEBench's mark for NaN"):
        flat(result(tmp_path / "scr.json", scr_metrics={"x": float("nan")}), minus_one_is_nan=False)


def test_nan_in_a_result_is_one_sentence(tmp_path: Path) -> None:
    file = result(tmp_path / "a.json", autointerp={"autointerp_std_dev": float("nan")})
    with pytest.raises(ReseedError, match=r"a\.json: found NaN or infinite figures of SAEBench"):
        normalise(file, "mine")


def test_a_result_is_without_what_differs_from_run_to_run(tmp_path: Path) -> None:
    file = result(tmp_path / "a.json", meta={"explained": 0.5, "train_time_seconds": 3.2})
    normalise(file, "mine")
    assert json.loads(file.read_text()) == {
        "datetime_epoch_millis": 0, "eval_id": "mine", "sae_bench_commit_hash": "sae-bench 0.6.0",
        "eval_result_metrics": {"meta": {"explained": 0.5, "train_time_seconds": 0.0}},
    }  # fmt: skip


def test_wrong_figures_are_replaced_and_marked(tmp_path: Path) -> None:
    quality = {"explained_variance": 0.28, "explained_variance_legacy": 0.9, "mse": 0.26, "cossim": 0.8}
    file = result(tmp_path / "core.json", reconstruction_quality=quality)
    right = {"reconstruction_quality.explained_variance": -3.596, "reconstruction_quality.mse": 129.45}
    evals._replace_wrong(file, WRONG["core"], right)
    found = json.loads(file.read_text())
    assert found["eval_result_metrics"]["reconstruction_quality"] == {
        "cossim": 0.8, "explained_variance": -3.596, "mse": 129.45,
    }  # fmt: skip
    assert found["replaced"] == sorted(right)
    file = result(
        tmp_path / "probing.json", llm={"llm_test_accuracy": 0.99, "llm_top_1_test_accuracy": 0.6},
        sae={"sae_test_accuracy": 0.98, "sae_top_1_test_accuracy": 0.7},
    )  # fmt: skip
    evals._replace_wrong(file, WRONG["sparse_probing"], {"llm.llm_test_accuracy": 0.9})
    assert json.loads(file.read_text())["eval_result_metrics"] == {
        "llm": {"llm_test_accuracy": 0.9, "llm_top_1_test_accuracy": 0.6}, "sae": {"sae_top_1_test_accuracy": 0.7},
    }  # fmt: skip


def job(folder: Path, **more: Any) -> dict[str, Any]:
    return {"saes": {"one": str(folder)}, "subject": "tiny", "settings": {}, "seed": 0} | more


def test_work_is_kept_apart_by_the_content_of_the_saes(tmp_path: Path) -> None:
    lens_sae(4, 8, 2).save_model(tmp_path / "a")
    lens_sae(4, 8, 2).save_model(tmp_path / "b")
    (tmp_path / "b" / "sae_weights.safetensors").write_bytes((tmp_path / "a" / "sae_weights.safetensors").read_bytes())
    assert job_key(job(tmp_path / "a")) == job_key(job(tmp_path / "b"))  # wherever they lie
    assert job_key(job(tmp_path / "a", root="/elsewhere")) == job_key(job(tmp_path / "a", root="/here"))
    assert job_key(job(tmp_path / "a", seed=1)) != job_key(job(tmp_path / "a"))
    assert job_key(job(tmp_path / "a", settings={"batches": 1})) != job_key(job(tmp_path / "a"))
    changed = lens_sae(4, 8, 2)
    with torch.no_grad():
        changed.b_enc += 1
    changed.save_model(tmp_path / "b")
    assert job_key(job(tmp_path / "a")) != job_key(job(tmp_path / "b"))


def test_a_swallowed_exception_or_a_malformed_result_is_a_failure(tmp_path: Path) -> None:
    lens_sae(4, 8, 2).save_model(tmp_path / "a")
    out, log = tmp_path / "out", tmp_path / "core.log"

    def judged(name: EvalName, said: str) -> Any:
        return run(lambda *_: said, name, job(tmp_path / "a"), out, tmp_path / "work", log)

    with pytest.raises(ReseedError, match=r"SAEBench core wrote no result for this SAE; the end of .*core\.log"):
        judged("core", "Failed to evaluate SAE custom_sae: planted")
    found = judged(
        "absorption", "Cannot evaluate absorption due to insufficent first-letter features detected in model: tiny"
    )
    assert found == "the model knows the first letter of too few of its tokens (probes of F1 0.6 for 20 letters)"
    result(out / "one_custom_sae_eval_results.json", nothing={"known": 1.0})
    with pytest.raises(ReseedError, match="not a result of SAEBench meta_structure"):
        judged("meta_structure", "")


def test_a_process_that_fails_says_its_last_words(tmp_path: Path) -> None:
    lens_sae(4, 8, 2).save_model(tmp_path / "a")
    wrong = job(tmp_path / "a", root=str(tmp_path), threads=1, device="cpu", arm="trained")
    with processes() as process:
        for log in (tmp_path / "one.log", tmp_path / "two.log"):  # the second of a server that lived on
            with pytest.raises(
                ReseedError, match=r"SAEBench ended with 1: subject 'tiny': subjects/tiny\.yaml does not"
            ):
                run(process, "meta_structure", wrong, tmp_path / "out", tmp_path / "work", log)
            assert "does not exist" in log.read_text()


def test_a_server_that_dies_in_its_imports_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: planted'\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with processes() as process:
        with pytest.raises(ReseedError, match=r"one\.log: SAEBench ended with 3: ImportError: planted"):
            process(tmp_path / "job.json", tmp_path / "one.log")
        with pytest.raises(ReseedError, match=r"two\.log: SAEBench ended with 3: nothing"):  # its pipe is broken
            process(tmp_path / "job.json", tmp_path / "two.log")


def test_decoder_rows_that_are_not_unit_are_refused() -> None:
    sae = lens_sae(4, 8, 2)
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(8, 4), dim=1))
        _check_unit_norm("one", sae)
        sae.W_dec[3] *= 2
    with pytest.raises(ReseedError, match=r"one: found decoder rows of norm \S+ to 2, allowed for SAEBench: 1; fold"):
        _check_unit_norm("one", sae)
