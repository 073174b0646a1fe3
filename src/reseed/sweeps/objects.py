"""The content of DVC's cache and remotes against the names that it is stored under, which DVC itself trusts."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from dvc.utils import dict_sha256
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

from reseed import ReseedError
from reseed.stage import progress
from reseed.sweeps.findings import Finding

# files/md5/ab/cdef… of DVC 3; ab/cdef… of DVC 2, where DVC 3 still puts some directory objects
OBJECT = re.compile(r"(?:files/md5/)?([0-9a-f]{2})/([0-9a-f]{30})(\.dir)?")
RUN = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/([0-9a-f]{64})")
BLOCK = 1 << 20


@dataclass(frozen=True)
class Store:
    """A cache or a remote: its name for a person, DVC's file system, the folder that holds files/md5."""

    name: str
    fs: Any
    path: str
    remote: bool

    def sizes(self) -> dict[str, int]:
        """Every file by its path below the folder; raises ReseedError if the store cannot be listed."""
        try:
            if self.fs.protocol == "local":
                paths = (f"{at}/{name}" for at, _, names in os.walk(self.path) for name in names)
                found = {path: os.lstat(path).st_size for path in paths}
            else:
                found = {path: info["size"] for path, info in self.fs.fs.find(self.path, detail=True).items()}
        except Exception as error:  # every kind of remote has its own exceptions
            raise ReseedError(f"{self.name}: {self.path} could not be listed: {one_line(error)}") from error
        if self.remote and not found:
            raise ReseedError(f"{self.name}: found nothing under {self.path}, allowed: a remote that was pushed to")
        return {self.fs.relpath(path, self.path): size for path, size in found.items()}

    def open(self, name: str) -> BinaryIO:
        """A file of the store, to be streamed."""
        file: BinaryIO = self.fs.open(self.fs.join(self.path, name), "rb")
        return file

    def read(self, name: str) -> bytes:
        """The content of a small file; raises ReseedError if it cannot be read."""
        try:
            with self.open(name) as file:
                return file.read()
        except Exception as error:
            raise ReseedError(f"{self.name}: {name} could not be read: {one_line(error)}") from error


@dataclass(frozen=True)
class Rehashed:
    """What rehashing a store gave: the files that it has, their true md5, and what is wrong with them."""

    sizes: Mapping[str, int]
    md5s: Mapping[str, str]
    findings: tuple[Finding, ...]


def rehash(store: Store, used: Mapping[str, str]) -> Rehashed:
    """Read every object of a cache or remote; `used` is the path of each output in use, by its hash.

    Raises ReseedError if the store cannot be listed.
    """
    sizes = store.sizes()
    objects = {name: "".join(match.groups("")) for name in sizes if (match := OBJECT.fullmatch(name))}
    digests = hashes(
        {name: sizes[name] for name in objects}, store.open, store.name, workers=16 if store.remote else None
    )
    whole = {name: oid for name, oid in objects.items() if digests[name] == oid.removesuffix(".dir")}
    listed = {name: _entries(store, name) for name, oid in whole.items() if oid.endswith(".dir")}
    holders = _holders(objects, listed, used)

    findings = []
    for name in objects.keys() - whole.keys():
        digest, holder = digests[name], holders.get(objects[name], Holder())
        found = f"its {sizes[name]} bytes hash to {str(digest)[:12]}…"
        if isinstance(digest, Exception):
            found = f"could not be read: {one_line(digest)}"
        todo = _mend(store, [name, *holder.listings], holder.out)
        findings.append(Finding("corrupt", f"{store.name} {name}", f"{found}; {holder.path or 'of no lock'}", todo))
    for name in sizes:
        if (match := RUN.fullmatch(name)) and not _is_run(store, name, match[1]):
            found = "a run-cache entry that was edited or truncated"
            findings.append(Finding("corrupt", f"{store.name} {name}", found, _mend(store, [name], "")))
    present = set(objects.values())
    for name, entries in listed.items():
        missing = [relative for relative, md5 in entries.items() if md5 not in present]
        if missing and (out := used.get(objects[name])):
            found = f"{out} lacks {len(missing)} of its {len(entries)} files, first {missing[0]}"
            todo = _mend(store, [name], out) if store.remote else f"dvc fetch {out}, or dvc repro"
            findings.append(Finding("incomplete", f"{store.name} {name}", found, todo))
    return Rehashed(sizes, {name: md5 for name, md5 in digests.items() if isinstance(md5, str)}, tuple(findings))


@dataclass(frozen=True)
class Holder:
    """What an object belongs to: its path, the output that this is in, the directory objects that list it."""

    path: str = ""
    out: str = ""
    listings: tuple[str, ...] = ()


def _holders(
    objects: Mapping[str, str], listed: Mapping[str, Mapping[str, str]], used: Mapping[str, str]
) -> dict[str, Holder]:
    found = {oid: Holder(out, out) for oid, out in used.items()}
    for name, entries in listed.items():
        out = used.get(objects[name], "")
        for relative, md5 in entries.items():
            known = found.get(md5, Holder())
            path = known.path or f"{out}/{relative}".lstrip("/")
            found[md5] = Holder(path, known.out or out, (*known.listings, name))
    return found


def hashes(
    sizes: Mapping[str, int],
    opened: Callable[[str], BinaryIO],
    label: str,
    algorithm: str = "md5",
    workers: int | None = None,
) -> dict[str, str | Exception]:
    """The digest of each file, or why it could not be read; hashing leaves Python's lock, so threads use every core."""
    with progress(sum(sizes.values()), label, "B") as bar:
        bar.unit_scale, lock = True, Lock()

        def digest(name: str) -> str | Exception:
            found = hashlib.new(algorithm, usedforsecurity=False)
            try:
                with opened(name) as file:
                    while block := file.read(BLOCK):
                        found.update(block)
                        with lock:
                            bar.update(len(block))
            except Exception as error:  # reported as a finding; every kind of remote has its own exceptions
                return error
            return found.hexdigest()

        pool = ThreadPoolExecutor(workers or os.cpu_count())
        try:
            # the largest first: one that is started last would leave the other threads idle
            names = sorted(sizes, key=lambda name: -sizes[name])
            return dict(zip(names, pool.map(digest, names), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)


def directory_md5(children: Iterable[tuple[str, str]]) -> str:
    """DVC's hash of a directory whose files are given as (path inside it, md5)."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(children)]
    return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _entries(store: Store, name: str) -> dict[str, str]:
    return {entry["relpath"]: entry["md5"] for entry in json.loads(store.read(name))}


def _is_run(store: Store, name: str, digest: str) -> bool:
    text = store.read(name)
    try:
        found: str = dict_sha256(parse_yaml(text.decode(), name), exclude=["size", "nfiles"])
    except (YAMLFileCorruptedError, UnicodeDecodeError):
        return False
    return found == digest


def _mend(store: Store, names: Iterable[str], out: str) -> str:
    if store.remote:
        # without the directory object, which DVC takes as proof that its files are there, push sends them again
        return f"delete {' and '.join(names)} there, then dvc push -r {store.name.split()[-1]} {out}".rstrip()
    path = os.path.relpath(Path(store.path, next(iter(names))))
    if not out:
        return f"rm -f {path}; then dvc repro"
    # the workspace may hold a link to the same bytes, which DVC takes for whole
    return f"rm -rf {path} {out}; then dvc pull {out}, or dvc repro"


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
