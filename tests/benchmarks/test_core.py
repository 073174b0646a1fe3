"""SAEBench core at the answer: an exact SAE loses nothing, a blank one loses all, and the loss is the model's own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from sae_bench.evals.core.eval_output import CoreEvalOutput
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.benchmarks.core import run_core
from reseed.models.train import evaluate
from reseed.models.transformer import build_transformer
from reseed.params import Model
from reseed.text.tokens import Tokens
from tests.benchmarks.builders import degraded, nothing, oracle


@pytest.fixture(scope="module")
def transformer(model: Model, tokens: Tokens) -> HookedTransformer:
    return build_transformer(model, tokens.vocabulary, tokens.n_ctx, "tiny").eval()


def test_an_exact_sae_keeps_everything(transformer: HookedTransformer, tokens: Tokens, tmp_path: Path) -> None:
    loss = evaluate(transformer, tokens, "test").loss
    result = tmp_path / "core" / "oracle_eval_results.json"
    found = run_core(oracle(16), transformer, tokens, loss, "oracle", result)
    assert found["ce_loss_without_sae"] == pytest.approx(loss, rel=1e-5)
    assert found["ce_loss_with_sae"] == pytest.approx(loss, rel=1e-5)
    assert found["ce_loss_score"] == pytest.approx(1, abs=1e-4)
    assert found["kl_div_score"] == pytest.approx(1, abs=1e-4)
    assert found["explained_variance"] == pytest.approx(1, abs=1e-5)
    assert found["mse"] == pytest.approx(0, abs=1e-8)
    assert found["l0"] == pytest.approx(16)  # one of the two signs of each dimension
    written = read_json(result)
    assert TypeAdapter(CoreEvalOutput).validate_python(written).eval_id == "oracle"
    assert (written["datetime_epoch_millis"], written["sae_bench_commit_hash"]) == (0, "sae-bench 0.6.0")


def test_a_blank_sae_is_as_bad_as_ablation(transformer: HookedTransformer, tokens: Tokens) -> None:
    loss = evaluate(transformer, tokens, "test").loss
    found = run_core(nothing(16), transformer, tokens, loss, "nothing", None)
    assert found["ce_loss_with_sae"] == pytest.approx(found["ce_loss_with_ablation"], rel=1e-6)
    assert found["ce_loss_score"] == pytest.approx(0, abs=1e-6)
    assert found["l0"] == 0
    assert found["frac_alive"] == 0
    assert found["explained_variance"] <= 0


def test_degraded_copies_rank_below_the_exact_sae_by_how_degraded_they_are(
    transformer: HookedTransformer, tokens: Tokens
) -> None:
    loss = evaluate(transformer, tokens, "test").loss
    saes = [oracle(16), degraded(16, 0.2), degraded(16, 0.5), degraded(16, 1.0)]
    found = [run_core(sae, transformer, tokens, loss, "one", None) for sae in saes]
    for figure in ("kl_div_score", "explained_variance"):
        ranked = [scores[figure] for scores in found]
        assert ranked == sorted(ranked, reverse=True)
        assert all(better - worse > 0.01 for better, worse in pairwise(ranked))


def test_a_loss_that_is_not_the_models_own_is_refused(transformer: HookedTransformer, tokens: Tokens) -> None:
    with pytest.raises(ReseedError, match=r"found a loss of \S+ without the SAE, allowed: 1\.5"):
        run_core(oracle(16), transformer, tokens, 1.5, "oracle", None)
