"""What `reseed claims check` refuses, each for its own reason and with exit code 1: it fails closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.review import project
from tests.review.project import CLAIM, FIRST
from tests.sweeps.toy import dvc_ok, git

pytestmark = pytest.mark.slow
SCORED, JUDGED = "score@topk-k4", f"claims@{CLAIM}"


def refused(folder: Path) -> dict[str, Any]:
    """What the command finds, by the name of claim and phase, and below `rules`; it must end with 1."""
    done = project.claims(folder, "check", "--format", "json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    named = {one["name"]: one for one in (*found["claims"], *found["phases"])}
    return named | {"rules": found["rules"], "gone": found["faults"]}


def faults(folder: Path, name: str = CLAIM) -> list[str]:
    found: list[str] = refused(folder)[name]["faults"]
    return found


def again(stage: str) -> str:
    return f"run `dvc repro --force --single-item {stage}`"


def ran_at(folder: Path, stage: str) -> str:
    return str(json.loads((folder / f"runs/{stage}.json").read_text())["revision"])[:7]


def add_a_line(folder: Path, name: str) -> None:
    (folder / name).write_text((folder / name).read_text() + "# a word\n")


def test_a_run_of_uncommitted_code(branch: Path) -> None:
    add_a_line(branch, "stages/score.py")
    project.repro(branch)
    project.commit(branch, "code and results at once")
    sentence = f"runs/{SCORED}.json: it ran with 1 uncommitted files of code; commit them and {again(SCORED)}"
    assert sentence in faults(branch)


def test_a_run_without_facts(branch: Path) -> None:
    git(branch, "rm", "-q", f"runs/{SCORED}.json")
    project.commit(branch, "fewer files")
    assert faults(branch)[0] == (
        f"runs/{SCORED}.json: the file does not exist, so that nobody knows what ran; {again(SCORED)}"
    )


def test_a_run_at_a_revision_that_was_squashed_away(branch: Path, tmp_path: Path) -> None:
    project.edit(branch, "planted.yaml", "variants/topk-k4/kappa", 0.9)
    project.rerun(branch, "better")
    git(branch, "reset", "-q", "--soft", "origin/main")
    project.commit(branch, "squashed")
    git(tmp_path, "clone", "-q", f"file://{branch}", "elsewhere")
    sentence = f"runs/{SCORED}.json: it ran at {ran_at(branch, SCORED)}, which this clone does not have"
    assert sentence in faults(tmp_path / "elsewhere")


def test_code_that_the_lock_got_without_a_run(branch: Path) -> None:
    add_a_line(branch, "stages/score.py")
    dvc_ok(branch, "commit", "-f", SCORED)
    project.commit(branch, "as if it had run")
    assert (
        f"dvc.lock: {SCORED} records stages/score.py, which {ran_at(branch, SCORED)}, at which it ran, does not have; "
        f"{again(SCORED)}"
    ) in faults(branch)


def test_parameters_that_the_lock_got_without_a_run(branch: Path) -> None:
    params = (branch / "params.yaml").read_text()
    stricter = params.replace("plateau_tolerance: 0.03", "plateau_tolerance: 0.02")
    assert stricter != params
    (branch / "params.yaml").write_text(stricter)
    dvc_ok(branch, "commit", "-f", JUDGED)
    project.commit(branch, "as if it had been judged by them")
    assert faults(branch) == [f"dvc.lock: {JUDGED} records another stability than it ran with; {again(JUDGED)}"]


def test_evidence_that_no_stage_made(branch: Path) -> None:
    path = "metrics/toy/topk-k16/stability.json"
    (branch / path).parent.mkdir()
    (branch / path).write_text((branch / FIRST).read_text().replace("topk-k4", "topk-k16"))
    late = project.claim(
        git(branch, "rev-parse", "HEAD").strip(), evidence=[path] * 8, speaks_of={"toy/topk-k16": {"k": 4}}
    )
    project.edit(branch, "claims.yaml", "claims/late", late)
    project.commit(branch, "a claim of a file that somebody wrote")
    assert f"{path}: no stage of any pipeline makes it, allowed as evidence: what a stage made" in (
        faults(branch, "late")
    )


def test_a_figure_that_its_file_does_not_have(branch: Path) -> None:
    tests = [{"over": "each", "above": 0.5}]
    late = project.claim("0" * 40, metric="stability:trained/gone/l0", unit="latents", tests=tests)
    del late["statistic"]
    project.edit(branch, "claims.yaml", "claims/late", late)
    assert faults(branch, "late")[0].startswith(f"{FIRST}: found no 'gone' of 'trained/gone/l0'; known there: ")


def test_a_phase_that_was_dropped(branch: Path) -> None:
    project.edit(branch, "claims.yaml", "phases", {})
    project.commit(branch, "no phases")
    assert faults(branch, "first") == ["claims.yaml: phases: found no 'first', allowed: every phase that it ever had"]


@pytest.mark.parametrize("unknown", [True, False])
def test_a_revision_at_which_it_was_not_written_down(branch: Path, unknown: bool) -> None:
    registered = "f" * 40 if unknown else git(branch, "rev-parse", "HEAD").strip()  # HEAD comes after the claim
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/registered", registered)
    project.commit(branch, "another revision")
    assert (
        f"claims.yaml: claims.{CLAIM}: registered: found {registered[:7]}, allowed: the revision at which it was "
        "written down, which is an ancestor of the commit that holds it"
    ) in faults(branch)


def test_a_setting_that_was_scored_under_another_name(branch: Path) -> None:
    """Two variants of the same parameters: the first is scored, then a claim is written down of the second."""
    params = project.read(branch, "params.yaml")
    params["variants"] |= {"early": params["variants"]["topk-k4"], "late": params["variants"]["topk-k4"]}
    project.write(branch, "params.yaml", params)
    planted = {"k": 4, "kappa": 0.8}
    project.write(branch, "planted.yaml", {"variants": {"early": planted, "late": planted}})
    pipeline = project.read(branch, "dvc.yaml")
    score = pipeline["stages"]["score"]
    score["foreach"] = ["early"]
    score["do"]["params"] = [{"params.yaml": ["variants.${item}"]}]
    score["do"]["deps"].append("planted.yaml")
    project.write(branch, "dvc.yaml", pipeline)
    project.rerun(branch, "the first name")
    score["foreach"].append("late")
    project.write(branch, "dvc.yaml", pipeline)
    path = "metrics/toy/late/stability.json"
    claim = project.claim(
        git(branch, "rev-parse", "HEAD").strip(), evidence=[path] * 8, speaks_of={"toy/late": {"k": 4}}, tried=1
    )
    project.edit(branch, "claims.yaml", "claims/renamed", claim)
    project.rerun(branch, "the second name")
    one = refused(branch)["renamed"]
    written = git(branch, "rev-list", "-1", "HEAD^").strip()[:7]
    why = f"toy/late was scored before {written} under another name, toy/early"
    assert (one["recorded"], one["standing"], one["why_exploratory"]) == ("supported", "exploratory", [why])
    assert one["faults"] == [
        f"claims.yaml: claims.renamed: found standing 'confirmatory', allowed: 'exploratory', because {why}"
    ]


def test_rules_of_a_subject_may_rise_and_not_fall(branch: Path) -> None:
    file = "subjects/world.yaml"
    (branch / "subjects").mkdir()

    def rules(**bounds: float) -> None:
        project.write(branch, file, {"phase": {"question": "Do SAEs find its states?", "rules": bounds}})

    rules(purity=0.8, recall=0.5)
    project.commit(branch, "rules before the run")
    rules(purity=0.85, recall=0.5, fidelity=0.9)
    assert project.claims(branch, "check").returncode == 0  # a rule that rises, and one more
    rules(purity=0.7, recall=0.5)
    done = project.claims(branch, "check")
    lowered = f"{file}: phase.rules.purity: found 0.7, allowed: at least 0.8, as it was committed"
    assert (done.returncode, lowered in done.stdout.replace("\n", " ")) == (1, True)
    assert "Blocked by: rules of subjects" in done.stdout
    rules(purity=0.8)
    project.commit(branch, "fewer rules")
    dropped = f"{file}: phase.rules: found no recall, allowed: at least 0.5, as it was committed"
    assert refused(branch)["rules"] == [dropped]
    git(branch, "rm", "-q", file)
    project.commit(branch, "no subject")
    assert refused(branch)["rules"] == [
        f"{file}: the file was removed, allowed: to stay, since it had rules of its phase"
    ]


def test_a_claim_that_was_judged_cannot_be_dropped(branch: Path) -> None:
    other = project.claim(git(branch, "rev-parse", "HEAD").strip(), standing="exploratory")
    project.edit(branch, "claims.yaml", "claims/never-judged", other)
    project.commit(branch, "a claim that is given up before it was judged")
    phase = project.phase() | {"criteria": {"agree": {"claim": "other"}}}
    project.write(branch, "claims.yaml", {"claims": {"other": other}, "phases": {"first": phase}})
    git(branch, "rm", "-q", f"metrics/claims/{CLAIM}.json", f"runs/{JUDGED}.json")
    project.rerun(branch, "another claim in its place")
    assert refused(branch)["gone"] == [
        f"claims.yaml: claims: found no {CLAIM!r}, allowed: to stay, since it was judged 'supported'"
    ]


def test_evidence_that_was_looked_at_before_the_claim_was_committed(branch: Path) -> None:
    pipeline = project.read(branch, "dvc.yaml")
    pipeline["stages"]["score"]["foreach"].append("topk-k16")
    project.write(branch, "dvc.yaml", pipeline)
    project.edit(branch, "planted.yaml", "variants/topk-k16", {"k": 16, "kappa": 0.7})
    project.commit(branch, "one more variant")
    ran = git(branch, "rev-parse", "HEAD").strip()[:7]
    project.repro(branch)
    path = "metrics/toy/topk-k16/stability.json"
    late = project.claim(
        git(branch, "rev-parse", "HEAD").strip(), evidence=[path] * 8, speaks_of={"toy/topk-k16": {"k": 16}}, tried=1,
        tests=[{"figure": "trained", "over": "each", "above": 0.69}],
    )  # fmt: skip
    project.edit(branch, "claims.yaml", "claims/late", late)
    git(branch, "add", "claims.yaml")
    git(branch, "commit", "-qm", "what is known already")
    promised = git(branch, "rev-parse", "HEAD").strip()[:7]
    project.rerun(branch, "and its evidence")
    one = refused(branch)["late"]
    why = f"its evidence {path} was made at {ran}, which has not yet what it asks for ({promised})"
    assert (one["recorded"], one["standing"], one["why_exploratory"]) == ("supported", "exploratory", [why])
    dvc_ok(branch, "repro", "-f", "score@topk-k16", "claims@late")
    project.commit(branch, "made again after it")
    assert project.claims(branch, "check").returncode == 0
