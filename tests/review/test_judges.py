"""What judges is found by the imports: what the check really loads is among it, and what it does not is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reseed.review.judges import CHECKS, judging
from reseed.sweeps.locks import Tree, git
from tests.conftest import ROOT

LOADED = """
import runpy, sys
import reseed.review.commands
runpy.run_path("stages/claims.py", run_name="stage")
print(*(module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "reseed"), sep="\\n")
"""


def tree(files: dict[str, str]) -> Tree:
    return Tree("made up", dict.fromkeys(files, "0"), lambda path: files[path].encode())


@pytest.fixture(scope="module")
def found() -> frozenset[str]:
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    files = [path for path in listed if (ROOT / path).is_file()]
    return judging(Tree("workspace", dict.fromkeys(files, "0"), lambda path: (ROOT / path).read_bytes()))


def test_all_that_the_check_and_the_stage_load_judges(found: frozenset[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(line).relative_to(ROOT).as_posix() for line in done.stdout.split()}
    assert len(loaded) > 20
    assert loaded <= found, loaded - found


def test_all_of_the_gates_and_of_the_review_judge(found: frozenset[str]) -> None:
    for room in ("claims", "review"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src/reseed" / room).glob("*.py")}
        assert files <= found, files - found


def test_what_they_stand_on_and_what_starts_them_judges_and_nothing_else(found: frozenset[str]) -> None:
    for path in (
        "src/reseed/params.py", "src/reseed/artifacts.py", "src/reseed/stability/jackknife.py",
        "src/reseed/sweeps/locks.py", "src/reseed/sweeps/audit.py", "src/reseed/sweeps/objects.py",
        "src/reseed/stage.py", "stages/claims.py", "dvc.yaml", "studies/frontier/dvc.yaml",
        ".github/workflows/claims.yml", "Makefile",
        "requirements.lock", *CHECKS, "tests/scratch.py",
    ):  # fmt: skip
        assert path in found, path
    for path in (
        "src/reseed/reports/card.py", "src/reseed/saes/kernels.py", "src/reseed/stability/arms.py", "stages/train.py",
        "README.md", "params.yaml", "tests/test_matching.py",
    ):  # fmt: skip
        assert path not in found, path


def test_imports_are_followed_through_packages_and_by_every_form() -> None:
    files = {
        "review/commands": "from reseed import a\nimport reseed.b.c as c\n", "a": "def late():\n    from .d import e\n",
        "b/__init__": "", "b/c": "import os\nfrom reseed.f import name\n", "d": "", "f": "",
        "broken": "def (\n", "no": "",
    }  # fmt: skip
    whole = {f"src/reseed/{name}.py": text for name, text in files.items()} | {
        "stages/claims.py": "import reseed.broken"
    }
    assert judging(tree(whole)) == whole.keys() - {"src/reseed/no.py"}
