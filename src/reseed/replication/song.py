"""The L1 autoencoder of Song et al. 2025 (arXiv 2505.20254; github.com/xiangchensong/sae-feature-consistency).

Its penalty is dodged: the decoder's rows are free to grow and begin at a norm of 0.1, the L1 is of the activations
alone, and the squared error is a mean over dimensions. The faults stay; only the step is on BATCH_SIZE rows instead of
on all 50,000.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from reseed.artifacts import generator
from reseed.matching import Array, assign, cosines
from reseed.stability.jackknife import Estimate, Groups, leave_one_out, mean_over_seeds
from reseed.stage import progress

SEEDS = (42, 43, 44, 45, 46)
D_SAE = 32
STEPS = 30_000
LR = 1e-4
L1_COEFFICIENT = 1e-2
INITIAL_NORM = 0.1
BATCH_SIZE = 1000


@dataclass(frozen=True)
class SongL1:
    """Published statistic and signs of the recipe; every estimate has the seed as its unit.

    trained, untrained: pw_mcc of all latents at the end and before the first step. recovery: the same of a decoder and
    the true features. decoder_norm: of the mean row at the end.
    """

    trained: Estimate
    untrained: Estimate
    recovery: Estimate
    l0: Estimate
    decoder_norm: Estimate


def song_l1(rows: Tensor, directions: Array, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> SongL1:
    """Train the recipe on rows [n, d_in], all seeds at once, and measure it; directions [n_features, d_in] are unit."""
    start = initial_weights(rows.shape[1], seeds)
    W_enc, b_enc, W_dec, bias = trained(rows, start, seeds, steps)
    acts = torch.baddbmm(b_enc, rows - bias, W_enc).relu()
    before, after = (list(normalize(weights, dim=2).double().numpy()) for weights in (start, W_dec))
    groups = Groups(len(seeds))
    return SongL1(
        trained=_agreement(after),
        untrained=_agreement(before),
        recovery=mean_over_seeds([_mcc(decoder, directions) for decoder in after], groups),
        l0=mean_over_seeds((acts > 0).double().sum(2).mean(1).tolist(), groups),
        decoder_norm=mean_over_seeds(W_dec.norm(dim=2).mean(1).tolist(), groups),
    )


def initial_weights(d_in: int, seeds: tuple[int, ...]) -> Tensor:
    """Decoder rows [seeds, D_SAE, d_in] of norm INITIAL_NORM in uniform directions; the encoder begins as theirs."""
    drawn = torch.stack([torch.randn(D_SAE, d_in, generator=generator("song", seed, "init")) for seed in seeds])
    return INITIAL_NORM * normalize(drawn, dim=2)


def trained(rows: Tensor, start: Tensor, seeds: tuple[int, ...], steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_enc [S, d_in, D_SAE], b_enc [S, 1, D_SAE], W_dec [S, D_SAE, d_in] and bias [S, 1, d_in] after Adam's steps."""
    W_enc, W_dec = start.transpose(1, 2).clone(), start.clone()
    b_enc, bias = start.new_zeros(len(seeds), 1, D_SAE), start.new_zeros(len(seeds), 1, start.shape[2])
    parameters = [W_enc, b_enc, W_dec, bias]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=LR, fused=True)
    orders = [generator("song", seed, "order") for seed in seeds]
    with progress(steps, "Song et al.'s L1 recipe", "step") as bar:
        for _ in range(steps):
            drawn = torch.stack([torch.randint(len(rows), (min(BATCH_SIZE, len(rows)),), generator=o) for o in orders])
            x = rows[drawn]
            acts = torch.baddbmm(b_enc, x - bias, W_enc).relu()
            error = torch.baddbmm(bias, acts, W_dec) - x
            # a sum over the seeds, which share nothing; the L1 and the error of one are means over its rows
            loss = error.square().mean((1, 2)).sum() + L1_COEFFICIENT * acts.sum(2).mean(1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
    W_enc, b_enc, W_dec, bias = (parameter.detach() for parameter in parameters)
    return W_enc, b_enc, W_dec, bias


def _mcc(a: Array, b: Array) -> float:
    """Mean signed cosine over the Hungarian assignment of equally many unit rows, as published."""
    similarity = cosines(a, b)
    return float(similarity[assign(similarity)].mean())


def _agreement(decoders: list[Array]) -> Estimate:
    n = len(decoders)
    table = np.zeros((n, n))
    for i, j in combinations(range(n), 2):
        table[i, j] = _mcc(decoders[i], decoders[j])
    estimate = leave_one_out(lambda left: float(np.mean([table[i, j] for i, j in combinations(left, 2)])), n)
    assert estimate is not None
    return estimate
