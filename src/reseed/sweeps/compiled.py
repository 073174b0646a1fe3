"""Byte code and compiled kernels of one revision, kept between the clones of a sweep: half a minute an experiment.

Python and numba take them only for a source file of the same content and time stamp, so that every clone of a commit
gives its sources the time of that commit.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from pathlib import Path

from reseed.sweeps.parameters import git

SOURCES = "src"
CACHE = "__pycache__"


def restore(clone: Path, head: str, state: Path) -> None:
    """Put into a clone what earlier clones of the same sources have compiled on such a processor."""
    if not (clone / SOURCES).is_dir():
        return
    seconds = int(git(clone, "show", "-s", "--format=%ct", head))
    for path in (clone / SOURCES).rglob("*.py"):
        os.utime(path, (seconds, seconds))
    kept = _kept(clone, head, state)
    if kept.is_dir():
        shutil.copytree(kept, clone / SOURCES, dirs_exist_ok=True)


def keep(clone: Path, head: str, state: Path) -> None:
    """Keep what a clone has compiled beyond that; each file appears whole, the stamp of the kernels after them."""
    if not (clone / SOURCES).is_dir():
        return
    kept = _kept(clone, head, state)
    found = [path for path in (clone / SOURCES).glob(f"**/{CACHE}/*") if path.is_file()]
    for path in sorted(found, key=lambda path: (path.suffix == ".compiled", path)):
        target = kept / path.relative_to(clone / SOURCES)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copy2(path, partial)
        partial.replace(target)


def _kept(clone: Path, head: str, state: Path) -> Path:
    sources = git(clone, "rev-parse", f"{head}:{SOURCES}").strip()
    time = git(clone, "show", "-s", "--format=%ct", head).strip()
    cpuinfo = Path("/proc/cpuinfo")
    known = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    processor = "".join(re.findall(r"^(?:model name|flags)\s*:.*$", known, re.MULTILINE)[:2])
    return state / "compiled" / hashlib.sha256(f"{sources} {time} {processor}".encode()).hexdigest()[:16]
