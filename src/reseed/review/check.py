"""Every claim held against its evidence, the locks and the history: what may be said, and what must run first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.claims.figures import at
from reseed.claims.gates import Options
from reseed.claims.judge import NOT_TESTABLE, judge
from reseed.claims.registry import Claim, Phase, Registry, load_registry
from reseed.params import load_params, load_phase
from reseed.review.history import History, Past, asked_of, chosen_on_the_test, ever_asked, ever_ruled
from reseed.sweeps import audit, locks
from reseed.sweeps.locks import Stage, Tree
from reseed.sweeps.objects import one_line

GO, NO_GO = "go", "no-go"


@dataclass(frozen=True)
class Checked:
    """One claim as it stands now."""

    name: str
    file: str
    claim: Claim
    verdict: str
    """Not testable if anything is wrong with its evidence, whatever the evidence says."""
    recorded: str
    """The verdict of its metric file, empty if there is none."""
    standing: str
    """confirmatory, or exploratory: its bound was known after its evidence, or chosen by it."""
    reasons: tuple[str, ...]
    why_exploratory: tuple[str, ...]
    faults: tuple[str, ...]
    """What must be mended before the claim may stand: each is a sentence and blocks."""
    tried: int
    """Settings that its seed sets were scored with, anywhere."""
    promised: str
    """The commit since which it has asked for no less; empty if none has it."""
    judged: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class CheckedPhase:
    name: str
    file: str
    phase: Phase
    verdict: str
    reasons: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its name, with that of its study: studies may each have one of that name."""
        study = Path(self.file).parent.name
        return f"{study}: {self.name}" if study else self.name


@dataclass(frozen=True)
class Checks:
    """What a check found."""

    claims: tuple[Checked, ...]
    phases: tuple[CheckedPhase, ...]
    faults: tuple[str, ...]
    """Of no claim that is there: claims files that were removed, verdicts that no claim stands behind."""
    stale: tuple[str, ...]
    """The stages that must run again before their results say anything, by address."""
    rules: tuple[str, ...] = ()
    """Of subjects whose go/no-go rules are no longer all that they ever committed."""
    code: tuple[str, ...] = ()
    """Files and folders of the code behind everything that a claim or phase rests on."""
    tree: Tree | None = field(repr=False, compare=False, default=None)
    """The workspace."""
    stages: tuple[Stage, ...] = field(repr=False, compare=False, default=())
    """Of all its pipelines."""

    @property
    def blocked(self) -> list[str]:
        """The claims and phases that may not stand as they are."""
        named = [one.name for one in self.claims if one.faults] + [one.label for one in self.phases if one.faults]
        named += ["what is gone"] if self.faults else []
        return named + (["rules of subjects"] if self.rules else [])


def claims_files(root: Path) -> list[str]:
    """The claims file of the default study, then those of the others."""
    others = sorted(path.relative_to(root).as_posix() for path in root.glob("studies/*/claims.yaml"))
    return ["claims.yaml", *others]


def load_registries(root: Path) -> dict[str, Registry]:
    """Every claims file; raises ReseedError for the first fault of one, or an id that two of them have.

    The verdict of a claim is metrics/claims/<id>.json, whichever file it stands in.
    """
    found: dict[str, Registry] = {}
    for file in claims_files(root):
        registry = load_registry(root / file)
        for other, known in found.items():
            if both := sorted(registry.claims.keys() & known.claims.keys()):
                raise ReseedError(
                    f"{file}: claims.{both[0]}: found in {other} as well, allowed: an id that no other claims file has"
                )
        found[file] = registry
    return found


def check(root: Path = Path()) -> Checks:
    """Judge every claim of every study anew and hold it against locks and history.

    Raises ReseedError where that cannot be looked at: no repository, a shallow clone, a file with a fault.
    """
    registries = load_registries(root)  # before DVC reads the same files, whose sentences name neither key nor claim
    history, chain = History(root), Chain(root)
    claims: list[Checked] = []
    phases: list[CheckedPhase] = []
    for file, registry in registries.items():
        found = {name: _checked(root, file, name, claim, history, chain) for name, claim in registry.claims.items()}
        claims += found.values()
        phases += [
            _phase(root, file, name, phase, found, ever_asked(history, file), chain)
            for name, phase in registry.phases.items()
        ]
        phases += _dropped_phases(file, registry.phases, ever_asked(history, file))
    faults = [*_removed(history), *_dropped_claims(history, registries), *_orphans(root, claims)]
    rests = [path for one in claims for path in (f"metrics/claims/{one.name}.json", *one.claim.sources)]
    rests += [part.covered_by.partition(":")[0] for one in phases for part in one.phase.coverage]
    code = {dep for stage in chain.behind(rests) for dep in stage.deps if dep not in chain.by_output}
    return Checks(
        tuple(claims), tuple(phases), tuple(faults), tuple(chain.stale(rests)), tuple(_loosened(root, history)),
        tuple(sorted(code)), chain.tree, tuple(chain.stages),
    )  # fmt: skip


def _loosened(root: Path, history: History) -> list[str]:
    """What subject files no longer ask of their SAEs: a lower bound, a rule that is gone, a file that is gone.

    Raises ReseedError for a phase that cannot be read.
    """
    found = []
    here = (path.relative_to(root).as_posix() for path in (root / "subjects").glob("*.yaml"))
    for file in sorted({*here, *history.deleted("subjects/*.yaml")}):
        once = ever_ruled(history, file)
        if not once:
            continue
        if not (root / file).is_file():
            found.append(f"{file}: the file was removed, allowed: to stay, since it had rules of its phase")
            continue
        phase = load_phase(Path(file).stem, root / "subjects")
        rules = {} if phase is None else dict(phase.rules)
        for rule, bound in once.items():
            if rule not in rules:
                found.append(f"{file}: phase.rules: found no {rule}, allowed: at least {bound:g}, as it was committed")
            elif rules[rule] < bound:
                found.append(
                    f"{file}: phase.rules.{rule}: found {rules[rule]:g}, allowed: at least {bound:g}, as it was "
                    "committed"
                )
    return found


def _removed(history: History) -> list[str]:
    """Claims files that were committed with claims or phases and are no longer there."""
    found = []
    for file in history.deleted("studies/*/claims.yaml"):
        if any(content.get("claims") or content.get("phases") for _, content in history.versions(file)):
            found.append(f"{file}: the file was removed, allowed: to stay, since it had claims or phases")
    return found


def _dropped_claims(history: History, registries: Mapping[str, Registry]) -> list[str]:
    """Claims that were judged and that no claims file has any more: a verdict that displeases cannot be dropped."""
    names = {name for registry in registries.values() for name in registry.claims}
    found = {}
    for file in registries:
        for _, content in history.versions(file):
            claims = content.get("claims")
            for name in claims if isinstance(claims, dict) else ():
                if name not in names and name not in found and (verdict := history.judged(name)):
                    found[name] = (
                        f"{file}: claims: found no {name!r}, allowed: to stay, since it was judged {verdict!r}"
                    )
    return list(found.values())


def _orphans(root: Path, claims: Sequence[Checked]) -> list[str]:
    """Verdicts that no registered claim stands behind."""
    names = {one.name for one in claims}
    return [
        f"{path.relative_to(root).as_posix()}: no claims file has this claim, allowed: verdicts of registered claims; "
        "remove it"
        for path in sorted((root / "metrics/claims").glob("*.json"))
        if path.stem not in names
    ]


def options(root: Path) -> Options:
    params = load_params(root / "params.yaml")
    return Options(params.stability, params.train.convergence)


def judged_now(root: Path, claim: Claim) -> dict[str, Any]:
    """The verdict that the evidence in the workspace gives; raises ReseedError for evidence that cannot be read."""
    return judge(claim, {path: read_json(root / path) for path in claim.sources}, options(root))


def _checked(root: Path, file: str, name: str, claim: Claim, history: History, chain: Chain) -> Checked:
    faults: list[str] = []
    judged: dict[str, Any] = {}
    try:
        judged = judged_now(root, claim)
    except ReseedError as error:
        faults.append(str(error))
    path = f"metrics/claims/{name}.json"
    recorded: dict[str, Any] = {}
    if not (root / path).is_file():
        faults.append(f"{path}: it has not been judged; run `dvc repro {chain.address(file, name)}`")
    else:
        try:
            recorded = read_json(root / path)
        except ReseedError as error:
            faults.append(str(error))
    if judged and recorded and _rounded(recorded) != _rounded(judged):
        faults.append(
            f"{path}: it says {recorded.get('verdict')!r}, and its evidence gives {judged['verdict']!r}"
            + (" for other reasons" if recorded.get("verdict") == judged["verdict"] else "")
            + f"; run `dvc repro {chain.address(file, name)}`"
        )
    faults += chain.faults([path, *claim.sources])
    past = history.past(file, name)
    why = [*past.reasons, *_made_before(history, chain, past)]
    why += [found] if (found := chosen_on_the_test(root, claim)) else []
    standing = "exploratory" if why else "confirmatory"
    if standing == "exploratory" and claim.standing == "confirmatory":
        faults.append(f"{file}: claims.{name}: found standing 'confirmatory', allowed: 'exploratory', because {why[0]}")
    if claim.registered and not _is_ancestor(root, claim.registered, past.registered or "HEAD"):
        faults.append(
            f"{file}: claims.{name}: registered: found {claim.registered[:7]}, allowed: the revision at which it was "
            "written down, which is an ancestor of the commit that holds it"
        )
    kinds = {"stability"} | {figure.partition(":")[0] for figure in (claim.metric, claim.benchmark) if figure}
    tried = max(len(history.tried(pair, kind)) for pair in claim.speaks_of for kind in kinds)
    if tried > claim.tried:
        faults.append(
            f"{file}: claims.{name}: tried: found {claim.tried}, allowed: at least {tried}, as many settings as its "
            "seed sets were scored with in committed locks, experiments and sweeps"
        )
    reasons = tuple(judged.get("reasons", ()))
    verdict = NOT_TESTABLE if faults else str(judged["verdict"])
    return Checked(
        name, file, claim, verdict, str(recorded.get("verdict", "")), standing, reasons, tuple(why), tuple(faults),
        tried, past.registered, judged,
    )  # fmt: skip


def _made_before(history: History, chain: Chain, past: Past) -> list[str]:
    """That the figures were made before what is asked of them was committed, although they were committed after it."""
    for path in past.figures:
        maker = chain.by_output.get(path)
        revision = locks.run_facts(maker, chain.tree).get("revision") if maker else None
        if past.registered and revision and history.before(revision, past.registered):
            return [
                f"its evidence {path} was made at {revision[:7]}, which has not yet what it asks for "
                f"({past.registered[:7]})"
            ]
    return []


def _rounded(verdict: Mapping[str, Any]) -> Any:
    """A verdict as it stands in its file, where floats have 6 significant digits."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return plain(verdict)


def _is_ancestor(root: Path, revision: str, of: str) -> bool:
    try:
        return bool(locks.git(root, "merge-base", revision, of).decode().strip() == revision)
    except ReseedError:
        return False


def phase_verdict(phase: Phase, verdicts: Mapping[str, str], covered: Sequence[bool]) -> str:
    """go if every criterion has the verdict that it needs and every part of the domain is covered; else no-go."""
    met = all(verdicts[one.claim] == one.verdict for one in phase.criteria.values())
    return GO if met and all(covered) else NO_GO


def _phase(
    root: Path,
    file: str,
    name: str,
    phase: Phase,
    checked: Mapping[str, Checked],
    once: Mapping[str, dict[str, dict[str, Any]]],
    chain: Chain,
) -> CheckedPhase:
    verdicts = {
        claim: one.verdict if one.standing == "confirmatory" else f"{one.verdict} (exploratory)"
        for claim, one in checked.items()
    }
    reasons = [
        f"{key}: the claim {one.claim} is {verdicts[one.claim]}, to be {one.verdict}"
        for key, one in phase.criteria.items()
    ]
    faults, covered = [], []
    for part in phase.coverage:
        path, _, inner = part.covered_by.partition(":")
        try:
            value = _covering(root, path, inner)
        except ReseedError as error:
            covered.append(False)
            faults.append(f"{error}, by which {file}: phases.{name}: covers {part.domain!r}")
            continue
        covered.append(value >= part.at_least)
        reasons.append(f"{part.domain}: {value:.3g}, to be at least {part.at_least:g}")
    faults += chain.faults(list(dict.fromkeys(part.covered_by.partition(":")[0] for part in phase.coverage)))
    verdict = phase_verdict(phase, verdicts, covered)
    if verdict != phase.verdict:
        faults.append(f"{file}: phases.{name}: verdict: found {phase.verdict!r}, allowed: {verdict!r}: {reasons[0]}")
    asked = asked_of(phase.model_dump())
    for key, before in once.get(name, {}).items():
        if key not in asked:
            faults.append(f"{file}: phases.{name}: found no {key}, allowed: all that it ever asked for")
        elif _asks_less(asked[key], before):
            faults.append(f"{file}: phases.{name}: {key}: found {asked[key]}, allowed: {before}, as it was committed")
    return CheckedPhase(name, file, phase, verdict, tuple(reasons), tuple(faults))


def _covering(root: Path, path: str, inner: str) -> float:
    """The figure of a metric file that covers a part of a domain; raises ReseedError if there is none."""
    if not (root / path).is_file():
        raise ReseedError(f"{path}: the file does not exist")
    found = at(read_json(root / path), inner, path)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ReseedError(f"{path}: {inner}: found no number, allowed: a number")
    return float(found)


def _asks_less(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a part of a phase is not what it was, but for a bound that is higher now."""
    if "at_least" in now and "at_least" in before and now["at_least"] >= before["at_least"]:
        return now | {"at_least": 0} != before | {"at_least": 0}
    return now != before


def _dropped_phases(
    file: str, phases: Mapping[str, Phase], once: Mapping[str, Mapping[str, Any]]
) -> list[CheckedPhase]:
    gone = [name for name in once if name not in phases]
    if not gone:
        return []
    sentence = f"{file}: phases: found no {gone[0]!r}, allowed: every phase that it ever had"
    nothing = Phase.model_construct(question="", verdict=NO_GO)
    return [CheckedPhase(gone[0], file, nothing, NO_GO, (), (sentence,))]


class Chain:
    """The pipelines of a checkout with their locks: whether a metric is what its stages made of the present code.

    Works without any data: hashes of data are compared between the locks of the stages that made and read them.
    """

    def __init__(self, root: Path) -> None:
        try:
            repo = Repo(str(root.resolve()))
        except DvcException as error:
            raise ReseedError(f"{root.resolve()}: {one_line(error)}") from error
        with repo:
            self.tree = tracked(root)
            self.stages = locks.stages(repo, self.tree, locks.pipelines(self.tree))
        self.root = root
        self.outputs = locks.made(self.stages)
        self.by_output = {path: stage for stage in self.stages for path in stage.outs}
        self.commits = locks.commits(root)

    def address(self, file: str, claim: str) -> str:
        """How `dvc repro` calls the stage that judges a claim of a claims file."""
        folder = Path(file).parent.as_posix()
        return f"claims@{claim}" if folder == "." else f"{folder}/dvc.yaml:claims@{claim}"

    def upstream(self, path: str) -> list[Stage]:
        """The stages that a file comes from, the one that makes it first."""
        found: dict[tuple[str, str], Stage] = {}
        left = [path]
        while left:
            stage = self.by_output.get(left.pop())
            if stage is not None and (stage.file, stage.name) not in found:
                found[stage.file, stage.name] = stage
                left += sorted(stage.deps)
        return list(found.values())

    def behind(self, paths: Sequence[str]) -> list[Stage]:
        """The stages that any of the files comes from, each once."""
        return list({(stage.file, stage.name): stage for path in paths for stage in self.upstream(path)}.values())

    def faults(self, paths: Sequence[str]) -> list[str]:
        """What is wrong with the files and all that they come from, a sentence each."""
        found = []
        root_pipeline = self.tree.md5s.get(locks.PIPELINE)
        for path in paths:
            maker = self.by_output.get(path)
            if maker is not None and maker.file != locks.PIPELINE and self.tree.md5s.get(maker.file) != root_pipeline:
                found.append(
                    f"{maker.file}: it makes {path} and is not as {locks.PIPELINE}, allowed: the same stages everywhere"
                )
            if maker is None:
                found.append(f"{path}: no stage of any pipeline makes it, allowed as evidence: what a stage made")
        stages = self.behind(paths)
        stale = {}
        for stage in stages:
            found += self._wrong(stage)
            if mismatched := locks.mismatches(stage, self.tree, self.outputs):
                stale[stage.address] = list(dict.fromkeys(f"{one.kind} {one.what}".strip() for one in mismatched))
        if stale:
            why = ", ".join(list(dict.fromkeys(reason for reasons in stale.values() for reason in reasons))[:4])
            found.append(
                f"{len(stale)} of the {len(stages)} stages behind it are stale ({why}); run `dvc repro "
                f"{next(iter(stale))}`"
            )
        return list(dict.fromkeys(found))

    def _wrong(self, stage: Stage) -> list[str]:
        again = f"run `dvc repro --force --single-item {stage.address}`"
        if stage.frozen:
            return [f"{stage.file}: {stage.name}: found frozen: true, allowed: false: DVC would never run it again"]
        if stage.lock is None:
            return []
        found = []
        if edited := locks.changed_outputs(stage, self.tree):
            found.append(f"{edited[0]}: it is not what {stage.name} made (edited, merged or restored); {again}")
        mismatched = locks.mismatches(stage, self.tree, self.outputs)
        facts = locks.run_facts(stage, self.tree)
        if not facts:
            found.append(f"runs/{stage.name}.json: the file does not exist, so that nobody knows what ran; {again}")
        elif facts.get("uncommitted_code"):
            found.append(
                f"runs/{stage.name}.json: it ran with {facts['uncommitted_code']} uncommitted files of code; commit "
                f"them and {again}"
            )
        else:
            then = self.commits(facts["revision"])
            if then is None:
                found.append(
                    f"runs/{stage.name}.json: it ran at {facts['revision'][:7]}, which this clone does not have"
                )
            elif not mismatched and (foreign := locks.foreign_code(stage, then, self.outputs)):
                found.append(
                    f"{locks.lock_of(stage.file)}: {stage.name} records {foreign[0]}, which "
                    f"{facts['revision'][:7]}, at which it ran, does not have; {again}"
                )
            elif forged := locks.foreign_outputs(stage, facts):
                found.append(
                    f"{forged[0]}: its lock says that {stage.name} made it, and the facts of its run do not (edited, "
                    f"then `dvc commit`?); {again}"
                )
            elif wrong := locks.foreign_parameters(stage, facts):
                found.append(
                    f"{locks.lock_of(stage.file)}: {stage.name} records another {wrong[0]} than it ran with; {again}"
                )
        return found

    def stale(self, paths: Sequence[str]) -> list[str]:
        """The address of every stage that does not belong to the present code or parameters.

        Of the default study all, of the others those behind the paths: what else they hold may stay at the revision
        that its run facts name.
        """
        behind = {(stage.file, stage.name) for stage in self.behind(paths)}
        return [
            stage.address
            for stage in self.stages
            if (stage.file == locks.PIPELINE or (stage.file, stage.name) in behind)
            and locks.mismatches(stage, self.tree, self.outputs)
        ]


def tracked(root: Path) -> Tree:
    """The files of the workspace that git tracks, or would."""
    listed = locks.git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").decode()
    return audit.hashed(root, sorted(filter(None, listed.split("\0"))), {}, "files")
