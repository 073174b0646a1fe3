"""One lockstep training step of S TopK SAEs by the libraries that can train several, for a comparison of speed.

SAELens' MultiSAETrainer offers only fit(), which keeps what a step returned to itself. A stepper therefore does what
one turn of fit()'s loop does through the same calls (log sparsity, step every trainer, advance the counters); what it
leaves out is fit()'s progress bar. dictionary_learning's trainSAE calls update() of each trainer in turn, and so does
the stepper. Both libraries train one SAE after the other; the auxiliary loss is each one's default, the rate constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from torch import Tensor

from tests.saes.peers import NEVER, AuxLoss, dictionary_learning_trainer

LR = 3e-4

Stepper = Callable[[Tensor], list[float]]
"""A batch [rows, d_in] -> of each SAE the squared error of that step, summed over d_in, mean over the rows."""


def saelens_stepper(seeds: Sequence[int], d_in: int, d_sae: int, k: int, device: str = "cpu") -> Stepper:
    saes = {}
    for seed in seeds:
        torch.manual_seed(seed)  # SAELens has no seed of its own
        saes[str(seed)] = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, device=device))
    # the batch size only divides the reported sparsity
    config = SAETrainerConfig(total_training_samples=NEVER, train_batch_size_samples=1, lr=LR, lr_end=LR, device=device)
    multi = MultiSAETrainer(config, saes, dict.fromkeys(saes, "activations"), iter(()))

    def step(x: Tensor) -> list[float]:
        multi._maybe_log_sparsity()
        losses = []
        for trainer in multi.trainers.values():
            losses.append(trainer.step(x).losses["mse_loss"].detach())
        for trainer in multi.trainers.values():
            trainer.n_training_steps += 1
        multi.n_training_steps += 1
        values: list[float] = torch.stack(losses).tolist()
        return values

    return step


def dictionary_learning_stepper(seeds: Sequence[int], d_in: int, d_sae: int, k: int, device: str = "cpu") -> Stepper:
    trainers = [
        dictionary_learning_trainer(
            "topk", steps=NEVER, activation_dim=d_in, dict_size=d_sae, k=k, lr=LR, warmup_steps=0, seed=seed,
            device=device,
        )
        for seed in seeds
    ]  # fmt: skip
    aux = [AuxLoss(trainer) for trainer in trainers]
    taken = 0

    def step(x: Tensor) -> list[float]:
        nonlocal taken
        totals = [trainer.update(taken, x) for trainer in trainers]
        taken += 1
        return [one.without(total) for one, total in zip(aux, totals, strict=True)]

    return step
