"""Reasoning corpora and general text: what is known of each, which use its licence allows, and its rows as raw data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from reseed import ReseedError, installed_version
from reseed.artifacts import derive_seed, sha256, write_json
from reseed.params import SPLITS, Corpus
from reseed.stage import progress
from reseed.subjects import overlap, rules
from reseed.subjects.rules import Document, Malformed
from reseed.subjects.sources import (
    File,
    Hub,
    Opened,
    Package,
    corpora_folder,
    open_folder,
    open_https,
    open_hub,
    open_package,
    read_rows,
    write_jsonl,
)

TRAINING = "training"
EVALUATION = "evaluation"
Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Registered:
    """What is known of a corpus. What is not known is absent, and a subject that needs it is refused."""

    name: str
    repository: str
    revision: str | None
    """40 hexadecimal digits; None: no pin is known."""
    licence: str
    terms: str
    """What the licence leaves open or adds, in words."""
    citation: str
    uses: tuple[str, ...]
    fields: tuple[str, ...]
    """Every row has these, or the corpus is refused."""
    rule: Callable[[Mapping[str, Any]], Document] | None = None
    """From a row to the common form; None for a corpus that no use is allowed of."""
    gather: Callable[[Rows], Iterator[Mapping[str, Any]]] | None = None
    """From the rows of a file to one row a document, where a document has several."""
    rows: tuple[tuple[str, int], ...] = ()
    """Rows of its own splits."""
    files: tuple[File, ...] = ()
    hub: Hub | None = None
    package: Package | None = None
    """The only source of a corpus that has it."""
    sample: bool = False
    """Too large to be had whole: the subject says in data.rows how much of it."""

    def own_splits(self, source: str) -> set[str]:
        """The splits that the corpus itself has."""
        if source == "hub" and self.hub:
            return {split for split, _ in self.hub.splits}
        if self.package:
            return {"train"}
        return {file.split for file in self.files}


_GSM8K = "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c"
_WIQA = "wiqa-dataset-v2-october-2019.zip"
_WIQA_URL = f"https://public-aristo-processes.s3-us-west-2.amazonaws.com/wiqa_dataset_no_explanation_v2/{_WIQA}"
_WIQA_SHA256 = "afdab9bc33d814576f76516017f2b39dd101f8770f3f29ab6be2846ff59efb43"

CORPORA = {
    corpus.name: corpus
    for corpus in (
        Registered(
            name="gsm8k",
            repository="github.com/openai/grade-school-math",
            revision="3101c7d5072418e28b9008a6636bde82a006892c",
            licence="MIT",
            terms="free use with the notice",
            citation="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems (arXiv 2110.14168)",
            uses=(TRAINING, EVALUATION),
            fields=("question", "answer"),
            rule=rules.gsm8k,
            rows=(("train", 7473), ("test", 1319)),
            files=(
                File(
                    "train.jsonl",
                    "train",
                    sha256="17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
                    url=f"{_GSM8K}/grade_school_math/data/train.jsonl",
                ),
                File(
                    "test.jsonl",
                    "test",
                    sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
                    url=f"{_GSM8K}/grade_school_math/data/test.jsonl",
                ),
            ),
            hub=Hub(
                "openai/gsm8k",
                "740312add88f781978c0658806c59bc2815b9866",
                config="main",
                splits=(("train", "train"), ("test", "test")),
            ),
        ),
        Registered(
            name="cot-collection",
            repository="huggingface.co/datasets/kaist-ai/CoT-Collection",
            revision="c9d352cdc119df4a4f7526d100e4acb4a72a7a5c",
            licence="CC-BY-4.0 on its card, non-commercial and OpenAI's terms of use in its repository",
            terms="the two contradict each other, and the stricter one does not let its text train what others use",
            citation="Kim et al. 2023, The CoT Collection (arXiv 2305.14045)",
            uses=(EVALUATION,),
            fields=("source", "rationale", "target"),
            rule=rules.cot_collection,
            files=(File("CoT_collection_en.json", "train"),),
            hub=Hub(
                "kaist-ai/CoT-Collection",
                "c9d352cdc119df4a4f7526d100e4acb4a72a7a5c",
                file="data/CoT_collection_en.json",
            ),
            sample=True,
        ),
        Registered(
            name="openr1-math",
            repository="huggingface.co/datasets/open-r1/OpenR1-Math-220k",
            revision="e4e141ec9dea9f8326f4d347be56105859b2bd68",
            licence="Apache-2.0",
            terms="free use with the notice; the traces are generated by DeepSeek-R1",
            citation="Hugging Face 2025, Open R1: OpenR1-Math-220k",
            uses=(TRAINING, EVALUATION),
            fields=("problem", "answer", "generations", "correctness_math_verify"),
            rule=rules.openr1_math,
            rows=(("train", 93_733),),
            files=(File("train.jsonl", "train"),),
            hub=Hub(
                "open-r1/OpenR1-Math-220k", "e4e141ec9dea9f8326f4d347be56105859b2bd68", config="default"
            ),
        ),
        Registered(
            name="openthoughts",
            repository="huggingface.co/datasets/open-thoughts/OpenThoughts-114k",
            revision="bee82364b92b10503f3c0984bbb940a7f3e22644",
            licence="Apache-2.0",
            terms="free use with the notice; the traces are generated by DeepSeek-R1",
            citation="OpenThoughts team 2025, Open Thoughts: OpenThoughts-114k",
            uses=(TRAINING, EVALUATION),
            fields=("conversations",),
            rule=rules.openthoughts,
            rows=(("train", 113_957),),
            files=(File("train.jsonl", "train"),),
            hub=Hub("open-thoughts/OpenThoughts-114k", "bee82364b92b10503f3c0984bbb940a7f3e22644"),
        ),
        Registered(
            name="reveal",
            repository="huggingface.co/datasets/google/reveal",
            revision=None,
            licence="CC-BY-ND-4.0",
            terms="its card permits it as a test set, not as a training set, and never as plain text on the open web",
            citation="Jacovi et al. 2024, A Chain-of-Thought Is as Strong as Its Weakest Link (arXiv 2402.00559)",
            uses=(EVALUATION,),
            fields=(
                "answer_id",
                "question",
                "full_answer",
                "step_idx",
                "step",
                "attribution_label",
                "correctness_label",
            ),
            rule=rules.reveal,
            gather=rules.reveal_chains,
            files=(File("eval/reveal_eval.csv", "test"),),
            hub=Hub("google/reveal", None, splits=(("test", "eval"),), gated=True),
        ),
        Registered(
            name="trip",
            repository="github.com/sled-group/Verifiable-Coherent-NLU",
            revision="67ac40274f7eeeccc37069a8b0bbdad54b3ca658",
            licence="none stated",
            terms="without a licence no use is allowed",
            citation="Storks et al. 2021, Tiered Reasoning for Intuitive Physics (arXiv 2109.04947)",
            uses=(),
            fields=("example_id", "length", "label", "breakpoint", "confl_sents", "confl_pairs", "stories"),
        ),
        Registered(
            name="wiqa",
            repository="github.com/allenai/wiqa-dataset",  # its code and card; the hash of the archive pins the data
            revision="edeef924188a7caa4493c305209e0b20d20b375c",
            licence="none stated for the data",
            terms="Apache-2.0 covers the code of its repository alone; without a licence no use is allowed",
            citation='Tandon et al. 2019, WIQA: A dataset for "What if..." reasoning (arXiv 1909.04739)',
            uses=(),
            fields=("question", "metadata"),
            rule=rules.wiqa,
            rows=(("train", 29_808), ("validation", 6894), ("test", 3003)),
            files=tuple(
                File(_WIQA, split, sha256=_WIQA_SHA256, url=_WIQA_URL, member=member)
                for split, member in (("train", "train.jsonl"), ("validation", "dev.jsonl"), ("test", "test.jsonl"))
            ),
        ),
        Registered(
            name="openwebtext",
            repository="huggingface.co/datasets/Skylion007/openwebtext",
            revision="79d93d786212f7344586290adb811d4ae6a1762c",
            licence="CC0-1.0",
            terms="of the collection; the pages keep the rights of their authors",
            citation="Gokaslan and Cohen 2019, OpenWebText Corpus",
            uses=(TRAINING, EVALUATION),
            fields=("text",),
            rule=rules.general_text,
            rows=(("train", 8_013_769),),
            files=(File("train.jsonl", "train"),),
            hub=Hub(
                "Skylion007/openwebtext", "79d93d786212f7344586290adb811d4ae6a1762c", config="plain_text"
            ),
            sample=True,
        ),
        Registered(
            name="fineweb",
            repository="huggingface.co/datasets/HuggingFaceFW/fineweb",
            revision="e4f5f2b94dc4819fd6a32db6437f57b5460b449b",
            licence="ODC-By-1.0",
            terms="with attribution, and within the terms of use of Common Crawl",
            citation="Penedo et al. 2024, The FineWeb Datasets (arXiv 2406.17557)",
            uses=(TRAINING, EVALUATION),
            fields=("text",),
            rule=rules.general_text,
            files=(File("train.jsonl", "train"),),
            hub=Hub("HuggingFaceFW/fineweb", "e4f5f2b94dc4819fd6a32db6437f57b5460b449b", config="sample-10BT"),
            sample=True,
        ),
        Registered(
            name="sae-probes",
            repository="github.com/sae-probes/sae-probes",
            revision=None,  # the hash of the package's files is the pin
            licence="MIT",
            terms="of the package; its prompts are of public data sets, which keep their own terms, and SAEs are "
            "judged by them: a benchmark's text trains nothing",
            citation="Kantamneni et al. 2025, Are Sparse Autoencoders Useful? A Case Study in Sparse Probing "
            "(arXiv 2502.16681)",
            uses=(EVALUATION,),
            fields=("prompt",),
            rule=rules.prompt,
            rows=(("train", 523_867),),
            package=Package(
                "sae-probes",
                "0.4.2",
                "cleaned_data",
                "6cbed7e80d2d95b769755ee60558d26702011948fb3fb0c20a914dfc5473d5e2",
            ),
            sample=True,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A document and where it stands in the corpus: its own split and its row there, from 0."""

    own: str
    number: int
    document: Document

    @property
    def id(self) -> str:
        return f"{self.own}-{self.number:05d}"


def registered(data: Corpus) -> Registered:
    """The corpus that a subject names; raises ReseedError if it is unknown or its licence forbids the use."""
    corpus = CORPORA.get(data.corpus)
    if corpus is None:
        raise ReseedError(f"data.corpus: found {data.corpus!r}, allowed: {', '.join(sorted(CORPORA))}")
    if data.use not in corpus.uses or corpus.rule is None:
        raise ReseedError(
            f"data.use: found {data.use!r} of the corpus {corpus.name!r}, allowed: "
            f"{', '.join(corpus.uses) or 'no use'} (licence: {corpus.licence}; {corpus.terms})"
        )
    if corpus.sample and data.rows is None:
        raise ReseedError(f"data.rows: found none, allowed: a number, for {corpus.name!r} is too large to be had whole")
    return corpus


def source_of(data: Corpus) -> str:
    """package, folder, https or hub: what the subject says, else the first that has the corpus.

    Raises ReseedError where a subject names another source of a corpus that an installed package carries.
    """
    corpus = registered(data)
    if corpus.package:
        if data.source:
            raise ReseedError(
                f"data.source: found {data.source!r} of the corpus {corpus.name!r}, allowed: none, because "
                f"the installed package {corpus.package.name} carries it"
            )
        return "package"
    if data.source:
        return data.source
    base = corpora_folder()
    if base is not None and (base / corpus.name).is_dir():
        return "folder"
    return "https" if corpus.files and all(file.url and file.sha256 for file in corpus.files) else "hub"


def write_corpus(data: Corpus, path: Path) -> str:
    """Write train.jsonl, validation.jsonl, test.jsonl and manifest.json into the directory `path`; the source used.

    A line is `{"id", "question", "steps": [{"text", "label"}], "answer"}`, strings (a label may be null); the id names
    the split and the row of the corpus itself. All rows of a question stand in one split. The corpus' own test and
    validation splits are ours; where it has none, `validation_fraction` of its training questions are, chosen by their
    hash. Rows of training and validation that repeat held-out questions, or that hold text of a test question or of a
    benchmark's prompt, are taken out and counted.

    Raises ReseedError for an unknown corpus, a use that its licence forbids, a source that does not give the registered
    files, rows without the declared fields, and splits that are empty in the end.
    """
    corpus, source = registered(data), source_of(data)
    opened = _open(corpus, source, data)
    rows, source_rows, reasons = _normalised(corpus, opened, data)
    if opened.checked and data.rows is None:
        for split, wanted in corpus.rows:
            if source_rows.get(split) != wanted:
                raise ReseedError(
                    f"{corpus.repository}: {split}: found {source_rows.get(split, 0)} rows, allowed: {wanted}, "
                    "the registered number"
                )
    splits, duplicates = _distinct(_split(rows, corpus.own_splits(source), data))
    near = _drop_near_duplicates(splits, data.near_duplicate)
    refused, compared = _refuse_benchmarks(splits) if data.use == TRAINING else ({}, {})
    wanted_splits = SPLITS if data.use == TRAINING else ()
    empty = [split for split in wanted_splits if not splits[split]] or ([] if any(splits.values()) else ["all splits"])
    if empty:
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise ReseedError(
            f"{corpus.name}: found no row left in {empty[0]} after filtering (of {sum(source_rows.values())}: "
            f"{why or 'none malformed'}, {sum(duplicates.values())} duplicates, {sum(near.values())} near-duplicates, "
            f"{sum(refused.values())} with benchmark text), allowed: at least one"
        )
    path.mkdir(parents=True)
    files = {}
    for split in SPLITS:
        file = path / f"{split}.jsonl"
        files[file.name] = {"rows": write_jsonl(file, map(_line, splits[split])), "sha256": sha256(file)}
    manifest: dict[str, Any] = {
        "corpus": corpus.name,
        # not where this machine had the files: checked ones are the same bytes from a folder and from their URL
        "source": f"hub: {corpus.hub.id}" if source == "hub" and corpus.hub else corpus.repository,
        "checked": opened.checked,
        "licence": corpus.licence,
        "terms": corpus.terms,
        "citation": corpus.citation,
        "parameters": data.model_dump(
            include={"use", "rows", "validation_fraction", "near_duplicate", "seed"}, exclude_none=True
        ),
        "source_files": opened.sha256,
        "source_rows": source_rows,
        "dropped": reasons,
        "duplicates": duplicates,
        "near_duplicates": near,
        "benchmark_text": refused,
        "compared_with": compared,
        "rows": {split: len(splits[split]) for split in SPLITS},
        "files": files,
    }
    revision = corpus.hub.revision if source == "hub" and corpus.hub else corpus.revision
    if revision and opened.checked:
        manifest["revision"] = revision
    write_json(path / "manifest.json", manifest)
    return source


def _open(corpus: Registered, source: str, data: Corpus) -> Opened:
    if corpus.package:
        return open_package(corpus.package, overlap.sae_probes_folder())
    if source == "folder":
        return open_folder(corpus.name, corpus.files)
    if source == "https":
        return open_https(corpus.name, corpus.files)
    if corpus.hub is None:
        raise ReseedError(
            f"data.source: found 'hub', but {corpus.name!r} has no data set there; allowed: folder, https"
        )
    return open_hub(corpus.name, corpus.hub, corpus.fields, None if corpus.gather else data.rows)


def _normalised(corpus: Registered, opened: Opened, data: Corpus) -> tuple[list[Row], dict[str, int], dict[str, int]]:
    """The rows in the common form, how many each own split has, and why others were dropped, with counts."""
    assert corpus.rule is not None
    rows, counts, reasons = [], {}, []
    for own, file, member in opened.files:
        found: Iterable[Mapping[str, Any]] = read_rows(file, member, corpus.fields)
        if corpus.gather:
            found = corpus.gather(found)
        counts[own] = 0
        with progress(0, f"{corpus.name} {own}", "row") as bar:
            for number, row in enumerate(islice(found, data.rows)):
                counts[own] += 1
                bar.update()
                try:
                    rows.append(Row(own, number, corpus.rule(row)))
                except Malformed as error:
                    reasons.append(str(error))
    return rows, counts, overlap.counted(reasons)


def _split(rows: list[Row], own_splits: set[str], data: Corpus) -> dict[str, list[Row]]:
    """By the corpus' own splits, and by the hash of the question where it has no test or no validation split."""
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        key = overlap.text_key(row.document.key).hex()
        split = row.own
        for held_out in ("test", "validation"):
            chosen = derive_seed("corpus", data.seed, held_out, key) / (1 << 63) < data.validation_fraction
            if split == "train" and held_out not in own_splits and chosen:
                split = held_out
        splits[split].append(row)
    return splits


def _distinct(splits: dict[str, list[Row]]) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Each text once in its split, where it stands first; how many were taken out of each."""
    kept = {}
    for split, rows in splits.items():
        first: dict[Document, Row] = {}
        for row in rows:
            first.setdefault(row.document, row)
        kept[split] = list(first.values())
    return kept, {split: len(splits[split]) - len(kept[split]) for split in splits}


def _drop_near_duplicates(splits: dict[str, list[Row]], threshold: float) -> dict[str, int]:
    """Take out of training what repeats validation or test, and out of validation what repeats the test; how many."""
    removed = {}
    for split, against in (("validation", ("test",)), ("train", ("validation", "test"))):
        held_out = [row.document.key for other in against for row in splits[other]]
        repeats = overlap.near_duplicates([row.document.key for row in splits[split]], held_out, threshold)
        splits[split] = [row for i, row in enumerate(splits[split]) if i not in repeats]
        removed[split] = len(repeats)
    return removed


def _refuse_benchmarks(splits: dict[str, list[Row]]) -> tuple[dict[str, int], dict[str, str]]:
    """Take rows with benchmark text out of training and validation: how many by benchmark, and what was compared."""
    how = f"by hash and by {overlap.NGRAM} words in a row"
    removed, compared = {}, {"test": f"its questions, {how}"}
    folder = overlap.sae_probes_folder()
    benchmarks: dict[str, Iterable[str]] = {"test": [row.document.question for row in splits["test"]]}
    if folder is None:
        compared["sae-probes"] = "not compared: its prompts are not on this machine (install the package sae-probes)"
    else:
        compared["sae-probes"] = f"its prompts (version {installed_version('sae-probes')}), {how}"
        benchmarks["sae-probes"] = overlap.sae_probes_prompts(folder)
    for name, texts in benchmarks.items():
        rows = [row for split in ("train", "validation") for row in splits[split]]
        found = overlap.overlap([row.document.text for row in rows], texts)
        refused = {rows[i].id for i in found}
        for split in ("train", "validation"):
            splits[split] = [row for row in splits[split] if row.id not in refused]
        removed[name] = len(refused)
    return removed, compared


def _line(row: Row) -> dict[str, Any]:
    document = row.document
    steps = [{"text": step.text, "label": step.label} for step in document.steps]
    return {"id": row.id, "question": document.question, "steps": steps, "answer": document.answer}
