"""saebench: SAEBench's core and sparse probing on every seed of a variant, beside untrained SAEs of the same shape."""

import tempfile
from pathlib import Path
from typing import Any

from reseed.activations.capture import check_capture
from reseed.activations.store import read_activations
from reseed.artifacts import (
    activations_dir,
    artefacts,
    lm_dir,
    metrics_dir,
    probes_dir,
    read_json,
    sae_dir,
    tokens_dir,
    write_json,
    writing,
)
from reseed.benchmarks.controls import load_sae, random_sae, scaled
from reseed.benchmarks.core import check_as_recorded, run_core
from reseed.benchmarks.probing import run_sparse_probing, write_task_activations
from reseed.benchmarks.summary import core_summary, probing_summary
from reseed.benchmarks.tasks import probe_scale
from reseed.models.train import evaluate
from reseed.models.transformer import load_transformer, weights_sha256
from reseed.params import TRAINED, load_params, load_subject
from reseed.stage import progress, run_stage
from reseed.text.tokens import read_tokens


def saebench(subject: str, variant: str) -> dict[str, Any]:
    params, config = load_params(), load_subject(subject)
    chosen = params.variant(variant)
    seeds = params.seeds(chosen)
    tokens = read_tokens(tokens_dir(subject))
    activations = read_activations(activations_dir(subject, TRAINED))
    transformer = load_transformer(config.model, lm_dir(subject), subject)
    model_sha256 = weights_sha256(transformer)
    check_capture(config.capture, tokens)
    loss = evaluate(transformer, tokens, "test").loss
    tasks = read_json(probes_dir(subject) / "tasks.json")
    records = read_json(probes_dir(subject) / "baselines.json")["records"]
    scale = probe_scale(activations.splits["train"].float())
    core: dict[str, list[dict[str, float]]] = {"trained": [], "random": []}
    probing: dict[str, list[dict[str, dict[int, float]]]] = {"trained": [], "random": []}
    out = metrics_dir(subject, variant)
    with writing(out / "saebench") as results, tempfile.TemporaryDirectory() as temporary:
        write_task_activations(
            tasks, {split: rows.float() * scale for split, rows in activations.splits.items()}, records, Path(temporary)
        )
        with progress(2 * len(seeds), f"saebench {variant}", "SAE") as bar:
            for seed in seeds:
                folder = sae_dir(subject, variant) / f"seed_{seed}"
                sae = load_sae(folder, config.capture.hook_name, TRAINED, model_sha256)
                untrained = random_sae(sae, chosen, config.sae, params.train, seed, activations)
                for kind, one in (("trained", sae), ("random", untrained)):
                    name = f"{subject}_{variant}_{kind}_seed_{seed}"
                    result = results / "core" / f"{name}_eval_results.json"
                    scores = run_core(one, transformer, tokens, loss, name, result)
                    if kind == "trained":
                        check_as_recorded(scores, read_json(folder / "metrics.json"), folder)
                    core[kind].append(scores)
                    probing[kind].append(
                        run_sparse_probing(
                            scaled(one, scale),
                            transformer,
                            [record["task"] for record in records],
                            Path(temporary),
                            params.saebench,
                            name,
                            results / "sparse_probing" / f"{name}_eval_results.json",
                        )
                    )
                    bar.update()
    confidence, size = params.stability.confidence, chosen.group_size
    write_json(
        out / "saebench.json",
        {
            "artefacts": artefacts(subject, variant),
            "core": core_summary(core["trained"], core["random"], confidence, size),
            "sparse_probing": probing_summary(probing["trained"], probing["random"], records, confidence, size),
        },
    )
    return {"variant": chosen, "sae": config.sae, "train": params.train, "saebench": params.saebench}


if __name__ == "__main__":
    run_stage(saebench)
