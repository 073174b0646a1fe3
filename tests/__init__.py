"""The suite's share of the machine, taken before anything is imported that counts cores.

Two workers whose libraries each start a thread for every core wait for one another three times as long as they work.
"""

import os

CORES = sorted(os.sched_getaffinity(0))
"""Of all workers together."""

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    own = CORES[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    os.sched_setaffinity(0, own or CORES)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in a stage
