"""The pipeline as a user runs it, on tiny parameters in a scratch copy: bytes, no-ops, faults and interruptions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from sae_lens import SAE

from reseed.artifacts import read_json, read_tensors
from tests import forked
from tests.scratch import CLAIM, VARIANTS, dvc, edit, environment, listens, make, repro

pytestmark = pytest.mark.slow

CHECKPOINT = Path("checkpoints") / "modular" / "topk-k4.safetensors"
UP_TO_DATE = "Data and pipelines are up to date."


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("project"))
    done = repro(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 20 < done.processor_seconds < 900  # of all stages: the command by itself takes a few
    return folder


def would_run(folder: Path) -> set[str]:
    return set(re.findall(r"Running stage '(?:dvc.yaml:)?([^']+)'", dvc(folder, "repro", "--dry").stdout))


def test_every_stage_left_its_artefact_and_its_run_facts(project: Path) -> None:
    stages = set(yaml.safe_load((project / "dvc.lock").read_text())["stages"])
    assert {path.stem for path in (project / "runs").iterdir()} == stages
    assert len(stages) == 24
    assert not list(project.rglob("*.partial"))
    assert read_json(project / "metrics/claims" / f"{CLAIM}.json")["verdict"] in (
        "supported", "not supported", "not testable",
    )  # fmt: skip
    for variant in VARIANTS:
        folder = project / "metrics" / "modular" / variant
        assert read_json(folder / "saebench.json")["core"]["l0"]["value"] > 0
        assert read_json(folder / "stability.json")["seeds"] == 3
        assert 0 < read_json(folder / "coverage.json")["parts"]["all"]["value"] < 1
        assert len(list((folder / "saebench").rglob("*_eval_results.json"))) == 12  # 2 evals, 3 seeds, 2 kinds


def test_partners_of_latents_are_those_that_the_table_of_latents_is_made_of(project: Path) -> None:
    folder = project / "metrics" / "modular" / VARIANTS[0]
    latents, examples, partners = (
        pd.read_parquet(folder / name)
        for name in ("tables/latents.parquet", "examples/examples.parquet", "examples/partners.parquet")
    )
    trained = latents[latents["arm"] == "trained"].set_index(["seed", "latent"])
    alive = set(trained.index[trained["alive"]])
    for table in (examples, partners):
        assert set(table.set_index(["seed", "latent"]).index) <= alive
    mean = partners.groupby(["seed", "latent"])["decoder_cosine"].mean()
    assert mean.to_numpy() == pytest.approx(trained.loc[mean.index, "partner_cosine"].to_numpy(), rel=1e-4)


def test_saelens_alone_recomputes_the_explained_variance_of_the_metrics(project: Path) -> None:
    x = read_tensors(project / "data/modular/activations/trained/test-00000.safetensors")["activations"]
    for variant in VARIANTS:
        found = []
        for seed in range(3):
            sae = SAE.load_from_disk(project / "models/modular" / variant / f"seed_{seed}", device="cpu")
            with torch.no_grad():
                residual = (x - sae(x)).double()
            found.append(1 - (residual.square().sum() / (x - x.mean(0)).double().square().sum()).item())
        stability = read_json(project / "metrics/modular" / variant / "stability.json")
        bench = read_json(project / "metrics/modular" / variant / "saebench.json")
        expected = pytest.approx(sum(found) / 3, rel=1e-4)
        assert stability["trained"]["explained_variance"]["value"] == expected
        assert bench["core"]["explained_variance"]["value"] == expected


def test_a_second_run_does_nothing_and_says_so_in_seconds(project: Path) -> None:
    before = (project / "dvc.lock").read_bytes()
    started = time.monotonic()
    done = subprocess.run(  # as a user waits for it, with DVC's imports
        ["dvc", "repro"], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    assert time.monotonic() - started < 20
    assert UP_TO_DATE in done.stdout
    assert (project / "dvc.lock").read_bytes() == before
    assert list((project / "src").rglob("__pycache__"))  # bytecode was written, and is no dependency


@pytest.mark.weekly
def test_every_stage_run_again_makes_the_same_bytes(project: Path) -> None:
    before, facts = (project / "dvc.lock").read_bytes(), read_json(project / "runs" / "train@modular-topk-k4.json")
    done = subprocess.run(
        ["python", "-P", "tests/again.py"],
        cwd=project, env=environment() | {"PYTHONPATH": "src"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    stages = yaml.safe_load(before)["stages"]
    assert [line for line in done.stdout.splitlines() if line in stages] == list(stages)
    assert read_json(project / "runs" / "train@modular-topk-k4.json")["started"] > facts["started"]
    assert UP_TO_DATE in dvc(project, "status").stdout
    assert UP_TO_DATE in dvc(project, "repro").stdout
    assert (project / "dvc.lock").read_bytes() == before


def test_editing_a_room_reruns_the_stages_that_use_it(project: Path) -> None:
    def touched(name: str) -> set[str]:
        path = project / name
        text = path.read_text()
        path.write_text(text + "\n# edited\n")
        stages = {stage.split("@")[0] for stage in would_run(project)}
        path.write_text(text)
        return stages

    assert touched("src/reseed/claims/judge.py") == {"claims"}
    reruns = {"stability", "truth", "coverage", "examples", "compare", "saebench", "claims"}
    assert touched("src/reseed/stability/nulls.py") == reruns
    assert touched("src/reseed/subjects/modular.py") >= {"download", "probes"}
    assert touched("src/reseed/cli.py") == set()
    assert would_run(project) == set()


def test_dvcs_own_commands_give_what_a_user_expects(project: Path) -> None:
    shown = json.loads(dvc(project, "metrics", "show", "--json").stdout)[""]["data"]
    assert "metrics/modular/topk-k4/stability.json" in shown
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    subprocess.run(["git", "commit", "-qm", "results"], cwd=project, env=environment(), check=True)
    done = dvc(project, "exp", "run", "--name", "fewer-rows", "-S", "truth.rows.test=50")
    assert done.returncode == 0, done.stderr[-3000:]
    moved = json.loads(dvc(project, "metrics", "diff", "--json").stdout)
    assert any(name.startswith("figures.fidelity") for name in moved["metrics/modular/topk-k4/truth.json"])
    changed = json.loads(dvc(project, "params", "diff", "--json").stdout)["params.yaml"]
    assert changed["truth.rows.test"]["new"] == 50
    assert "fewer-rows" in dvc(project, "exp", "show", "--csv").stdout
    plots = json.loads(dvc(project, "plots", "show", "--json").stdout)["data"]
    assert {"metrics/modular/topk-k4/steps.csv", "variants"} <= {name.split("::")[-1] for name in plots}
    assert "train@modular-topk-k4" in dvc(project, "dag").stdout
    log = forked.run(project, ["reseed", "log"], environment())
    assert log.returncode == 0, log.stderr
    assert "fewer-rows" in log.stdout
    assert "modular/topk-k4" in log.stdout
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
    assert dvc(project, "checkout", "--force").returncode == 0
    assert UP_TO_DATE in dvc(project, "repro").stdout


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project, tmp_path / "copy", symlinks=True))


def test_an_edited_shard_stops_the_next_stage_and_a_checkout_mends_it(copy: Path) -> None:
    shard = copy / "data/modular/activations/trained/train-00000.safetensors"
    shard.chmod(0o644)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-4] + b"\x00\x00\x00\x00")
    done = dvc(copy, "repro", "--single-item", "train@modular-topk-k4")
    assert done.returncode != 0
    assert "train-00000.safetensors: its sha256 is" in done.stderr
    assert "Traceback" not in done.stderr
    assert dvc(copy, "checkout", "--force").returncode == 0
    assert UP_TO_DATE in dvc(copy, "repro").stdout


def test_an_sae_of_another_shape_stops_stability(copy: Path) -> None:
    folder = copy / "models/modular/topk-k4/seed_1"
    weights = folder / "sae_weights.safetensors"
    weights.unlink()
    shutil.copy(copy / "models/modular/batchtopk-k4/seed_1/sae_weights.safetensors", weights)
    before = (copy / "metrics/modular/topk-k4/stability.json").read_bytes()
    done = dvc(copy, "repro", "--single-item", "stability@modular-topk-k4")
    assert done.returncode != 0
    assert "seed_1: W_dec has shape [64, 32], cfg.json says [d_sae, d_in] = [48, 32]" in done.stderr
    assert not list(copy.rglob("*.partial"))
    metric = copy / "metrics/modular/topk-k4/stability.json"
    assert not metric.exists() or metric.read_bytes() == before  # DVC removes the outputs of a stage before it runs


@pytest.mark.parametrize(
    ("file", "key", "value", "sentence"),
    [
        ("study.yaml", "runs.modular-topk-k4.variant", "topk-k5", "'variants.topk-k5' are missing from 'params.yaml'"),
        ("params.yaml", "variants.topk-k4.k", 32, "k: found 32, allowed: less than d_in (32)"),
        (
            "params.yaml",
            "train.seeds",
            [0, 0, 1],
            "params.yaml: train.seeds: found [0, 0, 1], allowed: every seed once",
        ),
        ("subjects/modular.yaml", "capture.hook_name", "blocks.3.hook_x", "found 'blocks.3.hook_x', which the model"),
        ("subjects/modular.yaml", "data.train_fraction", 1.0, "data.train_fraction: found 1.0, allowed: less than 1"),
    ],
)
def test_bad_input_is_one_sentence_from_dvc_repro(
    file: str, key: str, value: object, sentence: str, copy: Path
) -> None:
    def change(content: dict) -> None:
        *parents, last = key.split(".")
        for name in parents:
            content = content[name]
        content[last] = value

    edit(copy / file, change)
    done = dvc(copy, "repro")
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) <= 1
    assert not list(copy.rglob("*.partial"))


@pytest.mark.parametrize(
    ("how", "trains"),
    [(signal.SIGINT, False), pytest.param(signal.SIGINT, True, marks=pytest.mark.weekly), (signal.SIGKILL, True)],
)
def test_an_interrupted_run_leaves_nothing_half_made_and_the_next_one_goes_on(
    how: signal.Signals, trains: bool, copy: Path
) -> None:
    before = (copy / "dvc.lock").read_bytes()
    subject = copy / "subjects" / "modular.yaml"
    tiny = subject.read_text()
    longer = {"min_steps": 100_000, "max_steps": 200_000, "checkpoint_every": 500}
    edit(subject, lambda content: content["sae"].update(longer))
    command = ["dvc", "repro", "train@modular-topk-k4"]
    with subprocess.Popen(
        command, cwd=copy, env=environment(), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=listens,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if b"stages/train.py" in line:
                break
        time.sleep(2.0)  # it still imports
        while trains and not (copy / CHECKPOINT).exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, how)
        said = process.stdout.read().decode()
    assert process.returncode != 0
    assert "Traceback" not in said
    assert how != signal.SIGINT or "interrupted: nothing half-made was left" in said
    assert not (copy / "models/modular/topk-k4").exists()  # DVC removes the old one before the stage starts
    assert (copy / "dvc.lock").read_bytes() == before
    subject.write_text(tiny)
    assert (copy / CHECKPOINT).exists() == trains
    if trains:  # of the longer run, which these parameters are not
        # DVC has this very result in its run cache, and would take it from there
        done = dvc(copy, "repro", "--single-item", "--force", "--no-run-cache", "train@modular-topk-k4")
        assert done.returncode != 0
        refused = r"error: checkpoints/\S+: a checkpoint of another run: its sae was .*, or delete the file"
        assert re.search(refused, done.stderr)
        (copy / CHECKPOINT).unlink()
    done = dvc(copy, "repro")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (copy / "dvc.lock").read_bytes() == before
    assert not list(copy.rglob("*.partial"))


def test_a_killed_training_continues_from_its_checkpoint_to_the_same_bytes(copy: Path) -> None:
    edit(
        copy / "subjects" / "modular.yaml",
        lambda content: content["sae"].update(min_steps=2000, max_steps=3000, checkpoint_every=200),
    )
    command = ["dvc", "repro", "--single-item", "--force", "--no-run-cache", "train@modular-topk-k4"]
    assert dvc(copy, *command[1:]).returncode == 0
    expected = (copy / "dvc.lock").read_bytes()
    with subprocess.Popen(
        command,
        cwd=copy,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    ) as process:
        while not (copy / CHECKPOINT).exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert (copy / CHECKPOINT).exists()
    assert dvc(copy, *command[1:]).returncode == 0
    assert (copy / "dvc.lock").read_bytes() == expected
    assert not (copy / CHECKPOINT).exists()
