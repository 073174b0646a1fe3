"""A run that dies is continued by the same call and ends with the bytes of one that never died."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations, Provenance, write_activations
from reseed.params import Variant
from reseed.saes import train as trainer
from reseed.saes.checkpoint import save_checkpoint
from reseed.saes.train import Run, train_saes
from tests.conftest import ROOT
from tests.saes.builders import CPU, case
from tests.saes.conftest import Source
from tests.saes.resumable import CHECKPOINT_EVERY, SETTINGS, TRAINING, everything, seeds_of


class DiedError(Exception):
    pass


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].nan_to_num(nan=-1), tensor.nan_to_num(nan=-1)), name


def dying_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Let the trainer die right after so many checkpoints; what it had written then."""
    runs: list[Run] = []

    def save(run: Run, *rest: Any) -> None:
        save_checkpoint(run, *rest)
        runs.append(run)
        if len(runs) == writes:
            raise DiedError

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    return runs


def rows_of(name: str, source: Source) -> Activations:
    return source(SETTINGS[name][0])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_continued_run_ends_with_the_same_bytes(
    name: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (variant, training), train, rows = SETTINGS[name], seeds_of(name), rows_of(name, source)
    expected = train_saes(variant, training, train, rows, CPU)
    steps = sorted(sae.steps for sae in expected)
    file = tmp_path / "state" / "checkpoint.safetensors"
    # once early, once after some seeds were done where not all end together
    between = (steps[-1] - 1) // CHECKPOINT_EVERY
    for writes in {2, between}:
        runs = dying_after(writes, monkeypatch)
        with pytest.raises(DiedError):
            train_saes(variant, training, train, rows, CPU, checkpoint=file)
        assert runs[-1].step == writes * CHECKPOINT_EVERY
        if writes == between and steps[0] < between * CHECKPOINT_EVERY:
            assert 0 < len(runs[-1].done) < len(steps)
        assert [path.name for path in file.parent.iterdir()] == [file.name]  # no partial beside it
        monkeypatch.undo()
        torch.set_num_threads(1)
        saes = train_saes(variant, training, train, rows, CPU, checkpoint=file)
        assert [sae.seed for sae in saes] == list(train.seeds)
        assert_equal(everything(saes), everything(expected))
        assert not file.exists()


def test_the_cases_cover_seeds_that_end_apart_and_states_beside_the_weights(source: Source) -> None:
    """Otherwise the test above would not have tried what it is for."""
    apart = 0
    for name in ("topk", "batchtopk-resampled", "jumprelu"):
        variant, training = SETTINGS[name]
        saes = train_saes(variant, training, seeds_of(name), rows_of(name, source), CPU)
        steps = [sae.steps for sae in saes]
        apart += min(steps) // CHECKPOINT_EVERY < (max(steps) - 1) // CHECKPOINT_EVERY
    assert apart > 0


@pytest.mark.parametrize("name", ["topk", "jumprelu"])
def test_a_killed_process_is_continued(name: str, source: Source, tmp_path: Path) -> None:
    """kill -9 at whatever step the process is, twice; then the same command to its end."""
    rows = rows_of(name, source)
    folder = _folder(rows, tmp_path)
    file, out = tmp_path / "state" / "checkpoint.safetensors", tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "tests.saes.resumable", name, str(folder), str(file), str(out)]
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    _wait_for(file, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    before = _step(file)
    assert before >= CHECKPOINT_EVERY
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert not file.exists()
    variant, training = SETTINGS[name]
    expected = train_saes(variant, training, seeds_of(name), rows, CPU)
    assert_equal(load_file(out), everything(expected))


def _folder(rows: Activations, tmp_path: Path) -> Path:
    """The same activations where another process can open them."""
    index = rows.index
    of = Provenance(
        index["subject"], index["arm"], index["hook_name"], tuple(index["positions"]), index["generator"],
        index["model_sha256"], index["tokens_sha256"],
    )  # fmt: skip
    write_activations(rows.splits, of, index["dtype"], tmp_path / "activations")
    return tmp_path / "activations"


def _wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(6000):
        if file.exists():
            return
        assert process.poll() is None, "the run ended before it wrote a checkpoint"
        time.sleep(0.01)
    raise AssertionError("no checkpoint within a minute")


def _step(file: Path) -> int:
    import json

    with safe_open(file, framework="pt") as opened:
        return int(json.loads(opened.metadata()["state"])["step"])


@pytest.fixture
def interrupted(activations: Activations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "checkpoint.safetensors"
    dying_after(1, monkeypatch)
    variant, training = SETTINGS["topk"]
    with pytest.raises(DiedError):
        train_saes(variant, training, seeds_of("topk"), activations, CPU, checkpoint=file)
    monkeypatch.undo()
    return file


def test_a_checkpoint_of_another_run_is_refused(
    interrupted: Path, activations: Activations, sequences: Activations
) -> None:
    variant, training = SETTINGS["topk"]
    train, before = seeds_of("topk"), interrupted.read_bytes()
    other: Variant = case("topk", d_sae=32, k=3)
    longer = TRAINING.model_copy(update={"lr": 0.02})
    for field, arguments in (
        ("variant", (other, training, train, activations)),
        ("sae", (variant, longer, train, activations)),
        ("train", (variant, training, train.model_copy(update={"seeds": (3, 0, 2)}), activations)),
        ("activations", (variant, training, train, sequences)),
    ):
        with pytest.raises(
            ReseedError, match=f"a checkpoint of another run: its {field} was .*, now .*delete the file"
        ):
            train_saes(*arguments, CPU, checkpoint=interrupted)
    with pytest.raises(ReseedError, match=r"its ks was null, now \[2, 3\]; restore that, or delete the file"):
        train_saes(variant, training, train, activations, CPU, ks=(2, 3), checkpoint=interrupted)
    assert interrupted.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_checkpoint_is_refused(kept: int, interrupted: Path, activations: Activations) -> None:
    interrupted.write_bytes(interrupted.read_bytes()[:kept])
    variant, training = SETTINGS["topk"]
    with pytest.raises(ReseedError, match=r"not a whole checkpoint \(.*\); delete it to train from the start"):
        train_saes(variant, training, seeds_of("topk"), activations, CPU, checkpoint=interrupted)


def test_a_file_without_the_state_is_refused(interrupted: Path, activations: Activations) -> None:
    variant, training = SETTINGS["topk"]
    for metadata in (None, {"other": "1"}, {"state": "{"}):
        save_file({"idle": torch.zeros(1)}, interrupted, metadata)
        with pytest.raises(ReseedError, match="not a whole checkpoint"):
            train_saes(variant, training, seeds_of("topk"), activations, CPU, checkpoint=interrupted)


def test_a_write_that_fails_leaves_the_last_checkpoint(
    interrupted: Path, activations: Activations, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = interrupted.read_bytes()

    def full(partial: Path, *_: Any) -> None:
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reseed.saes.checkpoint.write_tensors", full)
    variant, training = SETTINGS["topk"]
    with pytest.raises(ReseedError, match="the disk is full"):
        train_saes(variant, training, seeds_of("topk"), activations, CPU, checkpoint=interrupted)
    assert interrupted.read_bytes() == before
    assert list(interrupted.parent.iterdir()) == [interrupted]


def test_without_checkpoint_every_nothing_is_written(activations: Activations, tmp_path: Path) -> None:
    variant, training = SETTINGS["topk"]
    file = tmp_path / "state" / "checkpoint.safetensors"
    silent = training.model_copy(update={"checkpoint_every": 0, "max_steps": 40, "min_steps": 20})
    train_saes(variant, silent, seeds_of("topk"), activations, CPU, checkpoint=file)
    assert not file.exists()
