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
from reseed.sweeps.parameters import value_of

LEDGER = Path("runs/ledger.jsonl")
MADE_BY = ("variants", "train", "sae", "data", "model", "capture")
READ_BY = ("truth", "causal", "saebench", "sae_probes", "evals", "ce_bench")
CHOICES = (*MADE_BY, *READ_BY)
"""The sections of parameters in which a setting could have been chosen otherwise: of what is scored, and of the scores
of other kinds than agreement."""
PACE = ("checkpoint_every",)
"""Parameters that change no figure: a training that goes on from a checkpoint ends as it would have."""
JUDGED_BY = {
    "stability.confidence": 1, "stability.plateau_tolerance": -1, "stability.alive_min_count": 0,
    "stability.shared_cosine": 1, "stability.null_draws": 1, "stability.correctness.correct_gt_mcc": 1,
    "train.convergence.loss_tolerance": -1, "train.convergence.loss_rise_tolerance": -1,
    "train.convergence.cosine_tolerance": -1, "train.convergence.max_cosine_to_init": -1,
}  # fmt: skip
"""Parameters that decide a verdict, and whether a larger value is stricter (1), a smaller one (-1), or neither (0)."""


@dataclass(frozen=True)
class Past:
    """Where a claim stands in the history of its file."""

    registered: str
    """The oldest commit since which every version promised no more than the present one; empty if none has it."""
    reasons: tuple[str, ...]
    """Why it is exploratory, in words; none for a confirmatory one."""
    figures: tuple[str, ...] = ()
    """The files with the figures that it bounds."""


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
        """The commits that changed a YAML file, the newest first, each with its content there.

        Those of side branches too, which git leaves out where a merge took the other side's file.
        """
        found = []
        for commit in self._log("--topo-order", "HEAD", "--", path):
            try:
                content = yaml.load(_git(self.root, "show", f"{commit}:{path}"), yaml.CSafeLoader)
            except (ReseedError, yaml.YAMLError):
                continue  # it was deleted there, or is not YAML, and promises nothing
            if isinstance(content, dict):
                found.append((commit, content))
        return found

    def deleted(self, pattern: str) -> list[str]:
        """Files of a pattern that some commit deleted and the workspace does not have."""
        names = _git(
            self.root, "log", "--full-history", "--diff-filter=D", "--name-only", "--format=", "HEAD", "--", pattern
        ).split()
        return sorted({name for name in names if not (self.root / name).is_file()})

    def past(self, file: str, name: str) -> Past:
        """When the claim `name` of a claims file was promised as it stands now, and what makes it exploratory."""
        now = promise(read_yaml(self.root / file)["claims"][name])
        kept: list[str] = []
        other: dict[str, bool] = {}
        for commit, content in self.versions(file):
            raw = _claim_of(content, name)
            if raw is not None and keeps(now, promise(raw)):
                kept.append(commit)
            else:
                other[commit] = raw is not None
        # the oldest that has it, and after which no version asked for less or had none
        registered = next((one for one in reversed(kept) if not other.keys() & self._after(one)), "")
        if not registered:
            return Past("", ("it is not committed as it stands",), tuple(now["figures"]))
        reasons = []
        before = next((one for one, had_it in other.items() if had_it), "")
        if before and (verdict := self._verdict(registered, f"metrics/claims/{name}.json")):
            reasons.append(
                f"what it asks for was changed in {registered[:7]}, after it had been judged {verdict!r} as it "
                f"stood in {before[:7]}"
            )
        for path in now["figures"]:
            if first := self.first(path, registered):
                reasons.append(
                    f"its evidence {path} was known ({first[:7]}) before what it asks for ({registered[:7]})"
                )
                break
        reasons += self._loosened(registered)
        for pair in now["speaks_of"]:
            if alias := self._known_as(pair, registered):
                reasons.append(f"{pair} was scored before {registered[:7]} under another name, {alias}")
        return Past(registered, tuple(reasons), tuple(now["figures"]))

    def before(self, revision: str, promised: str) -> bool:
        """Whether what ran at a revision ran before the commit `promised`, or beside it."""
        return revision != promised and revision not in self._after(promised)

    def judged(self, name: str) -> str | None:
        """The last verdict on record of a claim, None if it was never judged."""
        path = f"metrics/claims/{name}.json"
        return next((found for one in self._log("HEAD", "--", path) if (found := self._verdict_at(one, path))), None)

    def _verdict(self, commit: str, path: str) -> str | None:
        """The last verdict on record that does not come after a commit."""
        for one in self._log("--topo-order", "HEAD", "--", path):
            if self.before(one, commit) and (found := self._verdict_at(one, path)):
                return found
        return None

    def _verdict_at(self, commit: str, path: str) -> str | None:
        try:
            return str(json.loads(_git(self.root, "show", f"{commit}:{path}"))["verdict"])
        except (ReseedError, ValueError, KeyError, TypeError):
            return None  # it was deleted there, or is no verdict

    def _after(self, commit: str) -> frozenset[str]:
        """The commits that come after one, by descent."""
        if commit not in self._descendants:
            listed = _git(self.root, "rev-list", "--ancestry-path", f"{commit}..HEAD").split()
            self._descendants[commit] = frozenset(listed)
        return self._descendants[commit]

    def first(self, path: str, promised: str) -> str | None:
        """The first commit with a file at the path that does not come after `promised`; a merge may add files, too."""
        added = self._log("-m", "--diff-filter=A", "HEAD", "--", path)
        return next((one for one in reversed(added) if one not in self._after(promised)), None)

    def _loosened(self, registered: str) -> list[str]:
        """The parameters by which every claim is judged that are looser now than when it was written down."""
        try:
            then = yaml.load(_git(self.root, "show", f"{registered}:params.yaml"), yaml.CSafeLoader)
        except (ReseedError, yaml.YAMLError):
            return []
        now, found = read_yaml(self.root / "params.yaml"), []
        for key, direction in JUDGED_BY.items():
            before, after = (value_of(content, key) for content in (then, now))
            if before is None or after is None or before == after:
                continue
            if direction == 0 or (after - before) * direction < 0:
                found.append(
                    f"params.yaml: {key}, by which it is judged, was {before} when it was written down "
                    f"({registered[:7]}) and is {after}"
                )
        return found

    def _known_as(self, pair: str, registered: str) -> str | None:
        """The other name under which the setting of a seed set was scored at a commit that does not come after one."""
        subject, _, variant = pair.partition("/")
        own = {_nameless(_setting(stages[name]), variant) for name, stages in self._scored(pair)}
        for commit, lock in self._locks:
            if f"/{subject}/" not in lock or commit in self._after(registered) or commit in self._experiments:
                continue
            for entry in self._stages(lock).values():
                for out in entry.get("outs", []):
                    parts = out["path"].split("/")[-3:]
                    of_subject = len(parts) == 3 and parts[0] == subject and parts[2] == "stability.json"
                    if of_subject and parts[1] != variant and _nameless(_setting(entry), parts[1]) in own:
                        return f"{parts[0]}/{parts[1]}"
        return None

    def _log(self, *arguments: str) -> list[str]:
        return list(dict.fromkeys(_git(self.root, "log", "--full-history", "--format=%H", *arguments).split()))

    @cached_property
    def _experiments(self) -> list[str]:
        return _git(self.root, "for-each-ref", "refs/exps", "--format=%(objectname)").split()

    @cached_property
    def _descendants(self) -> dict[str, frozenset[str]]:
        return {}

    @cached_property
    def _locks(self) -> list[tuple[str, str]]:
        """A commit and the text of every lock that was ever committed, here or by an experiment that is still there.

        Of several commits with the same lock the oldest.
        """
        listed = self._log("--topo-order", "HEAD", *self._experiments, "--", "dvc.lock", "*/dvc.lock")
        found: dict[str, str] = {}
        for commit in dict.fromkeys([*self._experiments, *listed]):
            for line in _git(self.root, "ls-tree", "-r", commit).splitlines():
                meta, _, path = line.partition("\t")
                if Path(path).name == "dvc.lock":
                    found[meta.split()[2]] = commit
        return [(commit, _git(self.root, "cat-file", "blob", blob)) for blob, commit in found.items()]

    def _stages(self, lock: str) -> Mapping[str, Any]:
        """The stages of the text of a lock, none of one that is not YAML; no text is parsed twice."""
        if lock not in self._parsed:
            try:
                content = yaml.load(lock, yaml.CSafeLoader)
            except yaml.YAMLError:
                content = {}
            self._parsed[lock] = content.get("stages", {}) if isinstance(content, dict) else {}
        return self._parsed[lock]

    @cached_property
    def _parsed(self) -> dict[str, Mapping[str, Any]]:
        return {}

    def tried(self, pair: str, kind: str = "stability") -> dict[str, str]:
        """Every setting that a seed set was scored with: its parameters, as text, and the stage that scored it.

        kind: of the metric file with the score. Its own and those of all that it was made from: rows, model, capture,
        training. From all committed locks and all experiments; and from the ledger of sweeps in all its committed
        forms, what was run and not kept.
        """
        found = {
            _setting(*(stages[one] for one in _made_from(stages, name))): name
            for name, stages in self._scored(pair, kind)
        }
        return found | dict.fromkeys(self._dropped(pair, kind), "ledger")

    def _scored(self, pair: str, kind: str = "stability") -> list[tuple[str, Mapping[str, Any]]]:
        """The stages that scored a seed set, each with the stages of its lock."""
        wanted = f"metrics/{pair}/{kind}.json"
        return [
            (name, stages)
            for stages in (self._stages(lock) for _, lock in self._locks if wanted in lock)
            for name, entry in stages.items()
            if any(out["path"].endswith(wanted) for out in entry.get("outs", []))
        ]

    def _dropped(self, pair: str, kind: str) -> Iterator[str]:
        """Changes of a seed set's parameters that the ledger says were run, and of which no experiment is left."""
        subject, _, variant = pair.partition("/")
        kept = {
            ref.rpartition("/")[2]
            for ref in _git(self.root, "for-each-ref", "refs/exps", "--format=%(refname)").split()
        }
        own = [f"variants.{variant}.", "train.", f"subjects/{subject}.yaml:"]
        own += [] if kind == "stability" else [f"{section}." for section in READ_BY]
        for line in self._ledger:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line may have been cut off by a full disk
            if not isinstance(entry, dict):
                continue
            changes = str(entry.get("changes", ""))
            touches = any(part.startswith(tuple(own)) for part in changes.split())
            if entry.get("status") == "done" and touches and str(entry.get("task", "")).partition("@")[0] not in kept:
                yield changes

    @cached_property
    def _ledger(self) -> list[str]:
        """The lines of the ledger of sweeps, here and in every commit: what was struck from it was run all the same."""
        path = self.root / LEDGER
        texts = [path.read_text()] if path.is_file() else []
        for commit in self._log("HEAD", "--", LEDGER.as_posix()):
            try:
                texts.append(_git(self.root, "show", f"{commit}:{LEDGER.as_posix()}"))
            except ReseedError:
                continue  # it was deleted there
        return list(dict.fromkeys(line for text in texts for line in text.splitlines()))


def _setting(*entries: Mapping[str, Any]) -> str:
    """What of lock entries is a choice that could have been made otherwise: variant, training, rows, model, capture."""
    params = {
        f"{file}:{key}": _without_pace(value)
        for entry in entries
        for file, values in entry.get("params", {}).items()
        for key, value in values.items()
        if key.partition(".")[0] in CHOICES
    }
    return json.dumps(params, sort_keys=True)


def _without_pace(value: Any) -> Any:
    """A table of parameters without those that change how it is run and not what comes out."""
    if not isinstance(value, Mapping):
        return value
    return {name: _without_pace(inner) for name, inner in value.items() if name not in PACE}


def _made_from(stages: Mapping[str, Any], name: str) -> list[str]:
    """A stage of a lock and all before it, by the files that one writes and another reads, as a whole or in part."""
    writes = {out["path"]: one for one, entry in stages.items() for out in entry.get("outs", [])}
    inside: dict[str, set[str]] = {}
    for path, one in writes.items():
        for above in _above(path):
            inside.setdefault(above, set()).add(one)
    found: dict[str, None] = {}
    left = [name]
    while left:
        if (one := left.pop()) in found:
            continue
        found[one] = None
        for dep in stages[one].get("deps", []):
            path = dep["path"]
            left += [writes[part] for part in (path, *_above(path)) if part in writes]
            left += inside.get(path, ())
    return sorted(found)


def _above(path: str) -> list[str]:
    return [path[:at] for at, letter in enumerate(path) if letter == "/"]


def _nameless(setting: str, variant: str) -> str:
    return setting.replace(f'"params.yaml:variants.{variant}"', '"params.yaml:variants"')


def _claim_of(content: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A claim of a claims file as it once stood, None where there is none that could be read."""
    claims = content.get("claims")
    raw = claims.get(name) if isinstance(claims, Mapping) else None
    return raw if isinstance(raw, dict) else None


def asked_of(phase: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a phase of claims.yaml asks for, by key: its criteria, what covers its domain, its stop rules."""
    found = {
        f"criteria.{name}": {"verdict": "supported"} | criterion
        for name, criterion in (phase.get("criteria") or {}).items()
        if isinstance(criterion, dict)
    }
    found |= {f"coverage ({part['domain']})": dict(part) for part in phase.get("coverage") or ()}
    return found | {f"stop_rules ({rule})": {} for rule in phase.get("stop_rules") or ()}


def ever_asked(history: History, file: str) -> dict[str, dict[str, dict[str, Any]]]:
    """All that every phase ever asked for, as it was first committed; of a bound of coverage the highest."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for _, content in history.versions(file):
        phases = content.get("phases")
        for name, raw in (phases if isinstance(phases, dict) else {}).items():
            if not isinstance(raw, dict):
                continue
            phase = found.setdefault(name, {})
            for key, asked in asked_of(raw).items():
                highest = max(
                    (one["at_least"] for one in (asked, phase.get(key, asked)) if "at_least" in one), default=None
                )
                phase[key] = asked if highest is None else asked | {"at_least": highest}
    return found


def ever_ruled(history: History, file: str) -> dict[str, float]:
    """The strictest bound of every go/no-go rule that a subject file ever committed, on any branch."""
    found: dict[str, float] = {}
    for _, content in history.versions(file):
        for rule, bound in rules_of(content).items():
            found[rule] = max(bound, found.get(rule, bound))
    return found


def rules_of(content: Mapping[str, Any]) -> dict[str, float]:
    """The bounds of phase.rules of a subject file in any of its past forms; what could be no bound binds nobody."""
    phase = content.get("phase")
    rules = phase.get("rules") if isinstance(phase, dict) else None
    found = {}
    for rule, bound in (rules if isinstance(rules, dict) else {}).items():
        try:
            value = float(bound)  # YAML reads 8e-1 (no dot) as a string, which `load_phase` takes as well
        except (TypeError, ValueError):
            continue
        if 0 < value <= 1:
            found[str(rule)] = value
    return found


def chosen_on_the_test(root: Path, claim: Claim) -> str | None:
    """Why a claim speaks of a value that was searched for with the very seeds that judge it; None if it does not."""
    params = read_yaml(root / "params.yaml")
    searched = set((params.get("calibration") or {}).get("search_seeds") or ())
    for pair, values in claim.speaks_of.items():
        subject, _, variant = pair.partition("/")
        path = root / "metrics" / subject / "calibration.json"
        seeds = set((params["variants"].get(variant) or {}).get("seeds") or params["train"]["seeds"])
        k = values.get("k", (params["variants"].get(variant) or {}).get("k"))
        if k is not None and path.is_file() and searched & seeds:
            found = json.loads(path.read_text())
            chosen = {one["k"] for key, one in found.items() if key.startswith("by_") and isinstance(one, dict)}
            if k in chosen:
                return f"k = {k} of {pair} was chosen with seeds {sorted(searched & seeds)} that also judge it"
    return None


def _git(root: Path, *arguments: str) -> str:
    return locks.git(root, *arguments).decode()
