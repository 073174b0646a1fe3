"""Capture against a forward pass by hand."""

import pytest
import torch

from reseed import ReseedError
from reseed.activations.capture import capture
from reseed.models.transformer import build_transformer
from reseed.params import Model
from reseed.text.tokens import Tokens

HOOK = "blocks.0.hook_resid_post"
CPU = torch.device("cpu")


def test_the_rows_are_the_residual_stream_at_the_position(model: Model, tokens: Tokens) -> None:
    transformer = build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny").eval()
    found = capture(transformer, tokens, HOOK, ("equals",), CPU)
    rows = tokens.splits["test"].long()
    assert found["test"].shape == (len(rows), 16)
    with torch.no_grad():
        logits = transformer.unembed(transformer.ln_final(found["test"].unsqueeze(1)))[:, 0]
        torch.testing.assert_close(logits, transformer(rows)[:, 2], rtol=1e-4, atol=1e-5)


def test_nothing_after_the_position_reaches_it(model: Model, tokens: Tokens) -> None:
    transformer = build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny").eval()
    other = {split: rows.clone() for split, rows in tokens.splits.items()}
    for rows in other.values():
        rows[:, 3] = 0  # another answer
    changed = Tokens(other, tokens.vocabulary, tokens.positions, tokens.predict, tokens.target)
    a, b = (capture(transformer, these, HOOK, ("equals",), CPU) for these in (tokens, changed))
    assert all(a[split].equal(b[split]) for split in a)


def test_several_positions_keep_sequence_order(model: Model, tokens: Tokens) -> None:
    transformer = build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny").eval()
    both = capture(transformer, tokens, HOOK, ("equals", "b"), CPU)["test"].view(-1, 2, 16)
    torch.testing.assert_close(both[:, 1], capture(transformer, tokens, HOOK, ("equals",), CPU)["test"])


def test_an_unknown_hook_point_or_position_names_near_ones(model: Model, tokens: Tokens) -> None:
    transformer = build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny")
    with pytest.raises(ReseedError, match=r"found 'blocks\.1\.hook_resid_post'.*nearest: blocks\.0\.hook_resid_post"):
        capture(transformer, tokens, "blocks.1.hook_resid_post", ("equals",), CPU)
    with pytest.raises(ReseedError, match="position 'plus'"):
        capture(transformer, tokens, HOOK, ("plus",), CPU)
