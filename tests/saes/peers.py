"""Runs of the trainers of other libraries, theirs and not ours, from weights and batches that we choose.

Weights go in and come out under SAELens' names: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in],
and what the architecture adds: threshold; b_gate, r_mag and b_mag in place of b_enc; topk_threshold, a running mean
without shape. They are those of training: no decoder norm is folded into the encoder.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from sae_lens import SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from torch import Tensor

NEVER = 10**9


@dataclass
class PeerRun:
    """What a peer's trainer did: the terms of each step's loss as it counts them, with their `total`; the weights."""

    losses: list[dict[str, float]]
    weights: dict[str, Tensor]


def saelens_run(
    architecture: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    lr: float,
    warm_up_steps: int = 0,
    *,
    dead_feature_window: int = 1000,
) -> PeerRun:
    """One step of SAELens' SAETrainer for each batch [rows, d_in], at a constant rate after the warm-up.

    config: the fields of the architecture's training config. weights: every parameter; buffers may be left out.
    dead_feature_window: steps without firing after which a latent is dead. The terms include their coefficients.
    """
    sae_class, config_class = get_sae_training_class(architecture)
    device = str(weights["W_dec"].device)
    # the Matryoshka class appends to the list of widths that it is given
    sae = sae_class(config_class(**copy.deepcopy(dict(config)) | {"device": device}))
    _require_all(dict(sae.named_parameters()), weights)
    # load_state_dict copies into the parameters that exist, and refuses a name it does not know
    sae.load_state_dict(sae.state_dict() | dict(weights))
    trainer = SAETrainer(_saelens_config(batches, lr, warm_up_steps, dead_feature_window, device), sae, iter(()))
    losses = []
    for batch in batches:
        output = trainer.step(batch)
        trainer.n_training_steps += 1  # step() leaves this to its caller
        terms = output.losses | {"total": output.loss}
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    return PeerRun(losses, _copies(sae.state_dict()))


def dictionary_learning_run(
    architecture: Literal["topk", "batchtopk"],
    k: int,
    weights: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    lr: float,
    warm_up_steps: int = 0,
    *,
    aux_coefficient: float = 1 / 32,
    dead_after_rows: int = 10_000_000,
    threshold_start_step: int = 1000,
    median_bias: bool = False,
) -> PeerRun:
    """One update of dictionary_learning's trainer for each batch [rows, d_in], at a constant rate after the warm-up.

    The first rate of a warm-up is zero. median_bias: let it replace b_dec by the geometric median of the first batch,
    as it does at the step numbered 0; otherwise the numbers start at 1. The decoder's rows are divided by their norm
    after every step. The terms: l2_loss, and auxk_loss without its coefficient.
    """
    d_in, d_sae = weights["W_enc"].shape
    trainer = dictionary_learning_trainer(
        architecture,
        # a warm-up must be shorter than the run, which has no other effect at a constant rate
        steps=NEVER,
        activation_dim=d_in,
        dict_size=d_sae,
        k=k,
        lr=lr,
        auxk_alpha=aux_coefficient,
        warmup_steps=warm_up_steps,
        threshold_start_step=threshold_start_step,
        device=str(weights["W_dec"].device),
    )
    trainer.dead_feature_threshold = dead_after_rows
    ae = trainer.ae
    own: dict[str, tuple[Tensor, bool]] = {
        "W_enc": (ae.encoder.weight, True),
        "b_enc": (ae.encoder.bias, False),
        "W_dec": (ae.decoder.weight, True),
        "b_dec": (ae.b_dec, False),
    }
    _require_all(own, weights)
    with torch.no_grad():
        for name, (parameter, transposed) in own.items():
            parameter.copy_(weights[name].T if transposed else weights[name])
    aux = AuxLoss(trainer)
    losses = []
    for step, batch in enumerate(batches, start=0 if median_bias else 1):
        total = trainer.update(step, batch)
        losses.append({"l2_loss": aux.without(total), "auxk_loss": aux.value, "total": total})
    trained = {name: parameter.T if transposed else parameter for name, (parameter, transposed) in own.items()}
    return PeerRun(losses, _copies(trained | {"topk_threshold": ae.threshold}))


class AuxLoss:
    """The auxiliary loss of a dictionary_learning trainer's last update, which returns only the sum of its terms."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._last: Tensor | None = None
        compute = trainer.get_auxiliary_loss

        def recorded(*args: Tensor) -> Tensor:
            result: Tensor = compute(*args)
            self._last = result.detach()
            return result

        trainer.get_auxiliary_loss = recorded

    @property
    def value(self) -> float:
        # a number without a look at the device while nothing is dead: what is timed stays the trainer's own work
        return float(self._last) if self._last is not None and self._trainer.dead_features > 0 else 0.0

    def without(self, total: float) -> float:
        """The reconstruction loss of an update that returned total."""
        coefficient: float = self._trainer.auxk_alpha
        return total - coefficient * self.value


def dictionary_learning_trainer(architecture: Literal["topk", "batchtopk"], **arguments: Any) -> Any:
    """A new TopKTrainer or BatchTopKTrainer; layer and model name are only written into its config."""
    name, module = {"topk": ("TopKTrainer", "top_k"), "batchtopk": ("BatchTopKTrainer", "batch_top_k")}[architecture]
    trainer = getattr(dictionary_learning(f"trainers.{module}"), name)
    return trainer(layer=0, lm_name="none", **arguments)


def dictionary_learning(module: str) -> ModuleType:
    """A module of dictionary_learning, which imports nnsight's LanguageModel for buffers that no trainer uses.

    nnsight before 0.4, which it wants, needs torchvision and diffusers; a name to import stands in for it meanwhile.
    """
    stand_in = ModuleType("nnsight")
    stand_in.LanguageModel = None  # type: ignore[attr-defined]
    present = sys.modules.get("nnsight")
    sys.modules["nnsight"] = stand_in
    try:
        return importlib.import_module(f"dictionary_learning.{module}")
    finally:
        if present is None:
            del sys.modules["nnsight"]
        else:
            sys.modules["nnsight"] = present


def _saelens_config(
    batches: Sequence[Tensor], lr: float, warm_up_steps: int, dead_feature_window: int, device: str
) -> SAETrainerConfig:
    return SAETrainerConfig(
        total_training_samples=sum(len(batch) for batch in batches),
        train_batch_size_samples=len(batches[0]),
        lr=lr,
        lr_end=lr,
        lr_warm_up_steps=warm_up_steps,
        dead_feature_window=dead_feature_window,
        device=device,
    )


def _require_all(parameters: Mapping[str, object], weights: Mapping[str, Tensor]) -> None:
    """A parameter that is not given would silently keep the peer's own random start."""
    if missing := sorted(set(parameters) - set(weights)):
        raise ValueError(f"weights: {missing} missing")


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
