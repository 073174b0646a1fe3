"""A world whose causal directions are set by hand, and SAEs that have them, miss them, or only read them.

Input tokens carry six numbers; the target token is drawn so that bit b of it is 1 with log-odds 2 * GAIN * number b.
The residual stream behind layer 0 holds number b along u_b; the MLP of layer 1 copies it to o_b, and the unembedding
reads o_b alone: the log-odds of bit b in the output are 2 * GAIN * (u_b . x), exactly. Along e stands a number of the
filler before the input, which layer 0 fetched; its sign is the state `idle`, and nothing reads it.
"""

from __future__ import annotations

from itertools import product

import torch
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from reseed.params import Causal, DasOptions
from reseed.text.traces import Traces

BITS, D, GAIN = 6, 48, 0.75
LEVELS = (-1.5, 1.5)
INPUTS = list(product(LEVELS, repeat=BITS))
OUTPUTS = list(product((0, 1), repeat=BITS))
FILLERS = 64
HOOK = "blocks.0.hook_resid_post"
SPLITS = {"train": 4000, "validation": 200, "test": 1000}


def options(**fields: object) -> Causal:
    das = DasOptions(dims=(1, 2), rows=128, steps=60, lr=0.05)
    shared = {
        "concepts": 8,
        "frequencies": 2,
        "min_prevalence": 0.05,
        "rows": 64,
        "probe_rows": 4000,
        "draws": 4,
        "min_auc": 0.7,
    }
    shared |= {"doses": (0.25, 0.5, 1, 2, 4), "matched_dose": 1, "off_target_correlation": 0.1, "das": das}
    return Causal.model_validate(shared | fields)


def axes() -> Tensor:
    """Orthonormal rows [D, D]: u_0..u_5, o_0..o_5, e, and the rest, which nothing reads."""
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3))).Q.T.contiguous()


def world(normalization: str | None = None) -> tuple[HookedTransformer, Traces]:
    """The model and its sequences [filler, input, target]; the target is predicted at the input."""
    basis = axes()
    u, o, e, rest = basis[:BITS], basis[BITS : 2 * BITS], basis[2 * BITS], basis[2 * BITS + 1 :]
    random = torch.Generator().manual_seed(0)
    config = HookedTransformerConfig(
        n_layers=2, d_model=D, n_heads=2, d_head=D // 2, d_mlp=2 * BITS, n_ctx=3,
        d_vocab=len(INPUTS) + len(OUTPUTS) + FILLERS,
        act_fn="relu", normalization_type=normalization, device="cpu", default_prepend_bos=False,
    )  # fmt: skip
    model = HookedTransformer(config).requires_grad_(False)
    idle = torch.where(torch.rand(FILLERS, generator=random) < 0.5, -1.5, 1.5)
    for name, parameter in model.named_parameters():
        if not name.startswith("ln") and ".ln" not in name:
            parameter.zero_()
    numbers = torch.tensor(INPUTS)
    clutter = 0.3 * torch.randn(len(INPUTS), 8, generator=random) @ rest[:8]
    # principal components would else be the true directions: the largest is of all numbers together
    clutter += 0.5 * numbers.sum(1, keepdim=True) * rest[0]
    model.W_E[: len(INPUTS)] = numbers @ u + clutter
    model.W_E[-FILLERS:] = idle[:, None] * e + 0.3 * torch.randn(FILLERS, 8, generator=random) @ rest[8:16]
    fetched = torch.cat([e[None], rest[8:16]])  # by even attention to two positions, so twice
    model.blocks[0].attn.W_V[0, :, :9] = fetched.T
    model.blocks[0].attn.W_O[0, :9] = 2 * fetched
    model.blocks[1].mlp.W_in[:, :BITS] = u.T
    model.blocks[1].mlp.W_in[:, BITS:] = -u.T
    model.blocks[1].mlp.W_out[:BITS] = o
    model.blocks[1].mlp.W_out[BITS:] = -o
    signs = 2.0 * torch.tensor(OUTPUTS) - 1
    outputs = slice(len(INPUTS), len(INPUTS) + len(OUTPUTS))
    model.unembed.W_U[:, outputs] = GAIN * o.T @ signs.T
    model.unembed.b_U[: len(INPUTS)] = model.unembed.b_U[-FILLERS:] = -30.0
    splits, states = {}, {}
    for split, n in SPLITS.items():
        filler = torch.randint(0, FILLERS, (n,), generator=random)
        asked = torch.randint(0, len(INPUTS), (n,), generator=random)
        bits = torch.rand(n, BITS, generator=random) < torch.sigmoid(2 * GAIN * numbers[asked])
        target = len(INPUTS) + bits.long() @ 2 ** torch.arange(BITS).flip(0)
        splits[split] = torch.stack([outputs.stop + filler, asked, target], dim=1).int()
        found = torch.cat([bits.long(), (idle[filler] > 0).long()[:, None]], dim=1)
        states[split] = found[:, None].to(torch.int16)
    variables = {**{f"bit_{b}": ("0", "1") for b in range(BITS)}, "idle": ("no", "yes")}
    vocabulary = tuple(f"token {i}" for i in range(config.d_vocab))
    return model, Traces(splits, vocabulary, (1,), variables, states)


def sae_of(encoder: Tensor, decoder: Tensor) -> StandardSAE:
    """A ReLU SAE with these rows [d_sae, D]."""
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=len(encoder), apply_b_dec_to_input=False, device="cpu"))
    zeros = torch.zeros(len(encoder)), torch.zeros(D)
    sae.load_state_dict({"W_enc": encoder.T.contiguous(), "b_enc": zeros[0], "W_dec": decoder, "b_dec": zeros[1]})
    return sae.requires_grad_(False)


def near(rows: Tensor, noise: float, seed: int) -> Tensor:
    """Unit rows near these, as another seed would find them."""
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(rows + noise * torch.randn(rows.shape, generator=random), dim=1)


def true_sae(seed: int) -> StandardSAE:
    """Latents along u_0..u_5, e and the rest, up to a little noise of the seed."""
    basis = axes()
    rows = near(torch.cat([basis[:BITS], basis[2 * BITS :]]), 0.02, seed)
    return sae_of(rows, rows)


def reading_sae(seed: int) -> StandardSAE:
    """Encoders of the true SAE, decoders that nothing reads: its latents correlate with the states and move none."""
    basis = axes()
    true = near(torch.cat([basis[:BITS], basis[2 * BITS :]]), 0.02, seed)
    return sae_of(true, near(basis[2 * BITS + 1 :].repeat(2, 1)[: len(true)], 0.02, seed + 100))


def random_sae(seed: int) -> StandardSAE:
    rows = near(torch.zeros(D - BITS, D), 1.0, seed + 1000)
    return sae_of(rows, rows)
