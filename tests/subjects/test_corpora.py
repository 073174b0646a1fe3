"""The registry, the refusals, and what `write_corpus` makes of look-alikes and of the real GSM8K."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reseed import ReseedError
from reseed.subjects import overlap, sources
from reseed.subjects.corpora import CORPORA, registered, source_of, write_corpus
from reseed.subjects.overlap import near_duplicates, text_key, words
from reseed.subjects.sources import File
from tests.conftest import ROOT
from tests.subjects.looks import data, digest, gsm8k_folder, question, register, write_lines, written

REAL = os.environ.get("RESEED_CORPORA")
needs_the_files = pytest.mark.skipif(
    not (REAL and (Path(REAL) / "gsm8k" / "train.jsonl").is_file()), reason="RESEED_CORPORA names no folder with gsm8k"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the half minute that reading all prompts of sae-probes takes."""
    monkeypatch.setattr(overlap, "sae_probes_folder", lambda: None)


def manifest(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return content


def test_every_corpus_is_pinned_and_says_what_may_be_done_with_it() -> None:
    for name, corpus in CORPORA.items():
        assert corpus.name == name
        assert corpus.licence
        assert corpus.terms
        assert corpus.citation
        assert corpus.fields
        assert set(corpus.uses) <= {"training", "evaluation"}
        for revision in (corpus.revision, corpus.hub and corpus.hub.revision):
            assert revision is None or re.fullmatch(r"[0-9a-f]{40}", revision)
        assert corpus.revision or corpus.package or name == "reveal"
        assert corpus.package is None or re.fullmatch(r"[0-9a-f]{64}", corpus.package.sha256)
        for file in corpus.files:
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert file.url is None or file.url.startswith("https://")
            assert file.url is None or file.sha256, "what is downloaded has a hash"
        assert bool(corpus.uses) <= bool(corpus.rule)
        assert not corpus.uses or corpus.files or corpus.hub or corpus.package


def test_gsm8k_is_downloaded_from_its_pinned_revision() -> None:
    gsm8k = CORPORA["gsm8k"]
    assert gsm8k.revision
    for file in gsm8k.files:
        assert file.url == (
            f"https://raw.githubusercontent.com/openai/grade-school-math/{gsm8k.revision}/grade_school_math/data/{file.path}"
        )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"corpus": "gsm9k"}, r"data.corpus: found 'gsm9k', allowed: cot-collection, fineweb, gsm8k, "),
        (
            {"corpus": "reveal"},
            r"data.use: found 'training' of the corpus 'reveal', allowed: evaluation \(licence: CC-BY-ND-4.0; its card",
        ),
        ({"corpus": "trip"}, r"of the corpus 'trip', allowed: no use \(licence: none stated"),
        ({"corpus": "trip", "use": "evaluation"}, r"found 'evaluation' of the corpus 'trip', allowed: no use"),
        ({"corpus": "wiqa", "use": "evaluation"}, r"of the corpus 'wiqa', allowed: no use \(licence: none stated"),
        ({"corpus": "cot-collection"}, r"of the corpus 'cot-collection', allowed: evaluation \(licence: CC-BY-4.0 on"),
        (
            {"corpus": "sae-probes", "rows": 9},
            r"found 'training' of the corpus 'sae-probes', allowed: evaluation \(licence: MIT; .*trains nothing\)",
        ),
        (
            {"corpus": "sae-probes", "use": "evaluation"},
            r"data.rows: found none, allowed: a number, for 'sae-probes' is too large",
        ),
        ({"corpus": "openwebtext"}, r"data.rows: found none, allowed: a number, for 'openwebtext' is too large"),
    ],
)
def test_what_a_licence_forbids_is_refused(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match=said):
        write_corpus(data(**keys), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_the_source_is_the_first_that_has_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESEED_CORPORA", raising=False)
    assert source_of(data()) == "https"
    assert source_of(data(corpus="openr1-math")) == "hub"
    assert source_of(data(source="hub")) == "hub"
    monkeypatch.setenv("RESEED_CORPORA", str(tmp_path))
    assert source_of(data()) == "https"
    (tmp_path / "gsm8k").mkdir()
    assert source_of(data()) == "folder"
    assert source_of(data(source="https")) == "https"
    prompts: dict[str, Any] = {"corpus": "sae-probes", "use": "evaluation", "rows": 9}
    (tmp_path / "sae-probes").mkdir()
    assert source_of(data(**prompts)) == "package"
    for other in ("folder", "https", "hub"):
        with pytest.raises(
            ReseedError, match=rf"data.source: found '{other}' of the corpus 'sae-probes', allowed: none, because the"
        ):
            source_of(data(**prompts, source=other))


@pytest.mark.usefixtures("quick")
def test_rows_are_split_by_question_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = {**question(7), "answer": "Another way: <<10-2=8>>8.\n#### 8"}  # the same question, another answer
    train = [*map(question, range(300)), again, question(5), {**question(6), "answer": "no result"}]
    train.append({**question(8), "question": 8})
    folder = gsm8k_folder(monkeypatch, tmp_path / "corpora", train, map(question, range(300, 340)))
    path = tmp_path / "raw"
    assert write_corpus(data(), path) == "folder"
    made = {split: written(path, split) for split in ("train", "validation", "test")}
    said = manifest(path)

    assert said["rows"] == {split: len(rows) for split, rows in made.items()}
    assert said["rows"]["train"] + said["rows"]["validation"] == 301  # 300 questions, one of them twice
    assert said["rows"]["test"] == 40
    assert said["source_rows"] == {"train": 304, "test": 40}
    assert said["dropped"] == {"answer without one line `#### result`": 1, "question is not text": 1}
    assert sum(said["duplicates"].values()) == 1
    assert said["source_files"] == {name: digest(folder / name) for name in ("train.jsonl", "test.jsonl")}
    assert said["files"]["test.jsonl"]["sha256"] == digest(path / "test.jsonl")
    assert said["compared_with"]["sae-probes"].startswith("not compared: its prompts are not on this machine")

    side = {row["question"]: split for split, rows in made.items() for row in rows}
    assert len(side) == 340
    for split, rows in made.items():
        assert all(side[row["question"]] == split for row in rows)
    assert sum(row["question"] == again["question"] for row in made[side[again["question"]]]) == 2
    first = made["train"][0]
    assert set(first) == {"id", "question", "steps", "answer"}
    assert first["id"].startswith("train-")
    original = train[int(first["id"].removeprefix("train-"))]
    assert original["question"] == first["question"]
    lines = [step["text"] for step in first["steps"]]
    assert original["answer"] == "\n".join([*lines, f"#### {first['answer']}"])
    assert {step["label"] for step in first["steps"]} == {None}
    assert 10 <= said["rows"]["validation"] <= 60  # a tenth of 300 by hash: 30 expected, standard deviation 5


@pytest.mark.usefixtures("quick")
def test_the_same_bytes_from_another_run_and_from_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = gsm8k_folder(monkeypatch, tmp_path / "corpora", map(question, range(80)), map(question, range(80, 99)))
    write_corpus(data(), tmp_path / "one")
    write_corpus(data(), tmp_path / "two")
    # what a download would have put there: the hash decides that it need not be fetched again
    monkeypatch.setattr(sources, "DOWNLOADS", tmp_path / "corpora")
    urls = tuple(
        File(file.path, file.split, sha256=digest(folder / file.path), url=f"http://127.0.0.1:9/{file.path}")
        for file in CORPORA["gsm8k"].files
    )
    register(monkeypatch, "gsm8k", files=urls)
    assert write_corpus(data(source="https"), tmp_path / "three") == "https"
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["manifest.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    write_corpus(data(seed=1), tmp_path / "four")
    assert written(tmp_path / "one", "validation") != written(tmp_path / "four", "validation")


@pytest.mark.usefixtures("quick")
def test_planted_repeats_of_held_out_questions_leave_the_training_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = [question(i) for i in range(200, 220)]
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    test.append({"question": f"{long}?", "answer": "So.\n#### 1"})
    equal = {**question(201), "question": question(201)["question"].upper()}
    near = {"question": f"{long} eighteen?", "answer": "So.\n#### 2"}
    inside = {"question": "Something else?", "answer": f"As in: {' '.join(long.split()[2:15])} it goes.\n#### 3"}
    clean = {"question": "Nothing of it?", "answer": f"As in: {' '.join(long.split()[2:14])} it goes.\n#### 3"}
    train = [*map(question, range(100)), equal, near, inside, clean]
    gsm8k_folder(monkeypatch, tmp_path / "corpora", train, test)
    write_corpus(data(), tmp_path / "raw")
    said = manifest(tmp_path / "raw")
    left = {row["question"] for split in ("train", "validation") for row in written(tmp_path / "raw", split)}
    assert not left & {equal["question"], near["question"], inside["question"]}
    assert clean["question"] in left
    assert sum(said["near_duplicates"].values()) == 2
    assert said["benchmark_text"] == {"test": 1}
    assert len(left) == 101


def test_a_prompt_of_sae_probes_leaves_the_training_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its real data, one file of them: reading all takes half a minute."""
    folder = overlap.sae_probes_folder()
    assert folder is not None
    few = tmp_path / "probes"
    (few / "cleaned_data").mkdir(parents=True)
    (few / "cleaned_data" / "a.csv.zst").write_bytes((folder / "cleaned_data" / "100_news_fake.csv.zst").read_bytes())
    prompt = max(overlap.sae_probes_prompts(few), key=lambda text: len(words(text)))
    monkeypatch.setattr(overlap, "sae_probes_folder", lambda: few)
    planted = {"question": f"Is this news fake? {' '.join(prompt.split())}", "answer": "No.\n#### 1"}
    train = [*map(question, range(100)), planted]
    gsm8k_folder(monkeypatch, tmp_path / "corpora", train, map(question, range(200, 220)))
    write_corpus(data(), tmp_path / "raw")
    said = manifest(tmp_path / "raw")
    assert said["benchmark_text"] == {"test": 0, "sae-probes": 1}
    assert said["compared_with"]["sae-probes"].startswith("its prompts (version 0.4.2)")
    assert all(row["question"] != planted["question"] for row in written(tmp_path / "raw", "train"))
    assert said["rows"]["train"] + said["rows"]["validation"] == 100


@pytest.mark.usefixtures("quick")
def test_nothing_left_after_filtering_is_refused_with_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [{"question": "q", "answer": "no result"}] * 3
    gsm8k_folder(monkeypatch, tmp_path / "corpora", [*bad, question(1)], [question(1)])
    with pytest.raises(
        ReseedError, match=r"gsm8k: found no row left in train after filtering \(of 5: 3 answer without"
    ):
        write_corpus(data(), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.usefixtures("quick")
def test_files_that_are_not_as_registered_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = [question(i) for i in range(50)], [question(i) for i in range(50, 60)]
    folder = gsm8k_folder(monkeypatch, tmp_path / "corpora", train, test)
    register(monkeypatch, "gsm8k", rows=(("train", 51), ("test", 10)))
    with pytest.raises(ReseedError, match=r"train: found 50 rows, allowed: 51, the registered number"):
        write_corpus(data(), tmp_path / "raw")
    write_corpus(data(rows=40), tmp_path / "raw")  # a part of it cannot be counted
    assert manifest(tmp_path / "raw")["source_rows"] == {"train": 40, "test": 10}
    write_lines(folder / "train.jsonl", [*train, question(70)])
    with pytest.raises(ReseedError, match=r"gsm8k/train.jsonl: found sha256"):
        write_corpus(data(), tmp_path / "other")
    gsm8k_folder(monkeypatch, tmp_path / "corpora", [*train, {"question": "q", "reply": "a"}], test)
    with pytest.raises(ReseedError, match=r"gsm8k/train.jsonl: row 51: found no field 'answer'"):
        write_corpus(data(), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("quick")
def test_a_corpus_without_a_test_split_gets_one_by_the_hash_of_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [{"text": f"Page {i} begins.\n\nIt is about {question(i)['question']}"} for i in range(400)]
    write_lines(tmp_path / "corpora" / "fineweb" / "train.jsonl", pages)
    monkeypatch.setenv("RESEED_CORPORA", str(tmp_path / "corpora"))
    write_corpus(data(corpus="fineweb", rows=300, validation_fraction=0.2), tmp_path / "raw")
    said = manifest(tmp_path / "raw")
    assert said["source_rows"] == {"train": 300}
    assert not said["checked"]  # no hash of such a file is known
    assert "revision" not in said
    assert sum(said["rows"].values()) == 300
    assert 30 <= said["rows"]["test"] <= 90  # 60 expected, standard deviation 7
    assert 20 <= said["rows"]["validation"] <= 80  # a fifth of what is left
    row = written(tmp_path / "raw", "test")[0]
    assert row["question"] == row["answer"] == ""
    assert len(row["steps"]) == 2


@pytest.mark.usefixtures("quick")
def test_reveal_evaluates_with_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "answer_id,question,full_answer,step_idx,step,attribution_label,correctness_label"
    lines = [f"c{i},Is it {i}?,So {i}.,0,It is {i}.,Unsupported," for i in range(5)]
    lines += [f"c{i},Is it {i}?,So {i}.,1,So {i}.,,Correct" for i in range(5)]
    write_lines(tmp_path / "corpora" / "reveal" / "eval" / "reveal_eval.csv", [header, *lines])
    monkeypatch.setenv("RESEED_CORPORA", str(tmp_path / "corpora"))
    write_corpus(data(corpus="reveal", use="evaluation"), tmp_path / "raw")
    rows = written(tmp_path / "raw", "test")
    assert rows[2] == {
        "id": "test-00002",
        "question": "Is it 2?",
        "steps": [{"text": "It is 2.", "label": "Unsupported"}, {"text": "So 2.", "label": "Correct"}],
        "answer": "So 2.",
    }
    assert manifest(tmp_path / "raw")["rows"] == {"train": 0, "validation": 0, "test": 5}


@pytest.mark.usefixtures("quick")
def test_an_archive_with_a_validation_split_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of WIQA, as if its licence were known: what it holds out itself is held out."""

    def row(i: int) -> dict[str, Any]:
        steps = [f"Step {step} of procedure {i}." for step in range(2)]
        return {
            "question": {"stem": question(i)["question"], "para_steps": steps, "answer_label": "more"},
            "metadata": {},
        }

    numbers = {"train": range(50), "validation": range(50, 60), "test": range(60, 80)}
    lines = {split: "\n".join(json.dumps(row(i)) for i in found) for split, found in numbers.items()}
    (tmp_path / "corpora" / "wiqa").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "corpora" / "wiqa" / CORPORA["wiqa"].files[0].path, "w") as archive:
        for file in CORPORA["wiqa"].files:
            assert file.member
            archive.writestr(file.member, lines[file.split])
    monkeypatch.setenv("RESEED_CORPORA", str(tmp_path / "corpora"))
    register(monkeypatch, "wiqa", uses=("training",))
    with pytest.raises(
        ReseedError, match=r"wiqa-dataset-v2-october-2019.zip: found sha256 \w{12}…, allowed: afdab9bc33d8"
    ):
        write_corpus(data(corpus="wiqa"), tmp_path / "raw")
    files = tuple(replace(file, sha256=None) for file in CORPORA["wiqa"].files)
    register(monkeypatch, "wiqa", files=files)
    write_corpus(data(corpus="wiqa"), tmp_path / "raw")
    assert manifest(tmp_path / "raw")["rows"] == {split: len(found) for split, found in numbers.items()}
    assert written(tmp_path / "raw", "validation")[0]["question"] == question(50)["question"]


@pytest.mark.usefixtures("quick")
def test_a_corpus_of_the_hub_names_its_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DOWNLOADS", tmp_path / "downloads")
    monkeypatch.delenv("RESEED_CORPORA", raising=False)
    (tmp_path / "hub").mkdir()
    pages = [{"text": f"Page {i}.\n\n{question(i)['question']}", "url": "x"} for i in range(120)]
    pd.DataFrame(pages).to_parquet(tmp_path / "hub" / "train.parquet")
    fineweb = CORPORA["fineweb"].hub
    assert fineweb
    register(monkeypatch, "fineweb", hub=replace(fineweb, id=str(tmp_path / "hub"), config=None))
    assert write_corpus(data(corpus="fineweb", rows=100), tmp_path / "raw") == "hub"
    said = manifest(tmp_path / "raw")
    assert said["revision"] == fineweb.revision
    assert said["checked"]
    assert said["source_rows"] == {"train": 100}
    assert sum(said["rows"].values()) == 100


def test_the_prompts_of_the_installed_package_stand_by_turns(tmp_path: Path) -> None:
    """The first two of each of the 155 files and the third of some, against pandas, each text once."""
    keys: dict[str, Any] = {
        "corpus": "sae-probes",
        "use": "evaluation",
        "rows": 2 * 155 + 7,
        "validation_fraction": 0.4,
    }
    assert write_corpus(data(**keys), tmp_path / "raw") == "package"
    said, folder = manifest(tmp_path / "raw"), overlap.sae_probes_folder()
    assert folder is not None
    files = sorted((folder / "cleaned_data").iterdir(), key=lambda path: path.name)
    tables = [pd.read_csv(path, nrows=3, dtype=str, keep_default_na=False)["prompt"].tolist() for path in files]
    prompts = [table[i] for i in range(3) for table in tables][: keys["rows"]]
    lines = "".join(f"{path.name} {digest(path)}\n" for path in files)
    assert said["source_files"] == {"sae-probes==0.4.2: cleaned_data": hashlib.sha256(lines.encode()).hexdigest()}
    assert (said["checked"], said["source_rows"], said["dropped"]) == (True, {"train": len(prompts)}, {})
    assert said["benchmark_text"] == {}  # it is one, and it is not training text
    rows = [row for split in ("train", "validation", "test") for row in written(tmp_path / "raw", split)]
    for row in rows:
        text = prompts[int(row["id"].removeprefix("train-"))].strip()
        assert row == {"id": row["id"], "question": "", "steps": [{"text": text, "label": None}], "answer": ""}
    distinct = {prompt.strip() for prompt in prompts}
    assert len(rows) + sum(said["near_duplicates"].values()) == len(distinct) < len(prompts)
    assert sum(said["duplicates"].values()) == len(prompts) - len(distinct)
    assert said["rows"]["test"] > len(prompts) / 4


def test_an_edited_or_missing_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = data(corpus="sae-probes", use="evaluation", rows=9, validation_fraction=0.4)
    folder = overlap.sae_probes_folder()
    assert folder is not None
    (tmp_path / "cleaned_data").mkdir()
    for path in sorted((folder / "cleaned_data").iterdir())[:2]:
        (tmp_path / "cleaned_data" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(overlap, "sae_probes_folder", lambda: tmp_path)
    with pytest.raises(
        ReseedError,
        match=r"cleaned_data \(sae-probes 0.4.2, wanted 0.4.2\): found sha256 \w{12}…, allowed: 6cbed7e80d2d…",
    ):
        write_corpus(prompts, tmp_path / "raw")
    monkeypatch.setattr(overlap, "sae_probes_folder", lambda: None)
    with pytest.raises(
        ReseedError, match=r"found no package sae-probes with its data .*`pip install --no-deps sae-probes==0.4.2`"
    ):
        write_corpus(prompts, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_the_pin_of_the_prompts_is_that_of_the_lock() -> None:
    package = CORPORA["sae-probes"].package
    assert package
    assert f"\n{package.name}=={package.version}\n" in (ROOT / "requirements.lock").read_text()


@needs_the_files
@pytest.mark.usefixtures("quick")
def test_the_real_gsm8k(tmp_path: Path) -> None:
    """Its 7,473 and 1,319 rows as published, each with its steps and its answer, against a reader of its own."""
    assert REAL
    assert write_corpus(data(), tmp_path / "raw") == "folder"
    said = manifest(tmp_path / "raw")
    assert said["checked"]
    assert said["revision"] == registered(data()).revision
    assert said["source_rows"] == {"train": 7473, "test": 1319}
    assert said["dropped"] == {}
    assert sum(said["duplicates"].values()) == sum(said["near_duplicates"].values()) == 0
    assert said["benchmark_text"] == {"test": 4}
    assert said["rows"]["train"] + said["rows"]["validation"] == 7473 - 4
    assert said["rows"]["test"] == 1319
    original = {
        f"{split}-{i:05d}": json.loads(line)
        for split in ("train", "test")
        for i, line in enumerate((Path(REAL) / "gsm8k" / f"{split}.jsonl").read_text().rstrip("\n").split("\n"))
    }
    made = {split: written(tmp_path / "raw", split) for split in ("train", "validation", "test")}
    for row in (row for rows in made.values() for row in rows):
        source = original[row["id"]]
        assert row["question"] == source["question"].strip()
        lines = [line.strip() for line in source["answer"].split("\n") if line.strip()]
        assert [step["text"] for step in row["steps"]] == lines[:-1]
        assert f"#### {row['answer']}" == lines[-1]
        assert float(row["answer"].replace(",", "")) == float(lines[-1][5:].replace(",", ""))
        assert "".join(step["text"] for step in row["steps"]).count("<<") == source["answer"].count("<<")
    keys = {split: {text_key(row["question"]) for row in rows} for split, rows in made.items()}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    # at a lower threshold the train that travels beside the plane of the test is found
    training = [row["question"] for row in original.values()][:7473]
    repeats = near_duplicates(training, [row["question"] for row in made["test"]], 0.5)
    assert len(repeats) == 2
    assert all("travels" in training[i] for i in repeats)
