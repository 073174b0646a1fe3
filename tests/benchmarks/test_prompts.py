"""Prompts through an encoder, whose [SEP] is behind the last token of the text; and what has no place there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sae_probes.utils_data import read_numbered_dataset_df
from transformers import BertConfig

from reseed import ReseedError
from reseed.activations.language import Reader
from reseed.benchmarks import prompts
from reseed.benchmarks.prompts import read_prompts, write_prompts
from reseed.models.language import load_checkpoint, store_checkpoint
from reseed.params import LanguageCapture, ModelFolder
from reseed.text.tokenizers import make_tokenizer
from tests.activations.builders import gpt
from tests.models.checkpoints import MADE
from tests.text.builders import word_piece

NAME, HOOK, N_CTX = "119_us_state_TX", "blocks.1.hook_normalized_resid_post", 8
CPU = torch.device("cpu")


def options(**fields: object) -> LanguageCapture:
    plain = {"hook_name": HOOK, "positions": "all", "dtype": "float32", "arms": ("trained",)}
    return LanguageCapture.model_validate(plain | fields)


def test_an_encoder_is_read_at_the_last_token_of_the_text(tmp_path: Path) -> None:
    texts = read_numbered_dataset_df(NAME)["prompt"].tolist()
    tokenizer = make_tokenizer(word_piece(texts, tmp_path / "tokenizer"), [])
    kind, config = MADE["bert"]
    torch.manual_seed(0)
    kind(BertConfig(**(config.to_dict() | {"vocab_size": tokenizer.vocabulary}))).save_pretrained(tmp_path / "hf")
    folder = ModelFolder(kind="folder", path=str(tmp_path / "hf"))
    (tmp_path / "lm").mkdir()
    store_checkpoint(folder, tmp_path / "lm")
    model = load_checkpoint(folder, tmp_path / "lm", "trained", "tiny")
    write_prompts(Reader(model, options(), CPU), tokenizer, N_CTX, [NAME], {}, tmp_path / "prompts")
    activations, _ = read_prompts(tmp_path / "prompts").read(NAME)
    assert len(activations) == len(texts)
    lengths = set()
    for i in (0, 3, 200, 999):
        ids = tokenizer.tokenizer.encode(texts[i]).ids[-(N_CTX - 2) :]
        row = torch.tensor([[tokenizer.bos, *ids, tokenizer.separator]])
        _, cache = model.run_with_cache(row, one_zero_attention_mask=torch.ones_like(row))
        torch.testing.assert_close(activations[i], cache[HOOK][0, -2].detach(), rtol=1e-4, atol=1e-5)
        lengths.add(len(ids))
    assert len(lengths) > 1  # padding took part


def test_a_data_set_of_one_class_and_several_hook_points_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_tokenizer(word_piece(["a b c"], tmp_path / "tokenizer"), [])
    hooks = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    with pytest.raises(ReseedError, match=r"capture\.hook_name: found \['blocks\.0.* allowed for sae-probes: one hook"):
        write_prompts(Reader(gpt(), options(hook_name=hooks), CPU), tokenizer, 16, [NAME], {}, tmp_path / "several")
    assert not (tmp_path / "several").exists()
    monkeypatch.setattr(prompts, "get_yvals", lambda _: np.zeros(10, dtype=int))
    reader = Reader(gpt(), options(hook_name=hooks[0]), CPU)
    with pytest.raises(ReseedError, match=f"sae-probes: {NAME}: found 1 classes, allowed: 2"):
        write_prompts(reader, tokenizer, 16, [NAME], {}, tmp_path / "one")
