"""The same sweep on each engine: the same experiments, the same bytes of their metrics."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from dvc.repo import Repo

from reseed import ReseedError
from reseed.sweeps import handover, on_ray
from reseed.sweeps.pipelines import instances
from reseed.sweeps.tasks import Outcome, log_file, outcome_file, read
from tests.sweeps import cluster
from tests.sweeps.project import commit, experiments, git, metric, reseed

no_slurm = pytest.mark.skipif(bool(cluster.why_no_slurm()), reason=cluster.why_no_slurm())
no_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make ray")
SEEDS, KS, WIDTHS = ([0, 1, 2], [3, 4, 5], [6, 7, 8]), (2, 6), (32, 64)
GRID = (
    f"name: g\ngrid: {{train.seeds: {list(SEEDS)}, variants.topk.k: {list(KS)}, variants.topk.d_sae: {list(WIDTHS)}}}\n"
)
SCORES = {
    f"g-seeds{seeds[0]}_{seeds[-1]}-k{k}-d_sae{d_sae}": f'{{"score": {sum(seeds) * 1000 + k}}}'
    for seeds in SEEDS
    for k in KS
    for d_sae in WIDTHS
}


def scores(folder: Path) -> dict[str, str]:
    """The bytes of every experiment's metrics."""
    return {name: metric(folder, at) for name, at in sorted(experiments(folder).items())}


def devices(folder: Path) -> set[str]:
    """What the experiments had as CUDA_VISIBLE_DEVICES."""
    found = experiments(folder).values()
    return {json.loads(git(folder, "show", f"{at}:runs/train.json"))["device"] for at in found}


@pytest.mark.slow
def test_each_slot_of_this_machine_has_gpus_of_its_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    Path("g.yaml").write_text(GRID)
    commit(here)
    done = reseed("run", "g.yaml")
    assert "12 done" in done.output
    assert scores(here) == SCORES
    assert devices(here) == {"4", "7"}


@pytest.mark.slow
@no_slurm
def test_slurm(here: Path, tmp_path: Path) -> None:
    Path("g.yaml").write_text(GRID)
    commit(here)
    with cluster.slurm(tmp_path / "slurm"):
        done = reseed("run", "g.yaml", "--engine", "slurm", "--gpus", "1")
        assert "12 done, 0 failed, 0 left" in done.output, done.exception
    assert scores(here) == SCORES
    assert devices(here) == {"0"}
    # the cluster is gone
    Path("g.yaml").write_text(GRID.replace("[2, 6]", "[3]"))
    commit(here)
    with pytest.raises(ReseedError, match=r"--engine slurm: sinfo: .*; allowed: a Slurm controller that answers"):
        raise reseed("run", "g.yaml", "--engine", "slurm").exception or AssertionError


@pytest.mark.weekly
@no_ray
def test_ray(here: Path) -> None:
    Path("g.yaml").write_text(GRID)
    commit(here)
    with cluster.ray(3) as (address, _):
        done = reseed("run", "g.yaml", "--engine", "ray", "--address", address)
        assert "12 done, 0 failed, 0 left" in done.output, done.exception
    assert scores(here) == SCORES
    assert devices(here) == {"0"}  # of each node its only one


def test_a_node_that_sees_neither_checkout_nor_cache_gives_the_experiment_back(here: Path, tmp_path: Path) -> None:
    Path(".dvc/config").write_text(f'[core]\n    remote = store\n[remote "store"]\n    url = {tmp_path / "store"}\n')
    Path("g.yaml").write_text("name: g\ngrid: {variants.topk.k: [2]}\n")
    commit(here)
    with Repo(".") as repo:
        asked = handover.from_file(here, Path("g.yaml"))
        accepted = handover.accept(asked, instances(repo), repo, here / ".dvc/tmp/reseed-sweeps")
        (task,) = handover.write(accepted, asked, repo, here / ".dvc/tmp/reseed-sweeps")
    elsewhere = asdict(task) | {"state": str(tmp_path / "not-here"), "origin": str(tmp_path / "not-here")}
    found = on_ray.do(elsewhere, on_ray._files(here), 0)
    assert found["how"].startswith("ended with 0")
    assert not experiments(here)
    on_ray._bring_home(task, found)
    outcome = read(Outcome, outcome_file(Path(task.state), task.id))
    assert outcome is not None
    assert (outcome.status, outcome.revision) == ("done", experiments(here)["g-k2"])
    assert scores(here) == {"g-k2": '{"score": 3002}'}
    assert "Running stage 'train'" in log_file(Path(task.state), task.id).read_text()
    assert not list(Path(tempfile.gettempdir()).glob(f"reseed-sweeps-{task.head[:7]}/*"))
    # its outputs are in the remote, and nowhere here
    assert not list(Path(".dvc/cache").rglob("*.dir"))
    assert len(list((tmp_path / "store").rglob("*.dir"))) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence", "without"),
    [
        (["--engine", "ray"], "--engine ray: Ray is not installed", "ray"),
        (["--engine", "slurm"], "found no sbatch on PATH", "PATH"),
        (["--address", "box:6379"], "found --engine local, allowed: with --engine ray", ""),
        (["--engine", "slurm"], "sinfo: Unable to contact slurm controller; allowed: a Slurm controller", "controller"),
        (["--engine", "ray", "--address", "ray://localhost:1"], "ray://localhost:1: no Ray cluster answers", "cluster"),
        (["--engine", "ray", "--address", "localhost:1"], "localhost:1: no Ray cluster answers there", "cluster"),
        (["--engine", "ray"], ".dvc/config: core.remote: found none, allowed: a default DVC remote", "remote"),
    ],
)
def test_an_engine_that_is_not_there_is_refused_before_anything_is_queued(
    arguments: list[str], sentence: str, without: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("g.yaml").write_text(GRID)
    commit(here)
    before = git(here, "for-each-ref")
    if without == "PATH":
        monkeypatch.setattr("shutil.which", lambda _: None)
    elif without == "controller":
        for name in ("sbatch", "sinfo"):
            (tmp_path / name).write_text("#!/bin/sh\necho Unable to contact slurm controller >&2; exit 1\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    elif without == "ray":
        monkeypatch.setitem(sys.modules, "ray", None)
    elif without:  # a cluster with a node that shares nothing with this machine
        nodes = [{"NodeManagerHostname": "box", "Alive": True}]
        stub = SimpleNamespace(init=lambda **_: None, nodes=lambda: nodes, shutdown=lambda: None)
        monkeypatch.setitem(sys.modules, "ray", stub)
    done = reseed("run", "g.yaml", *arguments)
    assert isinstance(done.exception, ReseedError)
    assert sentence in str(done.exception)
    assert git(here, "for-each-ref") == before
    assert not Path(".dvc/tmp/reseed-sweeps/tasks").exists()
