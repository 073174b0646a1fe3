"""Pretraining: the fused forward, the schedule, the baselines, the leak checks, and a model that learns a language."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformer_lens import HookedTransformer, HookedTransformerConfig

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.models.checks import check_causal, check_plausible
from reseed.models.gpt import (
    check_learned,
    fused_logits,
    language_facts,
    learning_rate,
    pretrain,
    read_text,
    text_loss,
)
from reseed.models.language import load_language_model
from reseed.models.ngrams import count_ngrams
from reseed.models.transformer import build_transformer, save_transformer, weights_sha256
from reseed.params import Gpt, GptTraining
from reseed.text.sequences import Sequences
from tests.models.checkpoints import write_text

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 12
PAD = 11
TRAINING = GptTraining(
    seed=0, batch_size=16, lr=0.01, weight_decay=0.01, betas=(0.9, 0.95), warm_up_steps=10, steps=100, check_every=50,
    below_bigram=0.3,
)  # fmt: skip
GPT = Gpt(
    kind="pretrained_here", n_layers=1, d_model=32, n_heads=2, d_mlp=32, act_fn="gelu", normalization_type="LN",
    training=TRAINING,
)  # fmt: skip


def second_order(n: int, seed: int, length: int = 16) -> Tensor:
    """Rows whose token is one more (modulo 7) than the last but one, one time in ten any: no bigram can know it."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randint(7, (n, length), generator=random)
    for i in range(2, length):
        kept = torch.rand(n, generator=random) < 0.9
        rows[:, i] = torch.where(kept, (rows[:, i - 2] + 1) % 7, rows[:, i])
    return rows


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    rows = {split: second_order(n, seed) for seed, (split, n) in enumerate(SIZES.items())}
    rows["test"][:, 13:] = PAD  # padding is neither predicted nor counted
    return write_text(tmp_path_factory.mktemp("tokens"), rows, VOCABULARY, PAD)


SIZES = {"train": 600, "validation": 40, "test": 50}


def built(**fields: Any) -> HookedTransformer:
    return build_transformer(GPT.model_copy(update=fields), VOCABULARY, 16, "tiny")


@pytest.fixture(scope="module")
def learned(sequences: Sequences) -> tuple[HookedTransformer, list[dict[str, float]]]:
    torch.set_num_threads(1)
    transformer = built()
    return transformer, pretrain(transformer, sequences, TRAINING, CPU)


def test_text_is_read_over_shards_in_order(sequences: Sequences) -> None:
    tokens, counted = read_text(sequences, "test")
    assert tokens[:, :13].long().equal(second_order(50, 2)[:, :13])
    assert counted.equal(tokens != PAD)
    assert read_text(sequences, "test", 30)[0].equal(tokens[:30])


@pytest.mark.parametrize(
    "fields",
    [{}, {"act_fn": "relu", "normalization_type": "LNPre"}, {"act_fn": "silu", "normalization_type": None}],
)
def test_the_fused_forward_is_that_of_transformer_lens(fields: dict[str, Any], sequences: Sequences) -> None:
    transformer = built(**fields)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
        tokens, counted = read_text(sequences, "test")
        logits, targets = fused_logits(transformer, tokens, counted)
        expected = transformer(tokens.long())[:, :-1][counted[:, 1:]]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert targets.equal(tokens[:, 1:][counted[:, 1:]].long())


def test_the_loss_is_the_mean_over_the_text_tokens(sequences: Sequences) -> None:
    transformer = built()
    tokens, counted = read_text(sequences, "test")
    with torch.no_grad():
        logits = transformer(tokens.long())[:, :12]
    expected = cross_entropy(logits.flatten(0, 1), tokens[:, 1:13].long().flatten()).item()
    assert text_loss(transformer, tokens, counted) == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    rates = [learning_rate(step, TRAINING) for step in range(100)]
    assert rates[:11] == pytest.approx([*(i / 10 for i in range(1, 11)), 1.0])
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 - math.cos(math.pi / 90)))


def test_the_baselines_are_their_closed_forms() -> None:
    train = torch.tensor([[0, 1, 0, 2, 0, 1], [2, 2, 1, 0, 1, 3]])
    counted = torch.ones_like(train, dtype=torch.bool)
    counted[1, 5] = False
    pairs = Counter((a, b) for row in ([0, 1, 0, 2, 0, 1], [2, 2, 1, 0, 1]) for a, b in itertools.pairwise(row))
    after = Counter(b for (_, b), n in pairs.items() for _ in range(n))
    unigram = {b: (after[b] + 1) / (9 + 4) for b in range(4)}

    def bigram(a: int, b: int) -> float:
        total = sum(n for (first, _), n in pairs.items() if first == a)
        kinds = sum(first == a for first, _ in pairs)
        return (pairs[a, b] + kinds * unigram[b]) / (total + kinds) if total else unigram[b]

    ngrams = count_ngrams(train, counted, 4)
    test = torch.tensor([[0, 3, 3, 1, 0, 1, 2]])
    single, double = ngrams.losses(test, torch.ones_like(test, dtype=torch.bool))
    steps = list(itertools.pairwise(test[0].tolist()))
    assert single == pytest.approx(-sum(math.log(unigram[b]) for _, b in steps) / 6)
    assert double == pytest.approx(-sum(math.log(bigram(a, b)) for a, b in steps) / 6)
    for a in range(4):  # each is a distribution
        assert sum(bigram(a, b) for b in range(4)) == pytest.approx(1)
    with pytest.raises(ReseedError, match="holds no token that has another before it"):
        count_ngrams(train, torch.zeros_like(counted), 4)


def test_a_gpt_learns_what_no_bigram_can(
    learned: tuple[HookedTransformer, list[dict[str, float]]], sequences: Sequences
) -> None:
    transformer, curve = learned
    assert [row["step"] for row in curve] == [50, 100]
    facts = language_facts(transformer, sequences, CPU)
    check_learned(facts, GPT)
    # nine in ten tokens are known and the others uniform over 7, as is the second token
    noise = -(0.9 + 0.1 / 7) * math.log(0.9 + 0.1 / 7) - 6 * (0.1 / 7) * math.log(0.1 / 7)
    assert facts["loss"]["validation"] == pytest.approx((14 * noise + math.log(7)) / 15, abs=0.25)
    for split in ("validation", "test"):
        assert facts["bigram_loss"][split] == pytest.approx(math.log(7), abs=0.15)
        assert facts["unigram_loss"][split] == pytest.approx(math.log(7), abs=0.05)
    assert curve[-1]["validation_loss"] == pytest.approx(facts["loss"]["validation"])
    assert facts["later_token_effect"] == 0
    assert facts["sequences"] == {"validation": 40, "test": 50}
    assert language_facts(transformer, sequences, CPU, rows=10)["sequences"] == {"validation": 10, "test": 10}
    too_little = facts | {"loss": {split: facts["bigram_loss"][split] - 0.2 for split in ("validation", "test")}}
    with pytest.raises(ReseedError, match=r"did not learn the language: loss on validation .* 0\.3 below the bigram"):
        check_learned(too_little, GPT)


def test_training_repeats_its_bytes_and_leaves_the_global_generator_alone(sequences: Sequences) -> None:
    training = TRAINING.model_copy(update={"steps": 8, "check_every": 4})
    made = []
    torch.manual_seed(5)
    for dtype in ("float32", "float32", "bfloat16"):
        transformer = built()
        pretrain(transformer, sequences, training.model_copy(update={"dtype": dtype}), CPU)
        made.append(transformer)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after
    digests = [weights_sha256(transformer) for transformer in made]
    assert digests[0] == digests[1] != digests[2]
    whole, half = made[0].blocks[0].mlp.W_in, made[2].blocks[0].mlp.W_in
    assert half.dtype == torch.float32
    assert ((whole - half).norm() / whole.norm()).item() < 0.05


def test_a_stored_gpt_is_loaded_and_its_random_arm_is_its_own_start(
    learned: tuple[HookedTransformer, list[dict[str, float]]], sequences: Sequences, tmp_path: Path
) -> None:
    save_transformer(learned[0], GPT, tmp_path, {})
    trained = load_language_model(GPT, tmp_path, "trained", sequences, "tiny")
    assert weights_sha256(trained) == weights_sha256(learned[0])
    random = load_language_model(GPT, tmp_path, "random_model", sequences, "tiny")
    assert weights_sha256(random) == weights_sha256(built())
    longer = replace(sequences, index=sequences.index | {"n_ctx": 17})
    with pytest.raises(ReseedError, match=r"data\.n_ctx: found 17, allowed: at most 16"):
        load_language_model(GPT, tmp_path, "trained", longer, "tiny")


def test_a_model_that_reads_later_tokens_is_refused(sequences: Sequences) -> None:
    fields = {"n_layers": 1, "d_model": 8, "n_ctx": 16, "d_head": 4, "d_vocab": VOCABULARY, "act_fn": "relu"}
    rows = read_text(sequences, "test")[0][:8].long()
    for direction in ("causal", "bidirectional"):
        config = HookedTransformerConfig(
            **fields, attention_dir=direction, seed=0, device="cpu", default_prepend_bos=False
        )
        transformer = HookedTransformer(config)
        if direction == "causal":
            assert check_causal(transformer, rows, generator("test")) == 0
        else:
            with pytest.raises(ReseedError, match="label leak: changing later tokens changes earlier logits"):
                check_causal(transformer, rows, generator("test"))


def test_a_loss_that_text_does_not_allow_is_refused(tmp_path: Path) -> None:
    """A corpus of one repeated sequence: the model knows the held-out text by heart."""
    rows = {split: (torch.arange(16) % 5).expand(n, -1) for split, n in SIZES.items()}
    text = write_text(tmp_path, rows, VOCABULARY)
    transformer = built()
    pretrain(transformer, text, TRAINING.model_copy(update={"steps": 40}), CPU)
    with pytest.raises(ReseedError, match=r"label leak: the loss on validation is 0\.0\d+ nats a token, allowed: at"):
        language_facts(transformer, text, CPU)
    check_plausible(1.5, "test")
