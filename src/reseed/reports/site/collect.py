"""What the site is made of: metrics files with where each comes from, claims with their verdicts, tables of latents."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from reseed import ReseedError
from reseed.artifacts import fingerprint, read_json
from reseed.params import GAUSSIAN, OOD, RANDOM_MODEL, TRAINED, read_yaml
from reseed.reports.standing import EXPLORATORY, Standing, Standings, makers, recorded
from reseed.sweeps.locks import Stage

if TYPE_CHECKING:
    from reseed.review.check import Checks

DEFAULT_STUDY = "default"
NOT_JUDGED = "not judged"
ARMS = (TRAINED, RANDOM_MODEL, GAUSSIAN, OOD)
HASHED = {"models": ("seed_*/cfg.json", "seed_*/*.safetensors"), "data": ("index.json",)}
"""The files of an artefact that `artifacts.artefacts` hashes, by the first folder of its path."""


@dataclass(frozen=True)
class Origin:
    """Where a metrics file comes from, as the locks and the run facts tell it; empty where they do not."""

    file: str
    stage: str = ""
    studies: tuple[str, ...] = ()
    revision: str = ""
    started: str = ""
    md5: str = ""
    as_locked: bool = False
    """Whether the bytes in the workspace are those that the lock names."""


@dataclass(frozen=True)
class Claim:
    """A registered claim, what its judge wrote, and what may be said of it now."""

    name: str
    study: str
    statement: str
    registered: str
    """The file that it is registered in."""
    file: str
    evidence: tuple[str, ...]
    content: dict[str, Any]
    """Of metrics/claims/<id>.json, empty where that does not exist."""
    artefacts: dict[str, str]
    """path -> whether the workspace holds the bytes that were judged."""
    standing: Standing
    """Its verdict is NOT_JUDGED where nothing was written."""

    @property
    def verdict(self) -> str:
        return self.standing.verdict

    @property
    def exploratory(self) -> bool:
        return self.standing.standing == EXPLORATORY


@dataclass(frozen=True)
class Variant:
    """One (subject, variant) that has a stability.json."""

    subject: str
    name: str
    stability: dict[str, Any]

    @property
    def folder(self) -> str:
        return f"metrics/{self.subject}/{self.name}"

    @property
    def arms(self) -> list[str]:
        """Trained first, then its controls in the order of ARMS."""
        found = (record["arm"] for record in self.stability["records"])
        return sorted(set(found), key=lambda name: ([*ARMS, name].index(name), name))

    @property
    def statistics(self) -> list[str]:
        """Of all arms, in the order of their records."""
        return list(dict.fromkeys(record["statistic"] for record in self.stability["records"]))


@dataclass
class Workspace:
    """The files of one checkout, each read once."""

    root: Path
    checks: Checks | None = None
    """What `reseed claims check` found; without, claims stand as the locks have them."""
    _read: dict[str, Any] = field(default_factory=dict)

    def has(self, file: str) -> bool:
        return (self.root / file).is_file()

    def found(self, pattern: str) -> list[str]:
        """The files that a pattern matches, in order."""
        return [str(path.relative_to(self.root)) for path in sorted(self.root.glob(pattern))]

    def json(self, file: str) -> dict[str, Any]:
        """The content of a metrics file; raises ReseedError if it is missing or not JSON."""
        if file not in self._read:
            self._read[file] = read_json(self.root / file)
        content: dict[str, Any] = self._read[file]
        return content

    def csv(self, file: str) -> pd.DataFrame:
        return pd.read_csv(self.root / file)

    @cached_property
    def studies(self) -> dict[str, Path]:
        """Name of every study -> its folder, the default study first."""
        others = sorted(path.parent for path in self.root.glob("studies/*/study.yaml"))
        return {DEFAULT_STUDY: self.root} | {path.name: path for path in others}

    @cached_property
    def _recorded(self) -> list[Stage]:
        return recorded(self.root)

    @cached_property
    def _locked(self) -> dict[str, tuple[str, str, list[str]]]:
        """path of an output -> (stage instance, md5, studies)."""
        found: dict[str, tuple[str, str, list[str]]] = {}
        for stage in self._recorded:
            study = Path(stage.file).parent.name or DEFAULT_STUDY
            for path, md5 in stage.locked("outs").items():
                found.setdefault(path, (stage.name, md5, []))[2].append(study)
        return found

    def origin(self, file: str) -> Origin:
        """Stage, studies, revision and date of the run, and md5 of a file (of the output that holds it)."""
        path = next((p for p in (file, *map(str, Path(file).parents)) if p in self._locked), "")
        if not path:
            return Origin(file)
        stage, md5, studies = self._locked[path]
        facts = self.json(f"runs/{stage}.json") if self.has(f"runs/{stage}.json") else {}
        here = self.root / path
        as_locked = here.is_file() and hashlib.md5(here.read_bytes()).hexdigest() == md5
        return Origin(
            file, stage, tuple(studies), facts.get("revision", ""), facts.get("started", ""), md5, as_locked
        )  # fmt: skip

    def target(self, stage: str, study: str) -> str:
        """What `dvc repro` calls a stage instance of a study."""
        folder = self.studies[study].relative_to(self.root)
        return stage if study == DEFAULT_STUDY else f"{folder}/dvc.yaml:{stage}"

    @cached_property
    def exemplified(self) -> dict[tuple[str, str], str]:
        """(subject, variant) -> what `dvc repro` calls the stage that makes its examples."""
        found: dict[tuple[str, str], str] = {}
        for study, folder in self.studies.items():
            for name, one in (read_yaml(folder / "study.yaml").get("exemplified") or {}).items():
                found.setdefault((one["subject"], one["variant"]), self.target(f"examples@{name}", study))
        return found

    def claims(self) -> list[Claim]:
        """Every registered claim, the default study's first."""
        found, standings = [], Standings(self.root, makers(self._recorded), self.checks)
        for study, folder in self.studies.items():
            registered = folder / "claims.yaml"
            if not registered.is_file():
                continue
            for name, claim in (read_yaml(registered).get("claims") or {}).items():
                file = f"metrics/claims/{name}.json"
                content = self.json(file) if self.has(file) else {}
                artefacts = {path: self._as_judged(path, known) for path, known in content.get("artefacts", {}).items()}
                relative = str(registered.relative_to(self.root))
                evidence = tuple(dict.fromkeys(claim.get("evidence", ())))
                standing = standings.of(name, evidence, content) if content else Standing(NOT_JUDGED, "")
                statement = str(claim["statement"])
                found.append(Claim(name, study, statement, relative, file, evidence, content, artefacts, standing))
        return found

    def _as_judged(self, path: str, known: str) -> str:
        try:
            found = fingerprint(self.root / path, *HASHED.get(path.partition("/")[0], ()))
        except ReseedError:
            return "not in this workspace"
        return "as judged" if found == known else "changed since it was judged"

    def variants(self) -> list[Variant]:
        """Everything that has a stability.json, by subject and name."""
        paths = sorted(self.root.glob("metrics/*/*/stability.json"))
        return [Variant(p.parts[-3], p.parts[-2], self.json(str(p.relative_to(self.root)))) for p in paths]

    def table(self, file: str) -> pd.DataFrame | None:
        """A table that DVC holds, None where it is not in the workspace."""
        return pd.read_parquet(self.root / file) if self.has(file) else None
