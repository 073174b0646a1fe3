"""stability: how far the seeds of a variant agree, on the trained model and on its control, above which null."""

from typing import Any

import pandas as pd

from reseed.artifacts import activations_dir, metrics_dir, read_json, sae_dir, write_csv, write_json
from reseed.params import TRAINED, load_params
from reseed.stability.arms import analyse
from reseed.stability.dictionaries import read_seed_set
from reseed.stability.report import summary
from reseed.stage import progress, run_stage


def stability(subject: str, variant: str, control: str) -> dict[str, Any]:
    params = load_params()
    chosen = params.variant(variant)
    arms, dimensions, curves = {}, {}, []
    with progress(2, f"stability {variant}", "arm") as bar:
        for arm in (TRAINED, control):
            path = sae_dir(subject, variant, arm)
            seed_set = read_seed_set(path, chosen, arm, params.train.seeds)
            arms[arm] = analyse(seed_set, params.stability, f"{subject}/{variant}/{arm}")
            dimensions[arm] = read_json(activations_dir(subject, arm) / "index.json")["effective_dimension"]
            for seed in params.train.seeds:
                logged = path / "curves" / "plots" / "metrics" / f"seed_{seed}" / "unexplained_variance.tsv"
                for step, value in pd.read_csv(logged, sep="\t").itertuples(index=False):
                    curves.append({"arm": arm, "seed": seed, "step": step, "unexplained_variance": value})
            bar.update()
    out = metrics_dir(subject, variant)
    write_json(
        out / "stability.json", summary(variant, chosen, arms, dimensions, params.stability, len(params.train.seeds))
    )
    write_csv(out / "training.csv", curves)
    write_csv(out / "steps.csv", [{"arm": arm} | row for arm, report in arms.items() for row in report.steps])
    write_csv(out / "matches.csv", [{"arm": arm} | row for arm, report in arms.items() for row in report.histogram])
    return {"variant": chosen, "train": params.train, "stability": params.stability}


if __name__ == "__main__":
    run_stage(stability)
