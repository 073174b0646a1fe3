"""Capture from a language model: rows against run_with_cache, what stands beside them by hand, kills and budgets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.budget import check_budget, estimate
from reseed.activations.language import Reader, capture_language, last_layer, reading, text_batches, work_of
from reseed.activations.store import Activations, read_activations
from reseed.activations.validation import check_captured, validate_capture
from reseed.activations.writer import ActivationWriter
from reseed.params import Budget, LanguageCapture
from reseed.text.sequences import LAST, STEP, TEXT, Sequences, write_shard
from tests.activations.builders import (
    BOS,
    CPU,
    HOOK,
    N_CTX,
    PAD,
    ROOMY,
    SIZES,
    VOCABULARY,
    D,
    document,
    gpt,
    lengths,
    made_by,
    options,
    write_padded,
)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    return write_padded(tmp_path_factory.mktemp("text") / "tokens")


def captured(
    sequences: Sequences,
    wanted: LanguageCapture,
    path: Path,
    budget: Budget = ROOMY,
    shard_bytes: int = 1 << 28,
    tokens_per_batch: int = 1 << 14,
) -> Activations:
    of, resumable = made_by(wanted), path / "resumable"
    capture_language(gpt(), sequences, wanted, of, path / "out", CPU, budget, resumable, shard_bytes, tokens_per_batch)
    return read_activations(path / "out")


def by_hand(split: str, flag: int, hook: str) -> Tensor:
    """One document at a time, without padding, through the whole model."""
    model, rows = gpt(), []
    for number, length in enumerate(lengths(split)):
        one = document(number, length)
        here = ((one["kind"] & flag) > 0)[: length + 1]
        _, cache = model.run_with_cache(one["tokens"][None, : length + 1].long())
        rows.append(cache[hook][0][here])
    return torch.cat(rows).detach()


@pytest.mark.parametrize(("positions", "flag"), [("all", TEXT), ("last", LAST), ("steps", STEP)])
def test_rows_are_those_of_run_with_cache_at_the_flagged_positions(
    positions: str, flag: int, sequences: Sequences, tmp_path: Path
) -> None:
    found = captured(sequences, options(positions=positions), tmp_path)
    for split in SIZES if positions == "all" else ("test",):
        torch.testing.assert_close(found.rows(split).whole(), by_hand(split, flag, HOOK), rtol=1e-4, atol=1e-5)


def test_documents_and_labels_stand_beside_the_rows_as_counted_by_hand(sequences: Sequences, tmp_path: Path) -> None:
    found = captured(sequences, options(), tmp_path)
    for split in SIZES:
        numbers = [number for number, length in enumerate(lengths(split)) for _ in range(length)]
        # a question token without a step, then steps of two tokens: labels 0 0 1 1 0 0 …
        labels = [-1 if i == 0 else (i - 1) // 2 % 2 for length in lengths(split) for i in range(length)]
        assert found.rows(split, "sequence").whole().tolist() == numbers
        assert found.rows(split, "labels").whole().tolist() == labels
    assert found.index["splits"]["train"]["rows"] == sum(lengths("train"))
    assert found.index["positions"] == ["all"]


@pytest.mark.parametrize("positions", ["all", "last", "steps"])
def test_pads_and_special_tokens_are_never_stored(positions: str, sequences: Sequences, tmp_path: Path) -> None:
    # at the embedding a row names its token
    model = gpt()
    found = captured(sequences, options(hook_name="hook_embed", positions=positions), tmp_path).rows("train").whole()
    tokens = torch.cdist(found, model.W_E.detach()).argmin(1)
    assert torch.equal(found, model.W_E.detach()[tokens])
    assert not torch.isin(tokens, torch.tensor([PAD, BOS])).any()


def test_a_flag_on_padding_or_a_special_token_is_not_believed(tmp_path: Path) -> None:
    sequences = write_padded(tmp_path / "tokens")
    file = sequences.files("test")[0]
    shard = {name: tensor.clone() for name, tensor in sequences.read(file).items()}
    shard["kind"][:, 0] = LAST | STEP
    entry = rewritten(file, shard)
    sequences.index["splits"]["test"]["shards"][0] = entry
    for positions in ("last", "steps"):
        for batch in text_batches(sequences, "test", options(positions=positions)):
            assert not (batch.tokens.flatten()[batch.wanted] == BOS).any()


def rewritten(file: Path, shard: dict[str, Tensor]) -> dict[str, object]:
    file.unlink()
    return write_shard(file, shard)


def test_several_hook_points_and_a_target_come_from_one_pass(sequences: Sequences, tmp_path: Path) -> None:
    hooks = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    wanted = options(hook_name=hooks, hook_name_out="blocks.0.mlp.hook_post")
    found = captured(sequences, wanted, tmp_path)
    assert found.rows("test").shape == (sum(lengths("test")), 2, D)
    for i, hook in enumerate(hooks):
        torch.testing.assert_close(found.rows("test").whole()[:, i], by_hand("test", TEXT, hook), rtol=1e-4, atol=1e-5)
    target = by_hand("test", TEXT, "blocks.0.mlp.hook_post")
    torch.testing.assert_close(found.rows("test", "target").whole(), target, rtol=1e-4, atol=1e-5)
    assert found.index["hook_name"] == list(hooks)
    assert found.index["hook_name_out"] == "blocks.0.mlp.hook_post"


def test_the_pass_ends_behind_the_last_wanted_layer(sequences: Sequences) -> None:
    assert last_layer(("blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre")) == 2
    assert last_layer(("hook_embed",)) is None
    model, ran = gpt(), []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    Reader(model, options(), CPU)(next(text_batches(sequences, "train", options())))
    assert ran == [0, 1]  # of three


def test_the_limit_takes_whole_sequences_in_order(sequences: Sequences, tmp_path: Path) -> None:
    most = sum(lengths("train")[:30]) + 2  # in the second shard; two rows into the thirty-first sequence
    found = captured(sequences, options(rows=most), tmp_path)
    assert found.index["splits"]["train"]["rows"] == most - 2
    assert found.rows("train", "sequence").whole().unique().tolist() == list(range(30))
    held_out = found.index["splits"]["validation"]["rows"]
    assert (
        held_out
        <= most // 10
        < held_out + lengths("validation")[int(found.rows("validation", "sequence").whole()[-1]) + 1]
    )


def test_a_limit_below_the_first_sequence_or_positions_that_do_not_occur_are_refused(
    sequences: Sequences, tmp_path: Path
) -> None:
    with pytest.raises(
        ReseedError, match=r"split 'train' has no position of the kind 'all' in the whole sequences that"
    ):
        captured(sequences, options(rows=2), tmp_path)
    other = write_padded(tmp_path / "tokens")
    for file in other.files("test"):
        shard = {name: tensor.clone() for name, tensor in other.read(file).items()}
        shard["kind"] &= ~STEP
        other.index["splits"]["test"]["shards"][0] = rewritten(file, shard)
    with pytest.raises(ReseedError, match=r"split 'test' has no position of the kind 'steps', allowed: at least 1"):
        captured(other, options(positions="steps"), tmp_path)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "resumable").exists()


def test_batches_keep_to_the_token_budget_and_cut_the_padding(sequences: Sequences) -> None:
    batches = list(text_batches(sequences, "train", options(), size=64))
    assert all(batch.tokens.numel() <= 64 for batch in batches)
    assert all(bool(batch.real[:, -1].any()) for batch in batches)
    assert sum(len(batch.tokens) for batch in batches) == SIZES["train"]
    assert [len(batch.tokens) for batch in text_batches(sequences, "train", options(), size=1)] == [1] * SIZES["train"]
    work = work_of(sequences, "train", options())
    assert (work.sequences, work.rows) == (SIZES["train"], sum(lengths("train")))
    assert work.tokens == sum(lengths("train")) + SIZES["train"]  # with BOS


def test_a_capture_that_is_killed_between_shards_ends_with_the_same_bytes(
    sequences: Sequences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = options(hook_name_out="blocks.0.hook_mlp_out")
    small = {"shard_bytes": 50 * (5 + 2 * 4 * D), "tokens_per_batch": 64}
    captured(sequences, wanted, tmp_path / "whole", **small)
    whole = {file.name: file.read_bytes() for file in (tmp_path / "whole" / "out").iterdir()}
    assert len(whole) > 10
    real = ActivationWriter.append
    left = [0]

    def killed(self: ActivationWriter, split: str, rows: Tensor, beside: dict[str, Tensor]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(self, split, rows, beside)

    monkeypatch.setattr(ActivationWriter, "append", killed)
    kills = 0
    for appends in (1, 3, 4, 5, 9, 100):
        left[0] = appends
        try:
            captured(sequences, wanted, tmp_path / "again", **small)
        except KeyboardInterrupt:
            kills += 1
            assert not (tmp_path / "again" / "out").exists()
    assert kills == 5
    assert {file.name: file.read_bytes() for file in (tmp_path / "again" / "out").iterdir()} == whole
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["out"]
    # another capture does not take up the shards of this one
    left[0] = 5
    with pytest.raises(KeyboardInterrupt):
        captured(sequences, wanted, tmp_path / "again", **small)
    with pytest.raises(ReseedError, match=r"its hook_name_out was blocks\.0\.hook_mlp_out, now None; restore"):
        captured(sequences, options(), tmp_path / "again", **small)


def test_the_bytes_do_not_depend_on_the_number_of_threads(sequences: Sequences, tmp_path: Path) -> None:
    before, hooks = torch.get_num_threads(), ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            captured(sequences, options(hook_name=hooks), tmp_path / str(threads), tokens_per_batch=32)
            assert torch.get_num_threads() == threads
            found.append({file.name: file.read_bytes() for file in (tmp_path / str(threads) / "out").iterdir()})
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_replicas_share_the_weights_and_not_the_hooks(sequences: Sequences) -> None:
    reader = Reader(gpt(), options(), CPU)
    other = reader.replica()
    assert [p.data_ptr() for p in other.model.parameters()] == [p.data_ptr() for p in reader.model.parameters()]
    assert not {id(point) for point in other.model.modules()} & {id(point) for point in reader.model.modules()}
    batches = list(text_batches(sequences, "train", options(), size=64))
    with reading(reader) as in_order:
        given = list(in_order(batches))
    assert [batch.document.tolist() for batch, _ in given] == [batch.document.tolist() for batch in batches]
    for batch, rows in given:
        torch.testing.assert_close(rows["activations"], reader(batch)["activations"], rtol=1e-5, atol=1e-6)


def test_a_fault_in_the_forward_pass_stops_the_capture(sequences: Sequences) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("planted")

    reader = Reader(gpt(), options(), CPU)
    before = torch.get_num_threads()
    reader.model.blocks[0].register_forward_hook(broken)
    with pytest.raises(MemoryError, match="planted"), reading(reader) as in_order:
        list(in_order(text_batches(sequences, "train", options(), size=64)))
    assert torch.get_num_threads() == before


def test_float16_that_overflows_is_refused_and_nothing_is_left(sequences: Sequences, tmp_path: Path) -> None:
    model = gpt()
    with torch.no_grad():
        model.embed.W_E *= 1e7
    wanted = options(dtype="float16")
    with pytest.raises(ReseedError, match=r"an activation of \S+ overflows float16; set capture.dtype to bfloat16"):
        capture_language(
            model, sequences, wanted, made_by(wanted), tmp_path / "out", CPU, ROOMY, tmp_path / "resumable"
        )
    assert list(tmp_path.iterdir()) == []
    found = captured(sequences, wanted, tmp_path)
    assert found.rows("train").whole().dtype == torch.float16


def test_a_model_that_gives_nan_is_refused_and_nothing_is_left(sequences: Sequences, tmp_path: Path) -> None:
    model = gpt()
    with torch.no_grad():
        model.blocks[1].mlp.b_out[0] = float("nan")
    wanted = options()
    with pytest.raises(ReseedError, match="split 'train' holds NaN or infinite activations, allowed: finite numbers"):
        capture_language(
            model, sequences, wanted, made_by(wanted), tmp_path / "out", CPU, ROOMY, tmp_path / "resumable"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"hook_name": "blocks.7.hook_resid_post"}, r"capture.hook_name: found 'blocks\.7.*nearest: blocks\."),
        ({"hook_name": "blocks.0.attn.hook_z"}, r"'blocks\.0\.attn\.hook_z' has the shape .* allowed: hook points of"),
        (
            {"hook_name": ("blocks.0.hook_resid_post", "blocks.0.mlp.hook_post")},
            r"capture.hook_name: found hook points of the widths \[8, 16\], allowed: one width",
        ),
    ],
)
def test_hook_points_that_cannot_be_captured_are_refused(
    fields: dict[str, object], sentence: str, sequences: Sequences, tmp_path: Path
) -> None:
    with pytest.raises(ReseedError, match=sentence):
        captured(sequences, options(**fields), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_capture_above_the_budget_is_refused_before_or_soon_after_it_starts(
    sequences: Sequences, tmp_path: Path
) -> None:
    rows = sum(sum(lengths(split)) for split in SIZES)
    size = rows * (4 * D + 5)  # a row in float32, its document in four bytes and its label in one
    assert captured(sequences, options(), tmp_path, Budget(activations_gigabytes=size / 1e9, gpu_hours=1)).d_in == D
    with pytest.raises(
        ReseedError, match=r"tiny\.yaml: capture: an estimated \S+ gigabytes, allowed: .*budget.activations_gigabytes"
    ):
        captured(sequences, options(), tmp_path, Budget(activations_gigabytes=(size - 1) / 1e9, gpu_hours=1))
    with pytest.raises(
        ReseedError, match=r"capture: an estimated \S+ hours, allowed: 1e-12 \(params.yaml: budget.gpu_hours"
    ):
        captured(sequences, options(), tmp_path, Budget(activations_gigabytes=1, gpu_hours=1e-12), tokens_per_batch=32)
    assert not (tmp_path / "resumable").exists()


def test_the_estimate_by_hand() -> None:
    cost = estimate(rows=10, bytes_per_row=100_000_000, tokens=7200, tokens_per_second=2)
    assert (cost.size, cost.seconds) == (1e9, 3600)
    check_budget(cost, Budget(activations_gigabytes=1, gpu_hours=1), "tiny")
    with pytest.raises(ReseedError, match=r"an estimated 1 hours, allowed: 0\.99"):
        check_budget(cost, Budget(activations_gigabytes=1, gpu_hours=0.99), "tiny")


def test_the_cost_of_a_capture_is_measured_on_real_batches(sequences: Sequences) -> None:
    cost = validate_capture(gpt(), sequences, options(), CPU, rounds=2)
    assert min(cost.plain, cost.hooked, cost.written, cost.plain_memory) > 0
    assert cost.written_memory >= cost.plain_memory
    assert set(cost.facts) >= {"hooked_overhead", "written_overhead"}
    assert "tokens/s plain" in str(cost)


def test_the_text_of_these_tests_is_as_it_says() -> None:
    one = document(3, 5)
    assert one["tokens"].shape == (N_CTX,)
    assert int(one["tokens"].max()) < VOCABULARY
    assert one["kind"].tolist() == [0, 1, 5, 5, 5, 7] + [0] * 10
    assert one["label"].tolist() == [-1, -1, 0, 0, 1, 1] + [-1] * 10
    assert one["document"].tolist() == [3] * 6 + [-1] * 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("positions", ["all", "last", "steps"])
def test_stored_rows_are_the_models_whatever_their_dtype_and_another_models_are_not(
    dtype: str, positions: str, sequences: Sequences, tmp_path: Path
) -> None:
    wanted = options(dtype=dtype, positions=positions)
    captured(sequences, wanted, tmp_path)
    check_captured(gpt(), sequences, wanted, CPU, tmp_path / "out")
    other = gpt()
    with torch.no_grad():
        other.embed.W_E *= 1.5
    with pytest.raises(ReseedError, match=r"rows of the split 'train' are \S+% of their spread from what the"):
        check_captured(other, sequences, wanted, CPU, tmp_path / "out")
    assert not (tmp_path / "out").exists()
