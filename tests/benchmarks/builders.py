"""SAEs whose benchmark scores are known: one that loses nothing and one that keeps nothing."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch.nn.functional import normalize

from reseed.benchmarks.controls import formatted

HOOK = "blocks.0.hook_resid_post"


def lens_sae(d_in: int, d_sae: int, k: int) -> TopKSAE:
    metadata = SAEMetadata(
        model_name="tiny", hook_name=HOOK, hook_head_index=None, prepend_bos=False, model_from_pretrained_kwargs={},
        reseed_model_sha256="m" * 64,
    )  # fmt: skip
    return TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, dtype="float32", device="cpu", metadata=metadata))


def oracle(d_in: int) -> SAE[Any]:
    """x = relu(x) - relu(-x): an exact reconstruction with one latent for each sign of each dimension."""
    sae = lens_sae(d_in, 2 * d_in, d_in)
    both = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    sae.load_state_dict(
        {"W_dec": both, "W_enc": both.T.contiguous(), "b_enc": torch.zeros(2 * d_in), "b_dec": torch.zeros(d_in)}
    )
    return formatted(sae.requires_grad_(False))


def degraded(d_in: int, noise: float) -> SAE[Any]:
    """The oracle with every latent turned away from its dimension, by `noise` times a random unit vector."""
    sae = oracle(d_in)
    turn = normalize(torch.randn(2 * d_in, d_in, generator=torch.Generator().manual_seed(0)), dim=1)
    with torch.no_grad():
        sae.W_dec.copy_(normalize(sae.W_dec + noise * turn, dim=1))
        sae.W_enc.copy_(sae.W_dec.T)
    return sae


def nothing(d_in: int) -> SAE[Any]:
    """Reconstructs zero, whatever it reads."""
    sae = lens_sae(d_in, 2 * d_in, d_in)
    blank = {name: torch.zeros_like(weight) for name, weight in sae.state_dict().items()}
    blank["W_dec"] = torch.cat([torch.eye(d_in), torch.eye(d_in)])
    sae.load_state_dict(blank)
    return formatted(sae.requires_grad_(False))
