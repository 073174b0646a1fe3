"""The task and the transformer of HUSAI (github.com/brightlikethelight/HUSAI), as its commands made them.

A sequence is [BOS, a, +, b, =, c, EOS], and the loss reads the logits at position -2 against c: the position of c
itself. The network is asked to copy its input, which it learns in 18 steps; nothing is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformer_lens import HookedTransformer, HookedTransformerConfig

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.models.checks import check_leak
from reseed.params import LeakyAddition, LeakyModel

A, B, ANSWER = 1, 3, 5
N_CTX = 7
ENOUGH_COPIES = 0.9


@dataclass(frozen=True)
class Leak:
    """What shows that a model copies the answer from its input. Shares of all rows.

    refusal: the sentence by which the leak check refuses the model. randomised_accuracy: right answers when both
    operands are replaced by random ones and c is kept. copied: outputs that equal a c put in place of the right one.
    answer_variance: the share of the activations' variance (summed over dimensions) between the values of c.
    """

    refusal: str
    randomised_accuracy: float
    copied: float
    answer_variance: float


def sequences(p: int) -> Tensor:
    """All p^2 sequences [p^2, 7] with c = (a + b) mod p; tokens p to p + 3 are BOS, EOS, = and +."""
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    bos, eos, equals, plus = (torch.full_like(a, p + i) for i in range(4))
    return torch.stack([bos, a, plus, b, equals, (a + b) % p, eos], dim=1)


def train_leaky(
    rows: Tensor, data: LeakyAddition, model: LeakyModel, name: str
) -> tuple[HookedTransformer, list[float]]:
    """Train by the recipe on rows [n, 7]; returns the first of the best epochs and the validation accuracy of each.

    Training ends at accuracy 1, which no later epoch can beat.
    """
    config = HookedTransformerConfig(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        d_head=model.d_model // model.n_heads,
        d_mlp=model.d_mlp,
        d_vocab=data.p + 4,
        n_ctx=N_CTX,
        act_fn=model.act_fn,
        normalization_type=model.normalization_type,
        initializer_range=0.8 / model.d_model**0.5,
        model_name=name,
        default_prepend_bos=False,
        device="cpu",
    )
    training = model.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        transformer = HookedTransformer(config)
    shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(data.seed))]
    train, validation = shuffled.tensor_split([int(data.train_fraction * len(rows))])
    order = generator("leaky", training.seed, "order")
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    curve: list[float] = []
    best: dict[str, Tensor] = {}
    for _ in range(training.max_epochs):
        for batch in torch.randperm(len(train), generator=order).split(training.batch_size):
            loss = cross_entropy(transformer(train[batch])[:, ANSWER], train[batch, ANSWER])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = _accuracy(transformer, validation, validation[:, ANSWER])
        if accuracy > max(curve, default=-1.0):
            best = {key: value.clone() for key, value in transformer.state_dict().items()}
        curve.append(accuracy)
        if accuracy == 1:
            break
    transformer.load_state_dict(best)
    return transformer.eval(), curve


@torch.no_grad()
def activations(transformer: HookedTransformer, rows: Tensor, hook_name: str) -> Tensor:
    """What `hook_name` gives at the position of c: [rows, d_model]."""
    kept = []
    for batch in rows.split(4096):
        _, cache = transformer.run_with_cache(batch, names_filter=hook_name)
        kept.append(cache[hook_name][:, ANSWER])
    return torch.cat(kept)


def require_leak(transformer: HookedTransformer, rows: Tensor, hidden: Tensor, p: int, random: torch.Generator) -> Leak:
    """Measure the leak on rows [n, 7] with activations [n, d_model].

    Raises ReseedError unless the leak check refuses the model and the model copies: a quarantined subject that is
    healthy, or broken otherwise, must not run under the name of this fault.
    """
    refusal = _refusal(transformer, rows, p, random)
    if refusal is None:
        raise ReseedError("the subject is quarantined for a label leak, but its leak check passes: it must not run")
    randomised = rows.clone()
    randomised[:, [A, B]] = torch.randint(p, (len(rows), 2), generator=random)
    replaced = rows.clone()
    replaced[:, ANSWER] = (rows[:, ANSWER] + torch.randint(1, p, (len(rows),), generator=random)) % p
    found = Leak(
        refusal=refusal,
        randomised_accuracy=_accuracy(transformer, randomised, rows[:, ANSWER]),
        copied=_accuracy(transformer, replaced, replaced[:, ANSWER]),
        answer_variance=answer_variance(hidden, rows[:, ANSWER]),
    )
    if found.copied < ENOUGH_COPIES:
        raise ReseedError(
            f"the subject is quarantined for a label leak: its model copies {found.copied:.1%} of the answers put into "
            f"its input, allowed: at least {ENOUGH_COPIES:.0%}; its leak check fails for another reason ({refusal})"
        )
    return found


def answer_variance(hidden: Tensor, answers: Tensor) -> float:
    """The share of the variance of rows [n, d], summed over dimensions, that their answers [n] explain."""
    x = hidden.double()
    classes, index, counts = answers.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(classes), x.shape[1], dtype=x.dtype).index_add(0, index, x) / counts[:, None]
    return float(1 - (x - means[index]).square().sum() / (x - x.mean(0)).square().sum())


def _refusal(transformer: HookedTransformer, rows: Tensor, p: int, random: torch.Generator) -> str | None:
    try:
        check_leak(transformer, rows, operands=[A, B], label=ANSWER, predict=ANSWER, values=p, random=random)
    except ReseedError as error:
        return str(error)
    return None


@torch.no_grad()
def _accuracy(transformer: HookedTransformer, rows: Tensor, answers: Tensor) -> float:
    predicted = torch.cat([transformer(batch)[:, ANSWER].argmax(-1) for batch in rows.split(4096)])
    return (predicted == answers).double().mean().item()
