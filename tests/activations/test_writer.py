"""The stream of rows against numpy over the whole, and against itself after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations import writer as writing_module
from reseed.activations.store import Truth, new_index, read_activations, write_activations
from reseed.activations.writer import ActivationWriter, Moments, participation_ratio
from reseed.artifacts import read_json
from tests.conftest import provenance, unit

PER_SHARD = 100
MADE_FROM = {"tokens": "t", "model": "m"}


def rows_of(split: str, n: int = 450, d: int = 6) -> Tensor:
    """Far from zero, with a covariance that is not diagonal."""
    random = torch.Generator().manual_seed(len(split))
    return torch.randn(n, d, generator=random) @ torch.randn(d, d, generator=random) + 1000


SPLITS = {"train": rows_of("train"), "validation": rows_of("validation", 130), "test": rows_of("test", 70)}


def stream(writer: ActivationWriter, size: int = 33, stop_at: tuple[str, int] | None = None) -> None:
    """Append SPLITS in blocks, from where the writer is; `stop_at` (split, row) kills it there."""
    for split, rows in SPLITS.items():
        done = writer.done(split)
        for start in range(0, len(rows), size):
            if stop_at and (split, start) >= stop_at and split == stop_at[0]:
                raise KeyboardInterrupt
            block = rows[start : start + size]
            skipped = min(len(block), max(0, done - start))
            if skipped < len(block):
                places = torch.arange(start + skipped, start + len(block))
                writer.append(split, block[skipped:], {"sequence": places, "labels": (places % 3).to(torch.int8)})
    writer.finish()


def start(path: Path, **fields: object) -> ActivationWriter:
    known = {"rows_per_shard": PER_SHARD, "made_from": MADE_FROM, "extremes": True} | fields
    return ActivationWriter(path, new_index(provenance(), path), "float32", **known)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "whole"
    with start(path) as writer:
        stream(writer)
    return path


def test_statistics_over_many_blocks_are_those_of_numpy_over_the_whole(whole: Path) -> None:
    index, x = read_json(whole / "index.json"), SPLITS["train"].double().numpy()
    spectrum = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    share = spectrum / spectrum.sum()
    assert len(index["splits"]["train"]["shards"]) == 5
    assert index["mean"] == pytest.approx(x.mean(0), rel=1e-5)
    assert index["mean_norm"] == pytest.approx(np.linalg.norm(x, axis=1).mean(), rel=1e-5)
    assert index["variance"] == pytest.approx(x.var(0).sum(), rel=1e-5)
    assert index["effective_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
    assert index["effective_dimension"] == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum(), rel=1e-5)
    assert index["extremes"]["min"] == pytest.approx(x.min(0), rel=1e-5)
    assert index["extremes"]["max"] == pytest.approx(x.max(0), rel=1e-5)


def test_the_scatter_keeps_its_digits_far_from_zero() -> None:
    x = SPLITS["train"].double() + 1e6
    moments = Moments(6)
    for block in x.split(7):
        moments.add(block)
    expected = torch.from_numpy(np.cov(x.numpy().T, bias=True))
    torch.testing.assert_close(moments.covariance, expected, rtol=1e-7, atol=0)
    assert moments.count == len(x)


def test_blocks_of_any_size_give_the_shards_of_one_call(whole: Path, tmp_path: Path) -> None:
    beside = {
        split: {"sequence": (places := torch.arange(len(rows))), "labels": (places % 3).to(torch.int8)}
        for split, rows in SPLITS.items()
    }
    write_activations(SPLITS, provenance(), "float32", tmp_path / "a", beside, rows_per_shard=PER_SHARD)
    index, other = read_json(whole / "index.json"), read_json(tmp_path / "a" / "index.json")
    assert other["splits"] == index["splits"]  # with the hashes of the shards
    assert "extremes" not in other
    index.pop("extremes")
    assert index.keys() == other.keys()
    read = read_activations(whole)
    for split, rows in SPLITS.items():
        assert read.rows(split).whole().equal(rows)
        assert read.rows(split, "sequence").whole().equal(torch.arange(len(rows)))


@pytest.mark.parametrize(
    ("stop_at", "kept"),
    [(("train", 99), 0), (("train", 231), 2), (("train", 429), 4), (("validation", 66), 5), (("test", 33), 7)],
)
def test_a_killed_stream_continues_to_the_same_bytes(
    stop_at: tuple[str, int], kept: int, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt), start(path) as writer:
        stream(writer, stop_at=stop_at)
    assert len(list(path.glob("*.safetensors"))) == kept
    assert not (path / "index.json").exists()
    (path / "train-00009.safetensors.partial").write_bytes(b"half")
    with start(path) as writer:
        assert sum(len(shards) for shards in writer.shards.values()) == kept
        stream(writer)
    assert contents(path) == contents(whole)
    assert writer.progress.is_file()
    writer.forget()
    assert sorted(tmp_path.iterdir()) == [path]


def test_shards_of_another_capture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start(tmp_path / "a") as writer:
        stream(writer, stop_at=("train", 231))
    wanted = r"a\.progress: shards of another capture: its model was m, now n; restore that, or delete the file"
    with pytest.raises(ReseedError, match=wanted):
        start(tmp_path / "a", made_from=MADE_FROM | {"model": "n"})
    shard = tmp_path / "a" / "train-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ReseedError, match=r"train-00001\.safetensors: its sha256 is"):
        start(tmp_path / "a")


def test_float16_that_overflows_in_a_later_shard_leaves_nothing(tmp_path: Path) -> None:
    with ActivationWriter(tmp_path / "a", {}, "float16", PER_SHARD, MADE_FROM) as writer:
        writer.append("train", SPLITS["train"])
        writer.flush()
        assert writer.progress.is_file()
        with pytest.raises(ReseedError, match=r"an activation of 7e\+04 overflows float16; set capture.dtype to bfl"):
            writer.append("train", SPLITS["train"] + 69000 - SPLITS["train"].max() + 1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "bad", "sentence"),
    [
        ("target", float("nan"), "split 'validation' holds NaN or infinite numbers in 'target', allowed: finite"),
        ("labels", float("inf"), "split 'validation' holds NaN or infinite numbers in 'labels', allowed: finite"),
        ("target", 1e6, "a number in 'target' of 1e[+]06 overflows float16; set capture.dtype to bfloat16"),
    ],
)
def test_what_stands_beside_the_rows_is_checked_too(name: str, bad: float, sentence: str, tmp_path: Path) -> None:
    x = unit(16, 3)
    beside = {split: {name: torch.ones(16)} for split in SPLITS}
    write_activations(dict.fromkeys(SPLITS, x), provenance(), "float16", tmp_path / "good", beside)
    beside["validation"][name][5] = bad
    with pytest.raises(ReseedError, match=sentence):
        write_activations(dict.fromkeys(SPLITS, x), provenance(), "float16", tmp_path / "a", beside)
    assert not (tmp_path / "a").exists()


def test_a_target_is_stored_in_the_dtype_and_classes_are_not(tmp_path: Path) -> None:
    x = unit(16, 3)
    beside = {split: {"target": 3 * x, "labels": torch.arange(16)} for split in SPLITS}
    write_activations(dict.fromkeys(SPLITS, x), provenance(), "bfloat16", tmp_path / "a", beside)
    read = read_activations(tmp_path / "a")
    assert read.rows("train", "target").whole().equal((3 * x).bfloat16())
    assert read.rows("train", "labels").whole().equal(torch.arange(16))


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    x = unit(16, 3)
    with pytest.raises(ReseedError, match="the split 'test' has no rows, allowed: at least 1"):
        write_activations({"train": x, "validation": x, "test": x[:0]}, provenance(), "float32", tmp_path / "a")


def test_the_features_stand_beside_streamed_rows(tmp_path: Path) -> None:
    x = unit(16, 3)
    truth = Truth(unit(5, 3), torch.rand(16, 5))
    write_activations(dict.fromkeys(SPLITS, x), provenance(), "float32", tmp_path / "a", truth=truth)
    assert len(read_json(tmp_path / "a" / "index.json")["features_sha256"]) == 64


def test_a_full_disk_is_one_sentence_and_keeps_the_whole_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    real, calls = writing_module.write_tensors, []

    def full(path: Path, *rest: object) -> None:
        calls.append(path)
        if "train-00002" in path.name:
            raise OSError(28, "No space left on device")
        real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(writing_module, "write_tensors", full)
    with (
        pytest.raises(ReseedError, match=r"train-00002\.safetensors: the disk is full"),
        start(tmp_path / "a") as writer,
    ):
        stream(writer)
    monkeypatch.undo()
    with start(tmp_path / "a") as writer:
        assert writer.done("train") == 2 * PER_SHARD
        stream(writer)
    assert contents(tmp_path / "a") == contents(whole)


def test_participation_ratio_closed_forms() -> None:
    assert participation_ratio(torch.ones(7)) == pytest.approx(7)
    assert participation_ratio(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
