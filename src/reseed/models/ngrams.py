"""Unigram and bigram models of tokenised text: closed-form baselines that a language model must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reseed import ReseedError


@dataclass(frozen=True)
class Ngrams:
    """Counts of single tokens and of pairs of neighbours in the training text.

    unigram: p(b) = (n(b) + 1) / (n + vocabulary), add-one smoothing. bigram: interpolated with it as Witten and Bell
    (1991) do, p(b | a) = (n(a, b) + t(a) p(b)) / (n(a) + t(a)) with t(a) the number of different tokens seen after a,
    and p(b) where a was never seen. Neither has anything to tune.
    """

    unigram: Tensor
    """p(b), float64 [vocabulary]."""
    starts: Tensor
    """n(a): how often each token came before a counted one, float64 [vocabulary]."""
    followers: Tensor
    """t(a), float64 [vocabulary]."""
    pairs: Tensor
    """The pairs seen, a * vocabulary + b, int64, sorted."""
    counts: Tensor
    """n(a, b) of each of `pairs`, float64."""

    def losses(self, tokens: Tensor, counted: Tensor) -> tuple[float, float]:
        """Mean cross-entropy (nats a token) of the unigram and the bigram model on the counted tokens [n, n_ctx]."""
        before, after = neighbours(tokens, counted)
        single = self.unigram[after]
        pair = before * len(self.unigram) + after
        place = torch.searchsorted(self.pairs, pair).clamp_(max=len(self.pairs) - 1)
        seen = torch.where(self.pairs[place] == pair, self.counts[place], 0.0)
        total = self.starts[before] + self.followers[before]
        double = torch.where(total > 0, (seen + self.followers[before] * single) / total.clamp(min=1), single)
        return -single.log().mean().item(), -double.log().mean().item()


def count_ngrams(tokens: Tensor, counted: Tensor, vocabulary: int) -> Ngrams:
    """Count the training text: tokens [n, n_ctx], of which those where `counted` is true are predicted.

    Raises ReseedError if none is.
    """
    before, after = neighbours(tokens, counted)
    single = after.bincount(minlength=vocabulary).double()
    pairs, counts = (before * vocabulary + after).unique(return_counts=True)
    return Ngrams(
        unigram=(single + 1) / (single.sum() + vocabulary),
        starts=before.bincount(minlength=vocabulary).double(),
        followers=(pairs // vocabulary).bincount(minlength=vocabulary).double(),
        pairs=pairs,
        counts=counts.double(),
    )


def neighbours(tokens: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens before, and the counted tokens after them, both int64 [n]; a sequence's first has none before it.

    Raises ReseedError if there are none.
    """
    wanted = counted[:, 1:]
    if not wanted.any():
        raise ReseedError("the text holds no token that has another before it, allowed: at least one in every split")
    return tokens[:, :-1][wanted].long(), tokens[:, 1:][wanted].long()
