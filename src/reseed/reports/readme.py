"""The result tables of the README, made from the metrics and put between two marks; nothing there is typed by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reseed import ReseedError
from reseed.artifacts import metrics_dir, read_json
from reseed.claims.registry import Registry
from reseed.params import GAUSSIAN, RANDOM_MODEL, Study, load, load_study
from reseed.reports.standing import EXPLORATORY, Standings, checked, is_clone, makers, recorded
from reseed.reports.studies import interval, kappa

if TYPE_CHECKING:
    from reseed.review.check import Checks

START, END = "<!-- results: written by `make table` from metrics/ -->", "<!-- end of results -->"


def update(readme: Path = Path("README.md"), root: Path = Path(), check: bool = True) -> bool:
    """Write the tables of the default study into the README; returns whether that changed it.

    check: hold the claims against code and history, too, where there is a git clone. Raises ReseedError if the README
    lacks one of the two marks, or a claim may not stand.
    """
    text = readme.read_text()
    if text.count(START) != 1 or text.count(END) != 1:
        raise ReseedError(f"{readme}: found no pair of marks for the results, allowed: one {START!r} before {END!r}")
    before, rest = text.split(START)
    _, after = rest.split(END)
    written = f"{before}{START}\n{results(root, checked(root) if check and is_clone(root) else None)}{END}{after}"
    if written != text:
        readme.write_text(written)
    return written != text


def results(root: Path = Path(), checks: Checks | None = None) -> str:
    """Markdown: one row a variant of a model's subject, one of a subject whose features are known, one row a claim.

    Raises ReseedError for a claim that must be judged again: by the locks, or by `checks` where they are given.
    """
    study = load_study(root / "study.yaml")
    return f"{_variants(study, root)}\n{_known(study, root)}\n{claims(study.claims_file, root, checks)}"


def _variants(study: Study, root: Path) -> str:
    lines = [
        "| variant | d_sae | explained variance | alive | pw_mcc (null) | κ trained | κ random weights "
        "| κ Gaussian | CE loss score | probing top-1: SAE (random SAE, model) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in study.pairs.values():
        if pair.subject in study.subjects:
            folder = root / metrics_dir(pair.subject, pair.variant)
            stability, bench = read_json(folder / "stability.json"), read_json(folder / "saebench.json")
            lines.append(
                _row(
                    *_agreement(pair.variant, stability),
                    kappa(stability[RANDOM_MODEL]["pw_mcc"]),
                    kappa(stability[GAUSSIAN]["pw_mcc"]),
                    interval(bench["core"]["ce_loss_score"]),
                    _probing(bench["sparse_probing"]),
                )
            )
    return "\n".join(lines) + "\n"


def _known(study: Study, root: Path) -> str:
    """The seed sets of subjects whose features are known."""
    lines = [
        "| known features: variant | d_sae | explained variance | alive | pw_mcc (null) | κ trained | κ Gaussian "
        "| gt_mcc (null) | features with a latent of cosine > 0.8 | F1 as a detector (null) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in study.pairs.values():
        if pair.subject in study.worlds:
            stability = read_json(root / metrics_dir(pair.subject, pair.variant) / "stability.json")
            found = stability["trained"]["recovery"]
            lines.append(
                _row(
                    *_agreement(f"{pair.subject}/{pair.variant}", stability),
                    kappa(stability[GAUSSIAN]["pw_mcc"]),
                    f"{interval(found['gt_mcc'])} ({found['gt_mcc']['null']:.3f})",
                    interval(found["recall"]),
                    f"{interval(found['f1'])} ({found['f1']['null']:.3f})",
                )
            )
    return "\n".join(lines) + "\n"


def _agreement(name: str, stability: dict[str, Any]) -> list[str]:
    trained = stability["trained"]
    agreement = trained["pw_mcc"]
    return [
        f"`{name}`",
        str(stability["d_sae"]),
        interval(trained["explained_variance"]),
        f"{trained['alive_fraction']['value']:.1%}",
        f"{interval(agreement)} ({agreement['null']:.3f})",
        kappa(agreement),
    ]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def claims(file: str, root: Path, checks: Checks | None = None) -> str:
    """One row a claim of a claims file; raises ReseedError for one whose verdict may not be said as it stands."""
    lines = ["| claim | verdict | because |", "|---|---|---|"]
    standings = Standings(root, makers(recorded(root)), checks)
    for name, claim in load(Registry, root / file).claims.items():
        verdict = read_json(root / "metrics" / "claims" / f"{name}.json")
        standing = standings.of(name, claim.sources, verdict)
        if standing.faults:
            raise ReseedError(f"{file}: claims.{name} may not stand in the README: {standing.faults[0]}")
        reasons = re.sub(r"metrics/(\S+)/stability\.json", r"\1", "; ".join(verdict["reasons"]))
        label = f"**{standing.verdict}**" + (" (exploratory)" if standing.standing == EXPLORATORY else "")
        lines.append(f"| {claim.statement} | {label} | {reasons} |")
    return "\n".join(lines) + "\n"


def _probing(scores: dict[str, Any]) -> str:
    if "top_1" not in scores:
        return "no task counts"
    return f"{interval(scores['top_1'])} ({scores['top_1']['random_sae']:.3f}, {scores['top_1']['model']:.3f})"
