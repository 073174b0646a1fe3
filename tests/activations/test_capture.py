"""Capture against a forward pass by hand."""

import pytest
import torch

from reseed import ReseedError
from reseed.activations.capture import capture, check_capture
from reseed.models.transformer import build_transformer, weights_sha256
from reseed.params import Capture, Model
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


def test_a_position_that_holds_the_answer_is_refused(model: Model, tokens: Tokens) -> None:
    transformer = build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny")
    for positions in (("answer",), ("equals", "answer")):
        with pytest.raises(ReseedError, match=r"positions up to 'equals'; activations behind it hold the"):
            capture(transformer, tokens, HOOK, positions, CPU)


def test_a_hook_point_of_another_shape_is_refused(model: Model, tokens: Tokens) -> None:
    transformer = build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny")
    with pytest.raises(ReseedError, match=r"'blocks\.0\.attn\.hook_z' has the shape .* allowed: hook points of shape"):
        capture(transformer, tokens, "blocks.0.attn.hook_z", ("equals",), CPU)


@pytest.mark.parametrize(("hook", "positions"), [(HOOK, ("b", "equals")), (HOOK, ("b",)), ("hook_embed", ("equals",))])
def test_benchmarks_need_one_row_a_sequence(hook: str, positions: tuple[str, ...], tokens: Tokens) -> None:
    check_capture(Capture(hook_name=HOOK, positions=("equals",), dtype="float32", arms=("trained",)), tokens)
    wrong = Capture(hook_name=hook, positions=positions, dtype="float32", arms=("trained",))
    with pytest.raises(ReseedError, match=r"capture: found .*, allowed for benchmarks: a hook point blocks"):
        check_capture(wrong, tokens)


def test_the_arms_name_different_models(model: Model, tokens: Tokens) -> None:
    transformer = build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny")
    before = weights_sha256(transformer)
    assert weights_sha256(build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny")) == before
    with torch.no_grad():
        transformer.W_E[0, 0] += 1e-3
    assert weights_sha256(transformer) != before
