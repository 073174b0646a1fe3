"""What may be said of a claim now: as `reseed claims check` finds it, or, where there is no git, as the locks do.

A verdict file says what was judged once. It may have been edited since, its evidence made anew, its bound moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.claims.judge import NOT_TESTABLE
from reseed.params import read_yaml
from reseed.sweeps.locks import LOCK, PIPELINE, Stage, git
from reseed.sweeps.parameters import value_of

if TYPE_CHECKING:
    from reseed.review.check import Checks

EXPLORATORY, CONFIRMATORY = "exploratory", "confirmatory"


@dataclass(frozen=True)
class Standing:
    """verdict: not testable if there are faults, whatever the verdict's file says."""

    verdict: str
    standing: str
    faults: tuple[str, ...] = ()
    """What must be mended before the verdict may be said, a sentence each."""
    why_exploratory: tuple[str, ...] = ()


def is_clone(root: Path) -> bool:
    """Whether `root` is the top of a git work tree that has a commit."""
    try:
        top = git(root, "rev-parse", "--show-toplevel").decode().removesuffix("\n")
        git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    except (ReseedError, OSError):
        return False
    return Path(top).resolve() == root.resolve()


def checked(root: Path) -> Checks:
    """`reseed claims check` of a clone; raises ReseedError where that cannot be looked at, as in a shallow one."""
    # DVC takes a second to import, which the other commands need not wait for
    from reseed.review.check import check

    return check(root)


def recorded(root: Path) -> list[Stage]:
    """The stages of all locks as these record them, the default study's first."""
    found = []
    for lock in (root / LOCK, *sorted(root.glob(f"studies/*/{LOCK}"))):
        if lock.is_file():
            pipeline = lock.with_name(PIPELINE).relative_to(root).as_posix()
            # the C parser, because locks are long
            entries = yaml.load(lock.read_text(), yaml.CSafeLoader).get("stages") or {}
            found += [Stage(pipeline, name, False, e["cmd"], frozenset(), {}, {}, e) for name, e in entries.items()]
    return found


def makers(stages: Iterable[Stage]) -> dict[str, Stage]:
    """path of an output -> the first stage that records it."""
    found: dict[str, Stage] = {}
    for stage in stages:
        for path in stage.locked("outs"):
            found.setdefault(path, stage)
    return found


@dataclass(frozen=True)
class Standings:
    """All that the claims of one checkout are held against, read once."""

    root: Path
    made: Mapping[str, Stage]
    """path of an output -> its stage, as `makers` finds them."""
    checks: Checks | None = None
    """Without, only the locks are asked: neither the code of the stages nor the history of the claim."""
    _parameters: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str, evidence: Sequence[str], content: Mapping[str, Any]) -> Standing:
        """Of the claim `name`; content: of its verdict file, which is there.

        Raises ReseedError if a file that its stage read as parameters is not YAML.
        """
        if self.checks is not None:
            one = next((one for one in self.checks.claims if one.name == name), None)
            if one is not None:
                # declared or found, it is exploratory
                standing = EXPLORATORY if EXPLORATORY in (one.standing, content.get("standing")) else CONFIRMATORY
                return Standing(one.verdict, standing, one.faults, one.why_exploratory)
        faults = self._faults(f"metrics/claims/{name}.json", evidence)
        verdict = NOT_TESTABLE if faults else str(content.get("verdict", ""))
        return Standing(verdict, str(content.get("standing", CONFIRMATORY)), tuple(faults))

    def _faults(self, verdict: str, evidence: Sequence[str]) -> list[str]:
        stage = self.made.get(verdict)
        if stage is None:
            return [f"{verdict}: no {LOCK} records it, allowed: a verdict that the stage claims wrote"]
        found = [fault for path in (verdict, *evidence) if (fault := self._edited(path))]
        read = stage.locked("deps")
        for path in evidence:
            if path in self.made and read.get(path) != self.made[path].locked("outs")[path]:
                found.append(
                    f"{path}: {self.made[path].address} has made it anew since the claim was judged; run "
                    f"`dvc repro {stage.address}`"
                )
        for (file, key), value in stage.locked_params().items():
            if (self.root / file).is_file() and value_of(self._yaml(file), key) != value:
                found.append(
                    f"{file}: {key} says something else now than when it was judged; run `dvc repro {stage.address}`"
                )
        return found

    def _edited(self, path: str) -> str:
        """Why a file is not what a stage wrote, empty if it is."""
        stage, file = self.made.get(path), self.root / path
        if stage is None:
            return f"{path}: no {LOCK} records it, allowed as evidence: what a stage made"
        again = f"run `dvc repro --force --single-item {stage.address}`"
        if not file.is_file():
            return f"{path}: the file does not exist; {again}"
        md5 = stage.locked("outs")[path]
        if hashlib.md5(file.read_bytes()).hexdigest() != md5:
            return f"{path}: it is not what {stage.name} made (edited, merged or restored); {again}"
        facts = self.root / "runs" / f"{stage.name}.json"
        if not facts.is_file():
            return f"runs/{stage.name}.json: the file does not exist, so that nobody knows what ran; {again}"
        if read_json(facts).get("wrote", {}).get(path) != md5:
            return (
                f"{path}: its lock says that {stage.name} made it, and the facts of its run do not (edited, then "
                f"`dvc commit`?); {again}"
            )
        return ""

    def _yaml(self, file: str) -> Any:
        if file not in self._parameters:
            self._parameters[file] = read_yaml(self.root / file)
        return self._parameters[file]
