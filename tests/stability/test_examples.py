"""Examples of latents: features fire where they were planted, partners are a known permutation, text is text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig

from reseed import ReseedError
from reseed.activations.store import Activations, read_activations, write_activations
from reseed.artifacts import sha256
from reseed.params import LanguageCapture
from reseed.stability.dictionaries import SeedSet
from reseed.stability.examples import (
    CONTEXT,
    TOP,
    addition_texts,
    check_tokens,
    language_texts,
    partners,
    top_rows,
)
from reseed.text.packing import write_language_tokens
from reseed.text.sequences import TEXT, read_sequences
from reseed.text.tokenizers import read_tokenizer
from reseed.text.tokens import Tokens, write_tokens
from tests.conftest import P, provenance, unit
from tests.saes.builders import SIZES, weights_of
from tests.stability.builders import dictionary, seed_set
from tests.text.builders import corpus, look_alikes, write_rows

SEEDS = (0, 1, 2)
N = 12


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SeedSet, list[np.ndarray], Activations]:
    """SAEs of three seeds that are the planted orthogonal features in another order each, and rows of two features."""
    path, random = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    features = torch.linalg.qr(unit(16, 16, seed=3)).Q[:N]
    splits = {split: weights_of(n, N, 2, i) @ features + 0.3 for i, (split, n) in enumerate(SIZES.items())}
    write_activations(splits, provenance(), "float32", path / "activations")
    orders = [random.permutation(N) for _ in SEEDS]
    for seed, order in zip(SEEDS, orders, strict=True):
        sae = TopKSAE(TopKSAEConfig(d_in=16, d_sae=N, k=2, normalize_activations="none"))
        rows = features[order]
        weights = {"W_dec": rows, "W_enc": rows.T, "b_enc": torch.zeros(N), "b_dec": torch.full((16,), 0.3)}
        sae.load_state_dict({name: weight.clone() for name, weight in weights.items()})
        sae.save_model(str(path / f"seed_{seed}"))
    seeds = seed_set([dictionary(features[order].double().numpy()) for order in orders], random)
    return path, seeds, orders, read_activations(path / "activations")


def test_a_planted_feature_fires_on_the_rows_that_have_most_of_it(
    planted: tuple[Path, SeedSet, list[np.ndarray], Activations],
) -> None:
    path, seeds, orders, activations = planted
    masks = [np.ones(N, dtype=bool) for _ in SEEDS]
    masks[0][3] = False  # as if it were dead
    found = top_rows(path, seeds, masks, activations)
    assert not ((found.seed == 0) & (found.latent == 3)).any()
    assert found.groupby(["seed", "latent"]).size().eq(TOP).all()
    assert len(found) == (3 * N - 1) * TOP
    weights = weights_of(SIZES["test"], N, 2, 2)
    for (seed, latent), block in found.groupby(["seed", "latent"]):
        of_feature = weights[:, orders[seed][latent]]
        expected = of_feature.sort(descending=True)
        assert block.row.tolist() == expected.indices[:TOP].tolist()
        assert block.activation.to_numpy() == pytest.approx(expected.values[:TOP].numpy(), rel=1e-4)


def test_a_latent_has_no_example_on_which_it_does_not_fire(
    planted: tuple[Path, SeedSet, list[np.ndarray], Activations],
) -> None:
    path, seeds, _, activations = planted
    few = Activations({"test": [{"activations": activations.rows("test").take(torch.arange(10))}]}, activations.index)
    found = top_rows(path, seeds, [np.ones(N, dtype=bool) for _ in SEEDS], few)
    assert (found.activation > 0).all()
    assert len(found) == 3 * 10 * 2  # two features a row


def test_partners_are_the_permutation_that_was_planted() -> None:
    random = np.random.default_rng(0)
    rows, orders = random.standard_normal((N, 32)), [random.permutation(N) for _ in range(3)]
    found = seed_set([dictionary(rows[order]) for order in orders], random)
    masks = [np.ones(N, dtype=bool) for _ in orders]
    dead = int(np.flatnonzero(orders[1] == 5)[0])
    masks[1][dead] = False  # feature 5 has no latent in seed 1
    table = partners(found, masks)
    assert list(table)[:4] == ["seed", "latent", "other_seed", "partner"]
    assert not ((table.seed == 1) & (table.latent == dead)).any()
    feature = {(seed, latent): orders[seed][latent] for seed in SEEDS for latent in range(N)}
    for row in table.itertuples():
        assert feature[row.seed, row.latent] == feature[row.other_seed, row.partner]
    assert table[["decoder_cosine", "encoder_cosine"]].to_numpy() == pytest.approx(1)
    # with seed 1 each other seed matches 11 of its 12 latents, and there 5 is the one without a partner
    assert len(table) == 2 * (11 + 12 + 11)


def test_additions_read_as_they_were_asked(tokens: Tokens) -> None:
    found = addition_texts(tokens, ("equals",), np.array([0, 4]))
    for row, before, token, after in found.itertuples(index=False):
        a, b = (int(part) for part in before.split(" + "))
        assert token == "="
        assert int(after) == (a + b) % P
        assert tokens.splits["test"][row, :2].tolist() == [a, b]
    # two positions of a sequence are two rows
    both = addition_texts(tokens, ("equals", "b"), np.array([0, 1, 3]))
    (a, b, _, c), (d, e, _, f) = tokens.splits["test"][:2].tolist()
    assert both.to_numpy().tolist() == [
        [0, f"{a} + ", f"{b}", f" = {c}"], [1, f"{a} + {b} ", "=", f" {c}"], [3, f"{d} + {e} ", "=", f" {f}"],
    ]  # fmt: skip


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_the_text_of_a_row_is_that_of_its_token(packing: str, tmp_path: Path) -> None:
    sizes = {"train": 60, "validation": 9, "test": 20}
    rows = {split: look_alikes(n, seed=i) for i, (split, n) in enumerate(sizes.items())}
    raw = write_rows(rows, tmp_path / "raw")
    data = corpus(packing=packing, n_ctx=32 if packing == "packed" else 256)
    write_language_tokens(data, raw, tmp_path / "work", tmp_path / "tokens", 0, 1, "subjects/x.yaml")
    sequences, tokenizer = read_sequences(tmp_path / "tokens"), read_tokenizer(tmp_path / "tokens")
    options = LanguageCapture.model_validate(
        {"hook_name": "blocks.0.hook_resid_post", "positions": "all", "dtype": "float32", "arms": ("trained",)}
    )
    # every text token of the shards in reading order, without any batch
    placed = []
    for file in sequences.files("test"):
        shard = sequences.read(file)
        for ids, kinds, document in zip(shard["tokens"], shard["kind"], shard["document"], strict=True):
            real = ids[document >= 0] if sequences.pad is not None else ids
            placed += [(real.tolist(), at) for at in ((kinds & TEXT) > 0).nonzero()[:, 0].tolist()]
    wanted = np.array([0, 1, 7, len(placed) // 2, len(placed) - 1])
    found = language_texts(sequences, tokenizer, options, wanted[::-1])
    assert found.row.tolist() == wanted.tolist()
    for row, before, token, after in found.itertuples(index=False):
        ids, at = placed[row]
        window = ids[max(0, at - CONTEXT) : at + 1 + CONTEXT]
        assert before + token + after == tokenizer.decode([window])[0]
        assert token == tokenizer.decode([[ids[at]]])[0]
    with pytest.raises(ReseedError, match=f"has fewer rows than {len(placed) + 1}"):
        language_texts(sequences, tokenizer, options, np.array([len(placed)]))


def test_tokens_that_the_activations_were_not_read_from_are_refused(tokens: Tokens, tmp_path: Path) -> None:
    write_tokens(tokens, tmp_path / "tokens")
    read = Activations({}, {"tokens_sha256": sha256(tmp_path / "tokens" / "index.json")})
    check_tokens(read, tmp_path / "tokens")
    with pytest.raises(ReseedError, match="the activations were read from tttttttttttt"):
        check_tokens(Activations({}, {"tokens_sha256": "t" * 64}), tmp_path / "tokens")
