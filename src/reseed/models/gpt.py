"""Pretraining a small GPT on the subject's text, and the held-out loss of any causal language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.models.checks import check_causal, check_plausible
from reseed.models.ngrams import count_ngrams
from reseed.params import Gpt, GptTraining
from reseed.stage import progress
from reseed.text.sequences import TEXT, Sequences

HELD_OUT = ("validation", "test")
MAX_GRADIENT_NORM = 1.0
LOGITS_PER_BATCH = 1 << 25
CAUSAL_ROWS = 32


def read_text(sequences: Sequences, split: str, rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Tokens int32 [n, n_ctx] of a split and whether each is text (no padding, no special token); the first `rows`.

    Raises ReseedError for an edited shard or a split without sequences.
    """
    tokens, kinds, left = [], [], sequences.count(split) if rows is None else min(rows, sequences.count(split))
    for file in sequences.files(split):
        if left > 0:
            shard = sequences.read(file)
            tokens.append(shard["tokens"][:left])
            kinds.append(shard["kind"][:left])
            left -= len(tokens[-1])
    if not tokens:
        raise ReseedError(f"{sequences.path}: found no sequences of the split {split!r}, allowed: at least one")
    return torch.cat(tokens), (torch.cat(kinds) & TEXT) > 0


def pretrain(
    transformer: HookedTransformer, sequences: Sequences, training: GptTraining, device: torch.device
) -> list[dict[str, float]]:
    """Train in place to predict every text token from those before it; returns the curve (step, losses in nats).

    AdamW on all parameters, the gradient's norm at most 1, a linear warm-up, then a cosine decay to zero; batches from
    one shuffled pass after another.
    """
    tokens, counted = read_text(sequences, "train")
    held_out = read_text(sequences, "validation")
    batches = _batches(len(tokens), training.batch_size, generator("model", training.seed, "order"))
    transformer.to(device, print_details=False).train()
    optimizer = torch.optim.AdamW(
        transformer.parameters(), lr=training.lr, weight_decay=training.weight_decay, betas=training.betas
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, training))
    curve: list[dict[str, float]] = []
    since: list[Tensor] = []
    with progress(training.steps, "pretraining", "step") as bar:
        for step in range(1, training.steps + 1):
            rows = next(batches)
            with torch.autocast(device.type, torch.bfloat16, enabled=training.dtype == "bfloat16"):
                logits, targets = fused_logits(transformer, tokens[rows].to(device), counted[rows].to(device))
            loss = functional.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(transformer.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            since.append(loss.detach())
            bar.update()
            if step % training.check_every == 0 or step == training.steps:
                validation = text_loss(transformer, *held_out)
                curve.append(
                    {"step": step, "train_loss": torch.stack(since).mean().item(), "validation_loss": validation}
                )
                since = []
                bar.set_postfix_str(f"validation loss {validation:.3f} nats")
    transformer.to("cpu", print_details=False).eval()
    return curve


def learning_rate(step: int, training: GptTraining) -> float:
    """The share of the learning rate at a step (from 0): a linear rise, then a half cosine down to zero."""
    if step < training.warm_up_steps:
        return (step + 1) / training.warm_up_steps
    done = (step - training.warm_up_steps) / max(1, training.steps - training.warm_up_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def fused_logits(transformer: HookedTransformer, tokens: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [n, vocabulary] of the counted tokens of sequences [b, n_ctx] and those tokens [n], for training.

    What `transformer(tokens)` computes, without its hook points and with the heads of a layer in one product: they take
    about a quarter of the time of a step. Only for models of `build_transformer`, from which each weight is read.
    """
    config = transformer.cfg
    residual = (
        functional.embedding(tokens.long(), transformer.embed.W_E) + transformer.pos_embed.W_pos[: tokens.shape[1]]
    )
    rows, length, width = residual.shape
    hidden = ~torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()

    def normed(x: Tensor, layer: Any) -> Tensor:
        if config.normalization_type is None:
            return x
        weight, bias = (layer.w, layer.b) if config.normalization_type == "LN" else (None, None)
        return functional.layer_norm(x, (width,), weight, bias, config.eps)

    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": functional.relu,
        "gelu": functional.gelu,
        "silu": functional.silu,
    }
    act = activations[str(config.act_fn)]
    for block in transformer.blocks:
        attention: Any = block.attn
        weight = torch.cat([w.transpose(1, 2).flatten(0, 1) for w in (attention.W_Q, attention.W_K, attention.W_V)])
        bias = torch.cat([b.flatten() for b in (attention.b_Q, attention.b_K, attention.b_V)])
        read = functional.linear(normed(residual, block.ln1), weight, bias)
        query, key, value = read.view(rows, length, 3, config.n_heads, config.d_head).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(config.d_head)
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
        mixed = mixed.transpose(1, 2).reshape(rows, length, -1)
        residual = residual + functional.linear(mixed, attention.W_O.flatten(0, 1).T, attention.b_O)
        mlp: Any = block.mlp
        inner = act(functional.linear(normed(residual, block.ln2), mlp.W_in.T, mlp.b_in))
        residual = residual + functional.linear(inner, mlp.W_out.T, mlp.b_out)
    wanted = counted[:, 1:]
    last = normed(residual[:, :-1][wanted], getattr(transformer, "ln_final", None))
    unembed = transformer.unembed
    return functional.linear(last, unembed.W_U.T, unembed.b_U), tokens[:, 1:][wanted].long()


@torch.no_grad()
def text_loss(transformer: HookedTransformer, tokens: Tensor, counted: Tensor) -> float:
    """Mean cross-entropy (nats a token) of the counted tokens of sequences [n, n_ctx], each from those before it."""
    device = next(transformer.parameters()).device
    size = max(1, LOGITS_PER_BATCH // (tokens.shape[1] * transformer.cfg.d_vocab))
    total, count = 0.0, 0
    for rows, text in zip(tokens.split(size), counted.split(size), strict=True):
        wanted = text[:, 1:]
        logits = transformer(rows.long().to(device), prepend_bos=False)[:, :-1][wanted.to(device)]
        targets = rows[:, 1:][wanted].long().to(device)
        total += functional.cross_entropy(logits, targets, reduction="sum").item()
        count += len(targets)
    return total / count


def language_facts(
    transformer: HookedTransformer, sequences: Sequences, device: torch.device, rows: int | None = None
) -> dict[str, Any]:
    """Held-out losses (nats a token) of a causal model beside the unigram and bigram model of the training text.

    rows: at most so many sequences of each held-out split, the first ones. Raises ReseedError for a model that reads
    what it predicts: a later token reaches an earlier prediction, or the loss is lower than text allows.
    """
    ngrams = count_ngrams(*read_text(sequences, "train"), sequences.vocabulary)
    transformer.to(device, print_details=False).eval()
    facts: dict[str, Any] = {name: {} for name in ("loss", "unigram_loss", "bigram_loss", "sequences")}
    for split in HELD_OUT:
        tokens, counted = read_text(sequences, split, rows)
        facts["unigram_loss"][split], facts["bigram_loss"][split] = ngrams.losses(tokens, counted)
        facts["loss"][split] = text_loss(transformer, tokens, counted)
        facts["sequences"][split] = len(tokens)
        check_plausible(facts["loss"][split], split)
    some = read_text(sequences, "test", CAUSAL_ROWS)[0].long().to(device)
    facts["later_token_effect"] = check_causal(transformer, some, generator("causal check"))
    facts["parameters"] = sum(parameter.numel() for parameter in transformer.parameters())
    transformer.to("cpu", print_details=False)
    return facts


def check_learned(facts: dict[str, Any], config: Gpt) -> None:
    """Raise ReseedError unless each held-out loss is `below_bigram` under that of the bigram model."""
    for split in HELD_OUT:
        allowed = facts["bigram_loss"][split] - config.training.below_bigram
        if facts["loss"][split] > allowed:
            raise ReseedError(
                f"the model did not learn the language: loss on {split} {facts['loss'][split]:.3f} nats a token after "
                f"{config.training.steps} steps, allowed: at most {allowed:.3f}, {config.training.below_bigram} below "
                "the bigram model (model.training.steps, lr)"
            )


def _batches(n: int, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Indices of one batch after another, each pass over the rows in a new order."""
    queue = torch.empty(0, dtype=torch.long)
    while True:
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(n, generator=random)])
        yield queue[:size]
        queue = queue[size:]
