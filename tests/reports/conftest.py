"""A small project and its site, made once for the tests of its pages and for those in a browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reseed.artifacts import read_json, write_json
from reseed.reports.site.pages import build
from tests.conftest import ROOT
from tests.reports.builders import (
    CACHED,
    CLAIM,
    EDITED,
    VARIANTS,
    WITH_TABLES,
    judged,
    planted_artefacts,
    planted_causal,
    planted_coverage,
    planted_ood,
    planted_reliability,
    planted_tables,
    planted_truth,
    with_p_correct,
)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed results of a few variants, with planted tables, gates and a claim that nobody judged."""
    root = tmp_path_factory.mktemp("project")
    for name in ("study.yaml", "claims.yaml", "dvc.lock", *(f"studies/{s}" for s in ("gsm8k-gpt", "synthetic"))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    shutil.copytree(ROOT / "runs", root / "runs")
    for name in (*VARIANTS, "claims"):
        shutil.copytree(ROOT / "metrics" / name, root / "metrics" / name, ignore=CACHED)
    shutil.copy(ROOT / "metrics" / "replication.json", root / "metrics" / "replication.json")
    planted_tables(root / "metrics" / WITH_TABLES)
    with_p_correct(root / "metrics" / WITH_TABLES)
    planted_truth(root / "metrics")
    planted_causal(root / "metrics" / WITH_TABLES)
    planted_coverage(root / "metrics" / WITH_TABLES)
    planted_ood(root / "metrics" / WITH_TABLES)
    planted_reliability(root / "metrics" / "reliability")
    with_verdicts(root)
    return root


def with_verdicts(root: Path) -> None:
    """A claim that stands, one that is not testable, one that nobody judged, and one whose verdict was edited."""
    gates = [
        {"gate": "converged", "of": "modular/topk-k4", "outcome": "passed", "reason": ""},
        {"gate": "alive", "of": "modular/topk-k4", "outcome": "failed", "reason": "the verdict <flips>"},
    ]
    two, world = ([f"metrics/{one}/stability.json" for one in some] for some in (VARIANTS[:2], VARIANTS[3:]))
    folder = root / "metrics" / "claims"
    agree, fall, known = (read_json(folder / f"{name}.json") for name in (CLAIM, "agreement-falls-with-k", EDITED))
    judged(root, CLAIM, two, agree | {"gates": gates, "artefacts": planted_artefacts(root), "verdict": "supported"})
    judged(root, "agreement-falls-with-k", two, fall | {"verdict": "not testable"})
    judged(root, EDITED, world, known | {"verdict": "not supported"})
    write_json(folder / f"{EDITED}.json", known | {"verdict": "supported"})
    (folder / "above-random-weights.json").unlink()


@pytest.fixture(scope="session")
def site(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "site"
    build(out, project)
    return out
