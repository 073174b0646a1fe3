"""The language models of a subject: stored in its folder, loaded from there, run over tokens.

A model pretrained here is stored as `reseed.models.transformer` stores it. Any other is a folder in Hugging Face format
(config.json and safetensors weights), copied beside a cfg.json that hashes every file; `reseed.models.families` makes a
TransformerLens model of it without weight processing: no layer norm folded, nothing centred
(`from_pretrained_no_processing` in TransformerLens' words). Pickled weights and code of the folder are never read.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens import HookedEncoder
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from reseed import ReseedError
from reseed.artifacts import check_sha256, derive_seed, read_json, sha256, write_json
from reseed.models import registry
from reseed.models.families import FAMILIES, Family, Hooked, convert, hooked_config
from reseed.models.transformer import build_transformer, check_hook, load_transformer
from reseed.params import RANDOM_MODEL, Gpt, LanguageModel, ModelFolder, RegisteredModel
from reseed.text.sequences import Sequences

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

Hook = tuple[str, Callable[..., Any]]


def load_language_model(config: LanguageModel, path: Path, arm: str, sequences: Sequences, name: str) -> Hooked:
    """The model of the subject `name` from models/<subject>/lm (`path`), on the CPU, in float32 and eval mode.

    arm "trained": its weights, every file checked against its hash; "random_model": the same config at its own
    initialisation (that of the pretraining here; that of the architecture in transformers otherwise), always the same.
    Raises ReseedError for a missing or edited file, an unknown architecture, or a context or vocabulary smaller than
    that of `sequences`.
    """
    if isinstance(config, Gpt):
        if arm == RANDOM_MODEL:
            return build_transformer(config, sequences.vocabulary, sequences.n_ctx, name).eval()
        model: Hooked = load_transformer(config, path, name)
    else:
        model = load_checkpoint(config, path, arm, name)
    if sequences.n_ctx > model.cfg.n_ctx:
        raise ReseedError(
            f"subjects/{name}.yaml: data.n_ctx: found {sequences.n_ctx}, allowed: at most {model.cfg.n_ctx}, the "
            "context of the model"
        )
    if sequences.vocabulary > model.cfg.d_vocab:
        raise ReseedError(
            f"subjects/{name}.yaml: data.tokenizer: found {sequences.vocabulary} tokens, allowed: at most "
            f"{model.cfg.d_vocab}, the vocabulary of the model"
        )
    return model


def load_checkpoint(config: RegisteredModel | ModelFolder, path: Path, arm: str, name: str) -> Hooked:
    """The model that `store_checkpoint` put into `path`; raises ReseedError as `load_language_model` does."""
    stored = read_json(path / "cfg.json")
    for file, digest in expected_hashes(config, stored["files"]).items():
        if stored["files"].get(file) != digest:
            raise ReseedError(
                f"{path / 'cfg.json'}: files: {file}: found {str(stored['files'].get(file))[:12]}…, allowed: "
                f"{digest[:12]}…, which subjects/{name}.yaml: model asks for; run the stage model"
            )
    for file, digest in stored["files"].items():
        check_sha256(path / file, digest)
    family, architecture, hf = read_config(path)
    hooked = hooked_config(family, hf, architecture, name)
    with _quietly():
        model = _untrained(family, hf) if arm == RANDOM_MODEL else _trained(family, hf, path)
    return convert(family, model, hooked)


def is_encoder(path: Path) -> bool:
    """Whether the model stored in `path` is an encoder, which predicts no next token."""
    return str(read_json(path / "cfg.json").get("architecture", "")).startswith("Bert")


def store_checkpoint(config: RegisteredModel | ModelFolder, path: Path) -> None:
    """Copy config.json and the weights into the directory `path`, with cfg.json that hashes them.

    Raises ReseedError for a folder without config.json or safetensors weights, a wrong hash, an architecture that is
    not of `FAMILIES`, or a registered model that cannot be fetched (see `registry.fetch`).
    """
    folder = registry.fetch(registry.find(config.name)) if isinstance(config, RegisteredModel) else Path(config.path)
    _, architecture, _ = read_config(folder)
    names = ["config.json", *weight_files(folder)]
    expected = expected_hashes(config, names)
    files = {}
    for file in names:
        shutil.copyfile(folder / file, path / file)
        files[file] = sha256(path / file)
        if files[file] != expected.get(file, files[file]):
            raise ReseedError(
                f"{folder / file}: its sha256 is {files[file][:12]}…, allowed: {expected[file][:12]}…: it is not the "
                "file that the subject names"
            )
    missing = sorted(expected.keys() - files.keys())
    if missing:
        raise ReseedError(f"{folder}: found no {missing[0]}, which the subject names")
    write_json(path / "cfg.json", {"architecture": architecture, "files": files, **_origin(config)})


def expected_hashes(config: RegisteredModel | ModelFolder, files: Iterable[str]) -> dict[str, str]:
    """The sha256 that the subject's model names, by file; `files`: those that the model has."""
    if isinstance(config, RegisteredModel):
        return dict(registry.find(config.name).weights or {})
    return {WEIGHTS if WEIGHTS in files else WEIGHTS_INDEX: config.sha256} if config.sha256 else {}


def weight_files(folder: Path) -> list[str]:
    """The safetensors files of a folder, the index first where there are several.

    Raises ReseedError if there are none: pickled weights are refused, because reading them can run code.
    """
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        shards = sorted(set(read_json(folder / WEIGHTS_INDEX)["weight_map"].values()))
        for shard in shards:
            if Path(shard).name != shard or not shard.endswith(".safetensors") or not (folder / shard).is_file():
                raise ReseedError(f"{folder / WEIGHTS_INDEX}: found {shard!r}, allowed: safetensors files beside it")
        return [WEIGHTS_INDEX, *shards]
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLED)
    found = f"pickled weights ({pickled[0]}), which can run code when they are read" if pickled else "no weights"
    raise ReseedError(f"{folder}: found {found}, allowed: {WEIGHTS} or {WEIGHTS_INDEX} and its shards")


def read_config(folder: Path) -> tuple[Family, str, PreTrainedConfig]:
    """Family, architecture and transformers' config of a folder's config.json; code it may name is never looked at.

    Raises ReseedError for a missing file, an architecture that is not of `FAMILIES`, or quantised weights.
    """
    content = read_json(folder / "config.json")
    architecture = str((content.get("architectures") or ["none"])[0])
    if architecture not in FAMILIES:
        raise ReseedError(
            f"{folder / 'config.json'}: architectures: found {architecture}, allowed: {', '.join(FAMILIES)}"
        )
    if "quantization_config" in content:
        raise ReseedError(f"{folder / 'config.json'}: found quantization_config, allowed: weights in floating point")
    family = FAMILIES[architecture]
    kind: Any = family.kind.config_class
    return family, architecture, kind.from_dict(content)


def forward(model: Hooked, tokens: Tensor, real: Tensor, hooks: list[Hook], stop_at_layer: int | None = None) -> None:
    """Run the model over tokens [b, n] with TransformerLens hooks (name, function), without gradients.

    real: bool [b, n], False on padding: an encoder does not attend to it; a decoder needs no mask, because padding is
    on the right. stop_at_layer: the first block that is not run. Raises ReseedError for a hook point it does not have.
    """
    for name, _ in hooks:
        check_hook(model, name)
    device = next(model.parameters()).device
    tokens = tokens.to(device, torch.long)
    with torch.no_grad(), model.hooks(fwd_hooks=[*hooks]):
        if isinstance(model, HookedEncoder):
            masked = torch.zeros(real.shape, device=device).masked_fill(~real.to(device), -torch.inf)[:, None, None]
            residual = model.hook_full_embed(model.embed(tokens))
            for block in list(model.blocks)[:stop_at_layer]:
                residual = block(residual, masked)
        else:
            model(tokens, return_type=None, stop_at_layer=stop_at_layer, prepend_bos=False)


def _untrained(family: Family, hf: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("model", RANDOM_MODEL))
        return family.kind(hf)


def _trained(family: Family, hf: PreTrainedConfig, path: Path) -> PreTrainedModel:
    try:
        with torch.random.fork_rng(devices=[]):  # heads that the checkpoint lacks are drawn, then set to zero
            torch.manual_seed(0)
            loaded: Any = family.kind.from_pretrained(
                path,
                config=hf,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReseedError(f"{path}: the weights are not those of its config.json ({reason})") from error
    model: PreTrainedModel = loaded[0]
    found = loaded[1]
    lacking = sorted(key for key in found["missing_keys"] if not key.startswith(family.optional or ("-",)))
    if lacking or found["unexpected_keys"]:
        fault = f"lack {lacking[0]}" if lacking else f"hold {sorted(found['unexpected_keys'])[0]}"
        raise ReseedError(f"{path}: the weights {fault}, allowed: those of the architecture in its config.json")
    with torch.no_grad():
        for key in found["missing_keys"]:
            model.get_parameter(key).zero_()
    return model


def _origin(config: RegisteredModel | ModelFolder) -> dict[str, Any]:
    if isinstance(config, ModelFolder):
        return {"source": "folder"}
    entry = registry.find(config.name)
    known = {"source": "registry", "name": entry.name, "hub_id": entry.hub_id, "licence": entry.licence}
    return known | ({"revision": entry.revision} if entry.revision else {})


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' notes and bars: what they would say is checked, and raised as an error."""
    logging: Any = transformers_logging  # untyped
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
