"""Each fault is planted into a project that the audit finds clean, and DVC mostly cannot see it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reseed import ReseedError
from reseed.cli import app
from reseed.sweeps.audit import audit
from reseed.sweeps.findings import KINDS, Finding, in_order
from reseed.sweeps.leftovers import QUIET_S
from reseed.sweeps.objects import directory_md5
from tests.sweeps import toy
from tests.sweeps.toy import add_experiment, dvc_ok, git, overwrite


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return toy.copy(made, tmp_path / "project")


SHARD = "data/toy/train-00000.bin"
UP_TO_DATE = "Data and pipelines are up to date."


def found(folder: Path, *remotes: str) -> list[Finding]:
    return in_order(audit(folder, remotes).findings)


def kinds(folder: Path, *remotes: str) -> list[str]:
    return [finding.kind for finding in found(folder, *remotes)]


def cached(folder: Path, path: str) -> Path:
    """The object of the cache that a file of the workspace is linked to."""
    inode = (folder / path).stat().st_ino
    (entry,) = [file for file in (folder / ".dvc/cache/files").rglob("*") if file.stat().st_ino == inode]
    return entry


def age(path: Path) -> None:
    then = time.time() - QUIET_S - 10
    os.utime(path, (then, then))


def test_a_project_that_just_ran_is_clean(project: Path) -> None:
    report = audit(project)
    assert report.findings == ()
    assert report.looked_at == (
        "5 objects (0.00 GB) of the cache", "2 stages of 1 pipelines", "0 experiments", "1 files that manifests list",
    )  # fmt: skip


@pytest.mark.parametrize("damage", ["seven bytes", "truncated"])
def test_a_damaged_object_is_found_which_dvc_takes_for_whole(project: Path, damage: str) -> None:
    shard = cached(project, SHARD)
    whole = shard.read_bytes()
    overwrite(shard, whole[:100] + b"corrupt" + whole[107:] if damage == "seven bytes" else whole[:-7])
    assert (project / SHARD).read_bytes() != whole  # it is a hard link
    shutil.rmtree(project / "data/toy")
    dvc_ok(project, "checkout")
    assert (project / SHARD).read_bytes() != whole
    assert UP_TO_DATE in dvc_ok(project, "status")
    corrupt, wrong_shard, output = found(project)
    assert (corrupt.kind, wrong_shard.kind, output.kind) == ("corrupt", "shard", "output")
    assert corrupt.where == f"cache {shard.relative_to(project / '.dvc/cache')}"
    assert corrupt.found.startswith(f"its {1024 if damage == 'seven bytes' else 1017} bytes hash to ")
    assert corrupt.found.endswith(f"; {SHARD}")
    assert wrong_shard.where == SHARD
    assert output.found == "the workspace has another: make (data/toy)"


def test_what_the_audit_says_to_do_about_a_damaged_object_mends_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    whole, shard = (project / SHARD).read_bytes(), cached(project, SHARD)
    overwrite(shard, b"corrupt")
    (corrupt, *_) = found(project)
    remove, _, rest = corrupt.todo.partition("; then ")
    assert (remove, rest) == (f"rm -rf {shard.relative_to(project)} data/toy", "dvc pull data/toy, or dvc repro")
    subprocess.run(remove, shell=True, check=True)
    dvc_ok(project, "repro")
    assert (project / SHARD).read_bytes() == whole
    assert found(project) == []


def test_a_directory_without_one_of_its_files(project: Path) -> None:
    cached(project, SHARD).unlink()
    (incomplete,) = found(project)
    assert incomplete.kind == "incomplete"
    assert incomplete.found == "data/toy lacks 1 of its 3 files, first train-00000.bin"
    assert incomplete.todo == "dvc fetch data/toy, or dvc repro"
    dvc_ok(project, "repro")
    assert found(project) == []


def test_a_directory_that_no_lock_names_may_lack_its_files(project: Path) -> None:
    listing = json.dumps([{"md5": "0" * 32, "relpath": "gone"}])
    name = directory_md5([("gone", "0" * 32)])
    path = project / ".dvc/cache/files/md5" / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_text(listing)
    assert found(project) == []


def test_an_edited_run_cache_entry(project: Path) -> None:
    (first, *_) = sorted((project / ".dvc/cache/runs").rglob("?" * 64 + "/" + "?" * 64))
    first.write_text(first.read_text().replace("md5: ", "md5: 0", 1))
    (corrupt,) = found(project)
    assert corrupt.kind == "corrupt"
    assert corrupt.found == "a run-cache entry that was edited or truncated"


def test_an_edited_shard_of_the_workspace(project: Path) -> None:
    shard = project / SHARD
    content = shard.read_bytes()
    shard.unlink()  # not the object that it is linked to
    shard.write_bytes(content[:-1] + b"?")
    shard_finding, output = found(project)
    assert (shard_finding.kind, shard_finding.where, output.kind) == ("shard", SHARD, "output")
    dvc_ok(project, "checkout", "--force")
    assert found(project) == []


def test_a_shard_that_its_manifest_lists_and_nobody_has(project: Path) -> None:
    (project / SHARD).unlink()
    shard, output = found(project)
    assert (shard.kind, output.kind) == ("shard", "output")
    assert shard.found.startswith("not there, index.json says ")


def test_a_hand_edited_metric(project: Path) -> None:
    (project / "metrics/toy.json").write_text('{"size": 4096}')
    (output,) = found(project)
    assert (output.kind, output.where) == ("output", "dvc.lock")
    assert output.found == "the workspace has another: score (metrics/toy.json)"
    (project / "metrics/toy.json").unlink()
    assert kinds(project) == ["output"]


def test_a_lock_of_other_parameters(project: Path) -> None:
    lock = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(lock.replace("n: 4", "n: 5"))
    (fault,) = found(project)
    assert fault.kind == "lock"
    assert fault.found == "of no known revision: make (params.yaml: toy)"


def test_a_lock_of_other_code(project: Path) -> None:
    lock = (project / "dvc.lock").read_text()
    before, path, after = lock.partition("path: src/score.py\n      hash: md5\n      md5: ")
    (project / "dvc.lock").write_text(f"{before}{path}{'f' * 32}{after[32:]}")
    (fault,) = found(project)
    assert (fault.kind, fault.found) == ("lock", "of no known revision: score (src/score.py)")


def test_a_lock_of_older_code_is_stale_and_may_be_allowed(project: Path) -> None:
    with (project / "src/make.py").open("a") as file:
        file.write("# edited\n")
    (project / "params.yaml").write_text("toy:\n  n: 5\n")
    git(project, "commit", "-qam", "other code and parameters")
    report = audit(project)
    (stale,) = report.findings
    assert (stale.kind, stale.where, stale.todo) == ("stale", "dvc.lock", "dvc repro")
    assert stale.found == "1 of 2 stages are older than the workspace (code 1, parameters 1)"
    assert (report.failed(allow_stale=False), report.failed(allow_stale=True)) == (True, False)


def test_a_stage_that_read_data_which_another_run_has_replaced(project: Path) -> None:
    (project / "params.yaml").write_text("toy:\n  n: 5\n")
    dvc_ok(project, "repro", "--single-item", "make")
    (stale,) = found(project)
    assert (stale.kind, stale.found) == ("stale", "1 of 2 stages are older than the workspace (data 1)")
    lock = (project / "dvc.lock").read_text()
    old = git(project, "show", "HEAD:dvc.lock").partition("path: data/toy\n      hash: md5\n      md5: ")[2][:32]
    (project / "dvc.lock").write_text(lock.replace(old, "0" * 32))
    fault, *_ = found(project)
    assert (fault.kind, fault.found) == ("lock", "of no known revision: score (data/toy)")


def test_code_that_was_committed_to_the_lock_without_a_run(project: Path) -> None:
    with (project / "src/score.py").open("a") as file:
        file.write("# edited\n")
    dvc_ok(project, "commit", "--force", "score")
    assert UP_TO_DATE in dvc_ok(project, "status")
    (provenance,) = found(project)
    assert provenance.kind == "provenance"
    assert provenance.found == "not what the run facts say: score (src/score.py)"


def test_run_facts_of_a_revision_that_is_not_in_the_clone(project: Path) -> None:
    facts = json.loads((project / "runs/score.json").read_text())
    (project / "runs/score.json").write_text(json.dumps(facts | {"revision": "f" * 40}))
    (provenance,) = found(project)
    assert provenance.kind == "provenance"
    assert provenance.found == "not what the run facts say: score (ran at fffffff, which this clone does not have)"
    with (project / "src/score.py").open("a") as file:
        file.write("# edited\n")
    assert kinds(project) == ["lock"]  # no longer of the workspace, and of no revision that anybody can look at


def test_a_lock_entry_of_a_stage_that_is_gone(project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text[: text.index("  score:")])
    (unlisted,) = found(project)
    assert (unlisted.kind, unlisted.found) == ("unlisted", "score")


def test_a_stage_that_never_ran_is_stale(project: Path) -> None:
    with (project / "dvc.yaml").open("a") as file:
        file.write("  more:\n    cmd: 'true'\n    deps: [src/score.py]\n")
    (stale,) = found(project)
    assert stale.found == "1 of 3 stages are older than the workspace (not run 1)"


def test_a_frozen_stage(project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("  make:\n", "  make:\n    frozen: true\n"))
    (frozen,) = found(project)
    assert (frozen.kind, frozen.where) == ("frozen", "dvc.yaml:make")


def test_an_import_may_be_frozen(project: Path) -> None:
    dvc_ok(project, "import-url", str(project / "params.yaml"), "imported.yaml")
    assert "frozen: true" in (project / "imported.yaml.dvc").read_text()
    assert found(project) == []


def test_what_interrupted_runs_leave_behind(project: Path) -> None:
    folders = [".dvc/tmp/exps/tmpabc", ".dvc/tmp/exps/standalone/tmpdef", "data/other.partial"]
    files = ["checkpoints/toy/a.safetensors", ".dvc/cache/files/md5/00/.AbC-_1.tmp", "metrics/x.json.partial"]
    for name in folders:
        (project / name).mkdir(parents=True)
    for name in files:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    assert found(project) == []  # somebody may just be writing them
    for name in (*folders, *files):
        age(project / name)
    orphans = found(project)
    assert {orphan.kind for orphan in orphans} == {"orphan"}
    named = [orphan.where for orphan in orphans]
    assert len(named) == 6
    assert set(named) >= {*folders, "checkpoints/toy/a.safetensors", "metrics/x.json.partial"}


def test_the_folder_of_an_experiment_that_still_runs_is_no_orphan(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project / ".dvc/tmp/exps/tmpabc"
    (folder / "data").mkdir(parents=True)
    age(folder)
    assert kinds(project) == ["orphan"]
    monkeypatch.chdir(folder / "data")
    assert found(project) == []


def test_an_experiment_of_other_parameters_than_its_own_lock(project: Path) -> None:
    dvc_ok(project, "exp", "run", "-n", "good", "-S", "toy.n=6")
    assert [finding for finding in found(project) if "experiment" in finding.where] == []
    git(project, "checkout", "-q", "--", ".")
    dvc_ok(project, "checkout", "--force")
    assert found(project) == []
    (project / "params.yaml").write_text("toy:\n  n: 7\n")
    revision = add_experiment(project, "bad")
    report = audit(project)
    (bad,) = report.findings
    assert (bad.kind, bad.where) == ("experiment", f"experiment bad ({revision[:7]})")
    assert bad.found == "not of its own lock: make (params.yaml: toy)"
    assert "2 experiments" in report.looked_at


@pytest.mark.parametrize(("path", "what"), [("src/score.py", "src/score.py"), ("metrics/toy.json", "metrics/toy.json")])
def test_an_experiment_of_other_code_or_results_than_its_own_lock(project: Path, path: str, what: str) -> None:
    with (project / path).open("a") as file:
        file.write("\n")
    add_experiment(project, "bad")
    (bad,) = found(project)
    assert (bad.kind, bad.found) == ("experiment", f"not of its own lock: score ({what})")


def test_an_experiment_that_was_saved_and_never_ran(project: Path) -> None:
    (project / "params.yaml").write_text("toy:\n  n: 7\n")
    dvc_ok(project, "exp", "save", "-n", "saved")  # which commits the workspace's outputs to the lock
    git(project, "checkout", "-q", "--", ".")
    (saved,) = found(project)
    assert (saved.kind, saved.found) == ("experiment", "not of its own lock: make (toy of the run facts)")


def test_an_experiment_is_not_blamed_for_its_stale_baseline(project: Path) -> None:
    with (project / "src/score.py").open("a") as file:
        file.write("# edited\n")
    git(project, "commit", "-qam", "other code")
    (project / "params.yaml").write_text("toy: {n: 4}\n")
    add_experiment(project, "late")
    late, workspace = sorted(found(project), key=lambda finding: finding.where, reverse=True)
    assert (workspace.kind, late.kind) == ("stale", "stale")
    assert late.found.endswith(": score (src/score.py)")


def test_a_remote_without_verify(project: Path, tmp_path: Path) -> None:
    dvc_ok(project, "remote", "add", "shelf", str(tmp_path / "shelf"))
    (unverified,) = found(project)
    assert (unverified.kind, unverified.todo) == ("unverified", "dvc remote modify shelf verify true")
    dvc_ok(project, *unverified.todo.split()[1:])
    assert found(project) == []


def test_a_damaged_object_of_a_remote_is_found_and_a_push_mends_it(project: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    dvc_ok(project, "remote", "add", "shelf", str(shelf))
    dvc_ok(project, "remote", "modify", "shelf", "verify", "true")
    dvc_ok(project, "push", "-r", "shelf")
    assert found(project, "shelf") == []
    name = cached(project, SHARD).relative_to(project / ".dvc/cache")
    overwrite(shelf / name, b"corrupt")
    assert "in sync" in dvc_ok(project, "status", "-c", "-r", "shelf")
    (corrupt,) = found(project, "shelf")
    assert (corrupt.kind, corrupt.where) == ("corrupt", f"remote shelf {name}")
    for todo in (corrupt.todo, None):
        delete, _, push = (todo or found(project, "shelf")[0].todo).partition(" there, then ")
        for path in delete.removeprefix("delete ").split(" and "):
            (shelf / path).unlink()
        dvc_ok(project, *push.split()[1:])
        assert found(project, "shelf") == []
        (shelf / name).unlink()
        assert kinds(project, "shelf") == ["incomplete"]


def test_what_cannot_be_looked_at_is_no_clean_audit(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match=r"remote nowhere: "):
        audit(project, ["nowhere"])
    dvc_ok(project, "remote", "add", "empty", str(tmp_path / "empty"))
    with pytest.raises(ReseedError, match=r"remote empty: found nothing under .*empty, allowed: a remote"):
        audit(project, ["empty"])
    with pytest.raises(ReseedError, match=r"not a DVC|not inside of a DVC|DVC repo"):
        audit(tmp_path)
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(ReseedError, match=r"workspace: dvc\.yaml: "):
        audit(project)


def test_the_command_prints_a_narrow_table_or_json_and_exits_with_what_it_found(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "80")
    run = CliRunner().invoke
    clean = run(app, ["audit"])
    assert (clean.exit_code, clean.stdout.splitlines()[-1]) == (0, "Nothing found.")
    (project / "metrics/toy.json").write_text("{}")
    git(project, "rm", "-q", "--cached", "metrics/toy.json")
    dirty = run(app, ["audit"])
    assert dirty.exit_code == 1
    assert max(map(len, dirty.stdout.splitlines())) <= 80
    assert "output dvc.lock: the workspace has another: score (metrics/toy.json)" in dirty.stdout
    monkeypatch.chdir(project / "src")
    as_json = run(app, ["audit", "--json"])
    monkeypatch.chdir(project)
    assert as_json.exit_code == 1
    assert [entry["kind"] for entry in json.loads(as_json.stdout)["findings"]] == ["output"]
    git(project, "checkout", "-q", "HEAD", "metrics/toy.json")
    with (project / "src/make.py").open("a") as file:
        file.write("# edited\n")
    assert run(app, ["audit"]).exit_code == 1
    allowed = run(app, ["audit", "--allow-stale"])
    assert allowed.exit_code == 0
    assert "(stale) dvc.lock: 1 of 2 stages" in allowed.stdout
    monkeypatch.chdir(tmp_path)
    outside = run(app, ["audit"])
    assert outside.exit_code == 2
    assert outside.stderr.startswith("error: ")


def test_every_kind_of_finding_is_explained_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/integrity.md").read_text()
    for kind in KINDS:
        assert f"| `{kind}` |" in page, kind
