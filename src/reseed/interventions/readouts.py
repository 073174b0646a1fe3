"""How a state is read: from the activation before the edit, and behind it from the output or a decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor
from transformer_lens import HookedTransformer

from reseed.interventions.hooks import continuation
from reseed.text.traces import Traces

ROWS_PER_PASS = 2048
OUTPUT, DECODER = "output", "decoder"


@dataclass(frozen=True)
class Read:
    """Rows of a split as the unedited model has them.

    residual [rows, d_model] at the hook point; logits [rows, d_vocab] there; final [rows, d_model], the last residual
    stream, None where that is the hook point; targets [rows], the token to predict.
    """

    residual: Tensor
    logits: Tensor
    final: Tensor | None
    targets: Tensor


def places(traces: Traces, split: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of captured rows [n] their sequences' tokens [n, n_ctx] and their positions [n]."""
    per = len(traces.predicted)
    return traces.splits[split][rows // per].long(), torch.tensor(traces.predicted)[rows % per]


@torch.no_grad()
def read(model: HookedTransformer, traces: Traces, split: str, rows: Tensor, hook_name: str, final: bool) -> Read:
    """The unedited model at captured rows [n] of a split; with `final` also its last residual stream."""
    parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for some in rows.split(ROWS_PER_PASS // 4):
        rest = continuation(model, *places(traces, split, some), hook_name)
        logits, last = rest(rest.residual[None], final)
        parts.append((rest.residual, logits[0], None if last is None else last[0]))
    residual, logits = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    ends = [last for *_, last in parts if last is not None]
    return Read(residual, logits, torch.cat(ends) if ends else None, traces.targets(split).flatten()[rows])


@dataclass(frozen=True)
class Linear:
    """Log-odds of a concept: x @ weights [d] + bias."""

    weights: Tensor
    bias: float

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weights + self.bias


def fit_linear(x: Tensor, on: Tensor) -> Linear:
    """Logistic regression (scikit-learn, C = 1) on rows [n, d], in units in which their mean square norm is d."""
    centred = (x - x.mean(0)).double()
    scale = float((x.shape[1] / centred.square().sum(1).mean().clamp(min=1e-12)).sqrt())
    fitted = LogisticRegression(max_iter=2000).fit((centred * scale).numpy(), on.long().numpy())
    weights = torch.from_numpy(fitted.coef_[0] * scale)
    bias = float(fitted.intercept_[0]) - float(weights @ x.double().mean(0))
    return Linear(weights.float(), bias)


@dataclass(frozen=True)
class ReadOut:
    """Log-odds of a concept behind an edit.

    Of the output: of the tokens [d_vocab, bool] that it makes likelier (see `consistent_tokens`) against all others.
    Of a decoder: a linear one of the last residual stream, less what the skip connection carries there: the edit
    itself, which would move any read-out of a residual stream by construction.
    auc: of the unedited test rows.
    """

    kind: str
    auc: float
    tokens: Tensor | None = None
    linear: Linear | None = None

    def __call__(self, logits: Tensor, final: Tensor | None, carried: Tensor | None = None) -> Tensor:
        """[...] of logits [..., d_vocab], the last residual [..., d_model] and the edit [..., d_model] itself."""
        if self.tokens is not None:
            return logits[..., self.tokens].logsumexp(-1) - logits[..., ~self.tokens].logsumexp(-1)
        assert self.linear is not None
        assert final is not None
        return self.linear(final if carried is None else final - carried)


def consistent_tokens(targets: Tensor, on: Tensor, vocabulary: int) -> Tensor:
    """Which tokens [d_vocab] are to be predicted more often where the concept is on, from training rows.

    targets [rows], on [rows] bool. Of an answer it is the answer's own token, of a class of answers the class.
    """
    shares = [torch.bincount(targets[side], minlength=vocabulary).double() / side.sum() for side in (on, ~on)]
    return shares[0] > shares[1]


def auc(values: Tensor, on: Tensor) -> float:
    """Area under the ROC curve of log-odds [rows] for a concept."""
    return float(roc_auc_score(on.numpy(), values.double().numpy()))


def read_outs(train: Read, on: Tensor, known: Tensor, test: Read, test_on: Tensor, test_known: Tensor) -> list[ReadOut]:
    """The output, where some tokens tell the concept, and the decoder, where there is anything between.

    known [rows] bool: where the variable has a value; on [rows] bool. Fitted on training rows, auc on test rows.
    """
    found = []
    tokens = consistent_tokens(train.targets[known], on[known], train.logits.shape[-1])
    if tokens.any() and not tokens.all():
        found.append(ReadOut(OUTPUT, 0.0, tokens=tokens))
    if train.final is not None:
        found.append(ReadOut(DECODER, 0.0, linear=fit_linear(train.final[known], on[known])))
    return [replace(one, auc=auc(one(test.logits, test.final)[test_known], test_on[test_known])) for one in found]


def expected_calibration_error(predicted: np.ndarray, observed: np.ndarray, bins: int = 10) -> float:
    """Mean |mean predicted - mean observed| over equal bins of the predicted probability, weighted by their rows.

    Guo et al. 2017 (arXiv 1706.04599), with the observed probability in the place of the observed class.
    """
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    total = 0.0
    for one in np.unique(place):
        inside = place == one
        total += float(inside.mean()) * abs(float(predicted[inside].mean() - observed[inside].mean()))
    return total
