"""What a language model holds after each prompt of sae-probes' data sets: one activation a prompt, its class beside.

The package (Kantamneni et al. 2025) carries 113 binary data sets. As there, the last token is read (of the text: an
encoder's closing [SEP], which no SAE saw, is not), and a prompt that is too long loses its beginning; the class is the
place of the prompt's `target` among the sorted targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sae_probes.utils_data import get_numbered_binary_tags, get_yvals, read_numbered_dataset_df
from torch import Tensor
from transformer_lens import HookedEncoder

from reseed import ReseedError, installed_version
from reseed.activations.language import TOKENS_PER_BATCH, Reader, TextBatch, reading
from reseed.artifacts import check_sha256, read_json, read_tensors, sha256, write_json, write_tensors
from reseed.stage import progress
from reseed.text.tokenizers import TextTokenizer


@dataclass(frozen=True)
class Prompts:
    """The prompts of the data sets as one model holds them: where they lie, and their index."""

    path: Path
    index: dict[str, Any]

    @property
    def names(self) -> list[str]:
        return sorted(self.index["datasets"])

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """Activations [prompts, d_in] and classes [prompts] (0 or 1) of a data set, memory-mapped.

        Raises ReseedError for a data set that is not there, or a missing or edited file.
        """
        if name not in self.index["datasets"]:
            raise ReseedError(
                f"{self.path}: found no data set {name!r}; run the stage prompts with sae_probes.datasets"
            )
        check_sha256(self.path / f"{name}.safetensors", self.index["datasets"][name]["sha256"])
        tensors = read_tensors(self.path / f"{name}.safetensors")
        return tensors["activations"], tensors["classes"]


def read_prompts(path: Path) -> Prompts:
    """Read the index in `path`; raises ReseedError if there is none."""
    return Prompts(path, read_json(path / "index.json"))


def chosen_datasets(names: Literal["all"] | tuple[str, ...]) -> list[str]:
    """The data sets to use, sorted; raises ReseedError for a name that the package does not have."""
    known = sorted(get_numbered_binary_tags())
    if names == "all":
        return known
    unknown = sorted(set(names) - set(known))
    if unknown:
        near = [name for name in known if unknown[0].lower() in name.lower()] or known[:3]
        raise ReseedError(
            f"params.yaml: sae_probes.datasets: found {unknown[0]!r}, allowed: names of sae-probes' {len(known)} data "
            f"sets, such as {', '.join(near[:3])}"
        )
    return sorted(set(names))


def write_prompts(
    reader: Reader, tokenizer: TextTokenizer, n_ctx: int, names: list[str], about: dict[str, str], path: Path
) -> None:
    """Write one file a data set and index.json into the new directory `path`.

    about: what the index says of the subject, its arm and its model. Raises ReseedError for several hook points, a data
    set of one class or activations that are not finite.
    """
    if reader.several or reader.hook_name_out:
        raise ReseedError(f"capture.hook_name: found {list(reader.names)}, allowed for sae-probes: one hook point")
    hook_name, closed = reader.hook_names[0], isinstance(reader.model, HookedEncoder)
    room = n_ctx - (tokenizer.bos is not None) - closed
    path.mkdir(parents=True)
    index: dict[str, Any] = about | {"hook_name": hook_name, "tokenizer_sha256": tokenizer.sha256}
    index |= {"sae_probes": installed_version("sae-probes") or "", "n_ctx": n_ctx, "datasets": {}}
    with progress(len(names), f"prompts to {hook_name}", "data set") as bar, reading(reader) as in_order:
        for name in names:
            texts = read_numbered_dataset_df(name)["prompt"].astype(str).tolist()
            classes = _classes(name)
            found = [encoding.ids for encoding in tokenizer.tokenizer.encode_batch(texts)]
            rows = [_sequence(ids[-room:], tokenizer, closed) for ids in found]
            order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
            batches = _batches([rows[i] for i in order], tokenizer.pad, TOKENS_PER_BATCH[reader.device.type], closed)
            read = torch.cat([made["activations"].float().cpu() for _, made in in_order(batches)])
            activations = torch.empty_like(read)
            activations[torch.tensor(order)] = read
            if not activations.isfinite().all():
                raise ReseedError(f"{path}: the model gives NaN or infinite activations on the data set {name!r}")
            write_tensors(path / f"{name}.safetensors", {"activations": activations, "classes": classes})
            index["datasets"][name] = {
                "sha256": sha256(path / f"{name}.safetensors"),
                "rows": len(texts),
                "cut": sum(len(ids) > room for ids in found),
            }
            bar.update()
    write_json(path / "index.json", index)


def _classes(name: str) -> Tensor:
    found = np.asarray(get_yvals(name))
    if sorted(set(found.tolist())) != [0, 1]:
        raise ReseedError(f"sae-probes: {name}: found {len(set(found.tolist()))} classes, allowed: 2")
    return torch.from_numpy(found.astype(np.uint8))


def _sequence(ids: list[int], tokenizer: TextTokenizer, closed: bool) -> list[int]:
    """The end of a prompt as the model reads it: after BOS, a separator behind it for an encoder.

    A prompt without any token is a separator.
    """
    before = [] if tokenizer.bos is None else [tokenizer.bos]
    return [*before, *(ids or [tokenizer.separator]), *([tokenizer.separator] if closed else [])]


def _batches(rows: list[list[int]], pad: int, size: int, closed: bool) -> Iterator[TextBatch]:
    """Sequences of rising length, as many a batch as fit into `size` tokens; the last token of the text is wanted."""
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (stop - start + 1) * len(rows[stop]) <= size:
            stop += 1
        width = len(rows[stop - 1])
        tokens = torch.full((stop - start, width), pad)
        real = torch.zeros(stop - start, width, dtype=torch.bool)
        last = torch.zeros(stop - start, dtype=torch.int64)
        for i, row in enumerate(rows[start:stop]):
            tokens[i, : len(row)] = torch.tensor(row)
            real[i, : len(row)] = True
            last[i] = len(row) - 1 - closed
        unused = torch.zeros(stop - start, dtype=torch.int32)
        yield TextBatch(tokens, real, last + width * torch.arange(stop - start), unused, unused.to(torch.int8))
        start = stop
