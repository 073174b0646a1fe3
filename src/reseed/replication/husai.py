"""The sparse autoencoders and the statistic of HUSAI (github.com/brightlikethelight/HUSAI), faults included.

Decoders are [d_in, d_sae] here, a column a latent, as published; nowhere else in reseed. The faults, by name:
under-training (120 to 280 Adam steps), `guessed_orientation`, `explained_variance` of scalar variances and
`inflated_explained_variance`; the label leak is that of the rows (`leaky`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, mse_loss, normalize

from reseed.artifacts import generator
from reseed.stability.jackknife import Estimate, Groups, leave_one_out, mean_over_seeds
from reseed.stage import progress

BATCH_SIZE = 2048
LR = 3e-4
FIVE = (42, 123, 456, 789, 1011)
EIGHT = (*FIVE, 2022, 2023, 2024)


@dataclass(frozen=True)
class Setting:
    """What one published figure was trained with. `baseline_seeds` are those of its random decoders, one a seed."""

    d_sae: int
    k: int
    epochs: int
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    drop_last: bool = False


def _ablation(d_sae: int, k: int, epochs: int = 20, seeds: tuple[int, ...] = FIVE) -> Setting:
    return Setting(d_sae, k, epochs, seeds, tuple(seed + 100_000 for seed in seeds))


SETTINGS = {
    "d1024-k32": Setting(1024, 32, 20, FIVE, (1000, 1001, 1002, 1003, 1004), drop_last=True),
    "d128-k8": _ablation(128, 8),
    "d128-k16": _ablation(128, 16),
    "d128-k32": _ablation(128, 32),
    "d128-k64": _ablation(128, 64),
    "d64-k32": _ablation(64, 32),
    "l0-k4": _ablation(128, 4, 40, EIGHT),
    "l0-k32": _ablation(128, 32, 40, EIGHT),
}
TRANSPOSED = "-transposed"


@dataclass
class PublishedSae:
    """TopK as published: no decoder bias, no centring, no ReLU, so that a negative value can be among the k largest."""

    W_enc: Tensor
    """[d_sae, d_in]"""
    b_enc: Tensor
    """[d_sae]"""
    W_dec: Tensor
    """[d_in, d_sae]"""

    def forward(self, rows: Tensor, k: int) -> Tensor:
        values, kept = linear(rows, self.W_enc, self.b_enc).topk(k, dim=1)
        codes = torch.zeros(len(rows), len(self.b_enc)).scatter(1, kept, values)
        return linear(codes, self.W_dec)


@dataclass(frozen=True)
class Trained:
    """One seed at its stop. Decoders are [d_in, d_sae] with unit columns."""

    initial: Tensor
    decoder: Tensor
    reconstruction: Tensor
    steps: int

    @property
    def cosine_to_init(self) -> float:
        """Mean cosine of the decoder's columns to where they began."""
        return (self.initial * self.decoder).sum(0).mean().item()


@dataclass(frozen=True)
class Measured:
    """What a setting gives; every estimate has the seed as its unit.

    trained, untrained, floor: the published statistic of the decoders at the stop, of the same decoders before the
    first step, and of random ones. spread: standard deviation over the pairs of seeds of `trained`.
    """

    setting: Setting
    steps: int
    trained: Estimate
    spread: float
    untrained: Estimate
    floor: Estimate
    explained_variance: Estimate
    centred_explained_variance: Estimate
    inflated_explained_variance: Estimate
    cosine_to_init: Estimate

    @property
    def delta(self) -> Estimate:
        """Trained minus floor, a seed left out of both together with the random decoder drawn for it."""
        return self.trained - self.floor

    @property
    def untrained_delta(self) -> Estimate:
        """Untrained minus floor: what the comparison gives for seeds that never took a step."""
        return self.untrained - self.floor


def published_figures(rows: Tensor, settings: dict[str, Setting] = SETTINGS) -> dict[str, Measured]:
    """Train all settings on rows [n, d_in]; a setting with d_sae < d_in stands twice, once transposed as published."""
    found = {}
    with progress(sum(len(setting.seeds) for setting in settings.values()), "published recipe", "SAE") as bar:
        for name, setting in settings.items():
            saes = []
            for seed in setting.seeds:
                saes.append(train(rows, setting, seed))
                bar.update()
            found[name] = measure(rows, setting, saes)
            if setting.d_sae < rows.shape[1]:
                found[name + TRANSPOSED] = measure(rows, setting, saes, transpose=True)
    return found


def train(rows: Tensor, setting: Setting, seed: int) -> Trained:
    """Adam on the mean squared error of rows [n, d_in], decoder columns made unit after every step."""
    d_in = rows.shape[1]
    sae = initial_sae(d_in, setting.d_sae, seed)
    before = sae.W_dec.clone()
    parameters = [sae.W_enc, sae.b_enc, sae.W_dec]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=LR)
    order = generator("husai", seed, "order")
    steps = 0
    for _ in range(setting.epochs):
        for batch in torch.randperm(len(rows), generator=order).split(BATCH_SIZE):
            if setting.drop_last and len(batch) < BATCH_SIZE:
                continue
            loss = mse_loss(sae.forward(rows[batch], setting.k), rows[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                sae.W_dec.copy_(normalize(sae.W_dec, dim=0))
            steps += 1
    with torch.no_grad():
        return Trained(before, sae.W_dec.detach().clone(), sae.forward(rows, setting.k), steps)


def initial_sae(d_in: int, d_sae: int, seed: int) -> PublishedSae:
    """`kaiming_uniform_` for encoder and decoder, independently, decoder columns then made unit."""
    random = generator("husai", seed, "init")
    W_enc = torch.nn.init.kaiming_uniform_(torch.empty(d_sae, d_in), generator=random)
    W_dec = torch.nn.init.kaiming_uniform_(torch.empty(d_in, d_sae), generator=random)
    return PublishedSae(W_enc, torch.zeros(d_sae), normalize(W_dec, dim=0))


def measure(rows: Tensor, setting: Setting, saes: Sequence[Trained], transpose: bool = False) -> Measured:
    """All figures of trained seeds; `transpose` sends their decoders, as published, through the guessed orientation.

    The random decoders never went through it: the published delta is +0.12 because only one side was transposed.
    """
    n, d_in = len(saes), rows.shape[1]
    floor = [random_decoder(d_in, setting.d_sae, seed) for seed in setting.baseline_seeds]
    oriented = guessed_orientation if transpose else torch.clone
    trained = pair_scores([oriented(sae.decoder) for sae in saes])

    def over_seeds(figure: Callable[[Trained], float]) -> Estimate:
        return mean_over_seeds([figure(sae) for sae in saes], Groups(n))

    return Measured(
        setting=setting,
        steps=saes[0].steps,
        trained=over_pairs(trained),
        spread=float(np.std(trained[np.triu_indices(n, 1)], ddof=1)),
        untrained=over_pairs(pair_scores([oriented(sae.initial) for sae in saes])),
        floor=over_pairs(pair_scores(floor)),
        explained_variance=over_seeds(lambda sae: explained_variance(rows, sae.reconstruction)),
        centred_explained_variance=over_seeds(lambda sae: centred_explained_variance(rows, sae.reconstruction)),
        inflated_explained_variance=over_seeds(lambda sae: inflated_explained_variance(rows, sae.reconstruction)),
        cosine_to_init=over_seeds(lambda sae: sae.cosine_to_init),
    )


def random_decoder(d_in: int, d_sae: int, seed: int) -> Tensor:
    """The published baseline, number for number: a standard normal decoder of a CPU generator with the bare seed."""
    return torch.randn(d_in, d_sae, generator=torch.Generator().manual_seed(seed))


def published_statistic(a: Tensor, b: Tensor) -> float:
    """What HUSAI calls PWMCC: the mean of the row and of the column maxima of |cos| of the columns [d, m], averaged."""
    cosines = (normalize(a, dim=0).T @ normalize(b, dim=0)).abs()
    return ((cosines.max(1).values.mean() + cosines.max(0).values.mean()) / 2).item()


def guessed_orientation(decoder: Tensor) -> Tensor:
    """The published fault: the larger dimension is taken for the latents, which is wrong where d_sae < d_in.

    It turns 64 latents in 128 dimensions into 128 vectors in 64 dimensions, which agree more by chance.
    """
    return decoder.T if decoder.shape[0] > decoder.shape[1] else decoder


def pair_scores(decoders: Sequence[Tensor]) -> NDArray[np.float64]:
    """The published statistic of every two decoders [d, m]: [n, n], zero but for i < j."""
    scores = np.zeros((len(decoders), len(decoders)))
    for i, j in combinations(range(len(decoders)), 2):
        scores[i, j] = published_statistic(decoders[i], decoders[j])
    return scores


def over_pairs(scores: NDArray[np.float64]) -> Estimate:
    """The mean over the pairs of seeds, each seed left out in turn; needs three seeds."""
    estimate = leave_one_out(
        lambda seeds: float(np.mean([scores[i, j] for i, j in combinations(seeds, 2)])), len(scores)
    )
    assert estimate is not None
    return estimate


def explained_variance(rows: Tensor, reconstruction: Tensor) -> float:
    """1 - var(residual) / var(rows) of rows [n, d], both variances over all numbers at once, as published.

    The offsets of the dimensions thereby count as variance, and a constant error costs nothing.
    """
    return 1 - ((rows - reconstruction).var() / rows.var()).item()


def centred_explained_variance(rows: Tensor, reconstruction: Tensor) -> float:
    """1 - squared error / squared distance to the mean row: what the rest of reseed calls explained variance."""
    return 1 - ((rows - reconstruction).square().sum() / (rows - rows.mean(0)).square().sum()).item()


def inflated_explained_variance(rows: Tensor, reconstruction: Tensor) -> float:
    """The published fault of the scaling study: a mean over numbers divided by a sum over dimensions.

    It is 1 - (1 - centred_explained_variance) / d, near 1 for an SAE that explains nothing.
    """
    return 1 - (mse_loss(reconstruction, rows) / rows.var(0, correction=0).sum()).item()


def agrees(published: float, found: Estimate, confidence: float) -> bool:
    """Is the published value within the spread over seeds: the interval for a repeat with as many other seeds?

    A repeat has a seed error of its own, as large as this one's: the half-width is sqrt(2) times the interval's.
    """
    low, high = found.interval(confidence)
    return abs(published - found.value) <= sqrt(2) * (high - low) / 2
