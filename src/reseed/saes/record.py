"""What a training run leaves to look at: dvclive curves of every seed, a Weights & Biases run where a key is set."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvclive.live import Live

from reseed.saes.run import TrainedSae
from reseed.saes.train import Log


def write_curves(saes: list[TrainedSae], path: Path) -> None:
    """Log every seed's training curve with dvclive into the directory `path`, without network and without dvc.yaml."""
    with Live(str(path), dvcyaml=None, save_dvc_exp=False) as live:
        for step in sorted({int(row["step"]) for sae in saes for row in sae.curve}):
            live.step = step
            for sae in saes:
                for row in sae.curve:
                    if row["step"] == step:
                        for name, value in row.items():
                            if name != "step":
                                live.log_metric(f"seed_{sae.seed}/{name}", value)
            live.sync()


@contextmanager
def wandb_run(name: str, config: Mapping[str, Any]) -> Iterator[Log | None]:
    """Log every check of every seed to a Weights & Biases run called `name`; None unless WANDB_API_KEY is set."""
    if not os.environ.get("WANDB_API_KEY") or importlib.util.find_spec("wandb") is None:
        yield None
        return
    import wandb

    with wandb.init(project="reseed", name=name, config=dict(config)) as run:

        def log(seed: int, row: dict[str, float]) -> None:
            run.log(
                {"step": row["step"]} | {f"seed_{seed}/{key}": value for key, value in row.items() if key != "step"}
            )

        yield log
