"""All faults, in the order of the pipeline."""

from __future__ import annotations

from tests.faults import causing, formulas, judging, keeping, measuring, reading, training

FAULTS = (
    *reading.FAULTS, *training.FAULTS, *formulas.FAULTS, *measuring.FAULTS, *causing.FAULTS, *keeping.FAULTS,
    *judging.FAULTS,
)  # fmt: skip
