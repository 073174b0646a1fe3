"""`reseed sweep run` and `status` as a user types them, on the engine of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.sweeps.project import experiments, git, metric, queue, reseed

STATE = Path(".dvc/tmp/reseed-sweeps")


def test_a_queued_sweep_ends_in_the_users_own_checkout(here: Path) -> None:
    queue(here, "variants.topk.k=2,6", "train.seeds=[0,1,2],[3,4,5]", name="both")
    before = git(here, "rev-parse", "HEAD"), git(here, "status", "--porcelain")
    done = reseed("run", "--jobs", "2")
    assert done.exit_code == 0, done.output
    assert "4 done, 0 failed, 0 left" in done.stdout
    found = experiments(here)
    scores = {name: json.loads(metric(here, revision))["score"] for name, revision in found.items()}
    assert scores == {"both-1": 3002, "both-2": 12002, "both-3": 3006, "both-4": 12006}
    # the checkout is as it was, but for the ledger; no clone and no queue entry is left
    assert (git(here, "rev-parse", "HEAD"), git(here, "status", "--porcelain")) == (before[0], "?? runs/")
    assert [path.name for path in (here / "runs").iterdir()] == ["ledger.jsonl"]
    assert not list((here / STATE / "clones").iterdir())
    assert not git(here, "for-each-ref", "refs/exps/celery/stash", "refs/reseed")
    assert not list((here / STATE / "checkpoints").iterdir())
    # the facts of a run are in its commit, though git did not know the file before
    facts = json.loads(git(here, "show", f"{found['both-1']}:runs/train.json"))
    assert facts["parameters"]["train"]["seeds"] == [0, 1, 2]
    assert git(here, "rev-parse", f"{found['both-1']}^") == before[0]
    ledger = [json.loads(line) for line in (here / "runs/ledger.jsonl").read_text().splitlines()]
    assert sorted(entry["task"].split("@")[0] for entry in ledger) == sorted(found)
    assert all(entry["hours"] > 0 and entry["hardware"] == "Test CPU" and entry["bytes"] > 1000 for entry in ledger)
    again = reseed("run", "--jobs", "2")
    assert "0 done, 0 failed, 0 left: nothing to run" in again.stdout
    assert experiments(here) == found


def test_a_failing_experiment_among_good_ones_says_why_and_a_rerun_does_only_that(here: Path) -> None:
    queue(here, "behave.fail=true", name="bad")
    queue(here, "variants.topk.k=2", name="good")
    done = reseed("run", "--jobs", "2")
    assert done.exit_code == 1
    assert "1 done, 1 failed, 0 left" in done.stdout
    assert list(experiments(here)) == ["good"]
    shown = reseed("status").stdout
    assert "params.yaml: behave.fail: found True, allowed: False" in shown
    first = experiments(here)["good"]
    again = reseed("run")
    assert "0 done, 1 failed, 0 left" in again.stdout
    assert experiments(here) == {"good": first}


def test_a_sweep_file_makes_the_same_tasks(here: Path) -> None:
    (here / "sweeps").mkdir()
    (here / "sweeps/k.yaml").write_text("name: k\ngrid: {variants.topk.k: [2, 4]}\n")
    git(here, "add", "-A")
    git(here, "commit", "-qm", "a sweep")
    dry = reseed("run", "sweeps/k.yaml", "--dry-run")
    assert "variants.topk.k=2" in dry.stdout
    assert not (here / STATE / "tasks").exists()
    done = reseed("run", "sweeps/k.yaml")
    assert "2 done" in done.stdout, done.output
    found = experiments(here)
    assert {name: json.loads(metric(here, found[name]))["score"] for name in found} == {"k-k2": 3002, "k-k4": 3004}
    # only the value differs: comments and order of the file are those of the commit
    assert git(here, "diff", "--numstat", "HEAD", found["k-k2"], "--", "params.yaml").split()[:2] == ["1", "1"]
    assert "nothing to run" in reseed("run", "sweeps/k.yaml").stdout


def test_a_plan_by_days_and_the_state_of_what_waits(here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs/train.json").write_text('{"duration_s": 43200}')  # half a day
    (here / "k.yaml").write_text("name: k\ngrid: {variants.topk.k: [2, 5, 6]}\n")
    git(here, "add", "-A")
    git(here, "commit", "-qm", "a sweep")
    shown = reseed("plan", "k.yaml", "--gpus", "1").output
    days = [[cell.strip() for cell in line.split("│")[1:3]] for line in shown.splitlines() if "│" in line]
    assert days == [["1", "k-k2, k-k5"], ["2", "k-k6"]]
    assert "an estimated 36.1 hours, 100 of the budget remain" in shown
    assert "Data sets" not in shown
    assert "spent: 0 of 100 hours" in reseed("status").output


def test_a_plan_says_what_cleaning_left_of_each_data_set(here: Path) -> None:
    manifests: dict[str, dict[str, Any]] = {
        "corpus": {
            "dropped": {"steps is empty": 4, "answer is empty": 1},
            "duplicates": {"train": 2, "validation": 0, "test": 1},
            "near_duplicates": {"validation": 5, "train": 6},
            "benchmark_text": {"test": 0, "sae-probes": 0},
            "files": {"train.jsonl": {"rows": 70}, "test.jsonl": {"rows": 7}},
        },
        "modular": {"files": {"train.jsonl": {"rows": 9}}},
    }
    for name, manifest in manifests.items():
        (here / "data" / name / "raw").mkdir(parents=True)
        (here / "data" / name / "raw/manifest.json").write_text(json.dumps(manifest))
    shown = reseed("plan").output
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in shown.splitlines() if "│" in line]
    assert rows == [
        ["corpus", "77", "4 steps is empty, 1 answer is empty, 3 duplicates, 11 near duplicates"],
        ["modular", "9", "none"],
    ]
