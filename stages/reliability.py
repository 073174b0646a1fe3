"""reliability: P(correct) of a latent, fitted to what is known of every latent where the truth is known."""

from pathlib import Path
from typing import Any

import pandas as pd

from reseed.artifacts import metrics_dir, read_json, write_csv, write_json
from reseed.params import TRAINED, OfFamily, load_params, load_study, lookup
from reseed.stability.detector import detection, figures_of_planted, figures_of_summary
from reseed.stability.reliability import LatentSet, content, diagram, signals_of, with_correctness
from reseed.stage import run_stage


def reliability(study_file: str, name: str) -> dict[str, Any]:
    asked = lookup(load_study(Path(study_file)).reliabilities, name, f"{study_file}: reliabilities")
    options = load_params().stability
    sets = [latent_set(one) for one in asked.sets]
    figures = [figures_of_summary(stability_of(one), found) for one, found in zip(asked.sets, sets, strict=True)]
    seed_sets = [one for one in figures if one is not None]
    for one in dict.fromkeys(asked.planted):
        planted = read_json(metrics_dir(one.subject, one.variant) / "planted.json")
        seed_sets += figures_of_planted(planted, one.family or one.subject, f"{one.subject}/{one.variant}")
    out = Path("metrics") / "reliability"
    detector = {"detector": detection(seed_sets, options.correctness.stable_kappa, options.confidence)}
    write_json(out / f"{name}.json", content(sets, asked.version, options.confidence) | detector)
    write_csv(out / f"{name}.csv", diagram(sets))
    return {"reliability": asked}


def stability_of(one: OfFamily) -> dict[str, Any]:
    return read_json(metrics_dir(one.subject, one.variant) / "stability.json")


def latent_set(one: OfFamily) -> LatentSet:
    """The alive latents of a pair's trained arm: their signals, and whether the truth says that they are correct."""
    folder = metrics_dir(one.subject, one.variant)
    table, truth = (pd.read_parquet(folder / place / "latents.parquet") for place in ("tables", "truth"))
    stability = stability_of(one)
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
