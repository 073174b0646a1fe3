"""Small projects, as a user would have them checked out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import CORES
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


@pytest.fixture(autouse=True, scope="module")
def _all_cores() -> Iterator[None]:
    """Sweeps are of many processes: they get every core of the machine."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, own)
