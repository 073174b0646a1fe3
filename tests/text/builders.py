"""Raw rows that look like GSM8K's, and the folder that the download stage would make of them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from reseed.artifacts import sha256, write_json
from reseed.params import Corpus, TokenizerFolder

CORPORA = os.environ.get("RESEED_CORPORA")
needs_gsm8k = pytest.mark.skipif(
    not CORPORA or not (Path(CORPORA) / "gsm8k" / "train.jsonl").is_file(),
    reason="RESEED_CORPORA names no folder with gsm8k/train.jsonl: look-alikes of GSM8K were tested instead",
)
NAMES = ("Natalia", "Weng", "Zoë", "José", "Betty", "Ken-Åke", "Łukasz")
THINGS = ("clips", "apples", "café visits", "books", "½-litre bottles", "coins 🪙")


def gsm8k_row(question: str, answer: str) -> dict[str, Any]:
    """A row of GSM8K's own file as a raw row."""
    body, mark, final = answer.rpartition("\n#### ")
    assert mark
    return {"question": question, "steps": [step(line) for line in body.split("\n") if line.strip()], "answer": final}


def step(text: str, label: str | None = None) -> dict[str, Any]:
    return {"text": text, "label": label}


def gsm8k(split: str) -> list[dict[str, Any]]:
    assert CORPORA is not None
    lines = (Path(CORPORA) / "gsm8k" / f"{split}.jsonl").read_bytes().split(b"\n")
    return [gsm8k_row(**json.loads(line)) for line in lines if line]


def look_alikes(n: int, seed: int) -> list[dict[str, Any]]:
    """Rows with what GSM8K has: annotations, money, fractions, plain equations, comparisons, accents, double spaces."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        name, thing, a, b = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 5000), rng.randint(2, 99)
        gap = " " * (2 if rng.random() < 0.05 else 1)
        kinds = [
            f"{name} sold {a}+{b} = <<{a}+{b}={a + b}>>{a + b} {thing}.",
            f"Each costs ${b}.50, so {a} x {b} = $<<{a}*{b}={a * b}>>{a * b:,}",
            f"That is {a} - {b} = {a - b} left",
            f"{name} has twice as many {thing} as before",
            f"So we look at the {thing} (all of them) now.",
        ]
        rows.append(
            {
                "question": f"{name} had {a} {thing}.{gap}How many {thing} are {b}% of that?",
                "steps": [step(text) for text in rng.sample(kinds, rng.randint(1, 5))],
                "answer": str(a + b),
            }
        )
    return rows


def operation_rows(n: int, seed: int) -> list[dict[str, Any]]:
    """Rows of one annotated step each, of the four operations in turn, every other one about money."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        name, thing, unit = rng.choice(NAMES), rng.choice(("clips", "apples", "books")), ("$", "")[i // 4 % 2]
        a, b = rng.randint(100, 4000), rng.randint(2, 99)
        text = (
            f"Together {name} and the others have {a}+{b} = {unit}<<{a}+{b}={a + b}>>{a + b} for {thing}.",
            f"After giving some away {name} is left with {a}-{b} = {unit}<<{a}-{b}={a - b}>>{a - b} for {thing}.",
            f"Every box of {name} holds as many, so {thing} come to {a}*{b} = {unit}<<{a}*{b}={a * b}>>{a * b} in all.",
            f"Shared equally, each friend of {name} gets {a}/{b} = {unit}<<{a}/{b}={a // b}>>{a // b} for {thing}.",
        )[i % 4]
        rows.append({"question": f"What about {name}?", "steps": [step(text)], "answer": str(i)})
    return rows


def write_rows(splits: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """A raw folder: one JSON-lines file a split and the manifest."""
    path.mkdir(parents=True)
    files = {}
    for split, rows in splits.items():
        file = path / f"{split}.jsonl"
        lines = [json.dumps({"id": f"{split}-{i:05d}"} | row, sort_keys=True) + "\n" for i, row in enumerate(rows)]
        file.write_text("".join(lines))
        files[file.name] = {"rows": len(rows), "sha256": sha256(file)}
    write_json(path / "manifest.json", {"licence": "MIT", "files": files})
    return path


def corpus(**fields: Any) -> Corpus:
    """The `data` of a subject's file."""
    common = {
        "generator": "corpus", "corpus": "gsm8k", "validation_fraction": 0.1, "seed": 0, "n_ctx": 32,
        "tokenizer": {"kind": "bpe", "vocabulary": 400}, "packing": "packed",
    }  # fmt: skip
    return Corpus.model_validate(common | fields)


def word_piece(texts: list[str], folder: Path) -> TokenizerFolder:
    """A folder with an uncased WordPiece tokenizer as BERT's; its file asks for truncation and padding, as MiniLM's."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    made.enable_truncation(8)
    made.enable_padding(length=8)
    return _folder(made, {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "pad_token": "[PAD]"}, folder)


def across_lines(texts: list[str], folder: Path) -> TokenizerFolder:
    """A folder with a byte-level BPE whose tokens reach over the ends of lines, and that has no BOS and no pad."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return _folder(made, {"eos_token": "<|end|>", "bos_token": None}, folder)


def _folder(tokenizer: Tokenizer, config: dict[str, Any], folder: Path) -> TokenizerFolder:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return TokenizerFolder(kind="folder", path=str(folder), sha256=sha256(folder / "tokenizer.json"))
