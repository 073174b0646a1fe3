"""Estimates, the ledger, the limit and the schedule, on figures that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from reseed import ReseedError
from reseed.params import Budget
from reseed.sweeps.budget import HOUR, UNKNOWN, Ledger, Rates, check_spent, days, on_disk
from reseed.sweeps.tasks import Outcome, Task


def task(name: str, hours: float = 1.0) -> Task:
    return Task(f"{name}@0000000", name, "experiment", "", "0" * 40, "", {}, [], "", "", False, hours=hours)


def outcome(hours: float, started: float = 0.0, size: int = 0) -> Outcome:
    return Outcome("done", "", 1, started, hours * HOUR, "host", "GPU", bytes=2 * size, activation_bytes=size)


def ledger(tmp_path: Path, **limits: float) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl", Budget(**limits))


def test_a_stage_takes_what_it_took_in_proportion_to_seeds_and_latents() -> None:
    given = {"train": {"seeds": [0, 1]}, "variant": {"d_sae": 32}}
    rates = Rates({"train@m-topk": {"duration_s": 10.0, "parameters": given}, "train@m-k8": {"duration_s": 30.0}})
    params = {"variants": {"topk": {"d_sae": 32}}}
    assert rates.seconds("train@m-topk", {}, params) == 10
    assert rates.seconds("dvc.yaml:train@m-topk", {"train.seeds": [0, 1, 2, 3]}, params) == 20
    assert rates.seconds("train@m-topk", {"variants.topk.d_sae": 96}, params) == 30
    assert rates.seconds("train@new", {}, params) == 20  # the mean of its stage
    assert rates.seconds("stability@new", {}, params) == UNKNOWN


def test_the_ledger_takes_every_attempt_once_and_survives_a_cut_off_line(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    one.add(task("a"), outcome(1.5, started=1, size=10))
    one.add(task("a"), outcome(1.5, started=1, size=10))
    one.add(task("a"), outcome(0.5, started=2))
    assert one.spent() == (2.0, 20, 10)
    assert one.spent(frozenset({"b@0000000"})) == (0, 0, 0)
    with one.path.open("a") as file:
        file.write('{"task": "b@000')
    assert one.spent() == (2.0, 20, 10)
    assert [entry["hardware"] for entry in one.entries()] == ["GPU", "GPU"]


def test_no_task_starts_that_would_pass_the_limit(tmp_path: Path) -> None:
    one = ledger(tmp_path, gpu_hours=5)
    one.add(task("a"), outcome(2))
    wanted = [task("b", 1), task("c", 1), task("d", 1)]
    assert one.affordable(wanted, []) == (wanted, "")
    found, why = one.affordable(wanted, [task("running", 1.5)])
    assert found == wanted[:1]
    assert why == "params.yaml: budget.gpu_hours: 2 of 5 are spent, and the next task would pass it"
    one.on_disk = 101e9
    assert one.affordable(wanted, [])[0] == []
    with pytest.raises(ReseedError, match="activations_gigabytes: 101 of 100"):
        check_spent(one, wanted)
    one.on_disk, one.limit_hours = 0, 2.5
    with pytest.raises(ReseedError, match="an estimated 3, allowed: 2"):
        check_spent(one, wanted)


def test_days_give_each_task_to_the_gpu_that_is_free_first() -> None:
    wanted = [task("a", 20), task("b", 10), task("c", 10), task("d", 30), task("e", 1)]
    # GPU 1: a, then d from hour 20; GPU 2: b, c, then e from hour 20
    found = days(wanted, 2)
    assert [(day.number, day.names) for day in found] == [(1, ["a", "b", "c", "d", "e"])]
    assert found[0].hours == 71
    assert [(day.number, day.names) for day in days(wanted, 1)] == [(1, ["a", "b"]), (2, ["c", "d"]), (3, ["e"])]


def test_activations_are_summed_once_over_the_locks(tmp_path: Path) -> None:
    outs = "[{path: data/m/activations/trained, md5: a.dir, size: 7}, {path: x, md5: b, size: 1}]"
    out = f"stages: {{capture: {{outs: {outs}}}}}"
    (tmp_path / "dvc.lock").write_text(out)
    (tmp_path / "studies/one").mkdir(parents=True)
    (tmp_path / "studies/one/dvc.lock").write_text(out)
    assert on_disk(tmp_path, "/activations/") == 7
