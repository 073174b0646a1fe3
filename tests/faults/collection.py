"""All faults, in the order of the pipeline."""

from __future__ import annotations

from tests.faults import judging, keeping, measuring, reading, training

FAULTS = (*reading.FAULTS, *training.FAULTS, *measuring.FAULTS, *keeping.FAULTS, *judging.FAULTS)
