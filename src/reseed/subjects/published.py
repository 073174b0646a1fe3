"""Worlds that others published as `sae_lens.synthetic` models, SynthSAEBench (arXiv 2602.14687) for one."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from sae_lens.synthetic import SyntheticModel
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import derive_seed
from reseed.params import SPLITS, PublishedWorld
from reseed.subjects.superposition import Drawn

FILES = ("synthetic_model_config.json", "synthetic_model.safetensors", "hierarchy.json")
BATCH = 1024
"""Rows that are drawn at once: their codes are dense."""


def fetch(data: PublishedWorld) -> Path:
    """The folder with the model, from the hub at its revision; with HF_HUB_OFFLINE set, from the hub's cache alone.

    Raises ReseedError where neither has it.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        return Path(
            snapshot_download(data.hub_id, revision=data.revision, allow_patterns=list(FILES), local_files_only=offline)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ReseedError(
            f"data.hub_id: {data.hub_id} at {data.revision} is not in the hub's cache and could not be fetched "
            f"({type(error).__name__}); run the stage with a connection and HF_HUB_OFFLINE unset"
        ) from error


def draw_published(data: PublishedWorld, folder: Path) -> Drawn:
    """Draw the splits from the model in `folder`, float32: row = codes @ directions + the model's bias.

    The splits are independent draws. A feature's length is counted into its codes, so that directions are unit.
    """
    with torch.random.fork_rng(devices=[]):
        model = SyntheticModel.load_from_disk(folder)
        vectors = model.feature_dict.feature_vectors.detach().double()
        lengths = vectors.norm(dim=1)
        rows: dict[str, Tensor] = {}
        codes: list[Tensor] = []
        for split in SPLITS:
            torch.manual_seed(derive_seed("published", data.hub_id, data.seed, split))  # SAELens draws from it
            n = getattr(data.rows, split)
            drawn = []
            for start in range(0, n, BATCH):
                hidden, acts = model.sample_with_features(min(BATCH, n - start))
                drawn.append(hidden.float())
                if split == "test":
                    codes.append((acts * lengths).float())
            rows[split] = torch.cat(drawn)
    return Drawn((vectors / lengths[:, None]).float(), {"test": torch.cat(codes)}, rows)
