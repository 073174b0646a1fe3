"""Every fault is refused for its own reason, its clean twin one edit away is not, and what is shown is what is so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from reseed.artifacts import read_json
from tests.conftest import ROOT
from tests.faults.collection import FAULTS
from tests.faults.museum import Fault, Museum, Outcome, opened
from tests.faults.positives import POSITIVES, Positive, show
from tests.faults.report import METRICS, PAGE, metrics, page

pytestmark = pytest.mark.slow


class Shown:
    """The outcome of each fault and the verdict on each clean claim, made once."""

    def __init__(self, museum: Museum) -> None:
        self.museum = museum
        self.outcomes: dict[str, Outcome] = {}
        self.verdicts: dict[str, dict[str, Any]] = {}

    def of(self, fault: Fault) -> Outcome:
        if fault.name not in self.outcomes:
            self.outcomes[fault.name] = self.museum.show(fault)
        return self.outcomes[fault.name]

    def verdict(self, positive: Positive) -> dict[str, Any]:
        if positive.name not in self.verdicts:
            self.verdicts[positive.name] = show(positive, self.museum.new(positive.name))
        return self.verdicts[positive.name]


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


@pytest.mark.parametrize("positive", POSITIVES, ids=lambda positive: positive.name)
def test_a_clean_claim_on_known_features_is_supported(positive: Positive, shown: Shown) -> None:
    verdict = shown.verdict(positive)
    assert verdict["verdict"] == "supported", verdict["reasons"]


def test_the_metric_and_the_page_show_what_happens(shown: Shown) -> None:
    outcomes = {fault.name: shown.of(fault) for fault in FAULTS}
    verdicts = {positive.name: shown.verdict(positive)["verdict"] for positive in POSITIVES}
    assert read_json(ROOT / METRICS) == metrics(FAULTS, outcomes, verdicts)
    assert (ROOT / PAGE).read_text() == page(FAULTS, outcomes, verdicts)


def test_no_name_and_no_sentence_is_there_twice() -> None:
    for field in ("name", "title", "planted"):
        values = [getattr(fault, field) for fault in FAULTS]
        assert len(set(values)) == len(values), field
