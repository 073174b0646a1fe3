"""Every fault is refused for its own reason, its clean twin one edit away is not, and what is shown is what is so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reseed.artifacts import activations_dir, read_json
from reseed.params import TRAINED
from tests import scratch
from tests.conftest import ROOT, stage
from tests.faults import bases
from tests.faults.collection import FAULTS
from tests.faults.museum import Fault, Museum, Outcome, opened
from tests.faults.report import METRICS, PAGE, metrics, page

pytestmark = pytest.mark.slow


class Shown:
    """The outcome of each fault, which is attempted once."""

    def __init__(self, museum: Museum) -> None:
        self.museum = museum
        self.outcomes: dict[str, Outcome] = {}

    def of(self, fault: Fault) -> Outcome:
        if fault.name not in self.outcomes:
            self.outcomes[fault.name] = self.museum.show(fault)
        return self.outcomes[fault.name]


@pytest.fixture(scope="module")
def shown() -> Iterator[Shown]:
    with opened() as museum:
        yield Shown(museum)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_refused_for_its_own_reason_and_its_clean_twin_is_not(fault: Fault, shown: Shown) -> None:
    outcome = shown.of(fault)
    assert outcome.twin_refused is None
    assert outcome.refused is not None
    assert outcome.for_its_own_reason(fault), outcome.refused


def test_the_metric_and_the_page_show_what_happens(shown: Shown) -> None:
    outcomes = {fault.name: shown.of(fault) for fault in FAULTS}
    assert read_json(ROOT / METRICS) == metrics(FAULTS, outcomes)
    assert (ROOT / PAGE).read_text() == page(FAULTS, outcomes)


def test_no_name_and_no_sentence_is_there_twice() -> None:
    for field in ("name", "title", "planted"):
        values = [getattr(fault, field) for fault in FAULTS]
        assert len(set(values)) == len(values), field


def test_a_world_of_known_features_goes_through_unrefused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The positive beside the faults: rows, SAEs and figures of a world whose features an SAE can find."""
    folder = tmp_path_factory.mktemp("world")
    bases.parameters(folder)
    world = {
        "data": {
            "generator": "superposition", "n_features": 12, "d_in": 16, "l0": 3, "exactly": True, "orthogonal": True,
            "noise_std": 0.02, "rows": {"train": 2000, "validation": 400, "test": 400}, "seed": 0,
        },
        "sae": {
            "batch_size": 128, "lr": 0.01, "warm_up_steps": 20, "max_steps": 2000, "decay_fraction": 0.25,
            "check_every": 50, "min_steps": 400, "aux_k": 4, "aux_coefficient": 0.03125, "dead_after_steps": 50,
        },
    }  # fmt: skip
    (folder / "subjects" / "world.yaml").write_text("{}")
    scratch.edit(folder / "subjects" / "world.yaml", lambda subject: subject.update(world))
    scratch.edit(
        folder / "params.yaml",
        lambda params: params["variants"].update(known={"architecture": "topk", "d_sae": 12, "k": 3}),
    )
    with bases.inside(folder):
        stage("synthesise")("world")
        stage("gaussian")("world")
        for arm in (TRAINED, "gaussian"):
            stage("train")("world", "known", arm)
        stage("stability")("world", "known", "gaussian", "gaussian")
        assert "quarantine" not in read_json(activations_dir("world", TRAINED) / "index.json")
        found = read_json(folder / "metrics" / "world" / "known" / "stability.json")
    trained = found["trained"]
    assert trained["pw_mcc"]["converged"] == 1
    assert trained["pw_mcc"]["kappa"] > 0.9
    assert trained["recovery"]["gt_mcc"]["value"] > 0.9
    assert trained["explained_variance"]["value"] > 0.95
    assert found["gaussian"]["pw_mcc"]["kappa"] < 0.5
