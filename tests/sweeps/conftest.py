"""A project of two stages, as a user would have it checked out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweeps.project import make


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make(tmp_path / "project")


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, as the working directory."""
    monkeypatch.chdir(project)
    return project
