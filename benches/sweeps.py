"""A sweep of 24 experiments by two workers: DVC's own queue beside `reseed sweep run`, on stages that do nothing.

`python benches/sweeps.py` prints seconds, their ratio and what a task costs beside its stages, also by the stage.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.scratch import environment
from tests.sweeps.project import experiments, git, make, queue

ROOT = Path(__file__).parents[1]
SWEEP = (
    "train.seeds=[0,1,2],[3,4,5],[6,7,8]", "variants.topk.k=2,4,6,8", "variants.topk.d_sae=32,64",
)  # fmt: skip
EXPERIMENTS, WORKERS = 24, 2


def filled(folder: Path) -> Path:
    """The project with the sweep in DVC's queue."""
    make(folder)
    queue(folder, *SWEEP, name="s")
    return folder


def by_dvc(folder: Path) -> float:
    """Seconds that DVC's queue takes."""
    started = time.monotonic()
    subprocess.run(
        ["dvc", "queue", "start", "-j", str(WORKERS)], cwd=folder, env=environment(), check=True, capture_output=True
    )
    while len(experiments(folder)) < EXPERIMENTS:
        time.sleep(0.1)
    return time.monotonic() - started


def by_reseed(folder: Path, *arguments: str) -> float:
    """Seconds that `reseed sweep run` takes, from the command line to the prompt."""
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "reseed.cli", "sweep", "run", "--jobs", str(WORKERS), *arguments],
        cwd=folder, env=environment() | {"PYTHONPATH": str(ROOT / "src")}, check=True, capture_output=True,
    )  # fmt: skip
    return time.monotonic() - started


def chain(folder: Path) -> Path:
    """As many instances of a stage that does nothing as the sweep has experiments."""
    make(folder)
    stages = "".join(
        f"  s{i}: {{cmd: cp data.txt out{i}, deps: [data.txt], outs: [out{i}]}}\n" for i in range(EXPERIMENTS)
    )
    (folder / "dvc.yaml").write_text(f"stages:\n{stages}")
    (folder / ".gitignore").write_text("/out*\n")
    git(folder, "commit", "-qam", "stages")
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="reseed-bench-") as temporary:
        folder = Path(temporary)
        dvc, ours = by_dvc(filled(folder / "dvc")), by_reseed(filled(folder / "reseed"))
        found = experiments(folder / "reseed")
        assert len(found) == EXPERIMENTS
        for name, revision in experiments(folder / "dvc").items():
            files = ("metrics/score.json", "dvc.lock", "params.yaml")
            one, other = (
                [git(where, "show", f"{at}:{file}") for file in files]
                for where, at in ((folder / "dvc", revision), (folder / "reseed", found[name]))
            )
            assert one == other, name
        stages = by_reseed(chain(folder / "stages"), "--stages", "dvc.yaml")
    print(f"{EXPERIMENTS} experiments, {WORKERS} workers: DVC's queue {dvc:.1f} s, reseed {ours:.1f} s")
    print(f"throughput: {dvc / ours:.2f} x that of DVC's queue")
    print("the same metrics, locks and parameters in all of them")
    for what, seconds in (("an experiment by DVC", dvc), ("an experiment", ours), ("a stage", stages)):
        print(f"a worker spends {seconds * WORKERS / EXPERIMENTS:.2f} s on {what}")


if __name__ == "__main__":
    main()
