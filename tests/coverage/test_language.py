"""Persons by other names: a permutation of tokens, which rows count by hand, parts counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from reseed import ReseedError
from reseed.activations.language import TextBatch
from reseed.coverage.language import NAMES, _same_token, language_domain, other_names
from reseed.text.sequences import Sequences
from reseed.text.tokenizers import TextTokenizer
from tests.activations.builders import CPU, HOOK, SIZES, VOCABULARY, document, gpt, lengths, options, write_padded

SHE, HE = ("Mary", "Emma", "Lisa"), ("Tom", "Peter")


def words(names: tuple[str, ...]) -> TextTokenizer:
    """A word a token: 10 to 19 are numerals, `names` from 20 on, the rest is no name."""
    ids = {f"w{'abcdefghijklmnopqrstuvwxyz'[i % 26]}{'xy'[i // 26]}": i for i in range(VOCABULARY)}
    vocabulary = {word: i for word, i in ids.items() if not 10 <= i < 20 + len(names)}
    vocabulary |= {str(i): i for i in range(10, 20)} | {name: 20 + i for i, name in enumerate(names)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=min(vocabulary, key=vocabulary.__getitem__)))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return TextTokenizer(json.dumps(json.loads(made.to_str())).encode(), None, 1, 0)


def test_names_trade_places_with_others_of_their_kind() -> None:
    new = other_names(words((*SHE, *HE))).new
    assert new[20:25].tolist() == [22, 20, 21, 24, 23]
    assert new[:20].tolist() == list(range(20))
    assert sorted(new.tolist()) == list(range(VOCABULARY))
    assert not set(NAMES[0]) & set(NAMES[1])
    with pytest.raises(ReseedError, match=r"found 1 names such as Adam, Alan, Alex .*allowed: two or more"):
        other_names(words((*SHE, "Tom")))


def byte_level(texts: list[str]) -> TextTokenizer:
    """A byte-level BPE as GPT-2's, to which a name after a space is another token than one without."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    return TextTokenizer(made.to_str().encode(), None, 0, 0)


def test_a_person_has_one_other_name_in_the_whole_text_and_longer_words_are_left_alone() -> None:
    names = ["Mary", "Emma", "Lisa", "Tom", "Peter", "Jason"]
    texts = [f"{name} {other} {name}\n{other}" for name in names for other in names if name != other] + [" Paul"] * 60
    tokenizer = byte_level(texts)
    names_of = other_names(tokenizer)

    def told(text: str) -> str:
        ids = torch.tensor([tokenizer.tokenizer.encode(text).ids])
        (found,) = tokenizer.decode(names_of.told(ids).tolist())
        return found

    pairs = {"Emma": "Mary", "Lisa": "Emma", "Mary": "Lisa", "Jason": "Tom", "Peter": "Jason", "Tom": "Peter"}
    for name, other in pairs.items():  # both forms, and the same one everywhere
        assert (
            told(f"{name} met {name}'s friend. {name}\n{name}.") == f"{other} met {other}'s friend. {other}\n{other}."
        )
    assert told("Tomorrow Tommy and Tomatoes: McTom.") == "Tomorrow Tommy and Tomatoes: McTom."
    assert told("Mary and Tom") == "Lisa and Tom"  # the text may go on: Tommy
    assert told(" Paul met Paul.") == " Paul met Paul."  # one token after a space alone


def test_a_word_piece_that_goes_on_is_no_name() -> None:
    pieces = ["[UNK]", "[PAD]", "[SEP]", "tom", "peter", "mary", "emma", "met", "##my", "."]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    tokenizer = TextTokenizer(made.to_str().encode(), None, 2, 1)
    names_of = other_names(tokenizer)
    for text, expected in (("Tom met Mary.", "peter met emma."), ("Tommy met Emma.", "tommy met mary.")):
        ids = torch.tensor([tokenizer.tokenizer.encode(text).ids])
        assert tokenizer.decode(names_of.told(ids).tolist()) == [expected]


def test_a_row_counts_if_a_name_of_its_own_document_has_changed_before_it() -> None:
    tokens = torch.tensor([[1, 5, 20, 6, 7, 1, 8, 9, 21, 4]])
    told = torch.tensor([[1, 5, 22, 6, 7, 1, 8, 9, 20, 4]])
    wanted = torch.tensor([1, 2, 3, 4, 6, 7, 8, 9])  # two documents, a special token before each
    numbers = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.int32)
    batch = TextBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), wanted, numbers, numbers.char())
    after = TextBatch(told, batch.real, wanted, numbers, batch.label)
    assert _same_token(batch, after).tolist() == [False, False, True, True, False, False, False, True]


def test_parts_and_pairs_of_a_small_model(tmp_path: Path) -> None:
    sequences = write_padded(tmp_path / "tokens")
    tokenizer = words((*SHE, *HE))
    domain = language_domain(gpt(), sequences, tokenizer, options(), CPU)
    count = sum(lengths("test"))
    assert len(domain.rows) == count
    masks = {name: masks[0] for name, masks in domain.parts.items()}
    assert masks["outside_steps"].sum() == SIZES["test"]  # one token of each document
    assert (masks["steps"] == ~masks["outside_steps"]).all()
    assert masks["early"].sum() == sum(length // 2 for length in lengths("test"))
    assert (masks["late"] == ~masks["early"]).all()
    texts = [document(i, length)["tokens"][1 : length + 1] for i, length in enumerate(lengths("test"))]
    of = torch.cat(texts)
    assert (masks["numbers"] == ((of >= 10) & (of < 20))).all()
    assert domain.tested == 1

    names, pairs = other_names(tokenizer), []
    for text in texts:
        model = gpt()
        other = torch.where(torch.arange(len(text)) < len(text) - 1, names.new[text.long()], text.long())
        if len(text) < max(lengths("test")):  # padding follows, so that the last word has ended
            other = names.new[text.long()]
        both = [torch.cat([torch.tensor([1]), told])[None].long() for told in (text.long(), other)]
        rows = [model.run_with_cache(one)[1][HOOK][0, 1:].detach() for one in both]
        changed = text.long() != other
        for i in range(len(text)):
            if changed[:i].any() and not changed[i]:
                pairs.append((rows[0][i], rows[1][i], text[i]))
    assert len(pairs) == len(domain.own) > 10
    torch.testing.assert_close(domain.own, torch.stack([own for own, _, _ in pairs]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(domain.relabelled, torch.stack([told for _, told, _ in pairs]), rtol=1e-4, atol=1e-5)

    assert domain.alike.tolist() == [int(token) for _, _, token in pairs]


def test_several_hook_points_are_refused(tmp_path: Path) -> None:
    sequences: Sequences = write_padded(tmp_path / "tokens")
    two = options(hook_name=(HOOK, "blocks.0.hook_resid_post"))
    with pytest.raises(ReseedError, match="found several hook points, allowed: SAEs of one"):
        language_domain(gpt(), sequences, words((*SHE, *HE)), two, CPU)
