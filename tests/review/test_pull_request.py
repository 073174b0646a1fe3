"""A pull request from both ends: what may land does, and what may not is refused for its own reason."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from reseed.review import show
from reseed.review.check import Checks, check
from reseed.review.difference import NEW, Difference, difference
from reseed.sweeps.audit import audit
from tests.conftest import ROOT
from tests.review import project
from tests.review.project import CLAIM, FIRST, PAIRS
from tests.sweeps.toy import dvc_ok, git

pytestmark = pytest.mark.slow
BASE = "origin/main"


def looked(folder: Path) -> tuple[Checks, Difference]:
    found = check(folder)
    return found, difference(folder, BASE, found)


def only(checks: Checks) -> Any:
    (one,) = checks.claims
    return one


def test_main_stands_and_changes_nothing(branch: Path) -> None:
    checks, changed = looked(branch)
    assert (only(checks).verdict, only(checks).standing, checks.blocked) == ("supported", "confirmatory", [])
    assert (changed.metrics, changed.parameters, changed.data, changed.claims) == ((), (), (), ())
    assert only(checks).tried == 1


def test_a_branch_that_improves_lands_with_what_moved(branch: Path) -> None:
    project.edit(branch, "planted.yaml", "variants/topk-k4/kappa", 0.9)
    project.rerun(branch, "better")
    checks, changed = looked(branch)
    assert (only(checks).verdict, checks.blocked, only(checks).tried) == ("supported", [], 2)
    moved = {(one.key, one.how): (one.before, one.after) for one in changed.metrics if one.file == FIRST}
    assert moved["trained.pw_mcc.kappa", "beyond its interval"] == (0.8, 0.9)
    assert changed.parameters == (("planted.yaml", "variants.topk-k4.kappa", 0.8, 0.9),)
    (claim,) = changed.claims
    assert (claim.before, claim.after, claim.changes) == ("supported", "supported", (f"its evidence moved ({FIRST})",))
    shown = project.claims(branch, "check", "--base", BASE, "--format", "markdown", code=ROOT)
    assert shown.returncode == 0
    assert show.MARKER in shown.stdout
    assert (
        "| `toy/topk-k4/stability` trained.pw_mcc.kappa | 0.8 [0.79, 0.81] | 0.9 | beyond its interval |"
        in shown.stdout
    )
    found = json.loads(project.claims(branch, "check", "--base", BASE, "--format", "json").stdout)
    assert found["against"]["claims"][0]["name"] == CLAIM


def test_the_parameters_that_changed_are_those_of_dvc(branch: Path) -> None:
    project.edit(branch, "planted.yaml", "variants/topk-k4/kappa", 0.9)
    project.edit(branch, "planted.yaml", "variants/topk-k4/moving", 0.2)
    project.edit(branch, "planted.yaml", "unread", 1)
    project.edit(branch, "params.yaml", "train/seeds", [7, 8, 9])
    project.edit(branch, "params.yaml", "saebench/frequencies", 11)
    _, changed = looked(branch)
    with Repo(str(branch)) as repo:
        theirs = repo.params.diff(a_rev=BASE, b_rev="workspace")["diff"]
    expected = [
        (file, key, one["old"], one["new"]) for file in sorted(theirs) for key, one in sorted(theirs[file].items())
    ]
    assert list(changed.parameters) == expected
    assert len(expected) == 4


def test_a_metric_of_no_stage_is_compared_like_the_others(branch: Path) -> None:
    """As the score of the planted faults is: metrics/dvc.yaml lists it, and has no stage and no lock."""
    project.write(branch, "metrics/dvc.yaml", {"metrics": ["score.json"]})
    (branch / "metrics/score.json").write_text('{"refused": 81}\n')
    project.commit(branch, "a score")
    checks, changed = looked(branch)
    assert (only(checks).verdict, checks.blocked) == ("supported", [])
    assert [(one.file, one.key, one.after, one.how) for one in changed.metrics] == [
        ("metrics/score.json", "refused", 81, NEW)
    ]
    assert "Data and pipelines are up to date." in dvc_ok(branch, "status")
    assert audit(branch).findings == ()


def test_a_branch_that_softens_the_judge_is_stopped_by_the_code_of_the_base(branch: Path, tmp_path: Path) -> None:
    """As the workflow does it: the base's code, checked out beside the branch, judges the branch."""
    judge = branch / "src/reseed/claims/judge.py"
    softened = judge.read_text().replace('"holds" if near > 0', '"holds" if near > -1')
    assert softened != judge.read_text()
    judge.write_text(softened)
    project.edit(branch, "planted.yaml", "variants/topk-k8/kappa", 0.2)
    project.rerun(branch, "everything holds")
    own = project.claims(branch, "check", "--base", BASE, "--format", "markdown", code=branch)
    assert (own.returncode, "**supported**" in own.stdout) == (0, True)
    assert "**This changes what judges: `src/reseed/claims/judge.py`.**" in own.stdout
    git(branch, "worktree", "add", "--quiet", str(tmp_path / "base"), BASE)
    other = project.claims(branch, "check", "--base", BASE, "--format", "markdown", code=tmp_path / "base")
    assert other.returncode == 1
    assert "not supported" in other.stdout


def test_what_judges_and_what_computes_the_evidence_are_told_apart(branch: Path) -> None:
    changed_files = ("src/reseed/sweeps/objects.py", "stages/score.py", "src/reseed/reports/card.py")
    for name in changed_files:
        (branch / name).write_text((branch / name).read_text() + "# a word\n")
    git(branch, "rm", "-q", "src/reseed/sweeps/parameters.py")  # which the base's judge imports
    _, changed = looked(branch)
    assert changed.judge == ("src/reseed/sweeps/objects.py", "src/reseed/sweeps/parameters.py")
    assert changed.evidence == ("stages/score.py",)
    checks = check(branch)
    assert checks.stale == ("score@topk-k4", "score@topk-k8")
    text = show.markdown(checks, changed)
    assert "**This changes what judges: `src/reseed/sweeps/objects.py`, `src/reseed/sweeps/parameters.py`.**" in text
    assert "- What computes the evidence of claims has changed: stages/score.py\n" in text


def test_a_branch_that_regresses_lands_only_when_it_says_so(branch: Path) -> None:
    project.edit(branch, "planted.yaml", "variants/topk-k8/kappa", 0.2)
    project.rerun(branch, "worse")
    checks, changed = looked(branch)
    assert only(checks).verdict == "not supported"
    assert only(checks).reasons[1] == "kappa of trained, toy/topk-k8: 0.200 [0.190, 0.210], to be above 0.5: refuted"
    assert checks.blocked == ["first"]
    assert checks.phases[0].faults == (
        f"claims.yaml: phases.first: verdict: found 'go', allowed: 'no-go': agree: the claim {CLAIM} is not supported, "
        "to be supported",
    )
    assert "its verdict is another" in changed.claims[0].changes
    project.edit(branch, "claims.yaml", "phases/first/verdict", "no-go")
    project.commit(branch, "the phase ends")
    assert check(branch).blocked == []


def test_evidence_that_moved_without_a_new_judgement_blocks(branch: Path) -> None:
    project.edit(branch, "planted.yaml", "variants/topk-k4/kappa", 0.2)
    project.commit(branch, "worse")
    dvc_ok(branch, "repro", "-s", "score@topk-k4")
    project.commit(branch, "half of the results")
    one = only(check(branch))
    assert one.verdict == "not testable"
    assert one.faults == (
        f"metrics/claims/{CLAIM}.json: it says 'supported', and its evidence gives 'not supported'; run `dvc repro "
        f"claims@{CLAIM}`",
        f"1 of the 3 stages behind it are stale (data {FIRST}); run `dvc repro claims@{CLAIM}`",
    )
    done = project.claims(branch, "check", "--base", BASE)
    assert done.returncode == 1
    assert f"Blocked by: {CLAIM}" in done.stdout


def test_a_stage_that_never_ran_hides_nothing_and_a_metric_that_is_gone_stops_the_comparison(branch: Path) -> None:
    pipeline = project.read(branch, "dvc.yaml")
    pipeline["stages"]["score"]["foreach"].append("topk-k16")
    project.write(branch, "dvc.yaml", pipeline)
    project.edit(branch, "planted.yaml", "variants/topk-k16", {"k": 16, "kappa": 0.4})
    project.edit(branch, "planted.yaml", "variants/topk-k4/kappa", 0.85)
    project.commit(branch, "one more variant, not yet run")
    dvc_ok(branch, "repro", f"claims@{CLAIM}")
    project.commit(branch, "results")
    checks, changed = looked(branch)
    assert (checks.blocked, checks.stale) == ([], ("score@topk-k16",))
    assert ("trained.pw_mcc.kappa", 0.8, 0.85) in {(one.key, one.before, one.after) for one in changed.metrics}
    (branch / FIRST).unlink()
    done = project.claims(branch, "check", "--base", BASE)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --base {BASE}: the metrics cannot be compared: [Errno 2] No such file or directory: '{FIRST}'\n"
    )


def test_a_metric_edited_by_hand_blocks(branch: Path) -> None:
    path = branch / FIRST
    path.write_text(path.read_text().replace("0.8", "0.95"))
    project.commit(branch, "a better number")
    one = only(check(branch))
    assert one.verdict == "not testable"
    assert any(f"{FIRST}: it is not what score@topk-k4 made (edited, merged or restored)" in f for f in one.faults)


def test_a_verdict_edited_by_hand_blocks(branch: Path) -> None:
    path = branch / f"metrics/claims/{CLAIM}.json"
    path.write_text(path.read_text().replace('"supported"', '"supported, very"'))
    project.commit(branch, "a better verdict")
    assert any("it says 'supported, very', and its evidence gives 'supported'" in f for f in only(check(branch)).faults)


def test_a_threshold_moved_after_its_evidence_is_exploratory_and_has_to_say_so(branch: Path) -> None:
    project.edit(branch, "planted.yaml", "variants/topk-k8/kappa", 0.2)
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/tests/0/above", 0.15)
    project.rerun(branch, "worse, and a lower bound")
    checks, changed = looked(branch)
    one = only(checks)
    assert (one.verdict, one.recorded, one.standing) == ("not testable", "supported", "exploratory")
    assert "after it had been judged 'supported' as it stood in" in one.why_exploratory[0]
    assert (
        "found standing 'confirmatory', allowed: 'exploratory', because what it asks for was changed" in one.faults[0]
    )
    assert "what it asks for was changed" in changed.claims[0].changes
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/standing", "exploratory")
    project.rerun(branch, "said so")
    checks = check(branch)
    assert (show.verdict(only(checks)), checks.blocked) == ("supported (exploratory)", ["first"])
    assert "is supported (exploratory), to be supported" in checks.phases[0].faults[0]  # no phase goes by it


def test_a_claim_written_down_after_its_evidence_is_exploratory(branch: Path) -> None:
    registered = git(branch, "rev-parse", "HEAD").strip()
    late = project.claim(
        registered, standing="exploratory", tests=[{"figure": "trained", "over": "each", "above": 0.59}]
    )
    project.edit(branch, "claims.yaml", "claims/late", late)
    project.rerun(branch, "one more claim")
    late_one = check(branch).claims[1]
    assert (late_one.verdict, late_one.standing, late_one.faults) == ("supported", "exploratory", ())
    assert f"its evidence {FIRST} was known" in late_one.why_exploratory[0]


def test_other_words_after_the_evidence_are_another_claim(branch: Path) -> None:
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/statement", "SAEs find the features of every model.")
    project.rerun(branch, "a larger claim")
    checks, changed = looked(branch)
    assert "found standing 'confirmatory', allowed: 'exploratory', because what it asks for" in only(checks).faults[0]
    assert "what it asks for was changed" in changed.claims[0].changes


def test_a_looser_parameter_of_the_judge_is_no_way_round(branch: Path) -> None:
    params = (branch / "params.yaml").read_text()
    (branch / "params.yaml").write_text(params.replace("plateau_tolerance: 0.03", "plateau_tolerance: 0.5"))
    project.commit(branch, "looser")
    assert (
        "params.yaml: stability.plateau_tolerance, by which it is judged, was 0.03 when it was written down"
        in (only(check(branch)).why_exploratory[0])
    )


def test_a_bound_from_a_side_branch_does_not_hide_the_verdict_on_the_other(branch: Path) -> None:
    """Lowered before the evidence on a branch of its own, and merged after it: git follows only that branch."""
    before = git(branch, "rev-list", "HEAD", "--", FIRST).split()[-1] + "^"
    git(branch, "switch", "-qc", "side", before)
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/tests/0/above", 0.15)
    project.commit(branch, "a lower bound")
    git(branch, "switch", "-q", "change")
    git(branch, "merge", "-q", "-X", "theirs", "-m", "merged", "side")
    assert "above: 0.15" in (branch / "claims.yaml").read_text()
    (why, *_) = only(check(branch)).why_exploratory
    assert "was changed" in why or "was known" in why


def test_a_merge_with_a_branch_that_lacks_the_claim_changes_nothing(branch: Path) -> None:
    first = git(branch, "rev-list", "--max-parents=0", "HEAD").strip()
    git(branch, "switch", "-qc", "older", first)
    project.write(branch, "notes.yaml", {"a": 1})
    project.edit(branch, "claims.yaml", "phases", {})
    (branch / "claims.yaml").write_text((branch / "claims.yaml").read_text() + "# a word\n")
    project.commit(branch, "a branch that was cut before the claim")
    git(branch, "switch", "-q", "change")
    git(branch, "merge", "-q", "-X", "ours", "-m", "merged", "older")
    checks = check(branch)
    assert (only(checks).standing, checks.blocked) == ("confirmatory", [])


def test_a_verdict_without_its_claim_and_a_study_without_its_claims_block(branch: Path) -> None:
    (branch / "studies/more").mkdir(parents=True)
    project.write(
        branch, "studies/more/claims.yaml", {"claims": {}, "phases": {"later": project.phase() | {"criteria": {}}}}
    )
    project.commit(branch, "a study")
    git(branch, "rm", "-q", "studies/more/claims.yaml")
    (branch / "metrics/claims/gone.json").write_text("{}")
    project.commit(branch, "without it")
    assert check(branch).faults == (
        "studies/more/claims.yaml: the file was removed, allowed: to stay, since it had claims or phases",
        "metrics/claims/gone.json: no claims file has this claim, allowed: verdicts of registered claims; remove it",
    )


def test_a_dropped_criterion_and_a_frozen_stage_block(branch: Path) -> None:
    project.edit(branch, "claims.yaml", "phases/first/criteria", {"agreement": {"claim": CLAIM}})
    project.edit(branch, "dvc.yaml", "stages/score/do/frozen", True)
    project.commit(branch, "renamed, frozen")
    checks = check(branch)
    assert checks.blocked == [CLAIM, "first"]
    assert "claims.yaml: phases.first: found no criteria.agree, allowed: all that it ever asked for" in (
        checks.phases[0].faults
    )
    assert "dvc.yaml: score@topk-k4: found frozen: true, allowed: false: DVC would never run it again" in (
        only(checks).faults
    )


def test_a_phase_is_covered_by_what_a_stage_made_and_by_nothing_else(branch: Path) -> None:
    part = {"domain": "all of it", "covered_by": f"{FIRST}:trained/pw_mcc/low", "at_least": 0.5}
    project.edit(branch, "claims.yaml", "phases/first/coverage", [part])
    project.commit(branch, "the phase says what it covers")
    assert check(branch).blocked == []
    content = json.loads((branch / FIRST).read_text())
    content["trained"]["pw_mcc"]["low"] = 0.9
    (branch / FIRST).write_text(json.dumps(content))
    gone = part | {"covered_by": "metrics/toy/gone.json:value"}
    project.edit(branch, "claims.yaml", "phases/first/coverage", [part, gone])
    first = check(branch).phases[0]
    assert first.verdict == "no-go"
    assert any(f"{FIRST}: it is not what score@topk-k4 made" in fault for fault in first.faults)
    assert "metrics/toy/gone.json: the file does not exist, by which claims.yaml: phases.first: covers 'all of it'" in (
        first.faults
    )


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        ("trained/pw_mcc/lowest", f"{FIRST}: found no 'lowest' of 'trained/pw_mcc/lowest'; known there: "),
        ("trained/pw_mcc", f"{FIRST}: trained/pw_mcc: found no number, allowed: a number, by which "),
    ],
)
def test_a_figure_that_covers_a_phase_and_is_not_there_blocks_as_its_file_would(
    branch: Path, inner: str, sentence: str
) -> None:
    part = {"domain": "all of it", "covered_by": f"{FIRST}:{inner}", "at_least": 0.5}
    project.edit(branch, "claims.yaml", "phases/first/coverage", [part])
    done = project.claims(branch, "check", "--format", "json")
    assert (done.returncode, done.stderr) == (1, "")
    (first,) = json.loads(done.stdout)["phases"]
    assert first["verdict"] == "no-go"
    assert first["faults"][0].startswith(sentence)
    assert first["faults"][0].endswith(", by which claims.yaml: phases.first: covers 'all of it'")
    assert len(first["faults"]) == 2  # and that it is declared to be go


def test_a_phase_may_ask_for_more_and_not_for_less(branch: Path) -> None:
    part = {"domain": "held-out rows", "covered_by": f"{FIRST}:held_out/rows", "at_least": 50}
    project.edit(branch, "claims.yaml", "phases/first/coverage", [part])
    project.commit(branch, "one more thing to cover")
    assert check(branch).blocked == []
    project.edit(branch, "claims.yaml", "phases/first/coverage", [part | {"at_least": 60}])
    project.commit(branch, "more of it")
    assert check(branch).blocked == []
    project.edit(branch, "claims.yaml", "phases/first/coverage", [part | {"at_least": 10}])
    project.edit(branch, "claims.yaml", "phases/first/stop_rules", ["another"])
    project.commit(branch, "less of it")
    lowered, dropped = check(branch).phases[0].faults
    assert "coverage (held-out rows): found" in lowered
    assert "'at_least': 60}, as it was committed" in lowered
    assert (
        dropped == "claims.yaml: phases.first: found no stop_rules (no agreement), allowed: all that it ever asked for"
    )


def test_two_branches_that_merge_are_judged_again(branch: Path) -> None:
    git(
        branch,
        "config",
        "merge.dvc-lock.driver",
        f"PYTHONPATH={ROOT / 'src'} python -P -m reseed.sweeps.lockmerge %O %A %B %P",
    )
    (branch / ".gitattributes").write_text(
        "dvc.lock merge=dvc-lock\nmetrics/**/*.json merge=binary\nruns/*.json merge=binary\n"
    )
    project.commit(branch, "attributes")
    for name, variant, kappa in (("one", "topk-k4", 0.7), ("two", "topk-k8", 0.7)):
        git(branch, "switch", "-qc", name, "change")
        project.edit(branch, "planted.yaml", f"variants/{variant}/kappa", kappa)
        project.rerun(branch, f"{variant} moves")
    merged = subprocess.run(
        ["git", "merge", "-q", "one"], cwd=branch, env=project.environment(), capture_output=True, check=False
    )
    assert merged.returncode  # both sides judged the claim anew: the verdict and its facts conflict
    git(branch, "checkout", "--ours", "metrics", "runs")
    project.commit(branch, "merged")
    assert any("stages behind it are stale" in fault for fault in only(check(branch)).faults)
    project.repro(branch)
    project.commit(branch, "judged again")
    one = only(check(branch))
    assert (one.verdict, one.faults) == ("supported", ())
    assert [round(t["value"], 3) for t in one.judged["tests"]] == [0.7, 0.7]


def test_a_clone_without_any_data_can_check(made: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(made.parent / "remote.git"), "fork")
    assert not (tmp_path / "fork/.dvc/cache").exists()
    assert check(tmp_path / "fork").blocked == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gates": ["converged", "alive", "vibes"]}, "gates.2: found 'vibes', allowed: 'converged'"),
        ({"unit": "cosine"}, "unit: found 'cosine', allowed: kappa, which is that of a statistic\n"),
    ],
)
def test_a_claim_with_a_fault_is_bad_input(branch: Path, change: dict[str, Any], sentence: str) -> None:
    for key, value in change.items():
        project.edit(branch, "claims.yaml", f"claims/{CLAIM}/{key}", value)
    done = project.claims(branch, "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: claims.yaml: claims.{CLAIM}")
    assert sentence in done.stderr


FAULTS = {
    "a phase that asks for minus infinity": (
        "claims.yaml", lambda text: text.replace("verdict: go", "verdict: go\n    coverage: "
        f"[{{domain: all, covered_by: '{FIRST}:held_out/rows', at_least: -.inf}}]"),
        "error: claims.yaml: phases.first.coverage.0.at_least: found -inf, allowed: a finite number\n",
    ),
    "an id twice": (
        "claims.yaml", lambda text: text.replace("phases:", text[len("claims:\n") : text.index("phases:")] + "phases:"),
        f"error: claims.yaml: claims.{CLAIM}: found twice, allowed: every id once\n",
    ),
    "no mapping": ("claims.yaml", lambda _: "claims:\n", "error: claims.yaml: claims: found nothing, allowed: "),
    "no YAML": ("claims.yaml", lambda _: "claims: [\n", "error: claims.yaml: not valid YAML: "),
    "a lock that a merge left": (
        "dvc.lock", lambda _: "<<<<<<< HEAD\n",
        "error: workspace: dvc.lock: found str, allowed: a mapping of keys to values\n",
    ),
    "a revision that is a number": (
        "runs/score@topk-k4.json", lambda text: re.sub(r'"revision": "[^"]*"', '"revision": 3', text),
        "error: workspace: runs/score@topk-k4.json: revision: found 3, allowed: what a run writes there; run its stage",
    ),
    "outputs that are a number": (
        "runs/score@topk-k4.json", lambda text: json.dumps(json.loads(text) | {"wrote": 3}),
        "error: workspace: runs/score@topk-k4.json: wrote: found 3, allowed: what a run writes there; run its stage",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_a_fault_is_bad_input_in_one_sentence(branch: Path, fault: str) -> None:
    name, spoil, sentence = FAULTS[fault]
    before = (branch / name).read_text()
    (branch / name).write_text(spoil(before))
    assert (branch / name).read_text() != before
    done = project.claims(branch, "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_an_id_in_two_claims_files_is_bad_input(branch: Path) -> None:
    (branch / "studies/more").mkdir(parents=True)
    claim = project.read(branch, "claims.yaml")["claims"][CLAIM]
    project.write(branch, "studies/more/claims.yaml", {"claims": {CLAIM: claim}, "phases": {}})
    done = project.claims(branch, "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: studies/more/claims.yaml: claims.{CLAIM}: found in claims.yaml as well, allowed: an id that no other "
        "claims file has\n"
    )


@pytest.mark.parametrize("base", ["", "nonsense"])
def test_a_base_that_is_none_is_refused_before_anything_is_judged(
    branch: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reseed.review.commands.checking.check", lambda: pytest.fail("it judged"))
    done = project.claims(branch, "check", "--base", base)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: --base {base!r}: no such revision in this clone, allowed: one that `git rev-parse` knows\n"
    )


def test_a_missing_metric_is_not_testable(branch: Path) -> None:
    (branch / FIRST).unlink()
    one = only(check(branch))
    assert (one.verdict, one.faults[0]) == ("not testable", f"{branch / FIRST}: the file does not exist")


def test_a_metric_with_nan_is_not_testable(branch: Path) -> None:
    path = branch / FIRST
    path.write_text(path.read_text().replace("0.8", "NaN"))
    checks = check(branch)
    assert only(checks).faults[0] == f"{branch / FIRST}: found NaN, allowed: finite numbers"


def test_bad_input_has_exit_code_two(branch: Path, tmp_path: Path) -> None:
    done = project.claims(branch, "check", "--base", "nowhere")
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: --base 'nowhere': no such revision in this clone, allowed: one that `git rev-parse` knows\n"
    )
    done = project.claims(branch, "show", "nothing")
    assert (done.returncode, done.stderr) == (2, f"error: claim 'nothing': found none of that id, allowed: {CLAIM}\n")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{branch}", "shallow")
    done = project.claims(tmp_path / "shallow", "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert "found a shallow clone, allowed: one with its whole history" in done.stderr
    shutil.rmtree(branch / ".dvc")
    done = project.claims(branch, "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {branch}: ")


def test_show_prints_the_whole_chain(branch: Path) -> None:
    done = project.claims(branch, "show", CLAIM)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.replace("│", " ").split()) for line in done.stdout.splitlines()]
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 100
    head = json.loads((branch / f"runs/claims@{CLAIM}.json").read_text())["revision"]
    lock = project.read(branch, "dvc.lock")["stages"]
    (md5,) = (out["md5"] for out in lock["score@topk-k4"]["outs"])
    options = lock[f"claims@{CLAIM}"]["params"]["params.yaml"]["stability"]
    for line in (
        "Toy SAEs agree above every null.", f"{CLAIM}: supported",
        "trained, toy/topk-k4 0.8 [0.790113, 0.809887] above 0.5 holds",
        f"{FIRST}: trained/pw_mcc: 0.8 [0.79, 0.81]", "isotropic 0.2", "kappa (above the strictest) 0.8 [0.79, 0.81]",
        f"{FIRST}: random_model/pw_mcc: 0.8 [0.79, 0.81]", "kappa (above the strictest) 0.1 [0.09, 0.11]",
        f"models/{PAIRS[0]} {'0' * 64}", f"{FIRST} {md5}",
        "planted.yaml:variants.topk-k4 (score): {k: 4, kappa: 0.8}",
        "planted.yaml:variants.topk-k8 (score): {k: 8, kappa: 0.6}",
    ):  # fmt: skip
        assert line in lines, line
    assert f"params.yaml:stability (claims): {{alive_min_count: {options['alive_min_count']}," in done.stdout
    assert any(line.startswith(f"score@topk-k8 dvc.yaml {head[:7]} 20") for line in lines)
    assert lines[-1] == f"git checkout {head} && dvc repro claims@{CLAIM}"


def test_show_says_why_there_is_no_figure(branch: Path) -> None:
    late = project.claim("0" * 40, minimum_seeds=9)
    project.edit(branch, "claims.yaml", "claims/late", late)
    done = project.claims(branch, "show", "late")
    assert done.returncode == 0, done.stderr
    assert f"because: {FIRST}: 5 seeds, the claim asks for 9\n" in done.stdout
    assert "fault: metrics/claims/late.json: it has not been judged; run `dvc repro claims@late`" in done.stdout


@pytest.mark.parametrize("named", [True, False])
def test_a_k_that_was_chosen_with_the_seeds_that_judge_it_is_exploratory(branch: Path, named: bool) -> None:
    chosen = {"by_c_dec": {"k": 3}, "by_stability": {"k": 4}, "seeds": 5}  # of topk-k4 only, whether it says so or not
    (branch / "metrics/toy/calibration.json").write_text(json.dumps(chosen))
    if not named:
        project.edit(branch, "claims.yaml", f"claims/{CLAIM}/speaks_of", {PAIRS[0]: {}, PAIRS[1]: {"k": 8}})
    # as params.yaml has it, the search had seeds of its own
    assert not any("was chosen with seeds" in why for why in only(check(branch)).why_exploratory)
    project.edit(branch, "params.yaml", "calibration/search_seeds", [3, 4, 100])
    done = project.claims(branch, "check", "--format", "json")
    assert done.returncode == 1, done.stderr
    (one,) = json.loads(done.stdout)["claims"]
    sentence = "k = 4 of toy/topk-k4 was chosen with seeds [3, 4] that also judge it"
    assert (one["standing"], one["why_exploratory"][-1]) == ("exploratory", sentence)
    if named:
        assert one["faults"] == [
            f"claims.yaml: claims.{CLAIM}: found standing 'confirmatory', allowed: 'exploratory', because {sentence}"
        ]
