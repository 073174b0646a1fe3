"""What was tried is counted from locks, experiments and the ledger, kept or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from reseed import ReseedError
from reseed.review.history import History, ever_ruled
from tests.sweeps.toy import git

PAIR = "toy/topk"


def lock(k: int, seeds: list[int]) -> str:
    entry = {
        "cmd": "x",
        "params": {"params.yaml": {"variants.topk": {"k": k}, "train": {"seeds": seeds}, "compute": {"threads": k}}},
        "outs": [{"path": f"metrics/{PAIR}/stability.json", "md5": "0"}],
    }
    return yaml.safe_dump({"stages": {"stability@toy": entry, "other": {"cmd": "y"}}})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    for k in (2, 4, 4):
        commit(tmp_path, {"dvc.lock": lock(k, [0, 1, 2])})
    return tmp_path


def commit(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "files")
    return git(folder, "rev-parse", "HEAD").strip()


def entry(task: str, changes: str, **change: Any) -> str:
    return json.dumps({"task": task, "status": "done", "changes": changes} | change) + "\n"


def test_settings_of_a_seed_set_are_counted_once_each(repository: Path) -> None:
    assert len(History(repository).tried(PAIR)) == 2  # k 2 and k 4; threads are no choice that changes a result
    assert History(repository).tried("toy/other") == {}
    commit(repository, {"studies/more/dvc.lock": lock(8, [0, 1, 2])})
    assert len(History(repository).tried(PAIR)) == 3


def test_what_a_seed_set_was_made_from_counts_as_a_setting(tmp_path: Path) -> None:
    def chain(vocabulary: int = 50, layer: int = 1, checkpoint_every: int = 100, other: int = 0) -> str:
        stages = {
            "synthesise@toy": ({"data": {"vocabulary": vocabulary}}, ["src"], "data/toy/tokens"),
            "capture@toy": ({"capture": {"layer": layer}}, ["data/toy/tokens/train.parquet"], "data/toy/rows"),
            "train@toy": ({"sae": {"lr": 1, "checkpoint_every": checkpoint_every}}, ["data/toy"], "models/toy"),
            "stability@toy": ({"sae": {"lr": 1}}, ["models/toy"], f"metrics/{PAIR}/stability.json"),
            "synthesise@other": ({"data": {"vocabulary": other}}, ["src"], "data/other/tokens"),
        }
        return yaml.safe_dump(
            {
                "stages": {
                    name: {
                        "cmd": "x", "params": {f"subjects/{name.partition('@')[2]}.yaml": params},
                        "deps": [{"path": path} for path in deps], "outs": [{"path": out}],
                    }
                    for name, (params, deps, out) in stages.items()
                }
            }
        )  # fmt: skip

    git(tmp_path, "init", "-q", "-b", "main")
    for number, text in enumerate((chain(), chain(other=1), chain(checkpoint_every=7))):
        commit(tmp_path, {"dvc.lock": text})
        assert len(History(tmp_path).tried(PAIR)) == 1, number  # of another subject, and how often it is saved
    for number, text in enumerate((chain(vocabulary=60), chain(vocabulary=60, layer=2), chain()), 2):
        commit(tmp_path, {"dvc.lock": text})
        assert len(History(tmp_path).tried(PAIR)) == min(number, 3)  # the last stood there before


def test_an_experiment_that_was_run_counts(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "switch", "-q", "--detach")
    experiment = commit(repository, {"dvc.lock": lock(16, [0, 1, 2])})
    git(repository, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/sixteen", experiment)
    git(repository, "switch", "-q", "main")
    assert len(History(repository).tried(PAIR)) == 3


def test_an_experiment_that_was_run_and_not_kept_counts_by_the_ledger(repository: Path) -> None:
    lines = [
        entry("a@1234567", "variants.topk.k=32"),
        entry("b@1234567", "variants.topk.k=64"),
        entry("c@1234567", "variants.topk.k=64"),  # the same again
        entry("d@1234567", "variants.topk-wide.k=64"),  # of another variant
        entry("e@1234567", "subjects/toy.yaml:sae.lr=0.1"),
        entry("f@1234567", "variants.topk.k=128", status="failed"),
    ]
    commit(repository, {"runs/ledger.jsonl": "".join(lines)})
    assert len(History(repository).tried(PAIR)) == 5


def test_what_was_struck_from_the_ledger_was_run_all_the_same(repository: Path) -> None:
    commit(repository, {"runs/ledger.jsonl": entry("a@1", "variants.topk.k=32") + "[1]\n3\n"})
    commit(repository, {"runs/ledger.jsonl": entry("b@1", "variants.topk.k=64")})
    assert len(History(repository).tried(PAIR)) == 4
    git(repository, "rm", "-q", "runs/ledger.jsonl")
    git(repository, "commit", "-qm", "no ledger")
    assert len(History(repository).tried(PAIR)) == 4


def test_how_a_figure_of_another_kind_is_read_is_a_setting_of_it(repository: Path) -> None:
    def truth(rows: int) -> dict[str, Any]:
        params = {"truth": {"rows": rows}, "compute": {"threads": rows}}
        return {"cmd": "x", "params": {"params.yaml": params}, "outs": [{"path": f"metrics/{PAIR}/truth.json"}]}

    for rows in (10, 20, 20):
        content = yaml.safe_load(lock(4, [0, 1, 2]))
        content["stages"]["truth@toy"] = truth(rows)
        commit(repository, {"dvc.lock": yaml.safe_dump(content)})
    commit(repository, {"runs/ledger.jsonl": entry("a@1", "truth.rows=30")})
    history = History(repository)
    assert (len(history.tried(PAIR)), len(history.tried(PAIR, "truth"))) == (2, 3)


def test_the_last_verdict_of_a_claim_is_remembered_when_its_file_is_gone(repository: Path) -> None:
    for verdict in ("supported", "not supported"):
        commit(repository, {"metrics/claims/a.json": json.dumps({"verdict": verdict})})
    git(repository, "rm", "-q", "metrics/claims/a.json")
    git(repository, "commit", "-qm", "gone")
    assert (History(repository).judged("a"), History(repository).judged("b")) == ("not supported", None)


STRICT: dict[str, dict[str, Any]] = {
    "stability": {
        "confidence": 0.95, "plateau_tolerance": 0.03, "alive_min_count": 10, "shared_cosine": 0.7, "null_draws": 20,
        "correctness": {"correct_gt_mcc": 0.8},
    },
    "train": {
        "convergence": {
            "loss_tolerance": 0.01, "loss_rise_tolerance": 0.01, "cosine_tolerance": 0.02, "max_cosine_to_init": 0.9,
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "loose", "strict"),
    [
        ("stability.confidence", 0.9, 0.99),
        ("stability.plateau_tolerance", 0.3, 0.01),
        ("stability.alive_min_count", 1, None),  # either way another set of latents is judged
        ("stability.alive_min_count", 99, None),
        ("stability.shared_cosine", 0.5, 0.9),
        ("stability.null_draws", 2, 99),
        ("stability.correctness.correct_gt_mcc", 0.5, 0.9),
        ("train.convergence.loss_tolerance", 0.1, 0.001),
        ("train.convergence.loss_rise_tolerance", 0.1, 0.001),
        ("train.convergence.cosine_tolerance", 0.2, 0.01),
        ("train.convergence.max_cosine_to_init", 0.99, 0.8),
    ],
)
def test_what_every_claim_is_judged_by_may_become_stricter_only(
    key: str, loose: float, strict: float | None, tmp_path: Path
) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    claim = {"tests": [{"above": 0}], "evidence": [f"metrics/{PAIR}/stability.json"], "speaks_of": {PAIR: {}}}
    files = {"params.yaml": yaml.safe_dump(STRICT), "claims.yaml": yaml.safe_dump({"claims": {"a": claim}})}
    promised = commit(tmp_path, files)
    assert History(tmp_path).past("claims.yaml", "a").reasons == ()
    for value, is_loose in ((loose, True), (strict, False)):
        if value is None:
            continue
        content = yaml.safe_load(files["params.yaml"])
        *path, last = key.split(".")
        table = content
        for part in path:
            table = table[part]
        before, table[last] = table[last], value
        commit(tmp_path, {"params.yaml": yaml.safe_dump(content)})
        said = (
            f"params.yaml: {key}, by which it is judged, was {before} when it was written down ({promised[:7]}) and is "
        )
        assert History(tmp_path).past("claims.yaml", "a").reasons == ((f"{said}{value}",) if is_loose else ())


def test_a_shallow_clone_is_refused(repository: Path) -> None:
    git(repository.parent, "clone", "-q", "--depth", "1", f"file://{repository}", "shallow")
    with pytest.raises(ReseedError, match=r"found a shallow clone, allowed: one with its whole history"):
        History(repository.parent / "shallow")


def test_the_strictest_rules_that_a_subject_ever_committed_are_known(repository: Path) -> None:
    file = "subjects/world.yaml"

    def commit_rules(rules: Any) -> str:
        return commit(repository, {file: yaml.safe_dump({"phase": {"question": "?", "rules": rules}})})

    commit(repository, {file: "phase: null\n"})
    assert ever_ruled(History(repository), file) == {}
    start = commit_rules({"purity": 0.8, "recall": 0.5})
    commit_rules({"purity": 0.85, "fidelity": "9e-1"})  # as YAML reads 9e-1
    commit_rules({"purity": 0.7, "accuracy": 99, "planes": "many", "recall": 0.4})  # no file with 99 could be read
    assert ever_ruled(History(repository), file) == {"purity": 0.85, "recall": 0.5, "fidelity": 0.9}
    git(repository, "switch", "-qc", "side", start)
    commit_rules({"purity": 0.95})
    git(repository, "switch", "-q", "main")
    git(repository, "merge", "-q", "-s", "ours", "-m", "merged", "side")
    assert ever_ruled(History(repository), file)["purity"] == 0.95
    assert ever_ruled(History(repository), "subjects/other.yaml") == {}
