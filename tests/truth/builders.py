"""A small world whose state is known, written as the stages would: tokens with states, activations, SAEs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from torch import Tensor

from reseed.activations.store import Provenance, write_activations
from reseed.artifacts import activations_dir, sha256, tokens_dir
from reseed.params import SPLITS
from reseed.text.traces import Traces, write_traces
from reseed.truth.subject import Judged
from tests.conftest import unit
from tests.stability.builders import dictionary, seed_set

VARIABLES = {"depth": ("0", "1", "2", "3"), "top": ("a", "b", "c"), "overflow": ("no", "yes")}
POSITIONS = 4
D_IN = 12
SEQUENCES = {"train": 400, "validation": 60, "test": 200}


def world(seed: int = 0) -> Traces:
    """Random walks of a depth, a top symbol (none at depth 0) and a rare overflow, at POSITIONS places."""
    random = torch.Generator().manual_seed(seed)
    splits, states = {}, {}
    for split, n in SEQUENCES.items():
        steps = torch.randint(-1, 2, (n, POSITIONS), generator=random)
        depth = torch.randint(0, 4, (n, 1), generator=random)
        depth = (depth + steps.cumsum(1)).clamp(0, 3)
        top = torch.where(depth > 0, torch.randint(0, 3, (n, POSITIONS), generator=random), -1)
        overflow = (torch.rand(n, POSITIONS, generator=random) < 0.1).long()
        states[split] = torch.stack([depth, top, overflow], dim=2).to(torch.int16)
        splits[split] = torch.randint(0, 5, (n, POSITIONS + 1), generator=random).to(torch.int32)
    return Traces(splits, tuple("vwxyz"), tuple(range(POSITIONS)), VARIABLES, states)


def features() -> Tensor:
    """One orthonormal direction [9, D_IN] for every value of every variable."""
    return torch.linalg.qr(torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(5))).Q[:9]


def indicators(states: Tensor) -> Tensor:
    """Which value [rows, 9] every variable has, as float."""
    columns = []
    for place, values in enumerate(VARIABLES.values()):
        columns += [states[:, place] == value for value in range(len(values))]
    return torch.stack(columns, dim=1).float()


def activity_of(traces: Traces, split: str, noise: float = 0.05, seed: int = 1) -> Tensor:
    """Rows [rows, D_IN]: the sum of the directions of the values, of sizes near one, and noise."""
    random = torch.Generator().manual_seed(seed + len(split))
    codes = indicators(traces.rows(split))
    sizes = 0.8 + 0.4 * torch.rand(codes.shape, generator=random)
    return (codes * sizes) @ features() + noise * torch.randn(len(codes), D_IN, generator=random)


def write_world(subject: str, traces: Traces) -> None:
    """data/<subject>/tokens, and activations of the arms trained and random_model, in the working directory."""
    write_traces(traces, tokens_dir(subject))
    digest = sha256(tokens_dir(subject) / "index.json")
    random = torch.Generator().manual_seed(9)
    mixed = torch.randn(9, D_IN, generator=random)
    for arm, model in (("trained", "a"), ("random_model", "b")):
        rows = {split: activity_of(traces, split) for split in SPLITS}
        if arm == "random_model":  # a model with random weights tells of the states dimly, through noise
            rows = {
                split: 0.2 * indicators(traces.rows(split)) @ mixed + torch.randn(x.shape, generator=random)
                for split, x in rows.items()
            }
        made_of = Provenance(
            subject, arm, "blocks.0.hook_resid_post", ("all",), f"forward pass of the {arm}", model * 64, digest
        )
        write_activations(rows, made_of, "float32", activations_dir(subject, arm))


def linear_sae(encoder: Tensor, bias: float | Tensor, decoder: Tensor) -> StandardSAE:
    """A ReLU SAE of encoder and decoder rows [n, d_in]; a bias for each, or one for all."""
    n, d_in = decoder.shape
    sae = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=n, apply_b_dec_to_input=False, device="cpu"))
    sae.load_state_dict(
        {
            "W_enc": encoder.T.clone(),
            "b_enc": torch.as_tensor(bias).expand(n).clone(),
            "W_dec": decoder,
            "b_dec": torch.zeros(d_in),
        }
    )
    return sae.requires_grad_(False)


def oracle() -> StandardSAE:
    """A latent for every concept, silent below 0.3 of its size; the encoder makes up for what the bias takes.

    `overflow=no` is the other side of a concept and has no latent: its mean is in b_dec.
    """
    rows = features()[[i for i in range(9) if i != 7]]
    sae = linear_sae(rows * 1.4, -0.4, rows)
    sae.b_dec.data = 0.9 * features()[7]
    return sae


def random_sae(seed: int, n: int = 8, d_in: int = D_IN) -> StandardSAE:
    """Tied random unit rows, the bias such that a latent fires on a minority of rows."""
    rows = unit(n, d_in, seed)
    return linear_sae(rows, -0.4, rows)


def judged(saes: list[Any], untrained: list[Any] | None = None, control: list[Any] | None = None) -> Judged:
    """Seed sets of these SAEs, everything alive; by default untrained and control SAEs are random ones."""
    rows = [sae.W_dec.double().numpy() for sae in saes]
    seeds = seed_set([dictionary(one) for one in rows], np.random.default_rng(0))
    n, d_in = rows[0].shape
    others = [[random_sae(10 * (i + 1) + seed, n, d_in) for seed in range(len(saes))] for i in range(2)]
    masks = [np.ones(n, dtype=bool)] * len(saes)
    return Judged(seeds, saes, untrained or others[0], control or others[1], "random_model", masks, masks)
