"""In a git clone the site and the README say of a claim what `reseed claims check` says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from markupsafe import Markup

from reseed import ReseedError
from reseed.reports import readme
from reseed.reports.card import Said
from reseed.reports.publish import _claims
from reseed.reports.site.figures import Table, Text
from reseed.reports.site.pages import _index, _judged
from reseed.reports.standing import checked, is_clone, makers, recorded
from tests.review import project
from tests.review.project import CLAIM, FIRST
from tests.sweeps.toy import git

pytestmark = pytest.mark.slow


def said(root: Path) -> tuple[str, str, str]:
    """Verdict and reasons of the claim on the site, and by what they stand."""
    workspace, by = _judged(root)
    note, table = _index(workspace, [], by).sections[0].blocks
    assert isinstance(note, Text)
    assert isinstance(table, Table)
    ((_, verdict, reasons),) = table.rows
    return Markup(verdict).striptags(), Markup(reasons).striptags(), Markup(note.html).striptags()


def test_a_clone_is_checked_and_a_folder_of_it_or_without_git_is_not(branch: Path) -> None:
    assert is_clone(branch)
    assert not is_clone(branch / "src")
    verdict, reasons, by = said(branch)
    assert (verdict, "To be judged again" in reasons) == ("supported", False)
    assert by.endswith("Verdicts are those of reseed claims check when this was made.")
    assert "| **supported** |" in readme.claims("claims.yaml", branch, checked(branch))
    shutil.rmtree(branch / ".git")
    assert not is_clone(branch)
    verdict, _, by = said(branch)
    assert verdict == "supported"
    assert "made outside a git clone, where only files, locks and parameters were compared" in by


def test_a_bound_that_was_moved_after_its_evidence_is_no_confirmation(branch: Path) -> None:
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/tests/0/above", 0.3)
    project.rerun(branch, "a lower bound, judged again")
    verdict, reasons, _ = said(branch)
    assert verdict == "not testable (exploratory)"
    assert reasons.startswith(
        f"To be judged again: claims.yaml: claims.{CLAIM}: found standing 'confirmatory', allowed"
    )
    with pytest.raises(ReseedError, match=rf"claims\.{CLAIM} may not stand in the README: .*found standing 'confirm"):
        readme.claims("claims.yaml", branch, checked(branch))
    # once it says so itself, it is supported as what it is
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/standing", "exploratory")
    project.rerun(branch, "exploratory")
    verdict, reasons, _ = said(branch)
    assert verdict == "supported (exploratory)"
    assert reasons.startswith("exploratory: what it asks for was changed in ")
    assert "| **supported** (exploratory) |" in readme.claims("claims.yaml", branch, checked(branch))


def test_a_claim_on_code_that_changed_since_is_to_be_judged_again(branch: Path) -> None:
    stage = branch / "stages" / "score.py"
    stage.write_text(stage.read_text().replace("value - 0.01", "value - 0.02"))
    project.commit(branch, "another score")
    verdict, reasons, _ = said(branch)
    assert verdict == "not testable"
    assert "stages behind it are stale (code stages/score.py" in reasons


def test_an_edit_that_dvc_commit_covers_is_seen_by_the_command_that_writes_the_readme(branch: Path) -> None:
    (branch / FIRST).write_text((branch / FIRST).read_text().replace("0.8,", "0.95,"))
    project.dvc_ok(branch, "commit", "--force", "score@topk-k4")
    project.repro(branch)
    project.commit(branch, "a better number")
    assert said(branch)[0] == "not testable"
    with pytest.raises(
        ReseedError, match=r"topk-k4/stability\.json: its lock says that score@topk-k4 made it, and the"
    ):
        readme.claims("claims.yaml", branch, checked(branch))


def test_the_model_card_says_of_a_claim_what_the_check_says(branch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(branch)

    def claims() -> tuple[dict[str, Said], bool]:
        return _claims(Path(FIRST), makers(recorded(Path())))

    found, looked_back = claims()
    assert (found[CLAIM].standing.verdict, found[CLAIM].standing.standing, looked_back) == (
        "supported",
        "confirmatory",
        True,
    )
    assert _claims(Path("metrics/toy/topk-k99/stability.json"), {}) == ({}, False)
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/tests/0/above", 0.3)
    project.rerun(branch, "a lower bound, judged again")  # files, locks and parameters agree
    with pytest.raises(ReseedError) as refused:
        claims()
    assert str(refused.value).startswith(
        f"claims.yaml: claims.{CLAIM} may not stand in the card: claims.yaml: claims.{CLAIM}: found standing "
        "'confirmatory', allowed: 'exploratory', because what it asks for was changed in "
    )
    project.edit(branch, "claims.yaml", f"claims/{CLAIM}/standing", "exploratory")
    project.rerun(branch, "exploratory")
    standing = claims()[0][CLAIM].standing
    assert (standing.verdict, standing.standing) == ("supported", "exploratory")
    assert standing.why_exploratory[0].startswith("what it asks for was changed in ")
    (branch / "stages/score.py").write_text((branch / "stages/score.py").read_text() + "# a word\n")
    with pytest.raises(ReseedError, match=rf"claims\.{CLAIM} may not stand in the card: .* stages behind it are stale"):
        claims()


def test_a_shallow_clone_says_that_its_history_was_not_looked_at(branch: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth", "1", branch.resolve().as_uri(), "shallow")
    verdict, _, by = said(tmp_path / "shallow")
    assert verdict == "supported"
    assert "reseed claims check could not look, so that only files, locks and parameters were compared" in by
    assert "found a shallow clone" in by
