"""Branches with different variants merge into a lock that says of no stage what did not happen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import dumps_yaml, parse_yaml

from reseed import ReseedError
from reseed.sweeps.lockmerge import main, merge, read_stages
from tests.conftest import ROOT
from tests.scratch import environment
from tests.sweeps.toy import dvc_ok, git, write

DRIVER = f"PYTHONPATH={ROOT / 'src'} {sys.executable} -P -m reseed.sweeps.lockmerge %O %A %B %P"
PIPELINE = """\
stages:
  train:
    foreach: ${variants}
    do:
      cmd: mkdir -p models metrics && cp ${key}.txt models/${key} && echo '{"k":' ${item.k} '}' > metrics/${key}.json
      deps: ["${key}.txt"]
      params: ["variants.${key}"]
      outs: ["models/${key}"]
      metrics:
        - metrics/${key}.json: {cache: false}
"""


def variants(folder: Path, **ks: int) -> None:
    """Say which variants there are, one a line so that git can merge them, and run the pipeline."""
    lines = "".join(f"  {name}:\n    k: {k}\n" for name, k in ks.items())
    write(folder, {"params.yaml": f"variants:\n{lines}"} | {f"{name}.txt": name for name in ks})
    dvc_ok(folder, "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", ", ".join(ks))


def merging(folder: Path, branch: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "merge", "-q", branch], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("started")
    git(folder, "init", "-q", "-b", "main")
    dvc_ok(folder, "init", "-q")
    git(folder, "config", "merge.dvc-lock.driver", DRIVER)
    shutil.copy(ROOT / ".gitattributes", folder)
    write(folder, {"dvc.yaml": PIPELINE, ".gitignore": "/models/\n"})
    variants(folder, a=1, m=1, z=1)
    return folder


@pytest.fixture
def project(started: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(started, tmp_path / "project", symlinks=True))


def test_every_case_of_a_stage() -> None:
    base = {"same": 1, "ours": 1, "theirs": 1, "equal": 1, "both": 1, "we delete": 1, "they delete": 1, "all delete": 1}
    base |= {"deleted and changed": 1, "changed and deleted": 1}
    ours = {"same": 1, "ours": 2, "theirs": 1, "equal": 2, "both": 2, "they delete": 1, "changed and deleted": 2}
    theirs = {"same": 1, "ours": 1, "theirs": 3, "equal": 2, "both": 3, "we delete": 1, "deleted and changed": 3}
    ours |= {"we add": 2, "both add equal": 2, "both add": 2}
    theirs |= {"they add": 3, "both add equal": 2, "both add": 3}
    merged, left_out = merge(base, ours, theirs)
    assert merged == {
        "same": 1, "ours": 2, "theirs": 3, "equal": 2, "we add": 2, "both add equal": 2, "they add": 3,
    }  # fmt: skip
    assert left_out == ["both", "changed and deleted", "both add", "deleted and changed"]
    mirrored, left_out_too = merge(base, theirs, ours)
    assert mirrored == merged
    assert set(left_out_too) == set(left_out)


def test_the_lock_of_the_project_is_written_as_dvc_writes_it(tmp_path: Path) -> None:
    text = (ROOT / "dvc.lock").read_text()
    sides = [tmp_path / name for name in ("base", "ours", "theirs")]
    for side in sides:
        side.write_text(text)
    main([*map(str, sides), "dvc.lock"])
    assert sides[1].read_text() == text
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<<<<<<< ours\nschema: '2.0'\n", "not valid YAML"),
        ("schema: '3.0'\nstages: {}\n", "allowed: stages, and schema '2.0'"),
        ("schema: '2.0'\nstages: {}\ndatasets: []\n", "found ['datasets', 'schema', 'stages'], allowed: stages"),
        ("- a\n", "found list, allowed: stages"),
    ],
)
def test_what_is_no_lock_is_refused_and_left_as_it_was(tmp_path: Path, text: str, problem: str) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("schema: '2.0'\nstages:\n  a: {cmd: a}\n")
    bad.write_text(text)
    before = good.read_bytes()
    with pytest.raises(ReseedError) as error:
        main([str(good), str(good), str(bad), "dvc.lock"])
    assert problem in str(error.value)
    assert good.read_bytes() == before


def test_a_lock_that_both_sides_added_has_an_empty_base(tmp_path: Path) -> None:
    (tmp_path / "base").touch()
    assert read_stages(tmp_path / "base") == {}


def test_branches_with_different_variants_merge_and_nothing_is_left_to_run(project: Path) -> None:
    git(project, "checkout", "-qb", "theirs")
    variants(project, a=1, m=1, t=3, z=1)
    git(project, "checkout", "-q", "main")
    variants(project, a=2, m=1, z=1)
    done = merging(project, "theirs")
    assert done.returncode == 0, done.stdout + done.stderr
    lock = parse_yaml((project / "dvc.lock").read_text(), "dvc.lock")
    assert set(lock["stages"]) == {"train@a", "train@m", "train@z", "train@t"}
    assert (project / "dvc.lock").read_text() == dumps_yaml(lock)
    assert "Data and pipelines are up to date." in dvc_ok(project, "repro", "--dry", "--allow-missing")
    dvc_ok(project, "checkout")
    assert "Data and pipelines are up to date." in dvc_ok(project, "status")


def test_a_stage_that_both_sides_ran_differently_is_left_out_and_runs_again(project: Path) -> None:
    git(project, "checkout", "-qb", "theirs")
    variants(project, a=1, m=3, z=1)
    git(project, "checkout", "-q", "main")
    variants(project, a=1, m=2, z=4)
    done = merging(project, "theirs")
    assert done.returncode == 1
    assert "dvc.lock: train@m: changed on both sides and left out; `dvc repro` runs or restores it" in done.stdout
    conflicts = {line[3:] for line in git(project, "status", "--porcelain").splitlines() if line[:2] in ("UU", "AA")}
    assert conflicts == {"params.yaml", "metrics/m.json"}  # not the lock
    (project / "params.yaml").write_text("variants:\n  a:\n    k: 1\n  m:\n    k: 3\n  z:\n    k: 4\n")
    git(project, "checkout", "-q", "--ours", "metrics")  # the wrong side
    assert set(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == {"train@a", "train@z"}
    would = dvc_ok(project, "repro", "--dry", "--allow-missing")
    assert "train@m" in would
    assert "train@z" not in would.replace("'train@z' didn't change", "")
    done_again = dvc_ok(project, "repro")
    assert "Stage 'train@m' is cached - skipping run" in done_again
    assert (project / "metrics/m.json").read_text().split() == ['{"k":', "3", "}"]


def test_a_stage_that_one_side_deleted_is_gone_unless_the_other_changed_it(project: Path) -> None:
    git(project, "checkout", "-qb", "theirs")
    for name in ("a", "z"):
        (project / f"{name}.txt").unlink()
        (project / f"metrics/{name}.json").unlink()
    lock = parse_yaml((project / "dvc.lock").read_text(), "dvc.lock")
    del lock["stages"]["train@a"], lock["stages"]["train@z"]
    (project / "dvc.lock").write_text(dumps_yaml(lock))
    git(project, "commit", "-qam", "without a and z")
    git(project, "checkout", "-q", "main")
    variants(project, a=1, m=1, z=2)
    done = merging(project, "theirs")
    assert "train@z: changed on both sides and left out" in done.stdout
    assert set(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == {"train@m"}


@pytest.mark.parametrize("protected", [True, False])
def test_metrics_that_both_sides_wrote_are_a_conflict_and_no_mixture(tmp_path: Path, protected: bool) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    if protected:
        shutil.copy(ROOT / ".gitattributes", tmp_path)
    lines = ['"alive": 1', *(f'"filler{i}": 0' for i in range(8)), '"value": 1']
    paths = ["metrics/modular/topk/stability.json", "runs/train@modular-topk.json"]

    def state(*changes: tuple[str, str]) -> None:
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        for old, new in changes:
            text = text.replace(old, new)
        write(tmp_path, dict.fromkeys(paths, text))
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", "state")

    state()
    git(tmp_path, "checkout", "-qb", "theirs")
    state(('"alive": 1', '"alive": 3'))
    git(tmp_path, "checkout", "-q", "main")
    state(('"value": 1', '"value": 2'))
    done = merging(tmp_path, "theirs")
    for path in paths:
        text = (tmp_path / path).read_text()
        assert '"value": 2' in text
        assert ('"alive": 3' in text) is not protected  # without the attribute: one file of two runs, and no word of it
    assert (done.returncode != 0) is protected


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The project's Makefile, with an environment that is taken for complete."""
    folder = tmp_path / "unpacked"
    (folder / ".venv").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", ".gitattributes"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv/.complete").touch()
    return folder


def make_setup(folder: Path) -> str:
    env = {name: value for name, value in environment().items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", "setup"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_make_setup_installs_the_driver_once_and_it_runs(unpacked: Path) -> None:
    git(unpacked, "init", "-q", "-b", "main")
    for _ in range(2):
        assert make_setup(unpacked) == ""
    (driver,) = git(unpacked, "config", "--get-all", "merge.dvc-lock.driver").splitlines()
    assert driver == "PYTHONPATH=src .venv/bin/python -P -m reseed.sweeps.lockmerge %O %A %B %P"
    command = driver.replace(".venv/bin/python", sys.executable).replace("PYTHONPATH=src", f"PYTHONPATH={ROOT / 'src'}")
    assert command == DRIVER


@pytest.mark.parametrize("inside", [False, True])
def test_make_setup_without_a_clone_of_its_own_says_so(unpacked: Path, inside: bool) -> None:
    if inside:
        git(unpacked.parent, "init", "-q")
    assert make_setup(unpacked) == "no git clone here: the merge driver for dvc.lock was not installed\n"
    if inside:
        done = subprocess.run(["git", "config", "merge.dvc-lock.driver"], cwd=unpacked, check=False)
        assert done.returncode == 1
