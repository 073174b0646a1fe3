"""Packing: the documents of a corpus into shards of sequences, the same bytes for any number of workers.

The work is cut into parts, runs of documents of one split that come to about a shard. A part is tokenised and aligned
by itself and kept in a work folder with the hash of its inputs, so that workers on several machines can share the parts
(part i belongs to worker i modulo their number) and an interrupted run continues with the parts that it lacks. The
shards are then laid out from the parts in order by one process, which is only copying.

- `packed`: the documents of a split end to end, a separator after each, cut into sequences; nothing is lost but the
  last incomplete sequence, whose tokens are counted.
- `padded`: one document a sequence, cut at its end where it is too long (counted), a separator, then padding.

Every sequence starts with the tokenizer's BOS, where it has one. Special tokens belong to the document beside them (a
BOS to that of the token after it). The last kept token of a cut document is its LAST; a token that two steps share
counts for the later one.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from reseed import ReseedError
from reseed.artifacts import check_sha256, read_json, read_tensors, sha256, write_json, write_tensors, writing
from reseed.params import SPLITS, Corpus
from reseed.stage import progress
from reseed.text.alignment import align
from reseed.text.documents import LABELS, read_documents
from reseed.text.language_quality import Counts, changed_tokens, refuse_breaches, samples, split_report, text_hash
from reseed.text.sequences import LAST, STEP, TEXT, write_shard
from reseed.text.tokenizers import FILE, TextTokenizer, make_tokenizer

SHARD_TOKENS = 1 << 21
PART_CHARACTERS = 4 * SHARD_TOKENS
"""A token of English text is about four characters, so a part is about a shard."""
BATCH = 512
"""Documents that are tokenised together."""
STEP_COLUMNS = ("document", "step", "char_start", "char_end", "token_start", "token_end", "label", "exact")

Rows = dict[str, npt.NDArray[Any]]
"""The fields of `sequences.SHARD_FIELDS` as arrays of equal shape: [tokens] of a stream or [sequences, n_ctx]."""


@dataclass(frozen=True)
class Part:
    """The documents first to first + documents of a split, from byte `offset` of its raw file on."""

    split: str
    number: int
    first: int
    documents: int
    offset: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


@dataclass(frozen=True)
class Plan:
    """What there is to tokenise: the parts, the labels that occur, the documents and the raw file's hash per split."""

    raw: Path
    parts: tuple[Part, ...]
    labels: tuple[str, ...]
    documents: dict[str, int]
    files: dict[str, str]

    def inputs(self, part: Part, tokenizer: TextTokenizer) -> str:
        """The hash of all that decides the content of a part, this room's code included."""
        code = [sha256(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
        content = [asdict(part), self.labels, self.files[part.split], tokenizer.sha256, code]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def worker() -> tuple[int, int]:
    """Rank and number of the workers from RESEED_WORKER=<rank>/<number>, 0 of 1 without it; ReseedError if wrong."""
    value = os.environ.get("RESEED_WORKER", "0/1")
    rank, _, world = value.partition("/")
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise ReseedError(f"RESEED_WORKER: found {value!r}, allowed: <rank>/<number> with a rank from 0 on")
    return int(rank), int(world)


def plan_parts(raw: Path) -> Plan:
    """Read the raw splits once; raises ReseedError for a missing or edited file or a broken row."""
    listed = read_json(raw / "manifest.json").get("files", {})
    parts: list[Part] = []
    documents: dict[str, int] = {}
    files: dict[str, str] = {}
    own: set[str] = set()
    for split in SPLITS:
        file = raw / f"{split}.jsonl"
        if file.name in listed:
            check_sha256(file, listed[file.name]["sha256"])
        first = count = characters = offset = number = 0
        for after, made in read_documents(file):
            characters += len(made.text)
            count += 1
            own.update(step.label for step in made.steps)
            if characters >= PART_CHARACTERS:
                parts.append(Part(split, number, first, count - first, offset))
                first, characters, offset, number = count, 0, after, number + 1
        if count > first:
            parts.append(Part(split, number, first, count - first, offset))
        documents[split], files[split] = count, sha256(file)
    labels = LABELS + tuple(sorted(own - set(LABELS)))
    if len(labels) > torch.iinfo(torch.int8).max:
        raise ReseedError(f"{raw}: found {len(labels)} labels of steps, allowed: {torch.iinfo(torch.int8).max}")
    return Plan(raw, tuple(parts), labels, documents, files)


def training_texts(raw: Path) -> Iterator[str]:
    """The texts of the training documents alone: what a tokenizer may be trained on."""
    return (made.text for _, made in read_documents(raw / "train.jsonl"))


def make_parts(plan: Plan, tokenizer: TextTokenizer, work: Path, rank: int = 0, world: int = 1) -> None:
    """Make the parts of worker `rank` of `world` in the folder `work`; one that is there and whole is kept."""
    work.mkdir(parents=True, exist_ok=True)
    mine = plan.parts[rank::world]
    with progress(sum(part.documents for part in mine), "tokenize", "document") as bar:
        for part in mine:
            if not _is_whole(plan, part, tokenizer, work):
                _make_part(plan, part, tokenizer, work)
            bar.update(part.documents)


def _is_whole(plan: Plan, part: Part, tokenizer: TextTokenizer, work: Path) -> bool:
    try:
        record = read_json(work / f"{part.name}.json")
        check_sha256(work / f"{part.name}.safetensors", record["sha256"])
    except ReseedError:
        return False
    return bool(record["inputs"] == plan.inputs(part, tokenizer))


def _make_part(plan: Plan, part: Part, tokenizer: TextTokenizer, work: Path) -> None:
    place = {label: i for i, label in enumerate(plan.labels)}
    reader = (made for _, made in read_documents(plan.raw / f"{part.split}.jsonl", part.offset))
    remaining = islice(reader, part.documents)
    ids, kinds, labels = [], [], []
    lengths: list[int] = []
    hashes: list[int] = []
    steps: list[tuple[int, ...]] = []
    confidences: list[float] = []
    changed = 0
    while batch := list(islice(remaining, BATCH)):
        aligned = align(batch, tokenizer)
        changed += changed_tokens(batch, [found.ids for found in aligned], tokenizer)
        for made, found in zip(batch, aligned, strict=True):
            number = part.first + len(lengths)
            kind = np.full(len(found.ids), TEXT, dtype=np.uint8)
            label = np.full(len(found.ids), -1, dtype=np.int8)
            for i, (step, (a, b), exact) in enumerate(zip(made.steps, found.spans, found.exact, strict=True)):
                kind[a:b] |= STEP
                label[a:b] = place[step.label]
                steps.append((number, i, step.start, step.end, a, b, place[step.label], int(exact)))
                confidences.append(step.confidence)
            kind[-1:] |= LAST
            ids.append(np.array(found.ids, dtype=np.int32))
            kinds.append(kind)
            labels.append(label)
            lengths.append(len(found.ids))
            hashes.append(text_hash(made.text))
    tensors = {
        "ids": np.concatenate(ids),
        "kind": np.concatenate(kinds),
        "label": np.concatenate(labels),
        "lengths": np.array(lengths, dtype=np.int64),
        "hashes": np.array(hashes, dtype=np.int64),
        "steps": np.array(steps, dtype=np.int64).reshape(-1, len(STEP_COLUMNS)),
        "confidence": np.array(confidences, dtype=np.float64),
        "changed": np.array([changed], dtype=np.int64),
    }
    # of a name of its own, because two workers may make the same part at the same time
    unique = work / f"{part.name}.{uuid.uuid4().hex}"
    with writing(unique) as partial:
        write_tensors(partial, {name: torch.from_numpy(array) for name, array in tensors.items()})
    digest = sha256(unique)
    unique.replace(work / f"{part.name}.safetensors")
    record = work / f"{part.name}.{uuid.uuid4().hex}"
    write_json(record, {"inputs": plan.inputs(part, tokenizer), "sha256": digest})
    record.replace(work / f"{part.name}.json")


def write_language_tokens(data: Corpus, raw: Path, work: Path, path: Path, rank: int, world: int, where: str) -> None:
    """Tokenise the corpus in `raw` into the new directory `path`, with its tokenizer, alignment and quality report.

    `work` keeps the parts: first those of worker `rank` of `world` are made, then those that no other has made yet.
    `where` names the subject's file in the sentence of a breached limit. Raises ReseedError for a split without a
    whole sequence and for a breach of `data.quality`.
    """
    plan = plan_parts(raw)
    tokenizer = make_tokenizer(data.tokenizer, training_texts(raw))
    make_parts(plan, tokenizer, work, rank, world)
    make_parts(plan, tokenizer, work)
    path.mkdir(parents=True)
    reports: dict[str, dict[str, Any]] = {}
    splits: dict[str, Any] = {}
    seen: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
    with pq.ParquetWriter(path / "alignment.parquet", _alignment_schema()) as table:
        for split in SPLITS:
            counts = Counts(tokenizer.vocabulary, plan.labels)
            shards = _write_split(data, plan, split, tokenizer, work, path, counts, table)
            total = sum(shard["sequences"] for shard in shards)
            if total == 0:
                raise ReseedError(
                    f"{raw / f'{split}.jsonl'}: found {plan.documents[split]} documents, which fill no sequence of "
                    f"data.n_ctx ({data.n_ctx}) tokens, allowed: one at least"
                )
            splits[split] = {"sequences": total, "shards": shards}
            reports[split] = split_report(counts, total, total * data.n_ctx, tokenizer.unknown, seen)
            first = [made for _, made in islice(read_documents(raw / f"{split}.jsonl"), 3)]
            reports[split]["samples"] = samples(first, align(first, tokenizer), tokenizer)
            if split == "train":
                seen = counts.hashes
    refuse_breaches(reports, data.quality, where)
    index: dict[str, Any] = {
        "kind": "language",
        "n_ctx": data.n_ctx,
        "vocabulary": tokenizer.vocabulary,
        "separator": tokenizer.separator,
        "bos_policy": "none: the tokenizer has no BOS" if tokenizer.bos is None else "at the start of every sequence",
        "packing": data.packing,
        "labels": list(plan.labels),
        "tokenizer_sha256": tokenizer.sha256,
        "documents": plan.documents,
        "splits": splits,
    }
    if tokenizer.bos is not None:
        index["bos"] = tokenizer.bos
    if data.packing == "padded":
        index["pad"] = tokenizer.pad
    (path / FILE).write_bytes(tokenizer.content)
    write_json(path / "quality.json", reports)
    write_json(path / "index.json", index)


def _write_split(
    data: Corpus,
    plan: Plan,
    split: str,
    tokenizer: TextTokenizer,
    work: Path,
    path: Path,
    counts: Counts,
    table: pq.ParquetWriter,
) -> list[dict[str, Any]]:
    size = max(1, SHARD_TOKENS // data.n_ctx)
    rows = _empty((0, data.n_ctx))
    stream = _empty((0,))
    shards: list[dict[str, Any]] = []

    def write(shard: Rows) -> None:
        counts.pads += int((shard["document"] < 0).sum())
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in shard.items()}
        shards.append(write_shard(path / f"{split}-{len(shards):05d}.safetensors", tensors))

    for part in plan.parts:
        if part.split != split:
            continue
        file = read_tensors(work / f"{part.name}.safetensors")
        tensors = {name: tensor.numpy() for name, tensor in file.items()}
        counts.add(tensors)
        table.write_table(_alignment(split, tensors, plan.labels))
        if data.packing == "packed":
            stream = _joined(stream, separated(tensors, part.first, tokenizer.separator))
            made, stream = packed(stream, data.n_ctx, tokenizer.bos)
        else:
            made, truncated = padded(tensors, part.first, data.n_ctx, tokenizer)
            counts.truncated += truncated
        rows = _joined(rows, made)
        while len(rows["tokens"]) >= size:
            write({name: array[:size] for name, array in rows.items()})
            rows = {name: array[size:] for name, array in rows.items()}
    if len(rows["tokens"]):
        write(rows)
    counts.dropped = len(stream["tokens"])
    return shards


def separated(part: Rows, first: int, separator: int) -> Rows:
    """The stream of a part's documents, which are numbered from `first` on, with a separator after each."""
    lengths = part["lengths"]
    ends = np.cumsum(lengths)
    return {
        "tokens": np.insert(part["ids"], ends, separator),
        "document": np.repeat(np.arange(first, first + len(lengths), dtype=np.int32), lengths + 1),
        "kind": np.insert(part["kind"], ends, 0),
        "label": np.insert(part["label"], ends, -1),
    }


def packed(stream: Rows, n_ctx: int, bos: int | None) -> tuple[Rows, Rows]:
    """All whole sequences of a stream, [sequences, n_ctx] with BOS first where there is one, and what is left of it."""
    body = n_ctx - (bos is not None)
    whole = len(stream["tokens"]) // body * body
    rows = {name: array[:whole].reshape(-1, body) for name, array in stream.items()}
    if bos is not None:
        column = {
            "tokens": np.full_like(rows["tokens"][:, :1], bos),
            "document": rows["document"][:, :1],
            "kind": np.zeros_like(rows["kind"][:, :1]),
            "label": np.full_like(rows["label"][:, :1], -1),
        }
        rows = {name: np.concatenate([column[name], array], axis=1) for name, array in rows.items()}
    return rows, {name: array[whole:] for name, array in stream.items()}


def padded(part: Rows, first: int, n_ctx: int, tokenizer: TextTokenizer) -> tuple[Rows, int]:
    """One sequence a document, numbered from `first` on: BOS, its tokens, separator, padding; and how many were cut."""
    lengths = part["lengths"]
    start = int(tokenizer.bos is not None)
    kept = np.minimum(lengths, n_ctx - start - 1)
    every = np.arange(len(lengths))
    rows = _empty((len(lengths), n_ctx))
    rows["tokens"][:] = tokenizer.pad
    rows["document"][:] = -1
    rows["label"][:] = -1
    inside = np.arange(n_ctx)[None, :]
    rows["document"][inside < (start + kept + 1)[:, None]] = np.repeat(every + first, start + kept + 1)
    if tokenizer.bos is not None:
        rows["tokens"][:, 0] = tokenizer.bos
    rows["tokens"][every, start + kept] = tokenizer.separator
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    keep = position < np.repeat(kept, lengths)
    row, column = np.repeat(every, kept), position[keep] + start
    for name, of_part in (("tokens", "ids"), ("kind", "kind"), ("label", "label")):
        rows[name][row, column] = part[of_part][keep]
    some = kept > 0
    rows["kind"][every[some], (start + kept - 1)[some]] |= LAST
    return rows, int((lengths > kept).sum())


def _empty(shape: tuple[int, ...]) -> Rows:
    kinds = {"tokens": np.int32, "document": np.int32, "kind": np.uint8, "label": np.int8}
    return {name: np.zeros(shape, dtype=kind) for name, kind in kinds.items()}


def _joined(first: Rows, second: Rows) -> Rows:
    return {name: np.concatenate([array, second[name]]) for name, array in first.items()}


def _alignment_schema() -> pa.Schema:
    numbers = [(name, pa.int64()) for name in STEP_COLUMNS if name not in ("label", "exact")]
    ends = [("label", pa.string()), ("confidence", pa.float64()), ("exact", pa.bool_())]
    return pa.schema([("split", pa.string()), *numbers, *ends])


def _alignment(split: str, part: Rows, labels: tuple[str, ...]) -> pa.Table:
    columns: dict[str, Any] = dict(zip(STEP_COLUMNS, part["steps"].T, strict=True))
    columns["split"] = [split] * len(part["steps"])
    columns["label"] = [labels[i] for i in columns["label"]]
    columns["exact"] = columns["exact"].astype(bool)
    columns["confidence"] = part["confidence"]
    schema = _alignment_schema()
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
