"""What a person is shown in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from reseed.claims.registry import Phase
from reseed.review import show
from reseed.review.check import CheckedPhase, Checks
from reseed.review.difference import ClaimChange, Difference
from tests.review import project

NOTHING = Checks((), (), (), ())


def shown(checks: Checks, *claims: ClaimChange) -> str:
    out = io.StringIO()
    show.terminal(checks, Difference("origin/main", (), (), (), claims, ()), Console(file=out, width=100))
    return out.getvalue()


def test_a_terminal_shows_what_changed_of_every_claim() -> None:
    moved = ClaimChange("agrees", "supported", "not supported", ("its evidence moved (a)", "its verdict is another"))
    text = shown(NOTHING, moved, ClaimChange("gone", "supported", "", ("it was removed",)))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert "Claims against origin/main" in text
    assert rows[:3] == [
        ["agrees", "supported", "not supported", "its evidence moved (a)"],
        ["", "", "", "its verdict is another"],
        ["gone", "supported", "removed", "it was removed"],
    ]
    assert "Claims against" not in shown(NOTHING)


def test_phases_of_one_name_are_told_apart_by_their_study() -> None:
    phase = Phase.model_validate(project.phase())
    files = ("claims.yaml", "studies/graph/claims.yaml", "studies/stack/claims.yaml")
    checks = Checks((), tuple(CheckedPhase("states", file, phase, "no-go", (), ("why",)) for file in files), (), ())
    assert checks.blocked == ["states", "graph: states", "stack: states"]
    rows = [line.split("│")[1].strip() for line in shown(checks).splitlines() if "no-go" in line]
    assert rows == checks.blocked
    assert all(f"| `{name}` | **no-go** | why |" in show.markdown(checks, None) for name in checks.blocked)


def test_rules_of_subjects_that_ask_for_less_are_shown_and_block() -> None:
    checks = Checks((), (), (), (), ("subjects/world.yaml: phase.rules.purity: found 0.7",))
    assert checks.blocked == ["rules of subjects"]
    for text in (shown(checks), show.markdown(checks, None), show.as_json(checks, None)):
        assert "subjects/world.yaml: phase.rules.purity: found 0.7" in text
        assert "rules of subjects" in text
