"""The short way behind an edit against the whole forward pass, in models of several kinds; what may not be read."""

from __future__ import annotations

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from reseed import ReseedError
from reseed.interventions.edits import steer
from reseed.interventions.hooks import continuation, intervene


def model_of(**fields: object) -> HookedTransformer:
    torch.manual_seed(0)
    shape = {"n_layers": 3, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "d_vocab": 11, "n_ctx": 9}
    config = HookedTransformerConfig(
        **(shape | {"act_fn": "relu", "normalization_type": "LN", "device": "cpu"} | fields)
    )
    return HookedTransformer(config).requires_grad_(False)


@pytest.mark.parametrize("kind", ["standard", "rotary", "alibi"])
@pytest.mark.parametrize(
    "hook_name", ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
)
def test_continuing_from_one_position_is_the_whole_forward_pass(kind: str, hook_name: str) -> None:
    model = model_of(positional_embedding_type=kind, **({"rotary_dim": 8} if kind == "rotary" else {}))
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 11, (6, 9), generator=random)
    positions = torch.tensor([0, 3, 8, 5, 5, 1])
    directions = torch.randn(4, 16, generator=random)
    rest = continuation(model, tokens, positions, hook_name)
    edited = torch.stack([rest.residual + 3 * direction for direction in directions])
    logits, final = rest(edited, final=not hook_name.startswith("blocks.2"))
    rows = torch.arange(6)
    for one, direction in enumerate(directions):
        read = [] if final is None else ["blocks.2.hook_resid_post"]
        whole, kept = intervene(model, tokens, hook_name, steer(direction, 3.0), positions[:, None], read)
        torch.testing.assert_close(logits[one], whole[rows, positions], atol=1e-4, rtol=1e-4)
        if final is not None:
            torch.testing.assert_close(final[one], kept[read[0]][rows, positions], atol=1e-4, rtol=1e-4)
    assert (logits[0] - model(tokens)[rows, positions]).abs().max() > 0.1  # an edit that does nothing would agree, too


def test_positions_are_those_that_are_edited() -> None:
    model, tokens = model_of(), torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(1))
    clean = model(tokens)
    logits, _ = intervene(
        model, tokens, "blocks.2.hook_resid_post", steer(torch.ones(16).cumsum(0), 1.0), torch.tensor([3, 4])
    )
    changed = (logits - clean).abs().amax(-1) > 1e-4
    assert changed[0].tolist() == [False] * 3 + [True] * 2 + [False] * 4
    everywhere, _ = intervene(model, tokens, "blocks.2.hook_resid_post", steer(torch.ones(16).cumsum(0), 1.0))
    assert ((everywhere - clean).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize(
    ("read", "found"),
    [
        ("blocks.1.hook_resid_post", "the edited activation itself"),
        ("blocks.2.hook_resid_pre", "the edited activation itself"),
        ("blocks.1.hook_resid_mid", "a hook point before the edit"),
        ("blocks.0.hook_resid_post", "a hook point before the edit"),
    ],
)
def test_a_read_out_at_or_before_the_edit_is_refused(read: str, found: str) -> None:
    model, tokens = model_of(), torch.zeros(1, 9, dtype=torch.long)
    with pytest.raises(ReseedError, match=f"{found}, allowed: a hook point strictly downstream"):
        intervene(model, tokens, "blocks.1.hook_resid_post", steer(torch.ones(16), 1.0), read=[read])
    with pytest.raises(ReseedError, match="nearest: "):
        intervene(model, tokens, "blocks.9.hook_resid_post", steer(torch.ones(16), 1.0))
    with pytest.raises(ReseedError, match="allowed where one position is edited"):
        continuation(model, tokens, torch.tensor([0]), "blocks.1.hook_mlp_out")
