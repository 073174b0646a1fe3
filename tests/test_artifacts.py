"""Artefacts are whole or absent, finite, and known by their hash."""

import errno
import hashlib
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch

from reseed import ReseedError
from reseed.artifacts import (
    check_sha256,
    derive_seed,
    generator,
    read_json,
    read_tensors,
    sae_dir,
    sha256,
    write_csv,
    write_json,
    write_tensors,
    writing,
)


def test_six_significant_digits_sorted_keys_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "m.json"
    write_json(path, {"b": 1 / 3, "a": 123456789.0, "c": [2, "x", torch.tensor(0.1).item()]})
    assert path.read_text() == '{\n "a": 123457000.0,\n "b": 0.333333,\n "c": [\n  2,\n  "x",\n  0.1\n ]\n}\n'
    assert read_json(path) == {"a": 123457000.0, "b": 0.333333, "c": [2, "x", 0.1]}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_a_missing_or_non_finite_value_cannot_be_written(bad: float | None, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(ReseedError, match=r"m\.json: trained\.kappa\[1\]: found .*allowed: "):
        write_json(path, {"trained": {"kappa": [0.5, bad]}})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ReseedError, match="found"):
        write_csv(tmp_path / "m.csv", [{"step": 1, "value": bad}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}'])
def test_a_non_finite_value_cannot_be_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(ReseedError, match="allowed: finite numbers"):
        read_json(tmp_path / "m.json")


def test_broken_json_is_one_sentence(tmp_path: Path) -> None:
    for content in ('{"a": 1', "[1]", "\x00"):
        (tmp_path / "m.json").write_text(content)
        with pytest.raises(ReseedError, match=r"m\.json: ") as caught:
            read_json(tmp_path / "m.json")
        assert "\n" not in str(caught.value)
    with pytest.raises(ReseedError, match="does not exist"):
        read_json(tmp_path / "none.json")


def test_an_interrupted_write_leaves_the_old_file_and_no_half_of_the_new(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with writing(path) as partial:
        partial.mkdir()
        (partial / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), writing(path) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (path / "old").read_text() == "old"


def test_a_killed_write_is_cleaned_by_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "half").write_text("half")
    with writing(tmp_path / "out") as partial:
        assert not partial.exists()
        partial.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(ReseedError, match="the disk is full; nothing was written"),
        writing(tmp_path / "out") as partial,
    ):
        partial.write_text("half")
        raise OSError(number, "no room")
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_really_full_is_told_the_same_way(tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match="the disk is full"), writing(tmp_path / "out") as partial:
        partial.symlink_to("/dev/full")
        partial.write_bytes(b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_small_disk_fills_up_while_tensors_are_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        with (
            pytest.raises(ReseedError, match="out: the disk is full; nothing was written"),
            writing(disk / "out") as part,
        ):
            part.mkdir()
            write_tensors(part / "x.safetensors", {"x": torch.ones(1_000_000)})
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_truncated_or_edited_file_is_refused_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(1000.0)})
    digest = sha256(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    check_sha256(path, digest)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ReseedError, match=r"its sha256 is \w{12}…, its index says \w{12}…: the file was truncated or"):
        check_sha256(path, digest)
    with pytest.raises(ReseedError, match="not a whole safetensors file"):
        read_tensors(path)
    path.write_bytes(whole[:-1] + b"\x7f")
    with pytest.raises(ReseedError, match="truncated or edited"):
        check_sha256(path, digest)
    path.unlink()
    with pytest.raises(ReseedError, match="does not exist"):
        check_sha256(path, digest)
    with pytest.raises(ReseedError, match="does not exist"):
        read_tensors(path)


def test_csv_columns_must_agree(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"step": 1, "x": 1 / 3}, {"step": 2, "x": 0.5}])
    assert (tmp_path / "a.csv").read_text() == "step,x\n1,0.333333\n2,0.5\n"
    with pytest.raises(ValueError, match="different columns"):
        write_csv(tmp_path / "a.csv", [{"step": 1}, {"x": 1}])


def test_every_use_of_a_seed_owns_a_generator() -> None:
    seeds = {derive_seed("sae", seed, use) for seed in range(50) for use in ("init", "order")}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    generator("x", 1)
    assert torch.rand(1) == expected
    assert torch.rand(4, generator=generator("x", 1)).equal(torch.rand(4, generator=generator("x", 1)))


def test_arms_other_than_trained_carry_their_name() -> None:
    assert sae_dir("modular", "topk-k4") == Path("models/modular/topk-k4")
    assert sae_dir("modular", "topk-k4", "random_model") == Path("models/modular/topk-k4@random_model")
