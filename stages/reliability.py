"""reliability: P(correct) of a latent, fitted to what is known of every latent where the truth is known."""

from pathlib import Path
from typing import Any

import pandas as pd

from reseed.artifacts import metrics_dir, read_json, write_csv, write_json
from reseed.params import GAUSSIAN, TRAINED, OfFamily, load_params, load_study, lookup
from reseed.stability.detector import detection, figures_of_planted, figures_of_summary
from reseed.stability.reliability import LatentSet, content, diagram, of_noise, signals_of, with_correctness
from reseed.stage import run_stage


def reliability(study_file: str, name: str) -> dict[str, Any]:
    asked = lookup(load_study(Path(study_file)).reliabilities, name, f"{study_file}: reliabilities")
    options = load_params().stability
    trained = [latent_set(one) for one in asked.sets]
    sets = trained + [noise for one in asked.sets if (noise := noise_set(one)) is not None]
    figures = [figures_of_summary(stability_of(one), found) for one, found in zip(asked.sets, trained, strict=True)]
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
    truth = pd.read_parquet(folder / "truth" / "latents.parquet")
    signals = arm_signals(one, TRAINED)
    assert signals is not None
    if "arm" in truth:
        truth = truth[truth["arm"] == TRAINED]
    return LatentSet(
        one.family or one.subject,
        f"{one.subject}/{one.variant}",
        with_correctness(signals, truth, str(folder / "truth")),
    )


def noise_set(one: OfFamily) -> LatentSet | None:
    """The alive latents of a pair's Gaussian arm, if it has one: no latent of noise is correct."""
    signals = arm_signals(one, GAUSSIAN)
    name = f"{one.subject}/{one.variant}@{GAUSSIAN}"
    return None if signals is None else LatentSet(one.family or one.subject, name, of_noise(signals))


def arm_signals(one: OfFamily, arm: str) -> pd.DataFrame | None:
    """The signals of the alive latents of one arm; None where the pair has no such arm."""
    tables = metrics_dir(one.subject, one.variant) / "tables"
    stability, table = stability_of(one), pd.read_parquet(tables / "latents.parquet")
    if arm not in stability:
        return None
    converged, rows = stability[arm]["pw_mcc"]["converged"], stability["held_out"]["training_rows"]
    return signals_of(table[table["arm"] == arm], rows, bool(converged), str(tables))


if __name__ == "__main__":
    run_stage(reliability)
