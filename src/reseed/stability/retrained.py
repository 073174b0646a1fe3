"""SAEs that were trained for one question only, as a seed set: the same figures as from disk, without the disk."""

from __future__ import annotations

from typing import Any

from sae_lens.saes.sae import SAEMetadata

from reseed.activations.store import Activations
from reseed.matching import unit_rows
from reseed.params import Matryoshka, Variant
from reseed.saes.export import as_saelens, evaluate
from reseed.saes.rows import seen_by
from reseed.saes.run import Snapshot, TrainedSae
from reseed.stability.dictionaries import Dictionary, SeedSet


def seed_set_of(saes: list[TrainedSae], variant: Variant, activations: Activations) -> SeedSet:
    """What `read_seed_set` would give had each SAE been written: snapshots, and the figures of metrics.json.

    Explained variance, MSE and L0 are of the test rows. All SAEs have the same k, which may be another than the
    variant's; raises ValueError if they have not.
    """
    if len({sae.k for sae in saes}) != 1:
        raise ValueError(f"found SAEs of k = {sorted({sae.k for sae in saes})}, allowed: of one k")
    sized = with_k(variant, saes[0].k) if saes[0].k else variant
    return SeedSet(
        seeds=tuple(sae.seed for sae in saes),
        snapshots=[
            {step: _dictionary(taken, sized.d_sae) for step, taken in sorted(sae.snapshots.items())} for sae in saes
        ],
        metrics=[_metrics(sae, sized, activations) for sae in saes],
        group_size=sized.group_size,
    )


def with_k(variant: Variant, k: int) -> Variant:
    """The variant at another sparsity."""
    return variant.model_copy(update={"k": k})


def _dictionary(taken: Snapshot, d_sae: int) -> Dictionary:
    W_dec, W_enc, firing_counts = (tensor.cpu() for tensor in taken)
    # the layers of a decoder per layer lie under each other; a latent has its rows end to end
    rows = W_dec.double().unflatten(0, (-1, d_sae)).transpose(0, 1).flatten(1)
    return Dictionary(unit_rows(rows.numpy()), unit_rows(W_enc.double().T.numpy()), firing_counts.numpy())


def _metrics(sae: TrainedSae, variant: Variant, activations: Activations) -> dict[str, Any]:
    widths = list(variant.widths) if isinstance(variant, Matryoshka) else None
    lens = as_saelens(variant, sae.weights, SAEMetadata(reseed_widths=widths)).requires_grad_(False)
    return {
        "seed": sae.seed,
        "converged": int(sae.converged),
        "steps": sae.steps,
        "constant_steps": sae.constant_steps,
        "cosine_to_init": sae.cosine_to_init,
        **evaluate(lens, seen_by(variant, activations)),
    }
