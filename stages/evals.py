"""evals: SAEBench's own evals on every seed of a variant of a language model, beside the controls."""

import tempfile
from pathlib import Path
from typing import Any

from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, lm_dir, metrics_dir, write_json, writing
from reseed.benchmarks.arms import JudgedSae, with_controls
from reseed.benchmarks.evals import EVALS, hub_reachable, preflight, run, summarise
from reseed.models.language import is_encoder
from reseed.params import RANDOM_MODEL, TRAINED, load_params
from reseed.stage import device, progress, run_stage


def evals(subject: str, variant: str, frozen: str) -> dict[str, Any]:
    params = load_params()
    chosen, options = params.variant(variant), params.evals
    activations = {arm: read_activations(activations_dir(subject, arm)) for arm in (TRAINED, RANDOM_MODEL)}
    models = {arm: found.index["model_sha256"] for arm, found in activations.items()}
    encoder, hub = is_encoder(lm_dir(subject)), hub_reachable()
    out, work = metrics_dir(subject, variant), Path("checkpoints") / subject / f"{variant}@evals"
    summary: dict[str, Any] = {}
    with writing(out / "evals") as results, tempfile.TemporaryDirectory() as temporary:
        results.mkdir()
        saes = with_controls(
            params, options.control_seeds, subject, variant, frozen, activations[TRAINED], models, Path(temporary)
        )
        with progress(len(options.settings), f"SAEBench {variant}", "eval") as bar:
            for name, settings in sorted(options.settings.items()):
                why = preflight(name, subject, encoder, hub)
                figures: dict[str, dict[int, dict[str, float]]] = {}
                for arm in () if why else (TRAINED, RANDOM_MODEL):
                    judged = {_name(variant, one): one for one in saes if one.reads == arm}
                    job = {
                        "saes": {label: str(one.folder.resolve()) for label, one in judged.items()},
                        "subject": subject, "arm": arm, "model_name": subject, "model_sha256": models[arm],
                        "root": str(Path.cwd()), "threads": params.compute.threads,
                        "device": str(device(params.compute)),
                        "seed": options.seed, "sequences": options.sequences, "settings": settings,
                    }  # fmt: skip
                    found = run(name, job, results / name, work, work / f"{name}@{arm}.log")
                    if isinstance(found, str):
                        why.append(found)
                        break
                    for label, of in found.items():
                        figures.setdefault(judged[label].name, {})[judged[label].seed] = of
                if why:
                    summary[name] = {"not_run": "; ".join(why)}
                else:
                    summary[name] = summarise(figures, params.stability.confidence, chosen.group_size)
                    summary[name]["may_gate"] = int(EVALS[name].gates)
                bar.update()
    write_json(out / "evals.json", summary)
    return {"variant": chosen, "evals": options}


def _name(variant: str, one: JudgedSae) -> str:
    return f"{variant}_{one.name}_seed_{one.seed}"


if __name__ == "__main__":
    run_stage(evals)
