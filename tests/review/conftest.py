"""The project that is judged: made once, a clone on a branch of its own for each test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.review import project
from tests.sweeps.toy import git


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project.make(tmp_path_factory.mktemp("pull") / "project")


@pytest.fixture
def branch(made: Path, tmp_path: Path) -> Path:
    """A clone of the project with its caches, on a branch of its own; the remote stays the same."""
    folder = tmp_path / "project"
    subprocess.run(["cp", "-a", made, folder], check=True)
    git(folder, "switch", "-qc", "change")
    return folder
