"""What is refused before anything is queued or run: one sentence each, and nothing has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from dvc.exceptions import InvalidArgumentError
from dvc.repo import Repo

from reseed import ReseedError
from reseed.sweeps.files import experiments, load_sweep
from tests.conftest import ROOT
from tests.sweeps.project import commit, git, queue, reseed

STATE = Path(".dvc/tmp/reseed-sweeps")


def refused(*arguments: str) -> str:
    """The sentence by which a run is refused; the checkout is as before."""
    before = git(Path(), "for-each-ref"), git(Path(), "status", "--porcelain")
    done = reseed("run", *arguments)
    assert isinstance(done.exception, ReseedError), done.output
    assert not (STATE / "tasks").exists()
    assert (git(Path(), "for-each-ref"), git(Path(), "status", "--porcelain")) == before
    return str(done.exception)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("grid: {variants.topk.kk: [2]}", "variants.topk.kk: params.yaml has no such parameter; known there: architec"),
        ("grid: {varaints.topk.k: [2]}", "varaints.topk.k: params.yaml has no such parameter; known there: nothing"),
        ("grid: {subjects/none.yaml:a: [2]}", "subjects/none.yaml: the file does not exist in the commit"),
        ("grid: {}", "a key and its values: an empty grid is no experiment"),
        ("grid: {variants.topk.k: []}", "grid.variants.topk.k: found [], allowed: at least 1 item"),
        ("list: []", "list: found [], allowed: at least 1 item"),
        ("seeds: [[0, 1, 2]]", "seeds together with l0"),
        ("{grid: {variants.topk.k: [2]}, list: [{variants.topk.k: 3}]}", "exactly one of grid, list, and seeds"),
        ("grid: {variants.topk.k: [2, 2]}", "found two experiments 'mine-k2', allowed: every combination of values"),
        ("grid: {variants.topk-k8.k: [2]}", "allowed: 8, which the name of the variant states; use variants.topk.k"),
        ("grid: {unread: [2]}", "no pipeline has stages that read all of params.yaml:unread: nothing would run"),
        ("{target: other.yaml, grid: {variants.topk.k: [2]}}", "target 'other.yaml': no stage and no pipeline file"),
        ("{budget: {hours: 0.0001}, grid: {variants.topk.k: [2]}}", "budget.hours of the sweep: 0 of 0.0001 are spent"),
        ("{budget: {days: 1}, grid: {variants.topk.k: [2]}}", "unknown key 'budget.days'"),
    ],
)
def test_a_sweep_file_that_cannot_be_right(text: str, sentence: str, here: Path) -> None:
    Path("mine.yaml").write_text(f"name: mine\n{text}\n" if text[0] != "{" else f"{{name: mine, {text[1:]}\n")
    commit(here)
    assert sentence in refused("mine.yaml")


BAD = [
    ("variants.topk.k", 0, "params.yaml: variants.topk.k: found 0, allowed: greater than or equal to 1"),
    ("variants.topk.k", 129, "allowed: at most d_sae (128)"),
    ("variants.topk.k", 4.5, "params.yaml: variants.topk.k: found 4.5, allowed: a valid integer"),
    ("train.seeds", [0, 1], "params.yaml: train.seeds: found [0, 1], allowed: at least 3 seeds"),
]


def typed(here: Path) -> None:
    """Give the project the parameter files of this one."""
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    shutil.copytree(ROOT / "subjects", "subjects")
    Path("dvc.yaml").write_text(
        Path("dvc.yaml")
        .read_text()
        .replace("[scale]", "[compute, {subjects/modular.yaml: [sae], subjects/gsm8k-gpt.yaml: [sae]}]")
    )
    commit(here)


def test_a_value_that_no_stage_would_take_is_refused_in_a_sweep_file(here: Path) -> None:
    typed(here)
    in_subjects = [
        (
            "subjects/modular.yaml:sae.batch_size",
            1.5,
            "subjects/modular.yaml: sae.batch_size: found 1.5, allowed: a va",
        ),
        ("subjects/gsm8k-gpt.yaml:sae.lr", -1, "subjects/gsm8k-gpt.yaml: sae.lr: found -1, allowed: greater than 0"),
        ("variants.topk.d_sae", 3, "allowed: at most d_sae (3)"),
        ("variants.topk", {"architecture": "topk", "k": 2, "d_sae": 4, "kk": 1}, "unknown key 'variants.topk.kk'"),
    ]
    for key, value, sentence in [*BAD, *in_subjects]:
        Path("mine.yaml").write_text(json.dumps({"name": "mine", "list": [{key: value}]}))
        commit(here)
        said = refused("mine.yaml")
        assert said.startswith("experiment 'mine-")
        assert sentence in said
    Path("mine.yaml").write_text("name: mine\ngrid: {variants.topk.k: [2], train.seeds: [[0, 1, 2]]}\n")
    commit(here)
    assert reseed("run", "mine.yaml", "--dry-run").exit_code == 0


def test_a_value_that_no_stage_would_take_is_refused_in_the_queue(here: Path) -> None:
    typed(here)
    unknown = ("+variants.topk.kk", 2, "params.yaml: unknown key 'variants.topk.kk'; remove it or correct its spelling")
    for key, value, sentence in [*BAD, unknown]:
        queue_quickly(f"{key}={json.dumps(value, separators=(',', ':'))}")
        said = refused()
        assert said.startswith("experiment 'bad': params.yaml: ")
        assert sentence in said
        clear()
    # DVC itself does not queue what the file has no key for
    with pytest.raises(InvalidArgumentError, match="--set-param"):
        queue_quickly("varaints.topk.k=2")
    assert "nothing to run" in reseed("run").output


def test_a_file_of_another_project_has_values_of_its_own(here: Path) -> None:
    Path("mine.yaml").write_text("name: mine\ngrid: {variants.topk.k: [0]}\n")
    commit(here)
    assert reseed("run", "mine.yaml", "--dry-run").exit_code == 0


def test_changes_that_a_clone_would_not_have(here: Path) -> None:
    Path("mine.yaml").write_text("name: mine\ngrid: {variants.topk.k: [2]}\n")
    commit(here)
    Path("runs").mkdir()
    Path("runs/train.json").write_text('{"duration_s": 3.6}')
    commit(here)
    Path("runs/train.json").write_text('{"duration_s": 7.2}')
    assert reseed("run", "mine.yaml", "--dry-run").exit_code == 0
    Path("train.py").write_text("raise SystemExit\n")
    assert "train.py: found uncommitted changes (in 1 files)" in refused("mine.yaml")
    git(here, "checkout", "train.py")
    Path("src").mkdir()
    Path("src/new.py").write_text("")
    assert "src/new.py: found uncommitted changes" in refused("mine.yaml")


def test_entries_of_the_queue(here: Path) -> None:
    queue(here, "variants.topk-k8.k=2", name="stated")
    assert "experiment 'stated': variants.topk-k8.k: found 2, allowed: 8" in refused()
    clear()
    Path("train.py").write_text("raise SystemExit\n")
    queue(here, "variants.topk.k=2", name="dirty")
    git(here, "checkout", "train.py")
    assert "experiment 'dirty': it was queued with uncommitted changes of train.py" in refused()
    clear()
    queue(here, "variants.topk.k=2", name="one")
    queue(here, "variants.topk.k=3", name="one")
    assert "experiment 'one': found twice" in refused()


def queue_quickly(override: str) -> None:
    """`dvc exp run --queue --name bad -S OVERRIDE`, without the seconds that a new interpreter would import."""
    with Repo(".") as repo:
        repo.experiments.run(queue=True, name="bad", params=[override])


def clear() -> None:
    with Repo(".") as repo:
        repo.experiments.celery_queue.clear(queued=True)


def test_a_name_that_is_taken(here: Path) -> None:
    head = git(here, "rev-parse", "HEAD")
    git(here, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/mine-k2", head)
    Path("mine.yaml").write_text("name: mine\ngrid: {variants.topk.k: [2]}\n")
    commit(here)
    head = git(here, "rev-parse", "HEAD")
    git(here, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/mine-k2", head)
    assert "experiment 'mine-k2': `dvc exp show` has one of that name" in refused("mine.yaml")


def test_a_remote_that_is_not_there_and_a_budget_that_is_spent(here: Path) -> None:
    Path("mine.yaml").write_text("name: mine\ngrid: {variants.topk.k: [2]}\n")
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params + "budget: {gpu_hours: 2}\n")
    spent = {"task": "other@0000000", "hours": 1.99, "bytes": 0, "activation_bytes": 3e9}
    Path("runs").mkdir()
    Path("runs/ledger.jsonl").write_text(json.dumps(spent) + "\n")
    commit(here)
    assert "params.yaml: budget.gpu_hours: 1.99 of 2 are spent, and the next task would pass it" in refused("mine.yaml")
    Path("params.yaml").write_text(params + "budget: {activations_gigabytes: 2}\n")
    commit(here)
    assert "params.yaml: budget.activations_gigabytes: 3 of 2 are spent" in refused("mine.yaml")
    Path("params.yaml").write_text(params + "budget: {gigabytes: 2}\n")
    commit(here)
    assert "params.yaml: unknown key 'budget.gigabytes'" in refused("mine.yaml")
    Path("params.yaml").write_text(params)
    Path(".dvc/config").write_text("[core]\n    remote = store\n")
    commit(here)
    assert "core.remote: found 'store', allowed: none is defined" in refused("mine.yaml")


def test_more_gpus_than_there_are(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    queue(here, "variants.topk.k=2", name="one")
    assert "--jobs 3 --gpus 1: found 2 GPUs on this machine" in refused("--jobs", "3")


def test_seeds_times_l0_and_lists_are_named_by_their_values(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("name: s\nseeds: [[0, 1, 2], [5, 9, 7]]\nl0: {variants.topk.k: [2, 4]}\n")
    found = experiments(load_sweep(path), path)
    assert list(found) == ["s-seeds0_2-k2", "s-seeds0_2-k4", "s-seeds5_9_7-k2", "s-seeds5_9_7-k4"]
    assert found["s-seeds5_9_7-k2"] == {"params.yaml": {"train.seeds": [5, 9, 7], "variants.topk.k": 2}}
    path.write_text("name: l\nlist: [{name: mine, train.vary: init}]\n")
    assert experiments(load_sweep(path), path) == {"l-mine": {"params.yaml": {"train.vary": "init"}}}
    path.write_text("name: l\nlist: [{variants.topk.k: 2, subjects/a.yaml:sae.lr: 0.5}]\n")
    assert experiments(load_sweep(path), path) == {
        "l-k2-lr0.5": {"params.yaml": {"variants.topk.k": 2}, "subjects/a.yaml": {"sae.lr": 0.5}}
    }
