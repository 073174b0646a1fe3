"""What one clone compiled, the next does not compile again, and only where it is the same source."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from reseed.sweeps import compiled
from tests.sweeps.project import commit, git


def clone_of(origin: Path, folder: Path, state: Path) -> Path:
    git(origin, "clone", "-q", str(origin), str(folder))
    compiled.restore(folder, git(origin, "rev-parse", "HEAD"), state)
    return folder


def imported(clone: Path) -> str:
    """What Python says of the module's byte code when it imports it."""
    command = [sys.executable, "-v", "-c", "import module"]
    done = subprocess.run(
        command, cwd=clone / "src", env={"PATH": ""}, capture_output=True, text=True, check=True
    ).stderr  # fmt: skip
    return "matches" if re.search(r"module\.cpython-\d+\.pyc matches", done) else "compiled"


def test_a_clone_of_the_same_sources_takes_what_another_compiled(here: Path, tmp_path: Path) -> None:
    Path("src").mkdir()
    Path("src/module.py").write_text("x = 1\n")
    Path(".gitignore").write_text("__pycache__/\n")
    head, state = commit(here), tmp_path / "state"
    first = clone_of(here, tmp_path / "first", state)
    assert imported(first) == "compiled"
    compiled.keep(first, head, state)
    assert imported(clone_of(here, tmp_path / "second", state)) == "matches"
    Path("src/module.py").write_text("x = 2\n")
    commit(here)
    assert imported(clone_of(here, tmp_path / "third", state)) == "compiled"
