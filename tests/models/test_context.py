"""The context test tells a lookup from a computation, on hook points whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformer_lens import HookedEncoder, HookedTransformer

from reseed import ReseedError
from reseed.models.context import context_dependence
from reseed.models.language import load_language_model, store_checkpoint
from reseed.params import ModelFolder
from reseed.text.sequences import Sequences
from tests.models.checkpoints import VOCABULARY, checkpoint, write_text

pytestmark = pytest.mark.usefixtures("one_thread")

PAD = VOCABULARY - 1
ROWS = torch.randint(VOCABULARY - 1, (12, 20), generator=torch.Generator().manual_seed(0))
PADDED = torch.where(torch.arange(20) < torch.arange(9, 21)[:, None], ROWS, PAD)


def loaded(family: str, path: Path) -> tuple[HookedTransformer | HookedEncoder, Sequences]:
    checkpoint(family, path / "hf")
    config = ModelFolder(kind="folder", path=str(path / "hf"))
    for folder in ("lm", "tokens"):
        (path / folder).mkdir()
    store_checkpoint(config, path / "lm")
    sequences = write_text(path / "tokens", {"test": PADDED}, VOCABULARY, PAD)
    return load_language_model(config, path / "lm", "trained", sequences, "tiny"), sequences


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            "gpt2",
            {
                "hook_embed": "token",
                "hook_pos_embed": "position",
                "blocks.0.hook_resid_pre": "token and position",
                "blocks.0.attn.hook_q": "token and position",
                "blocks.0.hook_attn_out": "context",
                "blocks.0.hook_resid_post": "context",
                "blocks.2.mlp.hook_post": "context",
            },
        ),
        (
            "gpt-neox",  # rotary, and the MLP beside the attention: the first block's MLP sees the token only
            {"blocks.0.hook_resid_pre": "token", "blocks.0.hook_mlp_out": "token", "blocks.1.hook_mlp_out": "context"},
        ),
        ("gpt-neox sequential", {"blocks.0.hook_mlp_out": "context"}),
        (
            "bert",
            {
                "embed.hook_embed": "token",
                "hook_full_embed": "token and position",
                "blocks.0.hook_normalized_resid_post": "context",
            },
        ),
    ],
)
def test_each_hook_point_is_named_by_what_it_reads(family: str, expected: dict[str, str], tmp_path: Path) -> None:
    model, sequences = loaded(family, tmp_path)
    found = {name: context_dependence(model, name, sequences) for name in expected}
    assert {name: result.depends_on for name, result in found.items()} == expected
    for name, result in found.items():
        assert result.context_dependent == (expected[name] == "context")
        assert (result.context_effect > 0.01) == result.context_dependent


def test_what_cannot_be_tested_is_refused(tmp_path: Path) -> None:
    model, sequences = loaded("gpt2", tmp_path)
    with pytest.raises(ReseedError, match=r"found 'blocks\.7\.hook_resid_post', which the model does not have"):
        context_dependence(model, "blocks.7.hook_resid_post", sequences)
    with pytest.raises(ReseedError, match=r"'blocks\.0\.attn\.hook_pattern' has the shape .* a row for every position"):
        context_dependence(model, "blocks.0.attn.hook_pattern", sequences)
    (tmp_path / "same").mkdir()
    same = write_text(tmp_path / "same", {"test": ROWS[:1].repeat(3, 1)}, VOCABULARY)
    with pytest.raises(ReseedError, match="holds no two sequences that differ around a text token"):
        context_dependence(model, "hook_embed", same)
