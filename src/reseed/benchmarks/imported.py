"""SAEs that this pipeline did not make, as SAELens objects whose encode equals that of the library they come from.

SAELens' own converters are not used for sparsify and dictionary_learning: that for sparsify turns W_dec around and
forgets k, that for dictionary_learning reads from a hub alone.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from sae_lens import (
    SAE,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize
from transformer_lens.loading_from_pretrained import get_official_model_name

from reseed import ReseedError
from reseed.artifacts import derive_seed, read_json
from reseed.params import RegisteredModel, is_language, load_language

SAELENS, SPARSIFY, DICTIONARY_LEARNING = "sae_weights.safetensors", "sae.safetensors", "ae.pt"
UNIT = 1e-3


def find(source: str) -> dict[str, str]:
    """The SAEs behind `source` by name: `release:id` of SAELens, the folder of one, or a folder of such folders.

    Raises ReseedError if there is none.
    """
    path = Path(source)
    if not path.is_dir():
        release, colon, sae_id = source.partition(":")
        if colon and release and sae_id:
            return {source.replace("/", "_").replace(":", "_"): source}
        raise ReseedError(
            f"{source}: no folder, allowed: one with an SAE or with folders of SAEs, or release:id of SAELens"
        )
    if _kind(path):
        return {path.resolve().name: str(path)}
    found = {folder.name: str(folder) for folder in sorted(path.iterdir()) if folder.is_dir() and _kind(folder)}
    if not found:
        raise ReseedError(
            f"{path}: found no SAE, allowed: {SAELENS} (SAELens), {SPARSIFY} (sparsify) or {DICTIONARY_LEARNING} "
            "(dictionary_learning) in it or in its folders"
        )
    return found


def _kind(folder: Path) -> str | None:
    return next((file for file in (SAELENS, SPARSIFY, DICTIONARY_LEARNING) if (folder / file).is_file()), None)


def load(
    source: str, hook_name: str, d_in: int, model_name: str, stated: bool = False, model_sha256: str | None = None
) -> SAE[Any]:
    """One SAE of `find`, with unit decoder rows, named as reading `hook_name` of `model_name`.

    stated: the user says that it reads that hook point, where its own files do not. model_sha256: of the model, which
    an SAE of this project names. Raises ReseedError for an SAE of another model, hook point or width, one that does not
    say what it reads, weights that are missing or not finite, decoder rows that cannot be folded, or a format or
    release that is not known.
    """
    sae = _read(source)
    sae.requires_grad_(False)
    if sae.cfg.d_in != d_in:
        raise ReseedError(f"{source}: the SAE reads {sae.cfg.d_in} dimensions, the subject's hook point has {d_in}")
    _check_reads(source, sae, hook_name, model_name, stated, model_sha256)
    broken = [name for name, weights in sae.state_dict().items() if not weights.isfinite().all()]
    if broken:
        raise ReseedError(f"{source}: {broken[0]} holds NaN or infinite numbers")
    _fold(source, sae)
    return _reading(sae, hook_name, model_name)


def _check_reads(
    source: str, sae: SAE[Any], hook_name: str, model_name: str, stated: bool, model_sha256: str | None
) -> None:
    metadata = sae.cfg.metadata
    if metadata.hook_name is None and not stated:
        raise ReseedError(
            f"{source}: does not say which hook point it reads; if it is {hook_name}, say --hook-name {hook_name}"
        )
    if metadata.hook_name not in (None, hook_name):
        raise ReseedError(
            f"{source}: the SAE reads {metadata.hook_name}, allowed: {hook_name}, the hook point of the subject"
        )
    if metadata.model_name is not None and _official(metadata.model_name) not in map(
        _official, model_names(model_name)
    ):
        raise ReseedError(f"{source}: the SAE reads the model {metadata.model_name!r}, allowed: {model_name!r}")
    if metadata.reseed_model_sha256 is not None and metadata.reseed_model_sha256 != model_sha256:
        raise ReseedError(
            f"{source}: the SAE reads a model of the hash {metadata.reseed_model_sha256[:12]}, allowed: "
            f"{str(model_sha256)[:12]}, the subject's trained model"
        )


def model_names(subject: str) -> list[str]:
    """What the model of a subject may be called: by the subject's name, and by that of the registry."""
    if not Path("subjects", f"{subject}.yaml").is_file() or not is_language(subject):
        return [subject]
    model = load_language(subject).model
    return [subject, model.name] if isinstance(model, RegisteredModel) else [subject]


def _official(name: str) -> str:
    """One name for all that TransformerLens knows a model by, without its owner on a hub."""
    # its ValueError is for a model that it does not have, such as one of this project
    with suppress(ValueError):
        name = get_official_model_name(name.rpartition("/")[2])
    return name.rpartition("/")[2].lower()


def _read(source: str) -> SAE[Any]:
    path = Path(source)
    kind = _kind(path) if path.is_dir() else None
    if kind is None:
        release, _, sae_id = source.partition(":")
        try:
            return SAE.from_pretrained(release, sae_id, device="cpu")
        except Exception as error:  # SAELens' own, the hub's and those of the network have no base in common
            reason = " ".join(str(error).split())[:200]
            raise ReseedError(f"{source}: SAELens could not fetch it ({type(error).__name__}: {reason})") from error
    if kind == SAELENS:
        return SAE.load_from_disk(path, device="cpu")
    try:
        return _sparsify(path) if kind == SPARSIFY else _dictionary_learning(path)
    except KeyError as error:
        raise ReseedError(f"{source}: its files lack {error}, allowed: a whole checkpoint") from error


def _reading(sae: SAE[Any], hook_name: str, model_name: str) -> SAE[Any]:
    """The SAE with what SAELens' stores and SAEBench want to know; tokens come to them as they are."""
    sae.cfg.metadata.hook_name = hook_name
    sae.cfg.metadata.model_name = model_name
    if sae.cfg.metadata.prepend_bos is None:
        sae.cfg.metadata.prepend_bos = False
    return sae


def _fold(source: str, sae: SAE[Any]) -> None:
    """Decoder rows of norm one, the activations in output units: what several evals take for granted."""
    norms = sae.W_dec.norm(dim=-1)
    if torch.allclose(norms, torch.ones_like(norms), atol=UNIT):
        return
    if isinstance(sae, TopKSAE) and not sae.cfg.rescale_acts_by_decoder_norm:
        raise ReseedError(
            f"{source}: decoder rows of norm {norms.min():.3g} to {norms.max():.3g}, which TopK cannot fold without "
            "selecting other latents; allowed: unit norm, or rescale_acts_by_decoder_norm"
        )
    try:
        sae.fold_W_dec_norm()
    except NotImplementedError as error:  # so SAELens' classes say that they cannot
        raise ReseedError(f"{source}: decoder rows that are not unit cannot be folded ({error})") from error


def equal_random(sae: SAE[Any], l0: float, seed: int) -> SAE[Any]:
    """A TopK SAE of random unit rows, tied, of the same width and (rounded) L0: what any dictionary would score."""
    random = torch.Generator().manual_seed(derive_seed("random SAE", seed))
    rows = normalize(torch.randn(sae.cfg.d_sae, sae.cfg.d_in, generator=random), dim=-1)
    k = max(1, min(round(l0), sae.cfg.d_sae))
    made = TopKSAE(TopKSAEConfig(d_in=sae.cfg.d_in, d_sae=sae.cfg.d_sae, k=k, dtype="float32", device="cpu"))
    weights = {"W_dec": rows, "W_enc": rows.T.contiguous(), "b_dec": sae.b_dec.float(), "b_enc": torch.zeros(len(rows))}
    made.load_state_dict(weights)
    made.requires_grad_(False)
    return _reading(made, sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name)


def _sparsify(folder: Path) -> SAE[Any]:
    """sparsify's TopK: relu(W (x - b_dec) + b), its k largest; W_dec [num_latents, d_in]."""
    config, weights = read_json(folder / "cfg.json"), load_file(folder / SPARSIFY)
    unknown = {name: config[name] for name in ("transcode", "skip_connection", "multi_topk") if config.get(name)}
    if unknown.keys() - {"multi_topk"} or config.get("activation", "topk") != "topk":
        raise ReseedError(f"{folder / 'cfg.json'}: found {unknown or config['activation']}, allowed: a plain TopK SAE")
    W_dec = weights["W_dec"]
    made = TopKSAE(_config(TopKSAEConfig, W_dec.shape[1], len(W_dec), k=int(config["k"])))
    return _with(
        made, W_enc=weights["encoder.weight"].T, b_enc=weights["encoder.bias"], W_dec=W_dec, b_dec=weights["b_dec"]
    )


def _dictionary_learning(folder: Path) -> SAE[Any]:
    """The dictionaries of dictionary_learning 0.1.0, by the class that their config.json names."""
    trainer = read_json(folder / "config.json")["trainer"]
    try:
        w = torch.load(folder / DICTIONARY_LEARNING, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ReseedError(
            f"{folder / DICTIONARY_LEARNING}: not a file of weights alone ({type(error).__name__})"
        ) from error
    kind = trainer["dict_class"]
    W_enc = w["W_enc"] if "W_enc" in w else w["encoder.weight"].T
    # [d_sae, d_in] in the one form, [d_in, d_sae] in the other: told by the name, never by the shape
    W_dec = w["W_dec"] if "W_dec" in w else w["decoder.weight"].T
    d_in, d_sae = W_enc.shape
    both = {"W_enc": W_enc, "W_dec": W_dec}
    if kind == "AutoEncoder":
        made: SAE[Any] = StandardSAE(_config(StandardSAEConfig, d_in, d_sae))
        return _with(made, **both, b_enc=w["encoder.bias"], b_dec=w["bias"])
    if kind == "GatedAutoEncoder":
        made = GatedSAE(_config(GatedSAEConfig, d_in, d_sae))
        gates = {"b_gate": w["gate_bias"], "b_mag": w["mag_bias"], "r_mag": w["r_mag"]}
        return _with(made, **both, **gates, b_dec=w["decoder_bias"])
    biases = {"b_enc": w["b_enc"] if "b_enc" in w else w["encoder.bias"], "b_dec": w["b_dec"]}
    if kind == "AutoEncoderTopK":
        made = TopKSAE(_config(TopKSAEConfig, d_in, d_sae, k=int(w["k"])))
        return _with(made, **both, **biases)
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        of_input = kind != "JumpReluAutoEncoder"  # which does not subtract b_dec
        made = JumpReLUSAE(_config(JumpReLUSAEConfig, d_in, d_sae, apply_b_dec_to_input=of_input))
        return _with(made, **both, **biases, threshold=w["threshold"].float().expand(d_sae))
    raise ReseedError(f"{folder / 'config.json'}: trainer.dict_class: found {kind!r}, allowed: those of {KNOWN}")


KNOWN = "AutoEncoder, GatedAutoEncoder, AutoEncoderTopK, BatchTopKSAE, MatryoshkaBatchTopKSAE, JumpReluAutoEncoder"


def _config(kind: type[Any], d_in: int, d_sae: int, **more: Any) -> Any:
    subtracts = {"apply_b_dec_to_input": True} | more
    return kind(d_in=d_in, d_sae=d_sae, dtype="float32", device="cpu", metadata=SAEMetadata(), **subtracts)


def _with(sae: SAE[Any], **weights: Tensor) -> SAE[Any]:
    sae.load_state_dict({name: tensor.detach().float().contiguous() for name, tensor in weights.items()})
    return sae


def describe(sae: SAE[Any]) -> dict[str, Any]:
    """What a report says of an SAE: its shape and class."""
    return {"architecture": sae.cfg.architecture(), "d_in": sae.cfg.d_in, "d_sae": sae.cfg.d_sae}
