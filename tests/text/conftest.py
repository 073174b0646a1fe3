"""What the round trip over GSM8K ran on, said at the end of the run."""

from __future__ import annotations

import re
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    ran = [m[1] for report in reports if (m := re.search(r"test_the_round_trip\w*\[(.+)\]$", report.nodeid))]
    if ran:
        terminalreporter.write_line(f"step-to-token round trip ran over: {' and '.join(ran)}")
