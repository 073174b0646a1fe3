"""What is refused before a step is taken: rows and shapes on which no SAE could mean anything."""

from __future__ import annotations

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations, Rows
from reseed.params import SaeTraining, Variant
from reseed.saes.rows import blocks

DUPLICATE_SHARE = 0.5
"""Largest share of training rows that may be exact copies of an earlier row."""
EXACT_STATES = "synthetic states"
"""How the generator of rows begins that are states of a world: there are few, and how often each occurs is the data."""
NOISE_SAMPLE = 8192
NOISE_MOMENT = 0.1
"""White Gaussian noise lies within this of its mean, standard deviation, kurtosis and correlations."""


def check_trainable(
    variant: Variant, training: SaeTraining, activations: Activations, ks: tuple[int, ...] | None = None
) -> None:
    """Raise ReseedError for a variant that cannot be trained on these activations, or activations not worth it."""
    rows = activations.rows("train")
    d_in = rows.shape[-1]
    for k in ks or ((variant.k,) if hasattr(variant, "k") else ()):
        if k >= d_in:
            raise ReseedError(f"k: found {k}, allowed: less than d_in ({d_in}); an SAE with L0 >= d_in is an identity")
        if k > variant.d_sae:
            raise ReseedError(f"k: found {k}, allowed: at most d_sae ({variant.d_sae})")
    if ks and variant.architecture not in ("topk", "batchtopk", "matryoshka", "transcoder", "skip_transcoder"):
        raise ReseedError(f"ks: found {ks} for {variant.architecture}, allowed: an architecture of one k")
    if len(rows) < variant.d_sae:
        raise ReseedError(f"d_sae: found {variant.d_sae}, allowed: at most the {len(rows)} training rows")
    if len(rows) < training.batch_size:
        raise ReseedError(
            f"sae.batch_size: found {training.batch_size}, allowed: at most the {len(rows)} training rows"
        )
    if 0 < training.buffer_rows < training.batch_size:
        raise ReseedError(f"sae.buffer_rows: found {training.buffer_rows}, allowed: 0 or at least batch_size")
    sparsity = variant.objectives.sparsity
    if sparsity and sparsity.target_l0 and sparsity.target_l0 >= d_in:
        raise ReseedError(
            f"objectives.sparsity.target_l0: found {sparsity.target_l0:g}, allowed: less than d_in ({d_in}); an SAE "
            "with L0 >= d_in is an identity"
        )
    names = ("activations", "target") if activations.has("target") else ("activations",)
    for split in ("train", "validation"):
        for name in names:
            _check_finite(activations.rows(split, name), name, split)
    for name in names:
        _check_not_constant(activations.rows("train", name), name)
    if not str(activations.index.get("generator", "")).startswith(EXACT_STATES):
        _check_varied(rows)
    _check_no_noise(rows, activations)


def _check_finite(rows: Rows, name: str, split: str) -> None:
    for block in blocks(rows):
        if not block.isfinite().all():
            raise ReseedError(f"{name}: split {split!r} holds NaN or infinite numbers, allowed: finite numbers")


def _check_not_constant(rows: Rows, name: str) -> None:
    """Every hook point by itself: one that never changes has no scale."""
    first = rows.take(torch.zeros(1, dtype=torch.int64))
    same = torch.ones(rows.shape[1:-1], dtype=torch.bool)
    for block in blocks(rows):
        same &= (block == first).all(-1).all(0)
    if same.any():
        raise ReseedError(f"{name}: all training rows are the same, allowed: rows that vary")


def _check_varied(rows: Rows) -> None:
    """Not mostly copies of a few: a latent that matches a copy says nothing of features."""
    random = torch.Generator().manual_seed(0)
    width = int(torch.Size(rows.shape[1:]).numel())
    # two rows of equal projection on one random direction are equal, up to a coincidence of rounding
    direction = torch.randn(width, dtype=torch.float64, generator=random)
    projected = torch.cat([block.flatten(1).double() @ direction for block in blocks(rows)])
    distinct = len(projected.unique())
    copies = 1 - distinct / len(rows)
    if copies > DUPLICATE_SHARE:
        raise ReseedError(
            f"activations: {copies:.1%} of the {len(rows)} training rows are copies of another, allowed: at most "
            f"{DUPLICATE_SHARE:.0%}; remove repeated text or positions"
        )


def _check_no_noise(rows: Rows, activations: Activations) -> None:
    """Refuse unit Gaussian noise that bears a model's name: white, of mean zero, variance one and kurtosis three."""
    if not str(activations.index.get("generator", "")).startswith("forward pass of the "):
        return
    chosen = torch.linspace(0, len(rows) - 1, min(NOISE_SAMPLE, len(rows)), dtype=torch.float64).round().long()
    sample = rows.take(chosen).flatten(1).double()
    if looks_like_noise(sample):
        raise ReseedError(
            f"activations: the training rows look like unit Gaussian noise, their index says "
            f"{activations.index['generator']!r}; allowed: what that model computed"
        )


def looks_like_noise(sample: Tensor) -> bool:
    """Whether rows [n, d] are white unit Gaussian noise, up to NOISE_MOMENT and the error of n rows."""
    n, d = sample.shape
    slack = NOISE_MOMENT + 4 / n**0.5
    centred = sample - sample.mean(0)
    kurtosis = (centred.pow(4).mean() / centred.square().mean().square()).item()
    covariance = centred.T @ centred / n
    correlation = (covariance - covariance.diag().diag()).square().sum() / max(1, d * (d - 1))
    return bool(
        sample.mean(0).square().mean().sqrt() < slack
        and (covariance.diag().sqrt() - 1).abs().max() < slack
        and abs(kurtosis - 3) < slack
        # independent coordinates correlate by chance only: 1 / sqrt(n)
        and correlation.sqrt() < 2 / n**0.5
    )
