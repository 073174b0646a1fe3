"""Packing: flags and layouts by hand, the token stream conserved, the same bytes for any number of workers."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reseed import ReseedError
from reseed.artifacts import read_json, writing
from reseed.params import Corpus
from reseed.text import packing as room
from reseed.text.documents import document, read_documents
from reseed.text.packing import make_parts, packed, padded, plan_parts, separated, training_texts, worker
from reseed.text.sequences import LAST, STEP, TEXT, Sequences, read_sequences
from reseed.text.tokenizers import TextTokenizer, make_tokenizer, read_tokenizer, train_bpe
from tests.text.builders import across_lines, corpus, look_alikes, step, word_piece, write_rows

ROOT = Path(__file__).parents[2]
SPLITS = {"train": look_alikes(120, seed=6), "validation": look_alikes(20, seed=7), "test": look_alikes(25, seed=8)}
FIELDS = ("tokens", "document", "kind", "label")
T, TL, TS, TSL = TEXT, TEXT | LAST, TEXT | STEP, TEXT | STEP | LAST


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_rows(SPLITS, tmp_path / "raw")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many parts and many shards of little text."""
    monkeypatch.setattr(room, "PART_CHARACTERS", 3000)
    monkeypatch.setattr(room, "SHARD_TOKENS", 32 * 40)


def write(data: Corpus, raw: Path, path: Path, rank: int = 0, world: int = 1) -> Sequences:
    with writing(path) as partial:
        work = path.with_name(path.name + ".parts")
        room.write_language_tokens(data, raw, work, partial, rank, world, "subjects/x.yaml")
    return read_sequences(path)


def rows_of(sequences: Sequences, split: str) -> dict[str, np.ndarray[Any, Any]]:
    shards = [sequences.read(file) for file in sequences.files(split)]
    return {name: np.concatenate([shard[name].numpy() for shard in shards]) for name in FIELDS}


def digest(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())}


# three documents: 5 6 7 (its last two a step labelled 2), 8, 9 10 (a step labelled 0)
PART = {
    "ids": np.array([5, 6, 7, 8, 9, 10], dtype=np.int32),
    "kind": np.array([T, TS, TSL, TL, TS, TSL], dtype=np.uint8),
    "label": np.array([-1, 2, 2, -1, 0, 0], dtype=np.int8),
    "lengths": np.array([3, 1, 2]),
}


def test_packed_sequences_by_hand() -> None:
    rows, rest = packed(separated(PART, 4, separator=1), n_ctx=4, bos=0)
    assert rows["tokens"].tolist() == [[0, 5, 6, 7], [0, 1, 8, 1], [0, 9, 10, 1]]
    assert rows["document"].tolist() == [[4, 4, 4, 4], [4, 4, 5, 5], [6, 6, 6, 6]]
    assert rows["kind"].tolist() == [[0, T, TS, TSL], [0, 0, TL, 0], [0, TS, TSL, 0]]
    assert rows["label"].tolist() == [[-1, -1, 2, 2], [-1, -1, -1, -1], [-1, 0, 0, -1]]
    assert len(rest["tokens"]) == 0
    rows, rest = packed(separated(PART, 0, separator=1), n_ctx=4, bos=None)
    assert rows["tokens"].tolist() == [[5, 6, 7, 1], [8, 1, 9, 10]]
    assert rows["kind"].tolist() == [[T, TS, TSL, 0], [TL, 0, TS, TSL]]
    assert {name: array.tolist() for name, array in rest.items()} == {
        "tokens": [1], "document": [2], "kind": [0], "label": [-1],
    }  # fmt: skip
    assert {name: array.dtype for name, array in rows.items()} == {
        "tokens": np.int32, "document": np.int32, "kind": np.uint8, "label": np.int8,
    }  # fmt: skip


def test_padded_sequences_by_hand() -> None:
    tokenizer = TextTokenizer(b"", bos=0, separator=1, pad=2)
    rows, truncated = padded(PART, 4, 4, tokenizer)
    assert rows["tokens"].tolist() == [[0, 5, 6, 1], [0, 8, 1, 2], [0, 9, 10, 1]]
    assert rows["document"].tolist() == [[4, 4, 4, 4], [5, 5, 5, -1], [6, 6, 6, 6]]
    # the cut document's last kept token is its LAST
    assert rows["kind"].tolist() == [[0, T, TSL, 0], [0, TL, 0, 0], [0, TS, TSL, 0]]
    assert rows["label"].tolist() == [[-1, -1, 2, -1], [-1, -1, -1, -1], [-1, 0, 0, -1]]
    assert truncated == 1
    rows, truncated = padded(PART, 0, 4, TextTokenizer(b"", bos=None, separator=1, pad=1))
    assert rows["tokens"].tolist() == [[5, 6, 7, 1], [8, 1, 1, 1], [9, 10, 1, 1]]
    assert rows["document"].tolist() == [[0, 0, 0, 0], [1, 1, -1, -1], [2, 2, 2, -1]]
    assert rows["kind"].tolist() == [[T, TS, TSL, 0], [TL, 0, 0, 0], [TS, TSL, 0, 0]]
    assert truncated == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("with_bos", [True, False])
def test_packing_conserves_the_token_stream(raw: Path, tmp_path: Path, with_bos: bool) -> None:
    texts = [document(row).text for row in SPLITS["train"]]
    kind = {"kind": "bpe", "vocabulary": 400} if with_bos else across_lines(texts, tmp_path / "folder").model_dump()
    limits = {"min_aligned": 0, "max_changed": 1}
    sequences = write(corpus(tokenizer=kind, quality=limits), raw, tmp_path / "tokens")
    index, tokenizer = sequences.index, read_tokenizer(tmp_path / "tokens")
    assert ("bos" in index, "pad" in index, sequences.pad) == (with_bos, False, None)
    assert index["bos_policy"].startswith("at the start of every sequence" if with_bos else "none")
    assert len(index["splits"]["train"]["shards"]) > 2
    for split, rows in SPLITS.items():
        got = rows_of(sequences, split)
        assert got["tokens"].shape == (sequences.count(split), 32)
        if with_bos:
            assert (got["tokens"][:, 0] == index["bos"]).all()
            assert (got["document"][:, 0] == got["document"][:, 1]).all()
        stream = {name: array[:, int(with_bos) :].ravel() for name, array in got.items()}
        wanted, numbers = [], []
        for number, row in enumerate(rows):
            ids = tokenizer.tokenizer.encode(document(row).text, add_special_tokens=False).ids
            wanted += [*ids, index["separator"]]
            numbers += [number] * (len(ids) + 1)
        kept = len(stream["tokens"])
        assert stream["tokens"].tolist() == wanted[:kept]
        assert stream["document"].tolist() == numbers[:kept]
        report = read_json(tmp_path / "tokens" / "quality.json")[split]
        assert report["dropped_tokens"] == len(wanted) - kept < 32
        assert report["sequences"] == len(got["tokens"])
        # the text of the kept documents, from the flags alone
        for number in range(max(numbers[:kept])):
            ids = stream["tokens"][(stream["document"] == number) & (stream["kind"] & TEXT > 0)]
            assert tokenizer.decode([ids.tolist()]) == [document(rows[number]).text]
        ends = np.flatnonzero(stream["kind"] & LAST)
        assert (stream["tokens"][ends[:-1] + 1] == index["separator"]).all()
        assert len(ends) == len(set(stream["document"][ends]))


@pytest.mark.usefixtures("small")
def test_padded_sequences_hold_one_document_each(raw: Path, tmp_path: Path) -> None:
    folder = word_piece([document(row).text for row in SPLITS["train"]], tmp_path / "folder")
    data = corpus(tokenizer=folder.model_dump(), packing="padded", n_ctx=64, quality={"max_truncated": 1.0})
    sequences = write(data, raw, tmp_path / "tokens")
    tokenizer = read_tokenizer(tmp_path / "tokens")
    assert (sequences.pad, sequences.index["bos"], sequences.index["separator"]) == (
        tokenizer.pad,
        tokenizer.bos,
        tokenizer.separator,
    )
    for split, rows in SPLITS.items():
        got = rows_of(sequences, split)
        assert len(got["tokens"]) == len(rows)
        cut = 0
        for number, row in enumerate(rows):
            ids = tokenizer.tokenizer.encode(document(row).text, add_special_tokens=False).ids
            cut += len(ids) > 62
            whole = [tokenizer.bos, *ids[:62], tokenizer.separator]
            assert got["tokens"][number].tolist() == whole + [tokenizer.pad] * (64 - len(whole))
            assert got["document"][number].tolist() == [number] * len(whole) + [-1] * (64 - len(whole))
            assert np.flatnonzero(got["kind"][number] & LAST).tolist() == [len(whole) - 2]
            assert np.flatnonzero(got["kind"][number] & TEXT).tolist() == list(range(1, len(whole) - 1))
        assert cut > 0
        report = read_json(tmp_path / "tokens" / "quality.json")[split]
        assert report["truncated"] == pytest.approx(cut / len(rows), rel=1e-5)
        assert report["pads"] == pytest.approx((got["document"] < 0).mean(), rel=1e-5)


def test_the_labels_of_tokens_are_those_of_the_alignment(tmp_path: Path) -> None:
    rows = {split: [*found, *look_alikes(1, seed=i)] for i, (split, found) in enumerate(SPLITS.items())}
    rows["train"][0] = {"question": "q", "steps": [step("1+1 = <<1+1=2>>2"), step("why", "claim")], "answer": "2"}
    sequences = write(corpus(), write_rows(rows, tmp_path / "raw"), tmp_path / "tokens")
    assert sequences.index["labels"] == ["equation", "comparison", "other", "claim"]
    table = pd.read_parquet(tmp_path / "tokens" / "alignment.parquet")
    assert list(table.columns) == [
        "split", "document", "step", "char_start", "char_end", "token_start", "token_end",
        "label", "confidence", "exact",
    ]  # fmt: skip
    assert len(table) == sum(len(row["steps"]) for found in rows.values() for row in found)
    first = table[(table["split"] == "train") & (table["document"] == 0)]
    assert first[["char_start", "char_end", "label", "confidence"]].values.tolist() == [
        [2, 18, "equation", 1.0],
        [19, 22, "claim", 1.0],
    ]
    for split in rows:
        got = {name: array[:, 1:].ravel() for name, array in rows_of(sequences, split).items()}
        of_split = table[table["split"] == split]
        for number, steps in of_split.groupby("document"):
            own = got["document"] == number
            inside = own & (got["kind"] & TEXT > 0)
            wanted = np.full(10_000, -1)
            for found in steps.itertuples():
                wanted[found.token_start : found.token_end] = sequences.index["labels"].index(found.label)
            # the last document may be cut by the last incomplete sequence
            assert got["label"][inside].tolist() == wanted[: inside.sum()].tolist()
            assert ((got["kind"][own] & STEP > 0) == (got["label"][own] >= 0)).all()


def test_the_tokenizer_is_trained_on_the_training_documents_alone(raw: Path, tmp_path: Path) -> None:
    write(corpus(), raw, tmp_path / "tokens")
    expected = train_bpe([document(row).text for row in SPLITS["train"]], 400)
    assert (tmp_path / "tokens" / "tokenizer.json").read_bytes() == expected.content
    everything = train_bpe([document(row).text for found in SPLITS.values() for row in found], 400)
    assert everything.content != expected.content


def test_the_sizes_of_parts_do_not_change_the_sequences(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for packing in ("packed", "padded"):
        data = corpus(packing=packing, quality={"max_truncated": 1.0})
        files = []
        for size in (1, 5000, 10**9):
            monkeypatch.setattr(room, "PART_CHARACTERS", size)
            write(data, raw, tmp_path / f"{packing}-{size}")
            files.append(digest(tmp_path / f"{packing}-{size}"))
        # row groups of the table follow the parts; all else is the same bytes
        tables = [pd.read_parquet(tmp_path / f"{packing}-{size}" / "alignment.parquet") for size in (1, 5000, 10**9)]
        assert all(a.equals(b) for a, b in pairwise(tables))
        for found in files:
            del found["alignment.parquet"]
        assert files[0] == files[1] == files[2]


KILLED = """
import os, signal, sys
from pathlib import Path
from reseed.text import packing as room
from tests.text.builders import corpus
room.PART_CHARACTERS, room.SHARD_TOKENS = 3000, 32 * 40
whole, made = room.write_tensors, []
def dies(path, tensors):
    whole(path, tensors)
    made.append(path)
    if len(made) == 3:
        path.write_bytes(path.read_bytes()[:1000])
        os.kill(os.getpid(), signal.SIGKILL)
room.write_tensors = dies
raw, work = map(Path, sys.argv[1:])
tokenizer = room.make_tokenizer(corpus().tokenizer, room.training_texts(raw))
room.make_parts(room.plan_parts(raw), tokenizer, work, 1, 2)
"""


@pytest.mark.usefixtures("small")
def test_the_same_bytes_for_any_number_of_workers_and_after_a_kill(raw: Path, tmp_path: Path) -> None:
    data = corpus()
    write(data, raw, tmp_path / "one")
    expected = digest(tmp_path / "one")
    plan = plan_parts(raw)
    tokenizer = make_tokenizer(data.tokenizer, training_texts(raw))
    assert len(plan.parts) > 6
    for world in (2, 3):
        path = tmp_path / f"of-{world}"
        for rank in range(world - 1, 0, -1):
            make_parts(plan, tokenizer, path.with_name(path.name + ".parts"), rank, world)
        made = {file.stem for file in path.with_name(path.name + ".parts").glob("*.safetensors")}
        assert made == {part.name for i, part in enumerate(plan.parts) if i % world}
        write(data, raw, path, 0, world)
        assert digest(path) == expected
    work = tmp_path / "killed.parts"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(raw), str(work)],
        cwd=ROOT, env={"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert len(list(work.glob("*.safetensors"))) == 2
    assert len(list(work.glob("*.partial"))) == 1
    write(data, raw, tmp_path / "killed")
    assert digest(tmp_path / "killed") == expected


@pytest.mark.usefixtures("small")
def test_a_part_is_kept_only_if_it_is_whole_and_of_the_same_inputs(raw: Path, tmp_path: Path) -> None:
    data, work = corpus(), tmp_path / "work"
    plan, tokenizer = plan_parts(raw), make_tokenizer(data.tokenizer, training_texts(raw))
    make_parts(plan, tokenizer, work)
    before = {file.name: (file.stat().st_ino, file.read_bytes()) for file in work.glob("*.safetensors")}
    damaged = work / "train-00001.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (work / "train-00002.json").unlink()
    make_parts(plan, tokenizer, work)
    again = {file.name: (file.stat().st_ino, file.read_bytes()) for file in work.glob("*.safetensors")}
    assert {name: content for name, (_, content) in again.items()} == {n: content for n, (_, content) in before.items()}
    made_again = {name for name in before if before[name][0] != again[name][0]}
    assert made_again == {"train-00001.safetensors", "train-00002.safetensors"}
    other = make_tokenizer(corpus(tokenizer={"kind": "bpe", "vocabulary": 350}).tokenizer, training_texts(raw))
    make_parts(plan, other, work)
    changed = {file.name: file.read_bytes() for file in work.glob("*.safetensors")}
    assert all(changed[name] != content for name, (_, content) in before.items())


def test_what_is_refused(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (raw / "test.jsonl").read_text()
    (raw / "test.jsonl").write_text(lines[: len(lines) // 2])
    with pytest.raises(ReseedError, match=r"test\.jsonl: its sha256 is .* truncated or edited"):
        write(corpus(), raw, tmp_path / "tokens")
    tiny = write_rows(SPLITS | {"validation": []}, tmp_path / "tiny")
    with pytest.raises(
        ReseedError, match=r"validation\.jsonl: found 0 documents, which fill no sequence of data\.n_ctx"
    ):
        write(corpus(), tiny, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    own = [{"question": "q", "steps": [step("a", f"label-{i}") for i in range(130)], "answer": "1"}]
    many = write_rows(SPLITS | {"train": own}, tmp_path / "many")
    with pytest.raises(ReseedError, match="found 133 labels of steps, allowed: 127"):
        plan_parts(many)
    for wrong in ("1", "2/2", "a/b", "-1/2"):
        monkeypatch.setenv("RESEED_WORKER", wrong)
        with pytest.raises(ReseedError, match=f"RESEED_WORKER: found '{wrong}', allowed: <rank>/<number>"):
            worker()
    monkeypatch.setenv("RESEED_WORKER", "1/2")
    assert worker() == (1, 2)


def test_the_plan_covers_every_document_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PART_CHARACTERS", 2000)
    plan = plan_parts(raw)
    for split, rows in SPLITS.items():
        parts = [part for part in plan.parts if part.split == split]
        covered = [number for part in parts for number in range(part.first, part.first + part.documents)]
        assert covered == list(range(len(rows)))
        for part in parts:
            _, made = next(read_documents(raw / f"{split}.jsonl", part.offset))
            assert made == document(rows[part.first])


def test_the_stage_dispatches_by_the_kind_of_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("params.yaml", "subjects"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_rows(SPLITS, tmp_path / "data" / "gsm8k-gpt" / "raw")
    stage = {"__name__": "stage"}
    exec((ROOT / "stages" / "tokenize.py").read_text(), stage)  # the script without its main block
    monkeypatch.chdir(tmp_path)
    run: Any = stage["tokenize"]
    out = tmp_path / "data" / "gsm8k-gpt" / "tokens"
    monkeypatch.setenv("RESEED_WORKER", "1/2")
    run("gsm8k-gpt")
    assert not out.exists()
    assert {file.stem for file in out.with_name("tokens.parts").glob("*.safetensors")} == {"validation-00000"}
    monkeypatch.delenv("RESEED_WORKER")
    run("gsm8k-gpt")
    assert not out.with_name("tokens.parts").exists()
    sequences = read_sequences(out)
    assert (sequences.n_ctx, sequences.vocabulary) == (128, read_tokenizer(out).vocabulary)
    quality = json.loads((out / "quality.json").read_text())
    assert {split: counts["sequences"] for split, counts in quality.items()} == {
        split: sequences.count(split) for split in SPLITS
    }
    shutil.rmtree(out)
