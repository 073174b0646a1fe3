"""reliability: P(correct) of a latent, fitted to what is known of every latent where the truth is known."""

from pathlib import Path
from typing import Any

import pandas as pd

from reseed.artifacts import metrics_dir, read_json, write_csv, write_json
from reseed.params import TRAINED, OfFamily, load_params, load_study, lookup
from reseed.stability.reliability import LatentSet, content, diagram, signals_of, with_correctness
from reseed.stage import run_stage


def reliability(study_file: str, name: str) -> dict[str, Any]:
    asked = lookup(load_study(Path(study_file)).reliabilities, name, f"{study_file}: reliabilities")
    sets = [latent_set(one) for one in asked.sets]
    out = Path("metrics") / "reliability"
    write_json(out / f"{name}.json", content(sets, asked.version, load_params().stability.confidence))
    write_csv(out / f"{name}.csv", diagram(sets))
    return {"reliability": asked}


def latent_set(one: OfFamily) -> LatentSet:
    """The alive latents of a pair's trained arm: their signals, and whether the truth says that they are correct."""
    folder = metrics_dir(one.subject, one.variant)
    table, truth = (pd.read_parquet(folder / place / "latents.parquet") for place in ("tables", "truth"))
    stability = read_json(folder / "stability.json")
    converged, rows = stability[TRAINED]["pw_mcc"]["converged"], stability["held_out"]["training_rows"]
    signals = signals_of(table[table["arm"] == TRAINED], rows, bool(converged), str(folder / "tables"))
    if "arm" in truth:
        truth = truth[truth["arm"] == TRAINED]
    return LatentSet(
        one.family or one.subject,
        f"{one.subject}/{one.variant}",
        with_correctness(signals, truth, str(folder / "truth")),
    )


if __name__ == "__main__":
    run_stage(reliability)
