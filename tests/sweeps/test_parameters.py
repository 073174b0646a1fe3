"""What was asked and what was recorded, compared in the parameter files and in the locks."""

from __future__ import annotations

from pathlib import Path

import pytest

from reseed import ReseedError
from reseed.sweeps.parameters import check_recorded, differences, shown, value_of
from tests.sweeps.project import commit, git

LOCK = """\
stages:
  train:
    params:
      params.yaml:
        train:
          seeds: [0, 1, 2]
        variants.topk:
          {architecture: topk, d_sae: 32, k: %s}
"""


def test_differences_are_the_leaves_that_changed() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert differences(before, {"a": {"b": 1, "c": [2]}, "e": {"f": 1}}) == {"a.c": [2], "d": None, "e": {"f": 1}}
    assert differences(before, before) == {}
    assert value_of(before, "a.c") == [1, 2]
    assert value_of(before, "a.c.x") is None
    assert shown({"params.yaml": {"a.c": [1, 2]}, "subjects/m.yaml": {"p": 5}}) == "a.c=[1,2] subjects/m.yaml:p=5"


@pytest.mark.parametrize(
    ("asked", "in_file", "in_lock", "sentence"),
    [
        (6, 6, 6, ""),
        (6, 7, 7, "params.yaml: variants.topk.k: the experiment recorded 7, asked for 6"),
        (6, 6, 7, "dvc.lock: train: params.yaml: variants.topk.k: recorded 7, asked for 6"),
    ],
)
def test_an_experiment_with_anothers_parameters_is_refused(
    asked: int, in_file: int, in_lock: int, sentence: str, here: Path
) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("k: 4", f"k: {asked}"))
    source = commit(here)
    Path("params.yaml").write_text(text.replace("k: 4", f"k: {in_file}"))
    Path("dvc.lock").write_text(LOCK % in_lock)
    git(here, "commit", "--allow-empty", "-aqm", "as recorded")
    revision = commit(here) if git(here, "status", "--porcelain") else git(here, "rev-parse", "HEAD")
    changes = {"params.yaml": {"variants.topk.k": asked}}
    if sentence:
        with pytest.raises(ReseedError, match=sentence):
            check_recorded(here, revision, source, changes, {"train"})
    else:
        check_recorded(here, revision, source, changes, {"train"})
        with pytest.raises(ReseedError, match="no stage that ran recorded it"):
            check_recorded(here, revision, source, changes, set())


def test_a_change_of_a_whole_subtree_is_compared_below_it(here: Path) -> None:
    variant = {"architecture": "topk", "d_sae": 32, "k": 6}
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("k: 4", "k: 6"))
    Path("dvc.lock").write_text(LOCK % 6)
    revision = commit(here)
    check_recorded(here, revision, revision, {"params.yaml": {"variants.topk": variant}}, {"train"})
    Path("dvc.lock").write_text(LOCK % 5)
    wrong = commit(here)
    with pytest.raises(ReseedError, match=r"variants\.topk: recorded"):
        check_recorded(here, wrong, wrong, {"params.yaml": {"variants.topk": variant}}, {"train"})
