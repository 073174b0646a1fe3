"""stability: how far the seeds of a variant agree, on the subject and on its control arms, above which null."""

from typing import Any

import pandas as pd

from reseed.activations.store import read_activations, read_truth
from reseed.artifacts import (
    activations_dir,
    artefacts,
    metrics_dir,
    sae_dir,
    write_csv,
    write_json,
    write_parquet,
    writing,
)
from reseed.params import TRAINED, load_params, load_sae_training
from reseed.stability.activity import held_out_activity, held_out_places
from reseed.stability.arms import analyse
from reseed.stability.checks import check_apart, check_control, check_recorded, check_rows, held_out_report
from reseed.stability.comparison import compare_arms
from reseed.stability.detector import figures_of_summary, judge_set
from reseed.stability.dictionaries import read_seed_set
from reseed.stability.instruments import check_instruments
from reseed.stability.recovery import recover
from reseed.stability.reliability import LatentSet, judge, shipped, signals_of
from reseed.stability.report import summary
from reseed.stage import progress, run_stage


def stability(subject: str, variant: str, control: str, other_control: str) -> dict[str, Any]:
    params = load_params()
    chosen = params.variant(variant)
    training = load_sae_training(subject).at_steps(chosen.steps)
    train = params.train.model_copy(update={"seeds": params.seeds(chosen)})
    options = params.stability
    check_instruments(chosen, training)
    arms, indices, dimensions, sets, curves, recovered = {}, {}, {}, {}, [], None
    signals: dict[str, pd.DataFrame] = {}
    artefact = shipped()
    standing: dict[str, Any] = {}
    truth = read_truth(activations_dir(subject, TRAINED))
    names = list(dict.fromkeys((TRAINED, control, other_control)))
    with progress(len(names), f"stability {variant}", "arm") as bar:
        for arm in names:
            path, key = sae_dir(subject, variant, arm), f"{subject}/{variant}/{arm}"
            sets[arm] = read_seed_set(path, chosen, arm, train.seeds)
            activations = read_activations(activations_dir(subject, arm))
            indices[arm] = activations.index
            check_rows(activations, activations_dir(subject, arm))
            check_control(indices[TRAINED], activations.index, activations_dir(subject, arm))
            check_apart(sets[arm], train, path)
            check_recorded(path, chosen, train.seeds, activations)
            activity = held_out_activity(path, chosen, training, train, activations)
            arms[arm] = analyse(sets[arm], options, key, activity)
            # a transcoder has no cosine of encoder and decoder, a single latent no others: then no P(correct)
            latents, certificate = arms[arm].latents, arms[arm].certificates["pw_mcc"]
            if artefact and latents.c_dec is not None and "encoder_decoder_cosine" in latents.table:
                signals[arm] = signals_of(latents.table, len(activations.rows("train")), certificate.converged, key)
            if truth is not None and arm == TRAINED:
                codes = truth.codes[held_out_places(len(truth.codes))].numpy()
                recovered = recover(sets[arm], truth.directions.double().numpy(), options, key, activity, codes)
            if arm == TRAINED:
                standing["artefacts"] = artefacts(subject, variant)
                standing["held_out"] = held_out_report(activations)
            dimensions[arm] = activations.index["effective_dimension"]
            if reason := activations.index.get("quarantine"):
                standing["quarantined"] = reason
            for seed in train.seeds:
                logged = path / "curves" / "plots" / "metrics" / f"seed_{seed}" / "unexplained_variance.tsv"
                for step, value in pd.read_csv(logged, sep="\t").itertuples(index=False):
                    curves.append({"arm": arm, "seed": seed, "step": step, "unexplained_variance": value})
            bar.update()
    differences = {
        arm: compare_arms((sets[TRAINED], sets[arm]), (arms[TRAINED], arms[arm]), options, f"{subject}/{variant}/{arm}")
        for arm in names[1:]
    }
    tables = {arm: report.latents.table.assign(arm=arm) for arm, report in arms.items()}
    if artefact and TRAINED in signals:
        judged = judge(artefact, signals, sets[TRAINED].groups, options.confidence)
        standing["reliability"] = judged.summary
        tables |= {arm: tables[arm].assign(p_correct=p) for arm, p in judged.probabilities.items()}
    out = metrics_dir(subject, variant)
    content = summary(variant, chosen, arms, dimensions, options, len(train.seeds), differences, recovered)
    if artefact and TRAINED in signals:
        seed_set = figures_of_summary(content, LatentSet("", variant, signals[TRAINED]))
        standing["reliability"] |= {"stable_and_wrong": judge_set(artefact["detector"], seed_set)} if seed_set else {}
    write_json(out / "stability.json", content | standing)
    write_csv(out / "training.csv", curves)
    write_csv(out / "steps.csv", [{"arm": arm} | row for arm, report in arms.items() for row in report.steps])
    write_csv(out / "matches.csv", [{"arm": arm} | row for arm, report in arms.items() for row in report.histogram])
    with writing(out / "tables") as folder:
        folder.mkdir()
        write_parquet(folder / "latents.parquet", pd.concat(tables.values()))
        write_parquet(
            folder / "pairs.parquet", pd.concat([pd.DataFrame(r.pairs).assign(arm=arm) for arm, r in arms.items()])
        )
    return {"variant": chosen, "train": train, "sae": training, "stability": options}


if __name__ == "__main__":
    run_stage(stability)
