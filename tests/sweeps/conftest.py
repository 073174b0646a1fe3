"""Small projects, as a user would have them checked out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweeps import toy
from tests.sweeps.project import make


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make(tmp_path / "project")


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, as the working directory."""
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has run, is committed, and whose workspace is linked into its cache."""
    return toy.make(tmp_path_factory.mktemp("toy") / "made")
