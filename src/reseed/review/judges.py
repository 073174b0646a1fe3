"""What judges: every file that has a say in whether a claim may stand, found by the imports and not by a list."""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Iterator

from reseed.sweeps.locks import PIPELINE, Tree

ENTRIES = ("src/reseed/review/commands.py", "stages/claims.py")
"""Where a judgement starts: the check, and the stage. What they import judges with them."""
CHECKS = ("tests/conftest.py", "tests/test_results.py")
"""Tests that a pull request must pass for its claims; with them what they import of other tests."""
BESIDE = (
    "src/reseed/cli.py", "Makefile", "pyproject.toml", "requirements.lock",
    ".dvc/config", ".dvcignore", ".gitattributes",
)  # fmt: skip
"""What starts them, and which code and which files they then see."""
FOLDERS = (".github/workflows/", ".ci/")
SOURCES = {"reseed": "src/reseed", "tests": "tests"}
"""Where the modules of a package lie."""


def judging(tree: Tree) -> frozenset[str]:
    """The files of a tree that judge, pipelines included, since these say what a stage reads."""
    found = {path for path in tree.md5s if path.startswith(FOLDERS) or posixpath.basename(path) == PIPELINE}
    found |= tree.md5s.keys() & {*BESIDE}
    return frozenset(found) | imported(tree, ENTRIES, "reseed") | imported(tree, CHECKS, "tests")


def imported(tree: Tree, entries: tuple[str, ...], package: str) -> frozenset[str]:
    """The entries that the tree has and every module of the package that they import, by themselves or by others."""
    found: set[str] = set()
    left = [path for path in entries if path in tree.md5s]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += [file for module in _imports(tree, path) for file in _files(tree, module, package)]
    return frozenset(found)


def _imports(tree: Tree, path: str) -> Iterator[str]:
    """What a file imports, by the full name of a module or of something in one."""
    try:
        content = ast.parse(tree.read(path))
    except (SyntaxError, ValueError):
        return  # of a revision that could not run
    for node in ast.walk(content):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.removeprefix("src/").split("/")[: -node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _files(tree: Tree, module: str, package: str) -> Iterator[str]:
    """The files that run when a module of the package is imported: its own and those of the packages around it."""
    first, *names = module.split(".")
    if first != package:
        return
    for depth in range(len(names) + 1):
        place = "/".join([SOURCES[first], *names[:depth]])
        yield from (path for path in (f"{place}.py", f"{place}/__init__.py") if path in tree.md5s)
