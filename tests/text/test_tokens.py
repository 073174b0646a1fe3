"""Token shards by the contract: written, read back, and refused when they are not what the index promised."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from reseed import ReseedError
from reseed.artifacts import read_json, read_tensors, sha256, write_json
from reseed.text import tokens as room
from reseed.text.integers import tokenize_addition
from reseed.text.tokens import Tokens, read_tokens, write_tokens
from tests.conftest import P


def test_the_answer_stands_after_the_predicting_position(tokens: Tokens) -> None:
    assert tokens.positions == {"a": 0, "b": 1, "equals": 2, "answer": 3}
    assert tokens.position(tokens.target) > tokens.position(tokens.predict)
    for rows in tokens.splits.values():
        assert rows.dtype == torch.int32
        assert (rows[:, 2] == P).all()
        assert ((rows[:, 0] + rows[:, 1]) % P == rows[:, 3]).all()


def test_a_round_trip_over_several_shards(tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SEQUENCES_PER_SHARD", 50)
    write_tokens(tokens, tmp_path / "tokens")
    index = read_json(tmp_path / "tokens" / "index.json")
    shards = index["splits"]["train"]["shards"]
    assert [shard["sequences"] for shard in shards][:-1] == [50] * (len(shards) - 1)
    assert sum(shard["sequences"] for shard in shards) == index["splits"]["train"]["sequences"]
    assert read_tensors(tmp_path / "tokens" / shards[0]["file"])["tokens"].dtype == torch.int32
    again = read_tokens(tmp_path / "tokens")
    assert all(again.splits[split].equal(rows) for split, rows in tokens.splits.items())
    assert (again.vocabulary, again.positions, again.predict) == (P + 1, tokens.positions, "equals")


def test_a_truncated_edited_or_missing_shard_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    write_tokens(tokens, path)
    shard = path / "train-00000.safetensors"
    whole = shard.read_bytes()
    for wrong in (whole[:-8], whole[:-4] + b"\x01\x00\x00\x00"):
        shard.write_bytes(wrong)
        with pytest.raises(ReseedError, match=r"train-00000\.safetensors: its sha256 is .* truncated or edited"):
            read_tokens(path)
    shard.unlink()
    with pytest.raises(ReseedError, match="does not exist, its index lists it"):
        read_tokens(path)


def test_an_edited_raw_file_is_refused(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    file = tmp_path / "raw" / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["answer"] = (rows[0]["answer"] + 1) % P
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ReseedError, match="truncated or edited"):
        tokenize_addition(tmp_path / "raw", P)


def test_a_number_outside_the_modulus_is_refused(raw: Path) -> None:
    with pytest.raises(ReseedError, match=r"found the number 12, allowed: 0 to 10"):
        tokenize_addition(raw, 11)


def test_a_split_without_a_line_is_refused(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "test.jsonl").write_text("")
    manifest = read_json(tmp_path / "raw" / "manifest.json")
    manifest["files"]["test.jsonl"] = {"rows": 0, "sha256": sha256(tmp_path / "raw" / "test.jsonl")}
    write_json(tmp_path / "raw" / "manifest.json", manifest)
    with pytest.raises(ReseedError, match=r"test\.jsonl: found no line, allowed: at least one"):
        tokenize_addition(tmp_path / "raw", P)


def test_an_unknown_position_names_the_known_ones(tokens: Tokens) -> None:
    with pytest.raises(ReseedError, match="position 'plus': the tokens have no such position; known: a, b, equals"):
        tokens.position("plus")
