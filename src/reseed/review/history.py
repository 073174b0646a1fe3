"""What git knows of a claim: when it was promised, whether its evidence was there before, and what was tried."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from reseed import ReseedError
from reseed.claims.registry import Claim, keeps, promise
from reseed.params import read_yaml
from reseed.sweeps import locks

LEDGER = Path("runs/ledger.jsonl")


@dataclass(frozen=True)
class Past:
    """Where a claim stands in the history of its file."""

    registered: str
    """The oldest commit since which every version promised no more than the present one; empty if none has it."""
    reasons: tuple[str, ...]
    """Why it is exploratory, in words; none for a confirmatory one."""


class History:
    """The commits of one checkout, read once. Raises ReseedError for a shallow clone, which hides what was before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if _git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
            raise ReseedError(
                f"{root.resolve()}: found a shallow clone, allowed: one with its whole history, which tells when a "
                "claim was written down; run `git fetch --unshallow`"
            )

    def versions(self, path: str) -> list[tuple[str, dict[str, Any]]]:
        """The commits that changed a YAML file, the newest first, each with its content there."""
        found = []
        for commit in _git(self.root, "log", "--format=%H", "--", path).split():
            try:
                content = yaml.load(_git(self.root, "show", f"{commit}:{path}"), yaml.CSafeLoader)
            except (ReseedError, yaml.YAMLError):
                continue  # it was deleted there, or is not YAML, and promises nothing
            if isinstance(content, dict):
                found.append((commit, content))
        return found

    def past(self, file: str, name: str) -> Past:
        """When the claim `name` of a claims file was promised as it stands now, and what makes it exploratory."""
        now = promise(read_yaml(self.root / file)["claims"][name])
        registered, before = "", ""
        for commit, content in self.versions(file):
            raw = (content.get("claims") or {}).get(name)
            if raw is None or not keeps(now, promise(raw)):
                before = commit if raw is not None else ""
                break
            registered = commit
        if not registered:
            return Past("", ("it is not committed as it stands",))
        reasons = []
        judged = f"metrics/claims/{name}.json"
        if before and (verdict := self._verdict(registered, judged)):
            reasons.append(
                f"what it asks for was changed in {registered[:7]}, after it had been judged {verdict!r} as it "
                f"stood in {before[:7]}"
            )
        for path in now["seed_sets"]:
            if first := self._first(path, registered):
                reasons.append(
                    f"its evidence {path} was known ({first[:7]}) before what it asks for ({registered[:7]})"
                )
                break
        return Past(registered, tuple(reasons))

    def _verdict(self, commit: str, path: str) -> str | None:
        """The verdict that was on record when the parent of a commit was checked out."""
        shown = locks.git(self.root, "log", "-1", "--format=%H", f"{commit}^", "--", path).decode().strip()
        if not shown:
            return None
        try:
            return str(json.loads(_git(self.root, "show", f"{commit}^:{path}"))["verdict"])
        except (ReseedError, ValueError, KeyError):
            return None

    def _first(self, path: str, until: str) -> str | None:
        """The first commit, `until` or before, that has a file at the path."""
        commits = _git(self.root, "log", "--diff-filter=A", "--format=%H", until, "--", path).split()
        return commits[-1] if commits else None

    @cached_property
    def _locks(self) -> list[Mapping[str, Any]]:
        """The stages of every lock that was ever committed, here or by an experiment that is still there."""
        revisions = _git(self.root, "for-each-ref", "refs/exps", "--format=%(objectname)").split()
        listed = _git(self.root, "log", "--format=%H", "HEAD", *revisions, "--", "dvc.lock", "*/dvc.lock").split()
        found, seen = [], set()
        for commit in dict.fromkeys([*listed, *revisions]):
            for line in _git(self.root, "ls-tree", "-r", commit).splitlines():
                meta, _, path = line.partition("\t")
                blob = meta.split()[2]
                if Path(path).name == "dvc.lock" and blob not in seen:
                    seen.add(blob)
                    content = yaml.load(_git(self.root, "cat-file", "blob", blob), yaml.CSafeLoader) or {}
                    found.append(content.get("stages", {}))
        return found

    def tried(self, pair: str) -> dict[str, str]:
        """Every setting that a seed set was scored with: its parameters, as text, and the data it read.

        From all committed locks and all experiments; and from the ledger of sweeps, what was run and not kept.
        """
        wanted = f"metrics/{pair}/stability.json"
        found = {}
        for stages in self._locks:
            for name, entry in stages.items():
                if any(out["path"].endswith(wanted) for out in entry.get("outs", [])):
                    found[_setting(entry)] = name
        return found | dict.fromkeys(self._dropped(pair), "ledger")

    def _dropped(self, pair: str) -> Iterator[str]:
        """Changes of a seed set's parameters that the ledger says were run, and of which no experiment is left."""
        subject, _, variant = pair.partition("/")
        path = self.root / LEDGER
        if not path.is_file():
            return
        kept = {
            ref.rpartition("/")[2]
            for ref in _git(self.root, "for-each-ref", "refs/exps", "--format=%(refname)").split()
        }
        for line in path.read_text().splitlines():
            entry = json.loads(line) if line.endswith("}") else {}
            changes = str(entry.get("changes", ""))
            touches = any(
                part.startswith((f"variants.{variant}.", "train.", f"subjects/{subject}.yaml:"))
                for part in changes.split()
            )
            if entry.get("status") == "done" and touches and entry["task"].partition("@")[0] not in kept:
                yield changes


def _setting(entry: Mapping[str, Any]) -> str:
    """What of a lock entry is a choice that could have been made otherwise: the variant, the training, the rows."""
    params = {
        f"{file}:{key}": value
        for file, values in entry.get("params", {}).items()
        for key, value in values.items()
        if key.partition(".")[0] in ("variants", "train", "sae")
    }
    return json.dumps(params, sort_keys=True)


def asked_of(phase: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a phase of claims.yaml asks for, by key: its criteria, what covers its domain, its stop rules."""
    found = {
        f"criteria.{name}": {"verdict": "supported"} | criterion
        for name, criterion in (phase.get("criteria") or {}).items()
    }
    found |= {f"coverage ({part['domain']})": dict(part) for part in phase.get("coverage") or ()}
    return found | {f"stop_rules ({rule})": {} for rule in phase.get("stop_rules") or ()}


def ever_asked(history: History, file: str) -> dict[str, dict[str, dict[str, Any]]]:
    """All that every phase ever asked for, as it was first committed; of a bound of coverage the highest."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for _, content in history.versions(file):
        for name, raw in (content.get("phases") or {}).items():
            phase = found.setdefault(name, {})
            for key, asked in asked_of(raw).items():
                highest = max(
                    (one["at_least"] for one in (asked, phase.get(key, asked)) if "at_least" in one), default=None
                )
                phase[key] = asked if highest is None else asked | {"at_least": highest}
    return found


def chosen_on_the_test(root: Path, claim: Claim) -> str | None:
    """Why a claim speaks of a value that was searched for with the very seeds that judge it; None if it does not."""
    params = read_yaml(root / "params.yaml")
    searched = set((params.get("calibration") or {}).get("search_seeds") or ())
    for pair, values in claim.speaks_of.items():
        subject, _, variant = pair.partition("/")
        path = root / "metrics" / subject / "calibration.json"
        seeds = set((params["variants"].get(variant) or {}).get("seeds") or params["train"]["seeds"])
        if "k" in values and path.is_file() and searched & seeds:
            found = json.loads(path.read_text())
            chosen = {one["k"] for key, one in found.items() if key.startswith("by_") and isinstance(one, dict)}
            if values["k"] in chosen:
                return (
                    f"k = {values['k']} of {pair} was chosen with seeds {sorted(searched & seeds)} that also judge it"
                )
    return None


def _git(root: Path, *arguments: str) -> str:
    return locks.git(root, *arguments).decode()
