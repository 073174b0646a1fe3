"""SAEBench's evals, each in a process of its own: `python -m reseed.benchmarks.child`, started by `evals.processes`.

It forks one for every file of a job that a line of its input names, and ends its output with ENDED and the exit code.

SAEBench's run_eval loads its model by a name, from a hub, where nothing checks its hash; it writes into the current
directory and beside its own code, never sets some of its seeds and leaves global state behind. Here the name gives the
subject's own model, the current directory is the job's, and what would be written beside the code goes there too; the
eval itself runs as it is.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sae_lens.evals as sae_lens_evals
import torch
from datasets import Dataset
from sae_bench.sae_bench_utils.activation_collection import create_meaned_model_activations
from sae_lens import SAE
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore
from transformer_lens import HookedTransformer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reseed import ReseedError
from reseed.artifacts import lm_dir, raw_dir, tokens_dir
from reseed.benchmarks import operations
from reseed.benchmarks.controls import formatted
from reseed.benchmarks.tasks import dense_accuracy, probe_scale
from reseed.models.language import load_language_model
from reseed.models.transformer import weights_sha256
from reseed.params import load_language
from reseed.text.sequences import read_sequences
from reseed.text.tokenizers import TextTokenizer, read_tokenizer

LOCAL_TOKENS = "the subject's test sequences"
REPLACED_FILE = "replaced.json"
ENDED = "reseed: this eval ended with "
TEXT_TASKS = ("sparse_probing", "scr", "tpp")
"""The evals that take `operations.TASK` among their data sets."""


def main(job: dict[str, Any]) -> None:
    """Run one eval on SAEs of a subject's own model."""
    torch.set_num_threads(job["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    os.chdir(job["root"])
    model = _local_model(job)
    saes = [(name, formatted(SAE.load_from_disk(folder, device=job["device"]))) for name, folder in job["saes"].items()]
    for name, sae in saes:
        _check_unit_norm(name, sae)
    # every eval asks for its model by this one function
    HookedTransformer.from_pretrained_no_processing = lambda *_, **__: model  # type: ignore[method-assign]
    work = Path(job["work"])
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    torch.manual_seed(job["seed"])
    _run(job["eval"], job, saes)


def _run(name: str, job: dict[str, Any], saes: list[tuple[str, Any]]) -> None:
    out, device, settings = job["out"], job["device"], dict(job["settings"])
    if name == "core":
        core: Any = importlib.import_module("sae_bench.evals.core.main")
        settings["dataset"] = LOCAL_TOKENS
        core.ActivationsStore = _LocalStore(_test_tokens(job))
        core.multiple_evals(
            saes, output_folder=out, device=device, force_rerun=True,
            compute_featurewise_density_statistics=True, compute_featurewise_weight_based_metrics=True,
            exclude_special_tokens_from_reconstruction=True, **settings,
        )  # fmt: skip
        _write_variance(core.ActivationsStore, job, saes)
        return
    if name in TEXT_TASKS and operations.TASK in settings.get("dataset_names", ()):
        operations.offer(Path(job["root"]) / raw_dir(job["subject"]))
    folder = "scr_and_tpp" if name in ("scr", "tpp") else name
    module: Any = importlib.import_module(f"sae_bench.evals.{folder}.main")
    config_module = importlib.import_module(f"sae_bench.evals.{folder}.eval_config")
    kind = next(
        found
        for label, found in sorted(vars(config_module).items())
        if label.endswith("EvalConfig") and label != "BaseEvalConfig"
    )
    fields = kind.__dataclass_fields__ if hasattr(kind, "__dataclass_fields__") else kind.model_fields
    given = {"random_seed": job["seed"], "model_name": job["model_name"], "llm_dtype": "float32"}
    if name in ("scr", "tpp"):
        given["perform_scr"] = name == "scr"
    if name == "sparse_probing_sae_probes":
        given |= {"results_path": "sae_probes_results", "model_cache_path": "sae_probes_activations"}
    config = kind(**({key: value for key, value in given.items() if key in fields} | settings))
    rest: dict[str, Any] = {"force_rerun": True}
    if name in ("sparse_probing", "scr", "tpp", "autointerp", "ravel", "unlearning"):
        rest["artifacts_path"] = "artifacts"
    if name == "autointerp":
        rest["api_key"] = os.environ.get("OPENAI_API_KEY", "")
        _write_autointerp_tokens(config, _test_tokens(job))
    if name == "absorption":
        here = {"probes_dir": Path("probes")}
        module.run_k_sparse_probing_experiment = partial(
            module.run_k_sparse_probing_experiment, experiment_dir=Path("k_sparse_probing"), **here
        )
        module.run_feature_absortion_experiment = partial(
            module.run_feature_absortion_experiment,
            experiment_dir=Path("feature_absorption"),
            sparse_probing_experiment_dir=Path("k_sparse_probing"),
            **here,
        )
    module.run_eval(config, saes, device, output_path=out, **rest)
    if name == "sparse_probing":
        _write_dense(saes)


def _local_model(job: dict[str, Any]) -> HookedTransformer:
    """The subject's model with its tokenizer as TransformerLens takes it."""
    subject = job["subject"]
    config, sequences = load_language(subject), read_sequences(tokens_dir(subject))
    model = load_language_model(config.model, lm_dir(subject), job["arm"], sequences, subject)
    if not isinstance(model, HookedTransformer):
        raise ReseedError(f"subject {subject!r}: found an encoder, allowed for SAEBench: a model that predicts tokens")
    if (found := weights_sha256(model)) != job["model_sha256"]:
        raise ReseedError(f"{lm_dir(subject)}: the model is {found[:12]}, the SAEs read {job['model_sha256'][:12]}")
    kept = _tokenizer(read_tokenizer(tokens_dir(subject)), Path(job["work"]) / "tokenizer")
    model.set_tokenizer(kept)  # type: ignore[no-untyped-call]
    model.to(job["device"], print_details=False)
    return model


def _tokenizer(found: TextTokenizer, folder: Path) -> Any:
    """As a folder first: TransformerLens loads a tokenizer again, by its name."""
    name = found.tokenizer.id_to_token
    made: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=found.tokenizer,
        bos_token=name(found.separator if found.bos is None else found.bos),
        eos_token=name(found.separator),
        pad_token=name(found.pad),
    )
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _test_tokens(job: dict[str, Any]) -> Dataset:
    """The first whole test sequences, in the one column by which SAELens knows tokens."""
    sequences = read_sequences(Path(job["root"]) / tokens_dir(job["subject"]))
    rows: list[list[int]] = []
    for file in sequences.files("test"):
        rows += sequences.read(file)["tokens"][: job["sequences"] - len(rows)].tolist()
    return Dataset.from_dict({"tokens": rows})


class _LocalStore:
    """SAELens' ActivationsStore over given tokens, whatever data set core names (it would ask a hub for a folder)."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def from_sae(self, model: HookedTransformer, sae: SAE[Any], **options: Any) -> ActivationsStore:
        return ActivationsStore.from_sae(model, sae, **(options | {"dataset": self.dataset, "streaming": False}))


def _write_variance(stores: _LocalStore, job: dict[str, Any], saes: list[tuple[str, Any]]) -> None:
    """SAELens' explained variance and MSE of every SAE, on the tokens and positions of core, into REPLACED_FILE."""
    model = HookedTransformer.from_pretrained_no_processing("")
    settings, found = job["settings"], {}
    special = {model.tokenizer.bos_token_id, model.tokenizer.eos_token_id, model.tokenizer.pad_token_id}
    batches = settings["n_eval_sparsity_variance_batches"]
    config = sae_lens_evals.EvalConfig(
        batch_size_prompts=settings["eval_batch_size_prompts"],
        n_eval_sparsity_variance_batches=batches,
        compute_variance_metrics=True,
    )
    for name, sae in saes:
        store = stores.from_sae(model, sae, context_size=settings["context_size"])
        scalars, _ = sae_lens_evals.run_evals(
            sae, store, model, ActivationScaler(), config, exclude_special_tokens=sorted(special)
        )
        quality = scalars["reconstruction_quality"]
        found[name] = {f"reconstruction_quality.{of}": float(quality[of]) for of in ("explained_variance", "mse")}
    Path(REPLACED_FILE).write_text(json.dumps(found))


def _write_dense(saes: list[tuple[str, Any]]) -> None:
    """A dense probe on the very activations that SAEBench probed, into REPLACED_FILE: its own picks its best epoch on
    the test rows."""
    accuracies = []
    for file in sorted(Path("artifacts").rglob("*_activations.pt")):
        kept = torch.load(file)
        train, test = (create_meaned_model_activations(kept[split]) for split in ("train", "test"))
        scale = probe_scale(torch.cat(list(train.values())))
        accuracies.append(
            dense_accuracy(
                {of: rows * scale for of, rows in train.items()}, {of: rows * scale for of, rows in test.items()}
            )
        )
    dense = {"llm.llm_test_accuracy": sum(accuracies) / len(accuracies)}
    Path(REPLACED_FILE).write_text(json.dumps({name: dense for name, _ in saes}))


def _write_autointerp_tokens(config: Any, found: Dataset) -> None:
    """The subject's test sequences, where autointerp looks for its tokens before it asks a hub."""
    rows = torch.tensor(found["tokens"])
    if rows.shape[1] != config.llm_context_size:
        raise ReseedError(
            f"params.yaml: evals.settings.autointerp.llm_context_size: found {config.llm_context_size}, allowed: "
            f"{rows.shape[1]}, the length of {LOCAL_TOKENS}"
        )
    wanted = -(-config.total_tokens // config.llm_context_size)
    if len(rows) < wanted:
        raise ReseedError(
            f"params.yaml: evals.settings.autointerp.total_tokens: found {config.total_tokens}, allowed: at most the "
            f"{rows.numel()} of evals.sequences test sequences"
        )
    folder = Path("artifacts") / "autointerp"
    folder.mkdir(parents=True)
    name = f"{config.model_name.replace('/', '_')}_{config.total_tokens}_tokens_{config.llm_context_size}_ctx.pt"
    torch.save(rows[:wanted], folder / name)


def _check_unit_norm(name: str, sae: Any) -> None:
    """Absorption, SCR and TPP take activations for lengths, which they are only along unit decoder rows."""
    norms = sae.W_dec.norm(dim=-1)
    if not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        raise ReseedError(
            f"{name}: found decoder rows of norm {norms.min():.3g} to {norms.max():.3g}, allowed for SAEBench: 1; fold "
            "them into the activations (SAELens: fold_W_dec_norm)"
        )


def serve() -> None:
    """An eval at a time, until there is no more input."""
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            try:
                main(json.loads(Path(line.rstrip("\n")).read_text()))
            except ReseedError as error:
                sys.exit(f"error: {error}")
            return
        print(f"{ENDED}{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", flush=True)


if __name__ == "__main__":
    serve()
