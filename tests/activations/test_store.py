"""Activation shards by the contract, with statistics that have a closed form and provenance that cannot be faked."""

from pathlib import Path

import pytest
import torch

from reseed import ReseedError
from reseed.activations.store import (
    Activations,
    Provenance,
    Rows,
    Truth,
    read_activations,
    read_truth,
    write_activations,
)
from tests.conftest import provenance, unit


def splits(train: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"train": train, "validation": train[:4], "test": train[4:8]}


def test_the_index_says_what_made_the_rows_and_how_they_are_spread(tmp_path: Path) -> None:
    # variances 4, 1, 1 about the mean 10: participation ratio (4+1+1)^2 / (16+1+1) = 2
    train = 10 + torch.tensor([[2.0, 1, 1], [2, -1, -1], [-2, 1, -1], [-2, -1, 1]]).repeat(3, 1)
    write_activations(splits(train), provenance(), "float32", tmp_path / "a")
    index = read_activations(tmp_path / "a").index
    assert index["mean"] == [10, 10, 10]
    assert index["variance"] == pytest.approx(6)
    assert index["effective_dimension"] == pytest.approx(2)
    shares = torch.tensor([4 / 6, 1 / 6, 1 / 6])
    assert index["effective_rank"] == pytest.approx(torch.exp(-(shares * shares.log()).sum()).item(), rel=1e-5)
    assert index["mean_norm"] == pytest.approx(train.norm(dim=1).mean().item(), rel=1e-5)
    assert {key: index[key] for key in ("subject", "arm", "hook_name", "dtype", "d_in")} == {
        "subject": "modular", "arm": "trained", "hook_name": "blocks.0.hook_resid_post", "dtype": "float32", "d_in": 3,
    }  # fmt: skip
    assert index["generator"] == "forward pass of the trained model"
    assert {split: entry["rows"] for split, entry in index["splits"].items()} == {
        "train": 12, "validation": 4, "test": 4,
    }  # fmt: skip


def test_several_shards_read_back_as_one(activations: Activations, tmp_path: Path) -> None:
    write_activations(activations.splits, provenance(), "float32", tmp_path / "a", rows_per_shard=1000)
    again = read_activations(tmp_path / "a")
    assert len(again.index["splits"]["train"]["shards"]) == 5
    assert all(again.splits[split].equal(rows) for split, rows in activations.splits.items())
    chosen = torch.tensor([4095, 0, 999, 1000, 2500, 0])
    assert again.rows("train").take(chosen).equal(activations.splits["train"][chosen])
    with pytest.raises(IndexError, match="rows -1 to 4096 of 4096"):
        again.rows("train").take(torch.tensor([4096, -1]))
    assert again.rows("train").take(chosen[:0]).shape == (0, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(), (5,), (3, 2)])
def test_rows_of_every_dtype_and_shape_are_taken_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    whole = (100 * torch.randn(50, *shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    chosen = torch.randint(0, 50, (200,), generator=torch.Generator().manual_seed(1))
    assert Rows(list(whole.split(13))).take(chosen).equal(whole[chosen])
    assert Rows([whole]).take(chosen).equal(whole[chosen])


def test_bfloat16_is_kept_and_an_overflow_of_float16_is_refused(tmp_path: Path) -> None:
    train = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)) * 1e5
    write_activations(splits(train), provenance(), "bfloat16", tmp_path / "a")
    assert read_activations(tmp_path / "a").splits["train"].dtype == torch.bfloat16
    with pytest.raises(ReseedError, match=r"an activation of \S+ overflows float16; set capture.dtype to bfloat16"):
        write_activations(splits(train), provenance(), "float16", tmp_path / "b")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_activations_are_refused(bad: float, tmp_path: Path) -> None:
    train = torch.randn(16, 3)
    train[3, 1] = bad
    with pytest.raises(ReseedError, match="split 'train' holds NaN or infinite activations"):
        write_activations(splits(train), provenance(), "float32", tmp_path / "a")


def test_constant_activations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match="the training activations are constant"):
        write_activations(splits(torch.ones(16, 3)), provenance(), "float32", tmp_path / "a")


def test_a_truncated_or_edited_shard_is_refused(activations: Activations, tmp_path: Path) -> None:
    write_activations(activations.splits, provenance(), "float32", tmp_path / "a")
    shard = tmp_path / "a" / "test-00000.safetensors"
    whole = shard.read_bytes()
    for wrong in (whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1])):
        shard.write_bytes(wrong)
        with pytest.raises(ReseedError, match=r"test-00000\.safetensors: its sha256 is .* truncated or edited"):
            read_activations(tmp_path / "a")


@pytest.mark.parametrize(
    ("hook_name", "generator", "refused"),
    [
        ("synthetic", "synthetic features drawn by a library", None),
        ("synthetic", "forward pass of the trained model", "rows of the hook 'synthetic'.*begins with 'synthetic '"),
        ("synthetic", "Gaussian noise", "rows of the hook 'synthetic'.*begins with 'synthetic '"),
        ("blocks.0.hook_resid_post", "synthetic features drawn by a library", "a model's.*begins with 'forward pass"),
        (("synthetic", "synthetic"), "synthetic features drawn by a library", "a model's.*begins with 'forward pass"),
    ],
)
def test_a_models_hook_point_needs_a_forward_pass_and_a_synthetic_one_refuses_it(
    hook_name: str | tuple[str, ...], generator: str, refused: str | None, tmp_path: Path
) -> None:
    made_by = Provenance("world", "trained", hook_name, ("row",), generator, "m" * 64, "t" * 64)
    if refused is None:
        write_activations(splits(unit(16, 3)), made_by, "float32", tmp_path / "a")
        assert read_activations(tmp_path / "a").index["generator"] == generator
        return
    with pytest.raises(ReseedError, match=f"arm 'trained' is {refused}"):
        write_activations(splits(unit(16, 3)), made_by, "float32", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_known_features_are_read_back_as_written_or_refused(tmp_path: Path) -> None:
    truth = Truth(unit(5, 3), torch.rand(4, 5))
    write_activations(splits(unit(16, 3)), provenance(), "float32", tmp_path / "a", truth=truth)
    found = read_truth(tmp_path / "a")
    assert found is not None
    assert found.directions.equal(truth.directions)
    assert found.codes.equal(truth.codes)
    file = tmp_path / "a" / "features.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ReseedError, match=r"features\.safetensors: its sha256 is .* truncated or edited"):
        read_truth(tmp_path / "a")
    file.unlink()
    with pytest.raises(ReseedError, match=r"features\.safetensors: the file does not exist, its index lists it"):
        read_truth(tmp_path / "a")


def test_a_subject_without_known_features_has_none(tmp_path: Path) -> None:
    write_activations(splits(unit(16, 3)), provenance(), "float32", tmp_path / "a")
    assert "features_sha256" not in read_activations(tmp_path / "a").index
    assert read_truth(tmp_path / "a") is None
