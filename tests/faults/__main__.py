"""`make faults`: plant every fault, attempt it and its clean twin, and write metrics/faults.json and docs/faults.md."""

from __future__ import annotations

import sys
import time

from reseed.artifacts import write_json, writing
from tests.conftest import ROOT
from tests.faults.collection import FAULTS
from tests.faults.museum import opened
from tests.faults.positives import POSITIVES, show
from tests.faults.report import METRICS, PAGE, metrics, page, score


def main() -> None:
    started = time.monotonic()
    with opened() as museum:
        outcomes = {}
        for fault in FAULTS:
            outcomes[fault.name] = outcome = museum.show(fault)
            good = outcome.for_its_own_reason(fault)
            verdict = "refused" if good else "PASSED" if outcome.refused is None else "ANOTHER REASON"
            print(f"{verdict:8} {fault.name:34} {outcome.refused or ''}"[:240], flush=True)
            if outcome.twin_refused:
                print(f"TWIN     {fault.name:34} {outcome.twin_refused}", flush=True)
        verdicts = {}
        for positive in POSITIVES:
            verdict = show(positive, museum.new(positive.name))
            verdicts[positive.name] = verdict["verdict"]
            print(f"{verdict['verdict']:13} {positive.name:28} {'; '.join(verdict['reasons'])}"[:240], flush=True)
    content = metrics(FAULTS, outcomes, verdicts)
    write_json(ROOT / METRICS, content)
    with writing(ROOT / PAGE) as partial:
        partial.write_text(page(FAULTS, outcomes, verdicts))
    print(f"{score(content)} ({time.monotonic() - started:.0f} s)")
    sys.exit(
        (content["refused"], content["accepted"], content["supported"])
        != (content["planted"], content["clean"], content["positives"])
    )


if __name__ == "__main__":
    main()
