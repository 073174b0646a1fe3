"""Distributed alignment search: the subspace whose interchange moves a state, found by gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from reseed.interventions.edits import interchange_subspace
from reseed.params import DasOptions


def fit_subspace(
    read_edited: Callable[[Tensor], Tensor],
    residual: Tensor,
    on: Tensor,
    k: int,
    start: Tensor,
    options: DasOptions,
    random: torch.Generator,
) -> Tensor:
    """Orthonormal basis [k, d_in] whose projection, patched from another row, gives the read-out that row's state.

    read_edited: edited rows [rows, d_in] -> log-odds [rows]; residual [rows, d_in] unedited training rows, on [rows]
    their states. Starts from the direction `start` [d_in]. Geiger et al. 2023, arXiv 2303.02536, on one binary
    variable: the cross-entropy of the counterfactual state. The first row points to `on`.
    """
    rest = torch.randn(k - 1, len(start), generator=random) * start.norm() / len(start) ** 0.5
    raw = torch.cat([start[None], rest]).div(start.norm().clamp(min=1e-12)).requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=options.lr)
    for _ in range(options.steps):
        basis = torch.linalg.qr(raw.T).Q.T
        source = torch.randperm(len(residual), generator=random)
        edited = interchange_subspace(basis, residual[source])(residual)
        loss = binary_cross_entropy_with_logits(read_edited(edited), on[source].float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found: Tensor = torch.linalg.qr(raw.detach().T).Q.T
    difference = residual[on].mean(0) - residual[~on].mean(0)
    return found * torch.where(found @ difference < 0, -1.0, 1.0)[:, None]
