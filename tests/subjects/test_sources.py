"""Folder, https and hub, each against the real thing: files, a local server that breaks off, the `datasets` library."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest

from reseed import ReseedError
from reseed.subjects import sources
from reseed.subjects.sources import File, Hub, corpora_folder, download, open_folder, open_https, open_hub, read_rows
from tests.subjects.looks import digest, question, write_lines

BODY = bytes(range(256)) * 2000
FIELDS = ("question", "answer")


class Handler(BaseHTTPRequestHandler):
    """Serves BODY; `breaks` is after how many bytes of an answer the connection ends, `ranges` whether it continues."""

    breaks: int | None = None
    ranges = True
    asked: list[str | None] = []  # noqa: RUF012  (emptied by the fixture)

    def do_GET(self) -> None:
        if self.path == "/gone":
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        Handler.asked.append(wanted)
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if begin >= len(BODY):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(BODY) - begin))
        self.end_headers()
        self.wfile.write(BODY[begin:][: self.breaks])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Handler, "asked", [])
    monkeypatch.setattr(Handler, "breaks", None)
    monkeypatch.setattr(Handler, "ranges", True)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "good").write_bytes(BODY)
    return digest(tmp_path / "good")


def test_a_download_is_whole_and_is_not_fetched_twice(server: str, good: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus" / "file.jsonl"
    download(f"{server}/file", path, good)
    download(f"{server}/file", path, good)
    assert path.read_bytes() == BODY
    assert Handler.asked == [None]


def test_a_truncated_download_is_refused_and_the_next_run_continues_it(
    server: str, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.jsonl"
    monkeypatch.setattr(Handler, "breaks", 1000)
    with pytest.raises(ReseedError, match=f"ended after 1000 of {len(BODY)} bytes; run again to continue"):
        download(f"{server}/file", path, good)
    assert not path.exists()
    with pytest.raises(ReseedError, match=f"ended after 2000 of {len(BODY)} bytes"):
        download(f"{server}/file", path, good)
    monkeypatch.setattr(Handler, "breaks", None)
    download(f"{server}/file", path, good)
    assert path.read_bytes() == BODY
    assert Handler.asked == [None, "bytes=1000-", "bytes=2000-"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_server_that_cannot_continue_sends_it_again_from_the_start(
    server: str, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "ranges", False)
    (tmp_path / "file.partial").write_bytes(BODY[:500])
    download(f"{server}/file", tmp_path / "file", good)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_download_that_was_whole_when_it_was_killed_is_taken(server: str, good: str, tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(BODY)
    download(f"{server}/file", tmp_path / "file", good)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_wrong_hash_is_refused_and_thrown_away(server: str, tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match=r"/file: found sha256 \w{12}…, allowed: 000000000000…"):
        download(f"{server}/file", tmp_path / "file", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_edited_after_its_download_is_fetched_anew(server: str, good: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"edited")
    download(f"{server}/file", tmp_path / "file", good)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_missing_file_and_a_missing_server_are_one_sentence_each(server: str, good: str, tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match=r"/gone: the server answered 404 Not Found; run again"):
        download(f"{server}/gone", tmp_path / "file", good)
    with pytest.raises(ReseedError, match=r"127.0.0.1:9/file: the download failed \(.*refused\); run again"):
        download("http://127.0.0.1:9/file", tmp_path / "file", good)


def test_https_wants_a_url_and_a_hash() -> None:
    with pytest.raises(ReseedError, match=r"data.source: found 'https', but no URL with a hash is known for a.jsonl"):
        open_https("gsm8k", (File("a.jsonl", "train", url="https://example.org/a.jsonl"),))


def test_a_folder_is_checked_against_the_registered_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "gsm8k" / "train.jsonl", [question(1)])
    monkeypatch.setenv("RESEED_CORPORA", str(tmp_path))
    opened = open_folder("gsm8k", (File("train.jsonl", "train", sha256=digest(path)),))
    assert opened.checked
    assert opened.sha256 == {"train.jsonl": digest(path)}
    assert not open_folder("gsm8k", (File("train.jsonl", "train"),)).checked
    with pytest.raises(ReseedError, match=rf"{path}: found sha256 {digest(path)[:12]}…, allowed: ffffffffffff…"):
        open_folder("gsm8k", (File("train.jsonl", "train", sha256="f" * 64),))
    with pytest.raises(ReseedError, match=r"gsm8k/test.jsonl: the file does not exist, the corpus 'gsm8k' needs it"):
        open_folder("gsm8k", (File("test.jsonl", "test"),))


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESEED_CORPORA", raising=False)
    assert corpora_folder() is None
    with pytest.raises(ReseedError, match=r"data.source: found 'folder', but RESEED_CORPORA names no folder"):
        open_folder("gsm8k", ())
    monkeypatch.setenv("RESEED_CORPORA", str(tmp_path / "none"))
    with pytest.raises(ReseedError, match=r"RESEED_CORPORA: found .*none', which is no folder"):
        open_folder("gsm8k", ())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A data set as the hub has them, in a local folder that `datasets` loads by the same call."""
    folder = tmp_path / "hub"
    for split, numbers in (("train", range(25)), ("test", range(30, 33))):
        table = pd.DataFrame([{**question(i), "more": i} for i in numbers])
        for shard in range(2):
            part = table.iloc[shard * len(table) // 2 : (shard + 1) * len(table) // 2]
            (folder / "data").mkdir(parents=True, exist_ok=True)
            part.to_parquet(folder / "data" / f"{split}-0000{shard}-of-00002.parquet", index=False)
    monkeypatch.setattr(sources, "DOWNLOADS", tmp_path / "downloads")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return Hub(str(folder), "a" * 40, splits=(("train", "train"), ("test", "test")))


def test_the_hub_streams_the_declared_fields_of_every_split(hub: Hub) -> None:
    opened = open_hub("gsm8k", hub, FIELDS, None)
    rows = {split: list(read_rows(path, member, FIELDS)) for split, path, member in opened.files}
    assert rows["train"] == [question(i) for i in range(25)]
    assert rows["test"] == [question(i) for i in range(30, 33)]
    assert sorted(opened.sha256) == ["test.jsonl", "train.jsonl"]


def test_an_interrupted_stream_continues_to_the_same_bytes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_hub("gsm8k", hub, FIELDS, 20).files[0][1].read_bytes()
    folder = sources.DOWNLOADS / "gsm8k" / f"{'a' * 40}-20"
    (folder / "train.jsonl").unlink()
    (folder / "train.jsonl.partial").write_bytes(whole[: len(whole) * 2 // 3])  # killed in the middle of a line
    skipped = []
    inner = sources.islice
    monkeypatch.setattr(sources, "islice", lambda stream, left: skipped.append(left) or inner(stream, left))
    assert open_hub("gsm8k", hub, FIELDS, 20).files[0][1].read_bytes() == whole
    assert whole.count(b"\n") == 20
    assert skipped == [20 - whole[: len(whole) * 2 // 3].count(b"\n")]  # the test split was whole and is not read again
    assert list(islice(read_rows(folder / "train.jsonl", None, FIELDS), 1)) == [question(0)]


def test_the_hub_refuses_in_one_sentence(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReseedError, match="row 1 of train: found no field 'label', allowed: rows with question, label"):
        open_hub("gsm8k", hub, ("question", "label"), None)
    with pytest.raises(ReseedError, match="of whose hub data set google/reveal no revision is pinned"):
        open_hub("reveal", Hub("google/reveal", None, gated=True), FIELDS, None)
    with pytest.raises(
        ReseedError, match=r"google/reveal is gated, allowed: with a token of an account .* in HF_TOKEN"
    ):
        open_hub("reveal", Hub("google/reveal", "a" * 40, gated=True), FIELDS, None)
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    with pytest.raises(ReseedError, match=r"at aaaaaaaaaaaa: the hub gave no data \(\w+: ") as error:
        open_hub("gsm8k", Hub(str(tmp_path / "nothing" / "hf_planted"), "a" * 40), FIELDS, None)
    said = str(error.value).partition("the hub gave no data")[2]
    assert "[HF_TOKEN]" in said
    assert "hf_planted" not in said


def test_rows_of_every_kind_of_file(tmp_path: Path) -> None:
    rows = [question(i) for i in range(40)]
    for name, text in {
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "list.json": json.dumps(rows, indent=1),
        "keyed.json": json.dumps({str(i): row for i, row in enumerate(rows)}),
    }.items():
        (tmp_path / name).write_text(text)
        assert list(read_rows(tmp_path / name, None, FIELDS)) == rows, name
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    assert list(read_rows(tmp_path / "a.csv", None, FIELDS)) == rows
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.jsonl", "dev.jsonl")
    assert list(read_rows(tmp_path / "a.zip", "dev.jsonl", FIELDS)) == rows


def test_the_files_of_a_folder_take_turns(tmp_path: Path) -> None:
    rows = [question(i) for i in range(6)]
    for name, part in (("b", rows[3:]), ("a", rows[:1]), ("c", rows[1:3])):
        pd.DataFrame(part).to_csv(tmp_path / f"{name}.csv.zst", index=False)
    (tmp_path / "notes.txt").write_text("no rows")
    assert list(read_rows(tmp_path, None, FIELDS)) == [rows[i] for i in (0, 3, 1, 4, 2, 5)]
    with pytest.raises(ReseedError, match=rf"{tmp_path}: row 1: found no field 'label', allowed: rows with label"):
        list(read_rows(tmp_path, None, ("label",)))


@pytest.mark.parametrize("block", [1, 7, 100])
def test_one_large_json_is_read_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(sources, "BLOCK", block)
    keyed = {f'k"{i}:{{': {"question": 'a "quoted" {brace}, [1]\n', "answer": [i, {"x": None}]} for i in range(9)}
    (tmp_path / "a.json").write_text(json.dumps(keyed, indent=2))
    assert list(read_rows(tmp_path / "a.json", None, FIELDS)) == list(keyed.values())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"question": "q", "answer": "a"}\n{"question": "q"}\n', "row 2: found no field 'answer', allowed"),
        ("a.jsonl", '{"question": "q", "answer": "a"}\n{"quest', "row 2: not readable"),
        ("a.jsonl", "[1]\n", "row 1: found list, allowed: an object with its fields"),
        ("a.jsonl", '{"question": "\xff"}', "row 1: not readable"),
        ("a.json", '{"0": {"question": "q", "answer": "a"}, "1": {"ques', "row 2: not readable"),
        ("a.json", "12", "row 1: not readable"),
        ("a.csv", "question,reply\nq,a\n", "row 1: found no field 'answer'"),
    ],
)
def test_a_file_that_is_not_as_declared_is_one_sentence(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ReseedError, match=f"{name}: {said}"):
        list(read_rows(tmp_path / name, None, FIELDS))


def test_a_damaged_archive_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(ReseedError, match=r"a.zip: dev.jsonl: not in the archive, or the archive is damaged"):
        list(read_rows(tmp_path / "a.zip", "dev.jsonl", FIELDS))
