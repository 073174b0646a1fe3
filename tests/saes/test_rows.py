"""What a seed sees, in what order, at what scale, whether the rows lie in memory or on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from reseed.activations.store import Activations, Rows
from reseed.saes import rows as room
from reseed.saes.rows import CHUNK_ROWS, Feed, Order, blocks, evenly, geometric_median, measure_scale
from tests.saes.builders import CPU, LAYERS, SEQUENCE, write_pairs, write_plain, write_sequences


def a_pass(order: Order, batches: int) -> Tensor:
    return torch.cat([order.next_batch() for _ in range(batches)])


@pytest.mark.parametrize("buffer_rows", [0, 128, 300, 10_000])
def test_a_pass_visits_every_row_once_and_each_pass_anew(buffer_rows: int) -> None:
    order = Order(1000, 50, buffer_rows, key=3)
    passes = [a_pass(order, 20) for _ in range(3)]
    for one in passes:
        assert one.sort().values.equal(torch.arange(1000))
    assert not passes[0].equal(passes[1])
    assert not a_pass(Order(1000, 50, buffer_rows, key=4), 20).equal(passes[0])
    assert a_pass(Order(1000, 50, buffer_rows, key=3), 20).equal(passes[0])


def test_rows_that_fill_no_batch_wait_for_another_pass() -> None:
    order = Order(103, 25, 0, key=0)
    first, second = a_pass(order, 4), a_pass(order, 4)
    assert len(first.unique()) == len(second.unique()) == 100
    assert set(first.tolist()) != set(second.tolist())


def test_a_buffered_order_reads_few_chunks_at_a_time_from_all_over_the_data() -> None:
    rows, buffer = 64 * CHUNK_ROWS, 4 * CHUNK_ROWS
    order = Order(rows, 64, buffer, key=1)
    permutation = a_pass(order, rows // 64)
    gaps = []
    for window in permutation.split(buffer):
        chunks = (window // CHUNK_ROWS).unique()
        assert len(chunks) == 4
        gaps += chunks.diff().tolist()
        assert not window.equal(window.sort().values)
    assert max(gaps) > 8  # chunks of a window are not neighbours
    # sequences of 16 rows do not stay together in a batch of 64: four of them could fill it
    sequences = [len((batch // SEQUENCE).unique()) for batch in permutation.split(64)]
    assert min(sequences) > 8
    # a window that is no multiple of the chunks still reads only what it must
    ragged = a_pass(Order(rows, 64, 100, key=1), rows // 64)
    assert max(len((window // CHUNK_ROWS).unique()) for window in ragged.split(100)) <= 100 // CHUNK_ROWS + 2


@pytest.mark.parametrize("buffer_rows", [0, 128])
@pytest.mark.parametrize("done", [0, 7, 20, 33])
def test_an_order_is_resumed_where_it_was(buffer_rows: int, done: int) -> None:
    order = Order(1000, 50, buffer_rows, key=3)
    if done:
        a_pass(order, done)
    began, cursor = order.pass_began.clone(), order.cursor
    rest = a_pass(order, 45)
    other = Order(1000, 50, buffer_rows, key=3)
    other.resume(began, cursor)
    assert a_pass(other, 45).equal(rest)


def test_the_scale_gives_each_hook_point_mean_zero_and_mean_square_norm_d(
    activations: Activations, layers: Activations
) -> None:
    for source in (activations, layers):
        rows = source.rows("train")
        x = measure_scale(rows, "mean", CPU)(rows.whole()).double()
        torch.testing.assert_close(x.mean(0), torch.zeros_like(x[0]), atol=1e-5, rtol=0)
        power = x.square().sum(-1).mean(0)
        torch.testing.assert_close(power, torch.full_like(power, 16.0), rtol=1e-5, atol=0)
    assert measure_scale(layers.rows("train"), "mean", CPU).factor.shape == (LAYERS, 1)


def test_the_geometric_median_has_the_least_sum_of_distances() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=random).double()
    x[:20] += 1000  # what a mean would follow
    rows = Rows([x[:70], x[70:]])
    found = geometric_median(rows, x.mean(0))
    best = minimize(
        lambda point: (x - torch.from_numpy(point)).norm(dim=1).sum().item(), x[50].numpy(), method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 10_000},
    )  # fmt: skip
    torch.testing.assert_close(found, torch.from_numpy(best.x), atol=1e-3, rtol=0)
    assert found.norm() < 1 < x.mean(0).norm()
    scale = measure_scale(Rows([x.float()]), "geometric_median", CPU)
    torch.testing.assert_close(scale.centre.double(), found, atol=1e-5, rtol=0)
    assert scale(x.float()).square().sum(1).mean().item() == pytest.approx(3, rel=1e-4)


def test_the_geometric_median_of_layers_is_each_layers_own(layers: Activations) -> None:
    whole = layers.rows("train")
    together = geometric_median(whole, whole.whole().double().mean(0))
    for layer in range(LAYERS):
        one = Rows([block[:, layer] for block in whole.blocks])
        alone = geometric_median(one, one.whole().double().mean(0))
        torch.testing.assert_close(together[layer], alone, atol=1e-4, rtol=0)


def test_evenly_spreads_over_all_rows() -> None:
    assert evenly(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert evenly(9, 3).tolist() == [0, 4, 8]
    assert evenly(1 << 20, 1000).unique().numel() == 1000
    assert torch.cat(list(blocks(Rows([torch.arange(5.0), torch.arange(3.0)]), size=2))).tolist() == [
        0,
        1,
        2,
        3,
        4,
        0,
        1,
        2,
    ]


@pytest.mark.parametrize("kind", ["plain", "pairs", "sequences"])
@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_the_same_from_memory_from_disk_and_from_many_shards(
    kind: str, resident: bool, features: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Any = {"plain": write_plain, "pairs": write_pairs, "sequences": write_sequences}[kind]
    whole = Feed(write(features, tmp_path / "whole"), "mean", CPU)
    monkeypatch.setattr(room, "_fits", lambda *_: resident)
    sharded = Feed(write(features, tmp_path / "shards", rows_per_shard=700), "mean", CPU)
    assert len(sharded.rows.blocks) == 6
    assert (sharded.resident is not None) == resident
    random = torch.Generator().manual_seed(0)
    indices = torch.randint(len(whole), (3, 50), generator=random)
    one, other = (feed.batch(indices, following=True) for feed in (whole, sharded))
    for name in ("x", "target", "following", "follows", "labels"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (
            (mine is None) == (theirs is None) == (name in ("following", "follows", "labels") and kind != "sequences")
        )
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.held_out.target, sharded.held_out.target, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.written, sharded.written, rtol=1e-5, atol=1e-5)


def test_a_batch_holds_the_rows_that_were_asked_for(sequences: Activations, pairs: Activations) -> None:
    indices = torch.tensor([[0, 14, 15, 4095], [16, 31, 30, 7]])
    feed, raw = Feed(sequences, "mean", CPU), sequences.splits["train"]
    batch = feed.batch(indices, following=True)
    torch.testing.assert_close(batch.x, (raw[indices] - feed.scale.centre) * feed.scale.factor)
    assert batch.target is batch.x
    assert batch.follows is not None
    assert batch.following is not None
    assert batch.follows.tolist() == [[True, True, False, False], [True, False, True, True]]
    later = (raw[indices[batch.follows] + 1] - feed.scale.centre) * feed.scale.factor
    torch.testing.assert_close(batch.following[batch.follows], later)
    labels = sequences.rows("train", "labels").whole()
    assert batch.labels is not None
    assert batch.labels.equal(labels[indices])
    assert feed.batch(indices, following=False).following is None
    pair = Feed(pairs, "mean", CPU)
    target = pairs.rows("train", "target").whole()
    expected = (target[indices] - target.mean(0)) * (20 * len(target) / (target - target.mean(0)).square().sum()).sqrt()
    torch.testing.assert_close(pair.batch(indices, following=False).target, expected, rtol=1e-4, atol=1e-4)
    assert (pair.d_in, pair.d_out, pair.n_layers) == (16, 20, 1)


def test_rows_stay_on_disk_where_memory_is_short(activations: Activations, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = activations.rows("train")
    wanted = 4 * 4096 * 16

    class Memory:
        available = 2 * wanted

    monkeypatch.setattr(room.psutil, "virtual_memory", Memory)
    assert room._fits(rows, CPU)
    Memory.available -= 1
    assert not room._fits(rows, CPU)
    assert Feed(activations, "mean", CPU).resident is None
