"""Training a subject model until it generalises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.params import MODEL_SPLIT, ModelTraining
from reseed.stage import progress
from reseed.text.tokens import Tokens
from reseed.text.traces import Traces


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy at the predicting positions over one split."""

    loss: float
    accuracy: float


def train_transformer(
    transformer: HookedTransformer, tokens: Tokens | Traces, training: ModelTraining, device: torch.device
) -> list[dict[str, float]]:
    """Train in place with AdamW on the split `model` of traces, else on the training split; returns the curve (step,
    losses, validation accuracy).

    Stops when the validation loss is below `stop_loss`. Raises ReseedError if `max_steps` pass and the validation
    accuracy is below `min_accuracy`: a model that has not learned the task has no features of the task.
    """
    split = MODEL_SPLIT if isinstance(tokens, Traces) else "train"
    inputs, targets, predicting = _task(tokens, split, device)
    order = generator("model", training.seed, "order")
    transformer.to(device, print_details=False).train()
    optimizer = torch.optim.AdamW(
        transformer.parameters(), lr=training.lr, weight_decay=training.weight_decay, betas=training.betas
    )
    schedule = rates(optimizer, training)
    curve: list[dict[str, float]] = []
    with progress(training.max_steps, "transformer (stops when it generalises)", "step") as bar:
        for step in range(1, training.max_steps + 1):
            rows = torch.randint(len(inputs), (training.batch_size,), generator=order).to(device)
            logits = transformer(inputs[rows])[:, predicting]
            loss = cross_entropy(logits.flatten(0, 1), targets[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            if step % training.check_every == 0 or step == training.max_steps:
                score = evaluate(transformer, tokens, "validation")
                bar.set_postfix_str(f"validation loss {score.loss:.3g} accuracy {score.accuracy:.3f}")
                curve.append(
                    {
                        "step": step,
                        "train_loss": loss.item(),
                        "validation_loss": score.loss,
                        "validation_accuracy": score.accuracy,
                    }
                )
                if score.loss < training.stop_loss:
                    break
    reached = curve[-1]["validation_accuracy"]
    if reached < training.min_accuracy:
        raise ReseedError(
            f"the model did not generalise: validation accuracy {reached:.3f} after {training.max_steps} steps, "
            f"allowed: at least {training.min_accuracy} (model.training.max_steps, weight_decay)"
        )
    transformer.to("cpu", print_details=False).eval()
    return curve


def rates(optimizer: torch.optim.Optimizer, training: ModelTraining) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate: up to `lr` over the warm-up, constant, and over the last `decay_fraction` down to zero."""
    warm_up = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1 / training.warm_up_steps, total_iters=training.warm_up_steps
    )
    if not training.decay_fraction:
        return warm_up
    falling = round(training.decay_fraction * training.max_steps)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=falling)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], [training.max_steps - falling])


@torch.no_grad()
def evaluate(transformer: HookedTransformer, tokens: Tokens | Traces, split: str) -> Score:
    """Loss and accuracy of all predictions of a split, in batches of 4096 sequences."""
    device = next(transformer.parameters()).device
    inputs, targets, predicting = _task(tokens, split, device)
    loss, correct = 0.0, 0
    for x, y in zip(inputs.split(4096), targets.split(4096), strict=True):
        logits = transformer(x)[:, predicting].flatten(0, 1)
        loss += cross_entropy(logits, y.flatten(), reduction="sum").item()
        correct += int((logits.argmax(-1) == y.flatten()).sum().item())
    return Score(loss / targets.numel(), correct / targets.numel())


def _task(tokens: Tokens | Traces, split: str, device: torch.device) -> tuple[Tensor, Tensor, list[int]]:
    """Inputs up to and including the last predicting position, the targets [n_sequences, n_predicting], and where.

    No target stands before the position that predicts it, and the last is not among the inputs.
    """
    rows = tokens.splits[split].long().to(device)
    if isinstance(tokens, Traces):
        predicting = list(tokens.predicted)
        return rows[:, : predicting[-1] + 1], tokens.targets(split).to(device), predicting
    predicting = [tokens.position(tokens.predict)]
    return rows[:, : predicting[0] + 1], rows[:, [tokens.position(tokens.target)]], predicting
