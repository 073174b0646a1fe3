"""Faults of what is read: the task, its text, the model and its activations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from torch import Tensor

import reseed.activations.capture as capture_room
import reseed.activations.language as language_room
import reseed.models.transformer as transformer_room
import reseed.subjects.states as states_room
import reseed.text.alignment as alignment_room
import reseed.text.traces as traces_room
from reseed.activations.gaussian import gaussian_rows
from reseed.activations.store import read_activations
from reseed.activations.writer import ActivationWriter
from reseed.artifacts import activations_dir, derive_seed, lm_dir, raw_dir, read_tensors, sha256, tokens_dir
from reseed.params import SPLITS, TRAINED, load_traced
from reseed.stability.checks import check_control, check_rows
from reseed.subjects import overlap
from reseed.subjects.corpora import write_corpus
from reseed.subjects.sources import File
from reseed.text.tokens import Tokens
from reseed.text.traces import Traces, check_traced, read_traces
from reseed.truth.known import check_known
from tests.conftest import stage
from tests.faults import bases
from tests.faults.attempts import (
    SUBJECT,
    change_json,
    change_model,
    change_raw,
    change_subject,
    core,
    rewrite_rows,
    run,
    several,
)
from tests.faults.museum import Exhibit, Fault
from tests.subjects import looks

Splits = dict[str, Tensor]
REAL_CAPTURE = capture_room.capture
NOISE_STAGE = stage("gaussian")


def _read_at_the_answer(_: Exhibit) -> None:
    change_json(tokens_dir(SUBJECT) / "index.json", lambda index: index.update(predict="answer"))


def _train_on_test(_: Exhibit) -> None:
    train = (raw_dir(SUBJECT) / "train.jsonl").read_text().splitlines()
    change_raw(raw_dir(SUBJECT) / "test.jsonl", lambda lines: [*lines, train[0]])


def _ten_sentences(_: Exhibit) -> None:
    change_raw(raw_dir("tiny") / "train.jsonl", lambda lines: 5 * lines[:10])


def _test_documents_in_training(_: Exhibit) -> None:
    test = (raw_dir("tiny") / "test.jsonl").read_text().splitlines()
    change_raw(raw_dir("tiny") / "train.jsonl", lambda lines: [*lines, test[0]])


def _no_test(_: Exhibit) -> None:
    change_raw(raw_dir("tiny") / "test.jsonl", lambda _: [])


def _train_on_prompts(_: Exhibit) -> None:
    lines = (Path("corpora") / "gsm8k" / "train.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["question"] for line in lines]
    pd.DataFrame({"prompt": prompts}).to_csv(Path("prompts") / "sets" / "one.csv")


def _downloaded() -> None:
    """The stage download of a corpus whose registered files are those of the exhibit."""
    files = [Path("corpora") / "gsm8k" / f"{split}.jsonl" for split in ("train", "test")]
    with pytest.MonkeyPatch.context() as patch:
        known = tuple(File(file.name, file.stem, sha256=sha256(file)) for file in files)
        looks.register(patch, "gsm8k", files=known, rows=())
        patch.setenv("RESEED_CORPORA", str(Path("corpora").resolve()))
        patch.setattr(overlap, "sae_probes_folder", lambda: Path("prompts"))
        write_corpus(looks.data(), Path("raw"))


def _another_pattern(_: Exhibit) -> None:
    for file in (Path("corpora") / "gsm8k").iterdir():
        file.write_text(file.read_text().replace("#### ", "### "))


def _spans_off_by_one(exhibit: Exhibit) -> None:
    real = alignment_room.token_span

    def shifted(*arguments: Any) -> tuple[int, int]:
        first, last = real(*arguments)
        return first + 1, last + 1

    exhibit.replace(alignment_room, "token_span", shifted)


def _answered_by(answer: Callable[[dict[str, int]], int]) -> Any:
    """Another answer in every raw row."""

    def plant(_: Exhibit) -> None:
        def answered(line: str) -> str:
            row = json.loads(line)
            return json.dumps(row | {"answer": answer(row)})

        for split in SPLITS:
            change_raw(raw_dir(SUBJECT) / f"{split}.jsonl", lambda lines: [answered(line) for line in lines])

    return plant


def _at_random(row: dict[str, int]) -> int:
    return derive_seed("noise", row["a"], row["b"]) % 31


def _fifty_sequences(_: Exhibit) -> None:
    change_raw(raw_dir(SUBJECT) / "train.jsonl", lambda lines: lines[:: len(lines) // 50][:50])


def _other_tokens(_: Exhibit) -> None:
    change_subject(lambda subject: subject["data"].update(seed=1))
    for name in ("download", "tokenize"):
        run(name, SUBJECT)()


def _states_beside_rows() -> None:
    """How the stages truth and causal know that a captured row has the state in the same place."""
    folder = activations_dir(SUBJECT, TRAINED)
    check_traced(sha256(tokens_dir(SUBJECT) / "index.json"), read_activations(folder).index, folder)


def _capture_pads(exhibit: Exhibit) -> None:
    exhibit.replace(language_room, "_wanted", lambda kind, _options: torch.ones_like(kind, dtype=torch.bool))


def _noise_where_rows_are_written(exhibit: Exhibit) -> None:
    real, random = ActivationWriter.append, torch.Generator().manual_seed(0)

    def append(self: ActivationWriter, split: str, rows: Tensor, beside: Any = None) -> None:
        real(self, split, rows.mean(0) + rows.std(0) * torch.randn(rows.shape, generator=random), beside)

    exhibit.replace(ActivationWriter, "append", append)


def _same_corpus(_: Exhibit) -> None:
    change_subject(lambda subject: subject["data"].update(corpus="gsm8k"), "elsewhere")


def _capture_returning(change: Callable[[Splits, Tokens], Splits]) -> Any:
    def capture(*arguments: Any) -> Splits:
        return change(REAL_CAPTURE(*arguments), arguments[1])

    return capture


def _random_rows(exhibit: Exhibit) -> None:
    def noise(rows: Splits, _: Tokens) -> Splits:
        random = torch.Generator().manual_seed(0)
        return {split: torch.randn(x.shape, generator=random) for split, x in rows.items()}

    exhibit.replace(capture_room, "capture", _capture_returning(noise))


def _matched_noise(exhibit: Exhibit) -> None:
    def noise(rows: Splits, _: Tokens) -> Splits:
        blocks: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
        for split, block in gaussian_rows(read_activations(activations_dir(SUBJECT, TRAINED))):
            blocks[split].append(block["activations"])
        return {split: torch.cat(found)[: len(rows[split])] for split, found in blocks.items()}

    exhibit.replace(capture_room, "capture", _capture_returning(noise))


def _answer_among_the_features(exhibit: Exhibit) -> None:
    def with_answer(rows: Splits, tokens: Tokens) -> Splits:
        for split, x in rows.items():
            x[:, 0] += tokens.splits[split][:, tokens.position(tokens.target)] * x.std()
        return rows

    exhibit.replace(capture_room, "capture", _capture_returning(with_answer))


TOKENIZED_AND_TRAINED = several(run("tokenize", SUBJECT), run("model", SUBJECT))
CAPTURED = several(run("capture", SUBJECT, TRAINED), run("train", SUBJECT, "wide", TRAINED), core("wide"))


def _noise_in_the_models_place(exhibit: Exhibit) -> None:
    exhibit.stack.enter_context(patch.dict(NOISE_STAGE.__globals__, GAUSSIAN=TRAINED))


@cache
def _known(world: str) -> Callable[[], object]:
    """A world is drawn and tokenised, and the stage truth asks whether it is known before it scores anything."""

    def attempt() -> None:
        run("download", world)()
        run("tokenize", world)()
        check_known(read_traces(tokens_dir(world)), load_traced(world).data, f"data/{world}")

    return attempt


def _without_a_seed(exhibit: Exhibit) -> None:
    exhibit.replace(states_room, "Random", lambda _: Random())


def _one_word_for_two(exhibit: Exhibit) -> None:
    real = traces_room.tokenize_traces

    def merged(raw: Path) -> Traces:
        traces = real(raw)
        one, other = (traces.vocabulary.index(word) for word in ("push 1", "push 2"))
        splits = {split: torch.where(rows == other, one, rows) for split, rows in traces.splits.items()}
        return dataclasses.replace(traces, splits=splits)

    exhibit.replace(traces_room, "tokenize_traces", merged)


def _repeat_eight_rows(_: Exhibit) -> None:
    rewrite_rows(lambda rows: rows | {"train": rows["train"][:8].repeat(100, 1)})


def _validate_on_test(_: Exhibit) -> None:
    rewrite_rows(lambda rows: rows | {"validation": rows["test"]})


def _report_on_training_rows(_: Exhibit) -> None:
    rewrite_rows(lambda rows: rows | {"test": rows["train"][:100]})


def _rows_checked() -> None:
    check_rows(read_activations(activations_dir(SUBJECT, TRAINED)), activations_dir(SUBJECT, TRAINED))


def _trained_weights_as_random(exhibit: Exhibit) -> None:
    real = transformer_room.build_transformer

    def trained(*arguments: Any) -> Any:
        made = real(*arguments)
        made.load_state_dict(read_tensors(lm_dir(SUBJECT) / "model.safetensors"), strict=False)
        return made

    exhibit.replace(transformer_room, "build_transformer", trained)


def _control_captured() -> None:
    run("capture", SUBJECT, "random_model")()
    found = [read_activations(activations_dir(SUBJECT, arm)).index for arm in (TRAINED, "random_model")]
    check_control(found[0], found[1], activations_dir(SUBJECT, "random_model"))


def _outlier_dimension(_: Exhibit) -> None:
    change_model(lambda name, weights: weights + 1e5 if name == "blocks.0.mlp.b_out" else weights)


def _captured_in_half() -> None:
    change_subject(lambda subject: subject["capture"].update(dtype="float16"))
    run("capture", SUBJECT, TRAINED)()


FAULTS = (
    Fault(
        "label_leak", "HUSAI 1.5.1", "The answer stands in the input",
        "The transformer was given [BOS, a, +, b, =, c, EOS] and read at the position of c itself. It reached "
        "accuracy 1.0 in 18 steps by copying a token; nothing was added, and every SAE on it was an SAE of 113 "
        "clusters of that token.",
        "the index of the tokens says that the model predicts at the answer.",
        bases.modular, _read_at_the_answer, run("model", SUBJECT),
        r"label leak: corrupting the label changes .* the answer stands in the input",
    ),
    Fault(
        "shortcut", "RL-Decoder 2.3", "A task with a shortcut",
        "What separated the faithful from the unfaithful was a word: a lexical shortcut, which a probe on the text "
        "alone used as well.",
        "every raw answer is the first operand.",
        bases.modular, _answered_by(lambda row: row["a"]), TOKENIZED_AND_TRAINED,
        r"label leak or an idle model: corrupting an operand changes #% of the predictions, allowed: at least 90%",
    ),
    Fault(
        "constraints_are_noise", "RL-Decoder 2.3", "Labels that are noise",
        "The constraints of the logic world were random numbers: there was nothing in the input that could tell them.",
        "every raw answer is drawn at random.",
        bases.modular, _answered_by(_at_random), TOKENIZED_AND_TRAINED,
        r"the model did not generalise: validation accuracy # after 500 steps, allowed: at least #",
    ),
    Fault(
        "graph_without_seed", "RL-Decoder 2.4.7", "A graph that is another one each time",
        "The graph whose traversals were the data was drawn without a seed: no run could be repeated, and no state "
        "looked up again.",
        "the code that draws worlds makes a generator without their seed.",
        bases.traced, _without_a_seed, _known("graph"),
        r"data/graph: \d+ of the first 20 sequences of 'train' are others when they are drawn again with data\.seed 0",
    ),
    Fault(
        "one_word_for_two_states", "RL-Decoder 2.3", "States that their encoding does not tell apart",
        "The stack was encoded by sines of its depth, which gave different stacks one vector: what was to be found was "
        "not in the input.",
        "the code that tokenises gives two instructions one token.",
        bases.traced, _one_word_for_two, _known("stack"),
        r"data/stack: \d+ states at position \d+ stand behind tokens that stand before another state, too",
    ),
    Fault(
        "fifty_sequences", "RL-Decoder 2.3", "Fifty sequences",
        "A model that had seen 50 sequences knew them by heart, and what was read in it was memory.",
        "fifty of the raw training rows are left.",
        bases.modular, _fifty_sequences, TOKENIZED_AND_TRAINED,
        r"the model did not generalise: validation accuracy # after 500 steps, allowed: at least #",
    ),
    Fault(
        "stale_vocabulary", "HUSAI 1.4", "A vocabulary of other data",
        "Tests and code held on to another vocab_size than the data had.",
        "data.p is 29, and the raw data are of 31.",
        bases.modular, lambda _: change_subject(lambda subject: subject["data"].update(p=29)), run("tokenize", SUBJECT),
        r"\w+\.jsonl: found the number 30, allowed: 0 to 28",
    ),
    Fault(
        "unknown_position", "RL-Decoder 2.3", "A position that is silently the first",
        "Where `=` was not found, its position became 0, and what was read there was the first token.",
        "capture.positions names `eq`, which the tokens do not have.",
        bases.modular, lambda _: change_subject(lambda subject: subject["capture"].update(positions=["eq"])),
        run("capture", SUBJECT, TRAINED),
        r"position 'eq': the tokens have no such position; known: a, answer, b, equals",
    ),
    Fault(
        "alignment_of_other_tokens", "RL-Decoder 2.3", "An alignment of other tokens",
        "A cache of alignments was of other text than the activations, and labels stood beside rows that they did not "
        "belong to.",
        "the data are drawn and tokenised again with another seed, and the activations are still of the first.",
        bases.modular, _other_tokens, _states_beside_rows,
        r"trained: tokens_sha256: found …, allowed: …, the tokens whose states are known",
    ),
    Fault(
        "result_token_probed", "RL-Decoder 2.4.6", "A probe target that is the input token",
        "An R2 of 0.977 was read at the result token, where the number to be decoded is the token that stands there.",
        "capture.positions names the position of the answer.",
        bases.modular, lambda _: change_subject(lambda subject: subject["capture"].update(positions=["answer"])),
        run("capture", SUBJECT, TRAINED),
        r"capture\.positions: found 'answer' or later .* activations behind it hold the answer",
    ),
    Fault(
        "test_repeats_training", "RL-Decoder 2.4.7", "Test sequences that were trained on",
        "At most 100 distinct trajectories were drawn 500 times and split in order, so that the test repeated "
        "training.",
        "the first training row is appended to the raw test rows.",
        bases.modular, _train_on_test, run("tokenize", SUBJECT),
        r"tokens: test has 1 leaked sequences, allowed: 0",
    ),
    Fault(
        "benchmark_in_training", "HUSAI 1.5.6", "The benchmark's texts in the training text",
        "The SAE was trained on activations of the first 80 of the 113 data sets that later judged it.",
        "a document of the test split is appended to the training documents.",
        bases.text, _test_documents_in_training, run("tokenize", "tiny"),
        r"tokens: test has 1 documents that are training documents, allowed: 0",
    ),
    Fault(
        "benchmark_prompts", "HUSAI 1.5.6", "The benchmark's prompts as training text",
        "The same, with the prompts themselves.",
        "the questions of the corpus are the prompts of the benchmark: they are taken out, and none is left.",
        bases.corpora, _train_on_prompts, _downloaded,
        r"gsm8k: found no row left in train after filtering \(.* \d+ with benchmark text\), allowed: at least one",
    ),
    Fault(
        "wrong_pattern", "RL-Decoder 2.3", "A pattern that nothing matches",
        "Regular expressions that split solutions into steps were wrong, and what they did not match was dropped or "
        "called `other`.",
        "results are marked by ### in the files, and the rule of the corpus looks for ####.",
        bases.corpora, _another_pattern, _downloaded,
        r"gsm8k: found no row left in train after filtering \(of 80: 80 .*answer without one line",
    ),
    Fault(
        "broken_alignment", "RL-Decoder 2.3", "Steps and tokens out of step",
        "Labels of steps were put beside the tokens of others.",
        "the code that finds the tokens of a step is off by one.",
        bases.text, _spans_off_by_one, run("tokenize", "tiny"),
        r"data\.quality\.min_aligned: found (0|#) in the split 'train', allowed: at least #",
    ),
    Fault(
        "no_test_documents", "RL-Decoder 2.3, HUSAI 1.4", "A test split that falls back on training",
        "`test or records`: where the test split was empty, everything was the test.",
        "the raw file of the test documents is empty.",
        bases.text, _no_test, run("tokenize", "tiny"),
        r"test\.jsonl: found 0 documents, which fill no sequence of data\.n_ctx \(32\) tokens, allowed: one at least",
    ),
    Fault(
        "ten_sentences", "RL-Decoder 2.4.3", "Ten sentences, five times",
        "All SAEs of one phase were trained on ten hard-coded sentences repeated five times: some 200 distinct "
        "token vectors for 12,288 latents.",
        "the training documents are ten, five times each.",
        bases.text, _ten_sentences, run("tokenize", "tiny"),
        r"data\.quality\.max_duplicates: found # in the split 'train', allowed: at most #",
    ),
    Fault(
        "eight_sequences", "RL-Decoder 2.4.3", "Eight sequences, five hundred times",
        "What was counted as 4,008 sequences were eight, passed 501 times.",
        "the training rows are eight rows a hundred times, hashed and indexed as they should be.",
        bases.modular, _repeat_eight_rows, run("train", SUBJECT, "wide", TRAINED),
        r"activations: #% of the 800 training rows are copies of another, allowed: at most 50%",
    ),
    Fault(
        "pads_captured", "RL-Decoder 2.4.10", "Padding among the rows",
        "Sequences were padded with end tokens and the lengths that were saved beside them never used, so that SAEs"
        " learned padding, which dominated some of their latents.",
        "the capture's choice of positions takes every position.",
        bases.language, _capture_pads, run("capture", "tiny", TRAINED),
        r"\d+ rows of the split 'train' are padding, of no document, allowed: none",
    ),
    Fault(
        "placeholder_rows", "RL-Decoder 2.4.1", "A placeholder under a model's name",
        "`create_synthetic_activations`, a placeholder until a real capture, was called for four models and saved "
        "under the name of each.",
        "the stage of the Gaussian arm writes its rows where the trained arm is read.",
        bases.modular, _noise_in_the_models_place, lambda: NOISE_STAGE(SUBJECT),
        r"arm 'trained' is a model's: found the generator 'Gaussian of .* arm', allowed: one that begins with 'forward",
    ),
    Fault(
        "noise_rows", "RL-Decoder 2.4.1", "Noise under a model's name",
        "31.7 % of activations were 'monosemantic' in four models, which is P(|Z| > 1): the rows were torch.randn, "
        "and all that was found in them was found in noise.",
        "the capture's function returns torch.randn of the same shape; the index says what it always says.",
        bases.modular, _random_rows, CAPTURED,
        r"the training rows look like unit Gaussian noise, their index says 'forward pass of the trained model'",
    ),
    Fault(
        "matched_noise_rows", "RL-Decoder 2.4.1", "Noise with the model's own covariance",
        "The same, had the placeholder been better: noise of the right mean and covariance passes every look at its"
        " moments, and an SAE reconstructs it as it does other noise.",
        "the capture's function returns Gaussian noise with the mean and covariance of the real rows.",
        bases.modular, _matched_noise, CAPTURED,
        r"explained_variance is # on what the model computes on the test sequences, metrics\.json says #",
    ),
    Fault(
        "noise_for_a_language_model", "RL-Decoder 2.4.1", "Noise for a language model",
        "The same where no answer and no loss could tell.",
        "where rows are written, noise of the mean and spread of each dimension is written.",
        bases.language, _noise_where_rows_are_written, run("capture", "tiny", TRAINED),
        r"the first \d+ rows of the split 'train' are #% of their spread from what the model computes, allowed: 10%",
    ),
    Fault(
        "label_among_features", "RL-Decoder 2.4.8", "The label among the features",
        "A feature was computed from whether the answer was right, and a probe on the features then told whether it"
        " was: the step that turned two data sets from fail to pass. No permutation test sees a leak inside the "
        "features.",
        "the capture's function adds the answer to the first dimension of every row.",
        bases.modular, _answer_among_the_features, CAPTURED,
        r"explained_variance is # on what the model computes on the test sequences, metrics\.json says #",
    ),
    Fault(
        "same_corpus_elsewhere", "HUSAI 1.5.6", "Other text that is the same text",
        "What was out of distribution was the alphabetical tail of the same list of data sets.",
        "the subject whose text is out of distribution is of the same corpus.",
        bases.language, _same_corpus, run("capture", "tiny", "ood"),
        r"tiny\.yaml: capture\.ood: found 'elsewhere', whose corpus is gsm8k as well, allowed: a subject of another",
    ),
    Fault(
        "lookup_hook", "HUSAI 1.5.8", "A hook point in front of the model",
        "blocks.0.hook_resid_pre of a rotary model is a table of tokens: the 'real language model' had computed "
        "nothing there.",
        "capture.hook_name is blocks.0.hook_resid_pre.",
        bases.modular,
        lambda _: change_subject(lambda subject: subject["capture"].update(hook_name="blocks.0.hook_resid_pre")),
        run("capture", SUBJECT, TRAINED),
        r"the training activations are constant; check capture\.hook_name and positions",
    ),
    Fault(
        "random_arm_is_trained", "HUSAI 1.5.6", "A random-model control that is no random model",
        "The gate called random_model compared with random decoders on a toy; no SAE of an untrained network stood "
        "behind it.",
        "the capture of the random_model arm reads the trained weights.",
        bases.modular, _trained_weights_as_random, _control_captured,
        r"model_sha256: found …, that of the trained arm, allowed: the hash of a model with random weights",
    ),
    Fault(
        "chosen_on_test", "HUSAI 1.5.14", "Chosen on the rows that are reported",
        "Checkpoints and coefficients were picked by the benchmark's test score, which was then the result.",
        "the validation rows, by which training stops, are the test rows.",
        bases.modular, _validate_on_test, _rows_checked,
        r"#% of the rows of the split 'test' are rows of 'validation', allowed: at most 50%",
    ),
    Fault(
        "reported_on_training_rows", "HUSAI 1.5.16", "No held-out rows",
        "Every figure of an SAE was of the rows that it was trained on, in one mode of the first thousand of them.",
        "the test rows are training rows.",
        bases.modular, _report_on_training_rows, _rows_checked,
        r"#% of the rows of the split 'test' are rows of 'train', allowed: at most 50%",
    ),
    Fault(
        "half_precision_overflow", "RL-Decoder 2.4.10", "Outlier dimensions in float16",
        "Activations were stored in float16, which has no number above 65,504: outlier dimensions become infinite "
        "there.",
        "a bias of the model is 1e5, as some models have it in a few dimensions.",
        bases.modular, _outlier_dimension, _captured_in_half,
        r"an activation of \S+ overflows float16; set capture\.dtype to bfloat16",
    ),
)  # fmt: skip
