"""The data of modular addition, its split, and the analysis of what a model of it computes."""

import json
import math
from pathlib import Path

import pytest
import torch

from reseed.artifacts import read_json, sha256
from reseed.params import ModularAddition
from reseed.subjects.modular import generate, key_frequencies, probe_tasks, write_raw
from tests.conftest import P


def test_all_pairs_once_with_the_right_answer(data: ModularAddition) -> None:
    rows = [row for split in generate(data).values() for row in split]
    assert len(rows) == len(set(rows)) == P * P
    assert all(answer == (a + b) % P for a, b, answer in rows)


def test_a_pair_and_its_mirror_never_stand_in_two_splits(data: ModularAddition) -> None:
    splits = {name: {frozenset(row[:2]) for row in rows} for name, rows in generate(data).items()}
    assert not splits["train"] & splits["validation"]
    assert not (splits["train"] | splits["validation"]) & splits["test"]
    unordered = P * (P + 1) // 2
    assert len(splits["train"]) == round(0.7 * unordered)
    assert sum(map(len, splits.values())) == unordered


def test_the_split_depends_on_its_seed_and_on_nothing_else(data: ModularAddition) -> None:
    torch.manual_seed(1)
    assert generate(data) == generate(data)
    assert generate(data) != generate(data.model_copy(update={"seed": 1}))


def test_the_manifest_names_source_licence_rows_and_hashes(raw: Path, data: ModularAddition) -> None:
    manifest = read_json(raw / "manifest.json")
    assert manifest["licence"] == "MIT"
    assert manifest["parameters"] == json.loads(data.model_dump_json())
    assert sum(entry["rows"] for entry in manifest["files"].values()) == P * P
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == sha256(raw / name)


def test_planted_frequencies_are_found_with_their_shares() -> None:
    answers = torch.arange(P).repeat(20)
    angle = 2 * math.pi * answers / P
    wave = [3.0 * (2 * angle).cos(), 3.0 * (2 * angle).sin(), (5 * angle).cos(), (5 * angle).sin(), answers * 0 + 7.0]
    found = key_frequencies(torch.stack(wave, dim=1), answers, P)
    assert list(found) == [2, 5]
    assert found[2] == pytest.approx(0.9)  # 9 to 1 in power
    assert found[5] == pytest.approx(0.1)


def test_activations_that_do_not_encode_the_answer_by_frequencies_have_many_small_ones() -> None:
    noise = torch.randn(P * 200, 64, generator=torch.Generator().manual_seed(0))
    found = key_frequencies(noise, torch.arange(P).repeat(200), P)
    assert max(found.values()) < 0.3


def test_probe_tasks_by_hand() -> None:
    operands = torch.tensor([[5, 9], [9, 5], [0, 0], [12, 12], [3, 4]])  # answers 1, 1, 0, 11, 7 modulo 13
    tasks = probe_tasks(operands, P, [1])
    assert tasks["carry"].tolist() == [1, 1, 0, 1, 0]
    assert tasks["answer_mod_2"].tolist() == [1, 1, 0, 1, 1]
    assert tasks["answer_mod_3"].tolist() == [1, 1, 0, 2, 1]
    assert tasks["answer_mod_5"].tolist() == [1, 1, 0, 1, 2]
    assert tasks["a_less_than_b"].tolist() == [1, 0, -1, -1, 1]
    # cos(2 pi c / 13) is positive for c < 13 / 4 and c > 39 / 4; sin is positive for 0 < c < 13 / 2
    assert tasks["phase_cos_1"].tolist() == [1, 1, 1, 1, 0]
    assert tasks["phase_sin_1"].tolist() == [1, 1, 0, 0, 0]


def test_raw_files_are_the_same_bytes_twice(data: ModularAddition, raw: Path, tmp_path: Path) -> None:
    write_raw(data, tmp_path / "again")
    for file in sorted(raw.iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
