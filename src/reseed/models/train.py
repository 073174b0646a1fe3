"""Training a subject model until it generalises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.params import ModelTraining
from reseed.stage import progress
from reseed.text.tokens import Tokens


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy at the predicting position over one split."""

    loss: float
    accuracy: float


def train_transformer(
    transformer: HookedTransformer, tokens: Tokens, training: ModelTraining, device: torch.device
) -> list[dict[str, float]]:
    """Train in place with AdamW on the training split; returns the curve (step, losses, validation accuracy).

    Stops when the validation loss is below `stop_loss`. Raises ReseedError if `max_steps` pass and the validation
    accuracy is below `min_accuracy`: a model that has not learned the task has no features of the task.
    """
    inputs, targets = _inputs_and_targets(tokens, "train", device)
    order = generator("model", training.seed, "order")
    transformer.to(device, print_details=False).train()
    optimizer = torch.optim.AdamW(
        transformer.parameters(), lr=training.lr, weight_decay=training.weight_decay, betas=training.betas
    )
    warm_up = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1 / training.warm_up_steps, total_iters=training.warm_up_steps
    )
    curve: list[dict[str, float]] = []
    with progress(training.max_steps, "transformer (stops when it generalises)", "step") as bar:
        for step in range(1, training.max_steps + 1):
            rows = torch.randint(len(inputs), (training.batch_size,), generator=order).to(device)
            loss = cross_entropy(transformer(inputs[rows])[:, -1], targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            warm_up.step()
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


@torch.no_grad()
def evaluate(transformer: HookedTransformer, tokens: Tokens, split: str) -> Score:
    """Loss and accuracy of the prediction at `tokens.predict` over a split, in batches of 4096."""
    device = next(transformer.parameters()).device
    inputs, targets = _inputs_and_targets(tokens, split, device)
    loss, correct = 0.0, 0
    for x, y in zip(inputs.split(4096), targets.split(4096), strict=True):
        logits = transformer(x)[:, -1]
        loss += cross_entropy(logits, y, reduction="sum").item()
        correct += int((logits.argmax(-1) == y).sum().item())
    return Score(loss / len(targets), correct / len(targets))


def _inputs_and_targets(tokens: Tokens, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs up to and including the predicting position (so the target is not among them), and the targets."""
    rows = tokens.splits[split].long().to(device)
    return rows[:, : tokens.position(tokens.predict) + 1], rows[:, tokens.position(tokens.target)]
