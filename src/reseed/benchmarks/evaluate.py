"""Every benchmark of a language model on SAEs that came from elsewhere, into one folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
import torch

from reseed import ReseedError
from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, baselines_dir, prompts_dir, write_json, write_parquet, writing
from reseed.benchmarks import ce_bench, evals, imported, sae_probes
from reseed.benchmarks.arms import SAE_ARM, JudgedSae
from reseed.benchmarks.prompts import chosen_datasets
from reseed.params import TRAINED, Params
from reseed.saes.rows import evenly

L0_ROWS = 4096


def evaluate(
    subject: str, source: str, name: str, hook_name: str | None, params: Params, device: torch.device, out: Path
) -> None:
    """Judge the SAEs of `source` (`imported.find`) on a subject, as the stages evals, ce_bench and sae_probes do.

    Several SAEs of one folder count as the seeds of one recipe. Beside each stands a random SAE of equal width and L0;
    controls that must be trained are only there for SAEs that the pipeline trains. Writes <out>/<subject>/<name>/, the
    probes only where the prompts of the subject were read. Raises ReseedError for an SAE that cannot be judged.
    """
    activations = read_activations(activations_dir(subject, TRAINED))
    reads = activations.index["hook_name"]
    if not isinstance(reads, str):
        raise ReseedError(f"subject {subject!r}: reads {list(reads)}, allowed for SAEs from elsewhere: one hook point")
    if hook_name not in (None, reads):
        raise ReseedError(
            f"--hook-name: found {hook_name}, allowed: {reads}, the hook point of the subject {subject!r}"
        )
    rows = activations.rows("test")
    x = rows.take(evenly(len(rows), L0_ROWS)).float()
    models = {TRAINED: activations.index["model_sha256"]}
    with tempfile.TemporaryDirectory() as temporary, writing(out / subject / name) as path:
        path.mkdir()
        saes: list[JudgedSae] = []
        for seed, (label, found) in enumerate(imported.find(source).items()):
            sae = imported.load(found, reads, activations.d_in, subject, hook_name is not None, models[TRAINED])
            acts = sae.encode(x)
            if not acts.isfinite().all():
                raise ReseedError(f"{label}: NaN or infinite activations on the subject's test rows")
            random = imported.equal_random(sae, (acts != 0).sum(1).double().mean().item(), seed)
            for arm, one in ((SAE_ARM, sae), ("random_sae", random)):
                folder = Path(temporary) / f"{arm}_{seed}"
                one.save_model(folder)
                saes.append(JudgedSae(arm, seed, folder, TRAINED))
        # not in the report: a log must outlive a failure, which leaves no report
        logs = Path("checkpoints") / subject / f"{name}@evaluate"
        summary = evals.judge(saes, subject, models, params, device, 1, path / "evals", logs)
        write_json(path / "evals.json", summary)
        write_json(path / "ce_bench.json", ce_bench.judge(saes, subject, params, device, 1))
        if (baselines_dir(subject) / sae_probes.RECORDS).is_file():
            arms = [sae_probes.Arm(one.name, one.seed, prompts_dir(subject, TRAINED), one.folder) for one in saes]
            names, options = chosen_datasets(params.sae_probes.datasets), params.sae_probes
            table = sae_probes.probe_all(names, arms, options, Path(temporary) / "kept", params.compute.threads)
            write_parquet(path / sae_probes.RECORDS, table)
            base = pd.read_parquet(baselines_dir(subject) / sae_probes.RECORDS)
            # they may have been made for more than is asked for here; a dense probe has no k to choose
            asked = ~base["arm"].isin(("pca", "neurons")) | base["k"].isin(table["k"])
            for column in ("dataset", "setting", "split"):
                asked &= base[column].isin(table[column])
            table = pd.concat([base[asked], table])
            write_json(path / "sae_probes.json", sae_probes.summarise(table, params.stability.confidence, 1))
