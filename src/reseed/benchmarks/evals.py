"""SAEBench's own evals on any SAE: what each needs, whether it can run here, and its results, checked and flat.

Every eval runs unmodified in a process of its own (`child`), forked from one that has the imports behind it. What
SAEBench 0.6.0 lets pass is an error here: an exception that it only logs, a missing or malformed result, -1 for NaN.
Explained variance and MSE of core, which it computes wrongly, are left out of the figures, and are taken from SAELens'
evaluation instead.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from sae_bench.sae_bench_utils.testing_utils import validate_eval_output_format_file

from reseed import ReseedError, installed_version
from reseed.artifacts import lm_dir, raw_dir, sha256, tokens_dir
from reseed.benchmarks import operations
from reseed.benchmarks.arms import JudgedSae
from reseed.benchmarks.child import ENDED, REPLACED_FILE, TEXT_TASKS
from reseed.benchmarks.results import VARYING, normalise
from reseed.benchmarks.summary import beside_controls
from reseed.models.language import is_encoder
from reseed.params import EvalName, Params
from reseed.stage import progress

Needs = Literal["nothing", "decoder"]
Process = Callable[[Path, Path], str]
"""What runs the job that a file describes: (job, log) -> its output."""
WRONG = {
    "core": tuple(f"reconstruction_quality.{of}" for of in ("explained_variance", "explained_variance_legacy", "mse")),
    "sparse_probing": ("llm.llm_test_accuracy", "sae.sae_test_accuracy"),
}
"""Figures of SAEBench 0.6.0 that are not what their names say: the EV of core is that of no formula, its MSE depends on
the batch size; the dense probes of sparse probing pick their best epoch on the test rows."""
TOO_FEW_LETTERS = "insufficent first-letter features"  # as the package spells it


@dataclass(frozen=True)
class Eval:
    """What an eval of SAEBench needs beyond an SAE."""

    output: str
    """module:class of its result's schema."""
    folder: str = ""
    """Under the output folder, where its results go."""
    model: Needs = "decoder"
    families: tuple[str, ...] = ()
    """Model names it is made for; none named: any."""
    hub: tuple[str, ...] = ()
    """Data sets that it fetches."""
    files: tuple[str, ...] = ()
    """Files it reads from the working directory, which nothing can fetch for it."""
    key: str | None = None
    """An environment variable that it cannot do without."""
    transformers_below: int | None = None
    """The first major version of transformers that it breaks with."""
    gigabytes: float = 2
    """Memory beside the model, from its README."""
    gates: bool = True
    """Whether a claim may rest on it."""


EVALS: dict[EvalName, Eval] = {
    "core": Eval("core.eval_output:CoreEvalOutput"),
    "sparse_probing": Eval(
        "sparse_probing.eval_output:SparseProbingEvalOutput",
        hub=(
            "LabHC/bias_in_bios", "canrager/amazon_reviews_mcauley_1and5", "codeparrot/github-code",
            "fancyzhx/ag_news", "Helsinki-NLP/europarl",
        ),
    ),
    "sparse_probing_sae_probes": Eval("sparse_probing_sae_probes.eval_output:SparseProbingSaeProbesEvalOutput"),
    "absorption": Eval("absorption.eval_output:AbsorptionEvalOutput"),
    "scr": Eval(
        "scr_and_tpp.eval_output:ScrEvalOutput", folder="scr", gates=False,
        hub=("LabHC/bias_in_bios", "canrager/amazon_reviews_mcauley_1and5"),
    ),
    "tpp": Eval(
        "scr_and_tpp.eval_output:TppEvalOutput", folder="tpp", gates=False,
        hub=("LabHC/bias_in_bios", "canrager/amazon_reviews_mcauley_1and5"),
    ),
    # it reads the subject's test sequences, as core does
    "autointerp": Eval("autointerp.eval_output:AutoInterpEvalOutput", key="OPENAI_API_KEY"),
    "ravel": Eval(
        "ravel.eval_output:RAVELEvalOutput", families=("gemma-2-2b", "pythia-160m-deduped"),
        hub=("adamkarvonen/ravel_prompts",), transformers_below=5, gigabytes=24,
    ),
    "unlearning": Eval(
        "unlearning.eval_output:UnlearningEvalOutput", families=("gemma-2-2b-it",),
        hub=("cais/wmdp", "cais/mmlu", "wikitext"),
        files=("sae_bench/evals/unlearning/data/bio-forget-corpus.jsonl",), gigabytes=24,
    ),
    "meta_structure": Eval("meta_structure.eval_output:MetaStructureEvalOutput", model="nothing"),
}  # fmt: skip


def preflight(name: EvalName, model_name: str, encoder: bool, hub: bool, settings: Mapping[str, Any]) -> list[str]:
    """Why the eval `name` cannot run here on this model with these settings; empty if it can.

    hub: whether a hub can be reached.
    """
    one, why = EVALS[name], []
    if one.model == "decoder" and encoder:
        why.append("the model is an encoder, which predicts no next token")
    if one.families and not any(model_name.lower().endswith(family) for family in one.families):
        why.append(f"made for {', '.join(one.families)} alone")
    tasks = settings.get("dataset_names", ()) if name in TEXT_TASKS else ()
    if operations.TASK in tasks:
        try:
            operations.operations(raw_dir(model_name))
        except ReseedError as error:
            why.append(str(error))
    if one.hub and not hub and set(tasks) != {operations.TASK}:
        why.append(f"its data ({', '.join(one.hub)}) are on a hub that cannot be reached")
    why += [
        f"{file} is missing, a gated file that SAEBench does not fetch"
        for file in one.files
        if not Path(file).is_file()
    ]
    if one.key and not os.environ.get(one.key):
        why.append(f"{one.key} is not set")
    major = int((installed_version("transformers") or "0").split(".")[0])
    if one.transformers_below and major >= one.transformers_below:
        why.append(f"breaks with transformers {one.transformers_below} (decoder layers give tensors, it wants tuples)")
    here = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else psutil.virtual_memory().total
    if here < one.gigabytes * 1e9:
        why.append(f"needs {one.gigabytes:g} GB of memory, {here / 1e9:.0f} are there")
    return why


def hub_reachable() -> bool:
    """Whether a hub answers within seconds, and is not forbidden by HF_HUB_OFFLINE."""
    import requests
    from huggingface_hub.constants import ENDPOINT

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    try:
        return bool(requests.head(ENDPOINT, timeout=5).status_code < 500)
    except requests.RequestException:
        return False


def judge(
    saes: Sequence[JudgedSae],
    subject: str,
    models: Mapping[str, str],
    params: Params,
    device: torch.device,
    group_size: int,
    results: Path,
    work: Path,
) -> dict[str, Any]:
    """The tracked figures of every configured eval; `not_run` says why one cannot be run here.

    models: the sha256 of the model of each arm. Standard result files go to `results`, logs to `work`. Raises
    ReseedError as `run` does.
    """
    options = params.evals
    summary: dict[str, Any] = {}
    encoder, hub = is_encoder(lm_dir(subject)), hub_reachable()
    with progress(len(options.settings), f"SAEBench on {subject}", "eval") as bar, processes() as process:
        for name, settings in sorted(options.settings.items()):
            why = preflight(name, subject, encoder, hub, settings)
            figures: dict[str, dict[int, dict[str, float]]] = {}
            for arm in () if why else sorted({one.reads for one in saes}, reverse=True):
                judged = {f"{one.name}_seed_{one.seed}": one for one in saes if one.reads == arm}
                job = {
                    "saes": {label: str(one.folder.resolve()) for label, one in judged.items()},
                    "subject": subject, "arm": arm, "model_name": subject, "model_sha256": models[arm],
                    "root": str(Path.cwd()), "threads": params.compute.threads, "device": str(device),
                    "seed": options.seed, "sequences": options.sequences, "settings": settings,
                    "tokens_sha256": sha256(tokens_dir(subject) / "index.json"),
                    "raw_sha256": sha256(raw_dir(subject) / "manifest.json"),
                }  # fmt: skip
                found = run(process, name, job, results / name, work, work / f"{name}@{arm}.log")
                if isinstance(found, str):
                    why.append(found)
                    break
                for label, of in found.items():
                    figures.setdefault(judged[label].name, {})[judged[label].seed] = of
            if why:
                summary[name] = {"not_run": "; ".join(why)}
            else:
                summary[name] = beside_controls(figures, params.stability.confidence, group_size)
                summary[name]["may_gate"] = int(EVALS[name].gates)
            bar.update()
    return summary


def run(
    process: Process, name: EvalName, job: Mapping[str, Any], out: Path, work: Path, log: Path
) -> dict[str, dict[str, float]] | str:
    """The flat figures of every SAE of `job` ("saes": name -> folder), on the subject's own model, by `processes`.

    The standard result files stay in `out`, made to repeat; the process' output goes to `log` and to the terminal.
    What the eval keeps for itself lies in a folder of `work` that is named by the hash of all that it depends on.
    Returns one sentence instead where the eval finds that the model cannot be judged by it. Raises ReseedError for a
    failed process, a missing or malformed result, and NaN.
    """
    key = job_key(job)
    place = work / f"{name}-{key[:16]}"
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    complete = dict(job) | {"eval": name, "out": str(out.resolve()), "work": str(place.resolve())}
    (work / f"{name}.json").write_text(json.dumps(complete))
    try:
        text = process(work / f"{name}.json", log)
        return _results(name, job, out, place, key[:16], text, log)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _results(
    name: EvalName, job: Mapping[str, Any], out: Path, place: Path, key: str, text: str, log: Path
) -> dict[str, dict[str, float]] | str:
    figures = {}
    for sae in job["saes"]:
        file = out / EVALS[name].folder / f"{sae}_custom_sae_eval_results.json"
        if not file.is_file():
            if name == "absorption" and TOO_FEW_LETTERS in text:
                return "the model knows the first letter of too few of its tokens (probes of F1 0.6 for 20 letters)"
            raise ReseedError(f"{file}: SAEBench {name} wrote no result for this SAE; the end of {log} says why")
        _check_schema(name, file)
        normalise(file, identity=f"{key}/{sae}")
        if name in WRONG:
            _replace_wrong(file, WRONG[name], json.loads((place / REPLACED_FILE).read_text())[sae])
        figures[sae] = flat(file, minus_one_is_nan=name not in ("scr", "tpp"))
    return figures


def _replace_wrong(file: Path, wrong: Sequence[str], right: Mapping[str, float]) -> None:
    """Put right figures in place of SAEBench's wrong ones, and say so in the file."""
    result = json.loads(file.read_text())
    metrics = result["eval_result_metrics"]
    for figure in wrong:
        category, _, metric = figure.partition(".")
        metrics[category].pop(metric, None)
    for figure, value in right.items():
        category, _, metric = figure.partition(".")
        metrics[category][metric] = value
    result["replaced"] = sorted(right)
    file.write_text(json.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n")


def flat(file: Path, minus_one_is_nan: bool = True) -> dict[str, float]:
    """The figures of a standard result file as `category.metric`, without those that vary between runs.

    minus_one_is_nan: not in SCR and TPP, whose scores can be -1. Raises ReseedError for a missing category, or for NaN,
    for which SAEBench writes -1.
    """
    found: dict[str, float] = {}
    for category, metrics in json.loads(file.read_text())["eval_result_metrics"].items():
        for metric, value in metrics.items():
            if metric in VARYING or value is None:
                continue
            if value != value or (minus_one_is_nan and value == -1):
                raise ReseedError(f"{file}: {category}.{metric}: found {value}, SAEBench's mark for NaN")
            found[f"{category}.{metric}"] = float(value)
    if not found:
        raise ReseedError(f"{file}: found no figure, allowed: those of one of SAEBench's evals")
    return found


def job_key(job: Mapping[str, Any]) -> str:
    """The hash of the SAEs' contents and of all else that a job depends on, wherever they and the project lie."""
    contents = {sae: sha256(Path(folder) / "sae_weights.safetensors") for sae, folder in job["saes"].items()}
    rest = {key: value for key, value in job.items() if key not in ("saes", "root")}
    versions = [f"{name} {installed_version(name)}" for name in ("sae-bench", "sae-lens", "torch", "transformer-lens")]
    text = json.dumps({"job": rest, "saes": contents, "versions": versions}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def processes() -> Iterator[Process]:
    """A function that runs a job in a process of its own, forked from one that has the imports behind it."""
    with ExitStack() as stack:

        @cache
        def server() -> subprocess.Popen[str]:  # where no eval can run there is nothing to import for
            return stack.enter_context(_server())

        yield lambda job, log: _process(server(), job, log)


def _server() -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # the fork may use CUDA only if this process never asked its runtime
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "reseed.benchmarks.child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def _process(server: subprocess.Popen[str], job: Path, log: Path) -> str:
    """Run a job; its output, which also goes to the log as it comes, and to the terminal if there is one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    assert server.stdin is not None
    assert server.stdout is not None
    code, lines = "", []
    with log.open("w") as kept:
        with suppress(BrokenPipeError):  # of one that died in its imports: its output says why
            os.write(server.stdin.fileno(), f"{job}\n".encode())
        while not code and (line := server.stdout.readline()):
            line, _, code = line.partition(ENDED)
            kept.write(line)
            lines.append(line)
            if sys.stderr.isatty():
                sys.stderr.write(line)
    if (ended := int(code or server.wait())) or not code:
        said = next((line for line in reversed(lines) if line.strip()), "nothing").strip()
        raise ReseedError(f"{log}: SAEBench ended with {ended}: {said.removeprefix('error: ')}")
    return "".join(lines)


def _check_schema(name: EvalName, file: Path) -> None:
    module, kind = EVALS[name].output.split(":")
    wanted = getattr(importlib.import_module(f"sae_bench.evals.{module}"), kind)
    try:
        validate_eval_output_format_file(str(file), wanted)
    except Exception as error:  # pydantic's, json's and jsonschema's
        raise ReseedError(f"{file}: not a result of SAEBench {name} ({' '.join(str(error).split())[:200]})") from error
