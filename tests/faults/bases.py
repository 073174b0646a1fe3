"""The clean things that faults are planted in: small runs, each made once and copied for every exhibit."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from reseed.artifacts import lm_dir, metrics_dir, raw_dir, tokens_dir, write_json
from reseed.models.transformer import save_transformer
from reseed.params import load_language
from tests import scratch
from tests.activations.builders import GPT, N_CTX, gpt, write_padded
from tests.conftest import ROOT, stage
from tests.stability.test_variants import HIGH, LOW, evidence
from tests.subjects import looks
from tests.sweeps import toy
from tests.text.builders import look_alikes, write_rows

SEEDS = (0, 1, 2)
VARIANTS: dict[str, dict[str, Any]] = {
    "wide": {"architecture": "topk", "d_sae": 48, "k": 4},
    "square": {"architecture": "topk", "d_sae": 32, "k": 4},
    "narrow": {"architecture": "topk", "d_sae": 16, "k": 4},
    "wide-frozen": {"architecture": "topk", "d_sae": 48, "k": 4, "soft_frozen": 0.8},
    "penalised": {
        "architecture": "standard", "d_sae": 128, "objectives": {"sparsity": {"penalty": "l1", "coefficient": 0.5}}
    },
    "decorrelated": {"architecture": "topk", "d_sae": 48, "k": 4, "objectives": {"decoder_decorrelation": 0.01}},
    "nested": {"architecture": "matryoshka", "d_sae": 48, "k": 4, "widths": [16, 48]},
    "routed": {"architecture": "routesae", "d_sae": 16, "k": 2},
}  # fmt: skip
"""Of the tiny run, whose d_in is 32: more latents than dimensions, as many, and fewer; a control of the first; two
that the run leaves out; a Matryoshka SAE; and a router, over two layers of the tiny GPT, whose d_in is 8."""


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In `folder` as a stage is: its working directory, one thread, deterministic algorithms, nothing printed."""
    before = Path.cwd(), torch.get_num_threads()
    os.environ |= {"HF_HUB_OFFLINE": "1", "CI": "true"}
    os.chdir(folder)
    torch.set_num_threads(1)  # the data are too small for a second one
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.autograd.grad_mode.set_grad_enabled(True):
            yield
    finally:
        os.chdir(before[0])
        torch.set_num_threads(before[1])


def modular(folder: Path) -> None:
    """Addition modulo 31 from raw data to stability, probes and SAEBench: three seeds of `wide`, and its control."""
    parameters(folder)
    shutil.copy(ROOT / "subjects" / "modular.yaml", folder / "subjects")

    def quick(subject: dict[str, Any]) -> None:
        scratch._tiny_subject(subject)
        subject["model"]["training"] |= {"max_steps": 500, "min_accuracy": 0.1}
        subject["sae"] |= {"max_steps": 200, "min_steps": 100}

    scratch.edit(folder / "subjects" / "modular.yaml", quick)
    with inside(folder):
        for name in ("download", "tokenize", "model"):
            stage(name)("modular")
        for arm in ("trained", "random_model"):
            stage("capture")("modular", arm)
            stage("train")("modular", "wide", arm)
        for variant in ("square", "narrow", "wide-frozen", "nested"):
            stage("train")("modular", variant, "trained")
    for curve in folder.glob("models/modular/*/curves/**/*.tsv"):
        if curve.stem != "unexplained_variance":  # the only one that a later stage reads; the base is copied often
            curve.unlink()


def language(folder: Path) -> None:
    """A padded text of one document a sequence, an untrained GPT that reads it, and the text of another corpus."""
    parameters(folder)

    def tiny(subject: dict[str, Any]) -> None:
        subject["data"] |= {"n_ctx": N_CTX, "packing": "padded"}
        subject["model"] = GPT.model_dump(mode="json")
        hook = "blocks.1.hook_resid_post"
        subject["capture"] |= {"hook_name": hook, "arms": ["trained", "ood"], "ood": "elsewhere"}
        subject["sae"] |= {"batch_size": 64, "warm_up_steps": 5, "max_steps": 40, "check_every": 20, "min_steps": 20}

    for name in ("tiny", "elsewhere"):
        shutil.copy(ROOT / "subjects" / "gsm8k-gpt.yaml", folder / "subjects" / f"{name}.yaml")
        scratch.edit(folder / "subjects" / f"{name}.yaml", tiny)
    scratch.edit(folder / "subjects" / "elsewhere.yaml", lambda subject: subject["data"].update(corpus="openr1"))
    with inside(folder):
        _write_text(tokens_dir("tiny"))
        write_padded(tokens_dir("elsewhere"), seed=3)
        lm_dir("tiny").mkdir(parents=True)
        save_transformer(gpt(), load_language("tiny").model, lm_dir("tiny"), {"loss": 1.0})


def routed(folder: Path) -> None:
    """Two layers of the tiny GPT, and three seeds of an SAE that routes each row to one of them."""
    language(folder)
    hooks = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    scratch.edit(folder / "subjects" / "tiny.yaml", lambda subject: subject["capture"].update(hook_name=hooks))
    with inside(folder):
        stage("capture")("tiny", "trained")
        stage("train")("tiny", "routed", "trained")


def _write_text(path: Path) -> None:
    """As `write_padded`, which gives all splits the same documents, with documents of its own in each split."""
    index = dict(write_padded(path).index)
    for seed, split in enumerate(("validation", "test"), start=1):
        other = path.with_name(split)
        found = write_padded(other, seed=seed).index
        index["splits"][split] = found["splits"][split]
        for shard in found["splits"][split]["shards"]:
            (other / shard["file"]).replace(path / shard["file"])
        shutil.rmtree(other)
    write_json(path / "index.json", index)


def project(folder: Path) -> None:
    """A DVC project of two stages that has run and is committed, its workspace linked to its cache."""
    folder.rmdir()
    toy.make(folder)


def nothing(folder: Path) -> None:
    """An empty folder."""


Base = Callable[[Path], None]


def copy(base: Path, folder: Path) -> None:
    """A copy for one exhibit; the hard links of a DVC project stay links to its own cache."""
    if (base / ".dvc").is_dir():
        toy.copy(base, folder)
    else:
        shutil.copytree(base, folder)


def parameters(folder: Path) -> None:
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "subjects").mkdir()

    def tiny(params: dict[str, Any]) -> None:
        scratch._tiny_params(params)
        params["compute"]["device"] = "cpu"
        params["train"]["seeds"] = list(SEEDS)
        params["variants"] = VARIANTS
        params["stability"]["null_draws"] = 1

    scratch.edit(folder / "params.yaml", tiny)


def text(folder: Path) -> None:
    """The raw documents of a small corpus and the subject that names them."""
    parameters(folder)
    shutil.copy(ROOT / "subjects" / "gsm8k-gpt.yaml", folder / "subjects" / "tiny.yaml")
    scratch.edit(
        folder / "subjects" / "tiny.yaml",
        lambda subject: subject["data"].update(n_ctx=32, tokenizer={"kind": "bpe", "vocabulary": 400}),
    )
    splits = {"train": look_alikes(50, seed=1), "validation": look_alikes(20, seed=2), "test": look_alikes(20, seed=3)}
    write_rows(splits, folder / raw_dir("tiny"))


def corpora(folder: Path) -> None:
    """The files of a small corpus, and the prompts of a benchmark."""
    for split, rows in (("train", range(60)), ("test", range(60, 80))):
        looks.write_lines(folder / "corpora" / "gsm8k" / f"{split}.jsonl", map(looks.question, rows))
    prompts = folder / "prompts" / "sets" / "one.csv"
    prompts.parent.mkdir(parents=True)
    pd.DataFrame({"prompt": ["The museum opens at nine and closes at five on every day but Monday."]}).to_csv(prompts)


def traced(folder: Path) -> None:
    """Two worlds whose states are known, of few sequences: the traversals of graphs and the stack machine."""
    parameters(folder)
    sizes = {"model": 30, "train": 200, "validation": 30, "test": 60}
    for world in ("graph", "stack"):
        shutil.copy(ROOT / "subjects" / f"{world}.yaml", folder / "subjects")
        scratch.edit(folder / "subjects" / f"{world}.yaml", lambda subject: subject["data"].update(sequences=sizes))


def compared(folder: Path) -> None:
    """The evidence of two variants, of five seeds each, and the study that compares them."""
    parameters(folder)
    shutil.copy(ROOT / "study.yaml", folder)
    asked = {"subject": "modular", "variants": ["a", *7 * ["b"]], "baseline": "a"}
    scratch.edit(folder / "study.yaml", lambda study: study["comparisons"]["modular-k"].update(asked))
    for name, kappas in (("a", LOW), ("b", HIGH)):
        write_json(folder / metrics_dir("modular", name) / "stability.json", evidence(kappas))
