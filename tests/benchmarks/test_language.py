"""The benchmarks of a language model from end to end: its own stages, its files, SAEBench in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import torch
import typer.testing
import yaml
from sae_lens import SAE
from sae_probes.utils_data import read_numbered_dataset_df
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cross_entropy, normalize

from reseed import ReseedError
from reseed.activations.store import read_activations
from reseed.artifacts import (
    activations_dir,
    baselines_dir,
    lm_dir,
    metrics_dir,
    prompts_dir,
    raw_dir,
    read_json,
    sae_dir,
    tokens_dir,
)
from reseed.benchmarks import arms, ce_bench, evals, imported
from reseed.benchmarks.arms import JudgedSae
from reseed.benchmarks.ce_bench import edited_pairs
from reseed.benchmarks.operations import TASK, operations
from reseed.benchmarks.prompts import read_prompts
from reseed.cli import app
from reseed.models.language import load_language_model
from reseed.params import load_language, load_params
from reseed.saes.train import initial_weights
from reseed.text.documents import document
from reseed.text.sequences import read_sequences
from reseed.text.tokenizers import read_tokenizer
from tests.benchmarks.builders import lens_sae
from tests.conftest import ROOT, stage
from tests.scratch import edit
from tests.text.builders import look_alikes, operation_rows, write_rows

NAMES = ["119_us_state_TX", "155_athlete_sport_basketball"]
N_CTX, SEQUENCES, HOOK = 32, 16, "blocks.1.hook_resid_post"
PROCESSES, SERVER = evals.processes, evals._server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A subject `tiny`, from its raw text to three SAEs of a variant, of its control and of the random model."""
    folder = tmp_path_factory.mktemp("project")
    subject = yaml.safe_load((ROOT / "subjects" / "gsm8k-gpt.yaml").read_text())
    subject["data"] |= {"n_ctx": N_CTX, "tokenizer": {"kind": "bpe", "vocabulary": 400}}
    training = {
        "steps": 300,
        "check_every": 100,
        "dtype": "float32",
        "below_bigram": 0,
        "lr": 0.01,
        "warm_up_steps": 20,
    }
    subject["model"] |= {"n_layers": 2, "d_model": 32, "n_heads": 2, "d_mlp": 64}
    subject["model"]["training"] |= training
    subject["capture"] |= {"hook_name": HOOK, "rows": 4000}
    subject["sae"] |= {"batch_size": 64, "max_steps": 200, "min_steps": 100, "check_every": 50, "aux_k": 0}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"]["seeds"] = [0, 1, 2]
    params["variants"] = {
        "tiny": {"architecture": "topk", "d_sae": 64, "k": 4},
        "frozen": {"architecture": "topk", "d_sae": 64, "k": 4, "soft_frozen": 0.9},
        "wider": {"architecture": "topk", "d_sae": 96, "k": 4, "soft_frozen": 0.9},
    }
    params["sae_probes"] |= {"datasets": NAMES, "splits": [42], "ks": [1, 4], "wide_ks": [8]}
    core = {"n_eval_reconstruction_batches": 4, "n_eval_sparsity_variance_batches": 4, "eval_batch_size_prompts": 4}
    meta = {"train_steps": 20, "k": 2}
    sizes = {"train_set_size": 80, "test_set_size": 20, "context_length": N_CTX, "llm_batch_size": 16}
    texts = {"dataset_names": [TASK], "n_values": [2, 10]} | sizes
    settings = {
        "core": core | {"context_size": N_CTX}, "meta_structure": meta, "ravel": {}, "tpp": texts,
        "scr": texts | {"column1_vals_lookup": {TASK: [["multiplication", "addition"]]}},
        "sparse_probing": {
            "dataset_names": [TASK], "probe_train_set_size": 400, "probe_test_set_size": 60, "context_length": N_CTX,
            "llm_batch_size": 16, "k_values": [1, 2],
        },
        "sparse_probing_sae_probes": {"dataset_names": NAMES[1:], "ks": [1, 2]},
        "autointerp": {
            "n_latents": 40, "total_tokens": N_CTX * SEQUENCES, "llm_context_size": N_CTX, "llm_batch_size": 16,
            "dead_latent_threshold": 1,
        },
    }  # fmt: skip
    params["evals"] |= {"sequences": SEQUENCES, "settings": settings}
    (folder / "subjects").mkdir()
    (folder / "subjects" / "tiny.yaml").write_text(yaml.safe_dump(subject))
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        rows = {
            split: look_alikes(n, seed) + operation_rows(n * 4, seed)
            for seed, (split, n) in enumerate({"train": 600, "validation": 60, "test": 60}.items())
        }
        write_rows(rows, raw_dir("tiny"))
        stage("tokenize")("tiny")
        stage("model")("tiny")
        for arm in ("trained", "random_model"):
            stage("capture")("tiny", arm)
            stage("train")("tiny", "tiny", arm)
            stage("prompts")("tiny", arm)
        stage("train")("tiny", "frozen", "trained")
        yield folder


@pytest.fixture(scope="module", autouse=True)
def _one_server() -> Iterator[None]:
    """One for all tests, from which every job still gets a process of its own."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(evals, "_server", _server)
        with PROCESSES() as process:
            changed.setattr(evals, "processes", lambda: nullcontext(process))
            yield


def _server() -> subprocess.Popen[str]:
    """That of `evals`; its processes do not collect at their end what it had imported, which takes seconds each."""

    def start(command: list[str], **settings: Any) -> subprocess.Popen[str]:
        code = "import gc; from reseed.benchmarks import child; gc.freeze(); child.serve()"
        return subprocess.Popen([*command[:2], "-c", code], **settings)

    with patch.object(
        evals, "subprocess", SimpleNamespace(Popen=start, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    ):
        return SERVER()


def model_of(arm: str = "trained") -> Any:
    sequences = read_sequences(tokens_dir("tiny"))
    return load_language_model(load_language("tiny").model, lm_dir("tiny"), arm, sequences, "tiny")


@pytest.mark.usefixtures("project")
def test_examples_of_latents_are_rows_that_were_captured_with_the_text_they_were_captured_from() -> None:
    stage("examples")("tiny", "tiny")
    examples = pd.read_parquet(metrics_dir("tiny", "tiny") / "examples" / "examples.parquet")
    activations, documents = read_activations(activations_dir("tiny", "trained")), text_of_split("test")
    sequence = activations.rows("test", "sequence").whole()
    for seed, block in examples.groupby("seed"):
        sae = SAE.load_from_disk(sae_dir("tiny", "tiny") / f"seed_{seed}", device="cpu")
        with torch.no_grad():
            acts = sae.encode(activations.rows("test").take(torch.tensor(block["row"].to_numpy())).float())
        found = acts[torch.arange(len(block)), torch.tensor(block["latent"].to_numpy())]
        assert block["activation"].to_numpy() == pytest.approx(found.numpy(), rel=1e-4)
    assert len(examples) > 100
    for row, token in examples[["row", "token"]].drop_duplicates().itertuples(index=False):
        # a token may be a part of a character
        assert token.strip("\ufffd ") in documents[int(sequence[row])]
    # most words stand whole before the token that was read, as the document has them
    whole = [
        (before + token).split("\n")[-1][-12:] in documents[int(sequence[row])]
        for row, before, token in examples[["row", "before", "token"]].drop_duplicates().itertuples(index=False)
    ]
    assert sum(whole) / len(whole) > 0.7


def text_of_split(split: str) -> list[str]:
    """The documents of the raw rows, in their order."""
    lines = (raw_dir("tiny") / f"{split}.jsonl").read_text().splitlines()
    return [document(json.loads(line)).text for line in lines]


@pytest.mark.usefixtures("project")
@pytest.mark.slow
def test_prompts_are_read_at_their_last_token_after_bos() -> None:
    tokenizer = read_tokenizer(tokens_dir("tiny"))
    for arm in ("trained", "random_model"):
        model, found = model_of(arm), read_prompts(prompts_dir("tiny", arm))
        assert found.names == NAMES
        texts = read_numbered_dataset_df(NAMES[1])["prompt"].tolist()
        activations, classes = found.read(NAMES[1])
        assert len(activations) == len(classes) == len(texts) == found.index["datasets"][NAMES[1]]["rows"]
        long = [i for i, text in enumerate(texts) if len(tokenizer.tokenizer.encode(text).ids) > N_CTX - 1]
        assert len(long) == found.index["datasets"][NAMES[1]]["cut"]
        for i in (0, 5, 1000, *long[:2]):
            ids = [tokenizer.bos, *tokenizer.tokenizer.encode(texts[i]).ids[-(N_CTX - 1) :]]
            _, cache = model.run_with_cache(torch.tensor([ids]), names_filter=HOOK)
            torch.testing.assert_close(activations[i], cache[HOOK][0, -1].detach(), rtol=1e-4, atol=1e-5)
        assert set(classes.tolist()) == {0, 1}


@pytest.mark.usefixtures("project")
@pytest.mark.slow
def test_the_soft_frozen_decoder_stays_by_its_start_and_the_free_one_does_not() -> None:
    params, subject = load_params(), load_language("tiny")
    activations = read_activations(activations_dir("tiny", "trained"))
    for variant, low in (("frozen", True), ("tiny", False)):
        for seed in (0, 1):
            start = initial_weights(params.variant(variant), subject.sae, params.train, seed, activations)["W_dec"]
            trained = SAE.load_from_disk(sae_dir("tiny", variant) / f"seed_{seed}").W_dec.detach()
            cosines = (start * trained).sum(1)
            assert bool(cosines.min() > 0.9 - 1e-4) == low
            assert cosines.max() <= 1 + 1e-5


@pytest.mark.usefixtures("project")
@pytest.mark.slow
def test_the_table_of_sae_probes_has_all_arms_and_its_figures_are_those_of_the_records() -> None:
    stage("baselines")("tiny")
    stage("sae_probes")("tiny", "tiny", "frozen")
    records = pd.read_parquet(metrics_dir("tiny", "tiny") / "sae_probes" / "records.parquet")
    base = pd.read_parquet(baselines_dir("tiny") / "records.parquet")
    counts = records.groupby(["arm", "k"]).size()
    assert counts["sae"].to_dict() == {1: 6, 4: 6, 8: 6}  # three seeds, two data sets
    for control in ("random_sae", "frozen_sae", "random_model_sae"):
        assert counts[control].to_dict() == {1: 4, 4: 4}  # of two seeds
    assert sorted(base["arm"].unique()) == ["dense", "neurons", "pca", "random_model_dense"]
    summary = read_json(metrics_dir("tiny", "tiny") / "sae_probes.json")
    assert summary["datasets"] == 2
    dense = base[base["arm"] == "dense"].set_index("dataset")["acc"]
    ours = records[(records["arm"] == "sae") & (records["k"] == 4)]
    assert summary["normal"]["dense"]["acc"] == pytest.approx(dense.mean(), rel=1e-4)
    expected = (ours["acc"] - ours["dataset"].map(dense)).mean()
    assert summary["normal"]["top_4"]["acc"]["delta"]["value"] == pytest.approx(expected, abs=1e-5)
    assert set(summary["normal"]["top_4"]["acc"]) >= {"frozen_sae", "over_random_sae", "pca", "over_neurons"}
    assert not list((Path("checkpoints") / "tiny").rglob("*.json"))


@pytest.mark.usefixtures("project")
@pytest.mark.slow
def test_saebench_runs_in_its_own_processes_and_says_what_it_cannot_run() -> None:
    stage("evals")("tiny", "tiny", "frozen")
    out = metrics_dir("tiny", "tiny")
    found = read_json(out / "evals.json")
    assert found["autointerp"] == {"not_run": "OPENAI_API_KEY is not set"}
    assert found["ravel"]["not_run"].startswith("made for gemma-2-2b, pythia-160m-deduped alone; its data (")
    # the loss and the explained variance by hand, on the sequences that core read
    sequences = read_sequences(tokens_dir("tiny"))
    tokens = torch.cat([sequences.read(file)["tokens"] for file in sequences.files("test")])
    tokens = tokens[:SEQUENCES].long()
    model = model_of()
    logits, cache = model.run_with_cache(tokens, names_filter=HOOK)
    core = found["core"]
    tokenizer = read_tokenizer(tokens_dir("tiny"))
    text = ~torch.isin(tokens, torch.tensor([tokenizer.bos, tokenizer.separator, tokenizer.pad]))
    here = text[:, :-1]
    loss = cross_entropy(logits[:, :-1][here], tokens[:, 1:][here])
    assert core["model_performance_preservation.ce_loss_without_sae"]["value"] == pytest.approx(loss.item(), rel=1e-5)
    x, values = cache[HOOK][text], []
    for seed in (0, 1, 2):
        sae = SAE.load_from_disk(sae_dir("tiny", "tiny") / f"seed_{seed}")
        values.append(1 - ((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()).item())
    ev = core["reconstruction_quality.explained_variance"]
    assert ev["value"] == pytest.approx(sum(values) / 3, abs=0.01)
    assert ev["low"] < ev["value"] < ev["high"]
    assert core["sparsity.l0"]["value"] == pytest.approx(4, abs=1e-6)
    for control in ("random_sae", "frozen_sae"):
        assert ev[control] < ev["value"]
    assert core["may_gate"] == 1
    meta = found["meta_structure"]["meta_structure.decoder_fraction_variance_explained"]
    assert set(meta) >= {"value", "random_sae", "frozen_sae", "random_model_sae", "over_random_sae"}
    assert "meta_structure.train_time_seconds" not in found["meta_structure"]
    result = read_json(out / "evals" / "core" / "sae_seed_0_custom_sae_eval_results.json")
    assert result["replaced"] == ["reconstruction_quality.explained_variance", "reconstruction_quality.mse"]
    assert result["datetime_epoch_millis"] == 0
    _check_text_tasks(found, out)
    _check_repeats(out)


def _check_repeats(out: Path) -> None:
    """The evals that draw and train give the same bytes again."""
    params = load_params()
    settings = {name: params.evals.settings[name] for name in ("meta_structure", "sparse_probing")}
    only = params.model_copy(update={"evals": params.evals.model_copy(update={"settings": settings})})
    activations = {arm: read_activations(activations_dir("tiny", arm)) for arm in ("trained", "random_model")}
    models = {arm: found.index["model_sha256"] for arm, found in activations.items()}
    controls, results = Path("controls"), Path("again")
    saes = arms.with_controls(
        params, params.evals.control_seeds, "tiny", "tiny", "frozen", activations["trained"], models, controls
    )
    evals.judge(saes, "tiny", models, only, torch.device("cpu"), 1, results, Path("judging"))
    files = [path.relative_to(results) for path in sorted(results.rglob("*.json"))]
    assert len(files) == 2 * 9  # of three seeds, and of two of each of the three controls
    for path in files:
        assert (results / path).read_bytes() == (out / "evals" / path).read_bytes(), path


def _check_text_tasks(found: dict[str, Any], out: Path) -> None:
    probing = found["sparse_probing"]
    # a dense probe by hand: the mean over a text's tokens, another solver, all rows that SAEBench drew from
    tokenizer, model, rows = read_tokenizer(tokens_dir("tiny")), model_of(), {}
    for split, table in operations(raw_dir("tiny")).items():
        means = []
        for text in table["text"]:
            ids = [tokenizer.bos, *tokenizer.tokenizer.encode(text).ids[: N_CTX - 1]]
            means.append(model.run_with_cache(torch.tensor([ids]), names_filter=HOOK)[1][HOOK][0, 1:].mean(0).detach())
        rows[split] = torch.stack(means), table["operation"]
    solved = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    solved.fit(rows["train"][0].numpy(), rows["train"][1])
    assert solved.score(rows["test"][0].numpy(), rows["test"][1]) == 1  # the words give the operation away
    assert probing["llm.llm_test_accuracy"]["value"] > 0.97
    assert "sae.sae_test_accuracy" not in probing
    assert 0.5 < probing["sae.sae_top_1_test_accuracy"]["value"] <= probing["llm.llm_test_accuracy"]["value"]
    result = read_json(out / "evals" / "sparse_probing" / "sae_seed_0_custom_sae_eval_results.json")
    assert result["replaced"] == ["llm.llm_test_accuracy"]
    assert result["eval_config"]["dataset_names"] == [TASK]
    # the package's own run and the stage sae_probes read the same prompts with the same split
    records = pd.read_parquet(metrics_dir("tiny", "tiny") / "sae_probes" / "records.parquet")
    ours = records[(records["dataset"] == NAMES[1]) & (records["arm"] == "sae") & (records["k"] == 1)]["acc"].mean()
    theirs = found["sparse_probing_sae_probes"]["sae.sae_top_1_test_accuracy"]["value"]
    assert theirs == pytest.approx(ours, abs=0.02)
    for name, metric in (
        ("scr", "scr_metrics.scr_dir1_threshold_10"),
        ("tpp", "tpp_metrics.tpp_threshold_10_total_metric"),
    ):
        assert found[name]["may_gate"] == 0
        assert set(found[name][metric]) >= {"value", "random_sae", "frozen_sae", "random_model_sae"}


class Judge(BaseHTTPRequestHandler):
    """A judge of autointerp that explains nothing, and says of all sequences or of none that the latent is active."""

    says = "None"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": self.says}}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "local", "choices": [choice]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


@pytest.mark.usefixtures("project")
@pytest.mark.weekly
def test_autointerp_asks_the_judge_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    Thread(target=judge.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{judge.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "planted")
    scores = []
    try:
        with PROCESSES() as process:  # which know of this judge
            monkeypatch.setattr(evals, "processes", lambda: nullcontext(process))
            for says in ("None", ", ".join(str(i) for i in range(1, 30))):
                monkeypatch.setattr(Judge, "says", says)
                scores.append(_autointerp())
    finally:
        judge.shutdown()
    # what one calls inactive the other calls active: of every sequence exactly one is right
    assert sum(scores) == pytest.approx(1, abs=1e-6)
    assert 0 < scores[1] < scores[0]


def _autointerp() -> float:
    """SAEBench's autointerp_score of the first SAE."""
    params = load_params()
    only = params.evals.model_copy(update={"settings": {"autointerp": params.evals.settings["autointerp"]}})
    folder = sae_dir("tiny", "tiny") / "seed_0"
    models = {"trained": read_activations(activations_dir("tiny", "trained")).index["model_sha256"]}
    found = evals.judge(
        [JudgedSae("sae", 0, folder, "trained")], "tiny", models, params.model_copy(update={"evals": only}),
        torch.device("cpu"), 1, Path("judged"), Path("judging"),
    )  # fmt: skip
    assert isinstance(found, dict)
    return float(found["autointerp"]["autointerp.autointerp_score"]["value"])


@pytest.mark.usefixtures("project")
@pytest.mark.slow
def test_contrastive_scores_stand_beside_saes_of_equal_width_and_l0() -> None:
    stage("ce_bench")("tiny", "tiny", "frozen")
    found = read_json(metrics_dir("tiny", "tiny") / "ce_bench.json")
    pairs = edited_pairs(raw_dir("tiny") / "test.jsonl", 400, 0)
    assert (found["pairs"], found["source"]) == (len(pairs), "edits")
    assert len(pairs) > 50
    for arm in ("value", "random_sae", "frozen_sae", "random_model_sae"):
        assert found["l0"][arm] == pytest.approx(4, abs=0.01)
        # no z-score of 64 values can be larger than that of one that differs from 63 equal ones
        assert 0 < found["corrected.contrastive"][arm] <= 63 / 8
    assert set(found) >= {"as_published.independence", "corrected.combined"}
    assert found["as_published.independence"]["value"] != found["corrected.independence"]["value"]


@pytest.fixture
def parameters(project: Path) -> Iterator[Path]:
    """params.yaml, which is put back as it was."""
    path = project / "params.yaml"
    before = path.read_text()
    yield path
    path.write_text(before)


@pytest.mark.slow
def test_saes_from_elsewhere_get_the_same_report(project: Path, parameters: Path) -> None:
    own = sae_dir("tiny", "tiny")
    for seed in (0, 1):
        # as dictionary_learning stores a TopK autoencoder
        sae = SAE.load_from_disk(own / f"seed_{seed}")
        folder = project / "elsewhere" / f"run_{seed}"
        folder.mkdir(parents=True)
        weights = {
            "encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "decoder.weight": sae.W_dec.T,
            "b_dec": sae.b_dec, "k": torch.tensor(4), "threshold": torch.tensor(-1.0),
        }  # fmt: skip
        torch.save({name: tensor.detach().clone() for name, tensor in weights.items()}, folder / "ae.pt")
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK"}}))
    called = typer.testing.CliRunner().invoke
    only = {"core": load_params().evals.settings["core"]}  # of the others every one ran above
    edit(parameters, lambda params: params["evals"].update(settings=only))
    refused = called(app, ["evaluate", "tiny", "elsewhere"])
    assert isinstance(refused.exception, ReseedError)
    assert "does not say which hook point it reads" in str(refused.exception)
    assert not (project / "evaluations" / "tiny" / "elsewhere").exists()
    done = called(app, ["evaluate", "tiny", "elsewhere", "--hook-name", HOOK])
    assert done.exit_code == 0, done.output
    out = project / "evaluations" / "tiny" / "elsewhere"
    ours, theirs = read_json(metrics_dir("tiny", "tiny") / "evals.json"), read_json(out / "evals.json")
    figure = "model_performance_preservation.ce_loss_without_sae"
    assert theirs["core"][figure]["value"] == pytest.approx(ours["core"][figure]["value"], rel=1e-6)
    score = "model_performance_preservation.ce_loss_score"
    results = metrics_dir("tiny", "tiny") / "evals" / "core"
    same = [read_json(results / f"sae_seed_{seed}_custom_sae_eval_results.json") for seed in (0, 1)]
    expected = [one["eval_result_metrics"]["model_performance_preservation"]["ce_loss_score"] for one in same]
    assert theirs["core"][score]["value"] == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert theirs["core"][score]["random_sae"] < theirs["core"][score]["value"]
    assert theirs["core"]["sparsity.l0"]["random_sae"] == pytest.approx(4, abs=1e-6)
    records = pd.read_parquet(metrics_dir("tiny", "tiny") / "sae_probes" / "records.parquet")
    again = pd.read_parquet(out / "records.parquet")
    keys = ["dataset", "seed", "k"]
    both = records[records["arm"] == "sae"].merge(again[again["arm"] == "sae"], on=keys)
    assert len(both) == 2 * 2 * 3  # data sets, seeds, ks
    assert (both["acc_x"] - both["acc_y"]).abs().max() < 1e-9
    assert "## SAEBench" in (out / "report.md").read_text()
    assert "tiny/`elsewhere`" in (out / "report.md").read_text()


@pytest.mark.usefixtures("project")
@pytest.mark.slow
def test_the_public_sae_of_the_same_model_hook_point_and_width_stands_beside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs = lens_sae(32, 64, 8)
    theirs.cfg.metadata.hook_name, theirs.cfg.metadata.reseed_model_sha256 = HOOK, None
    with torch.no_grad():
        theirs.W_dec.copy_(normalize(torch.randn(64, 32), dim=1))
    monkeypatch.setattr(imported, "_read", {"release:one": theirs}.__getitem__)
    monkeypatch.setattr(arms, "PUBLIC_SAES", {("tiny", HOOK, 64): "release:one"})
    monkeypatch.setattr(imported, "model_names", lambda subject: [subject])
    params, activations = load_params(), read_activations(activations_dir("tiny", "trained"))
    models = {
        arm: read_activations(activations_dir("tiny", arm)).index["model_sha256"] for arm in ("trained", "random_model")
    }
    found = arms.with_controls(params, 1, "tiny", "tiny", "frozen", activations, models, tmp_path)
    assert [one.name for one in found] == ["sae"] * 3 + ["frozen_sae", "public_sae", "random_model_sae", "random_sae"]
    public = next(one for one in found if one.name == "public_sae")
    assert torch.equal(SAE.load_from_disk(public.folder).W_dec, theirs.W_dec)
    scored = ce_bench.judge(found, "tiny", params, torch.device("cpu"), 1)
    assert "public_sae" not in scored["l0"]  # of another L0
    monkeypatch.setattr(arms, "PUBLIC_SAES", {("tiny", HOOK, 96): "release:one"})
    found = arms.with_controls(params, 1, "tiny", "tiny", "frozen", activations, models, tmp_path)
    assert "public_sae" not in {one.name for one in found}


@pytest.mark.slow
def test_a_control_of_another_shape_or_an_sae_of_another_model_is_refused(project: Path) -> None:
    with pytest.raises(ReseedError, match=r"variants\.wider: found .*'d_sae': 96.* allowed as a control: .*64"):
        stage("evals")("tiny", "tiny", "wider")
    own, other = sae_dir("tiny", "tiny") / "seed_2", sae_dir("tiny", "tiny", "random_model") / "seed_2"
    kept = project / "kept"
    shutil.move(own, kept)
    shutil.copytree(other, own)
    try:
        for name in ("evals", "sae_probes"):
            with pytest.raises(ReseedError, match=r"the SAE reads .* of the random_model model .* of the trained"):
                stage(name)("tiny", "tiny", "frozen")
            assert not (metrics_dir("tiny", "tiny") / f"{name}.partial").exists()
    finally:
        shutil.rmtree(own)
        shutil.move(kept, own)
