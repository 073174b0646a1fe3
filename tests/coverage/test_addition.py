"""Which parts of the domain are covered, by SAEs that are exact on some and blind on others; swaps by known latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations, read_activations, write_activations
from reseed.artifacts import activations_dir, artefacts, fingerprint, metrics_dir, read_json, sha256, tokens_dir
from reseed.coverage.addition import addition_domain, held_out_operands, parts_of, swaps_of
from reseed.coverage.domain import coverage_summary, explained, kept, others_alike
from reseed.params import SPLITS
from reseed.stability.jackknife import Groups
from reseed.text.tokens import Tokens, write_tokens
from tests.conftest import ROOT, P, provenance, stage
from tests.scratch import edit
from tests.stability.builders import exact_sae

EIGHT = torch.cartesian_prod(torch.arange(8), torch.arange(8))
"""All operands modulo 8: 28 wrap, 36 do not, every answer has 8 rows."""


def along(place: Tensor) -> Tensor:
    """Rows [rows, 4] of length one along the dimension at `place` [rows], the two signs in turns."""
    x = torch.zeros(len(place), 4)
    for dimension in place.unique().tolist():
        rows = (place == dimension).nonzero()[:, 0]
        x[rows, dimension] = torch.tensor([1.0, -1.0]).repeat(len(rows) // 2)
    return x


def always(value: float) -> dict[str, float]:
    """What stands for a figure that every seed has."""
    return {"value": value, "low": value, "high": value}


def saved(x: Tensor, path: Path) -> Activations:
    write_activations(dict.fromkeys(SPLITS, x), provenance(), "float32", path)
    return read_activations(path)


def test_an_sae_that_is_exact_on_one_part_and_blind_on_the_other(tmp_path: Path) -> None:
    activations = saved(along((EIGHT.sum(1) < 8).long()), tmp_path / "a")  # those that wrap along the first dimension
    saes = [(exact_sae(4, [0]), exact_sae(4, [1]))] * 3
    found = coverage_summary(saes, [np.ones(8, bool)] * 3, addition_domain(activations, EIGHT, 8), Groups(3), 0.95)
    assert found["parts"]["wraps"].pop("untrained") == pytest.approx(always(0))
    assert found["parts"]["wraps"] == pytest.approx(always(1))
    assert found["parts"]["does_not_wrap"].pop("untrained") == pytest.approx(always(1))
    assert found["parts"]["does_not_wrap"] == pytest.approx(always(0))
    assert found["parts"]["all"]["value"] == pytest.approx(28 / 64)
    assert found["parts"]["all"]["untrained"]["value"] == pytest.approx(36 / 64)
    # of the rows of an answer c, c + 1 do not wrap: the worst answer of the SAE is 7, that of the other one is 0
    assert found["worst_answer"]["value"] == pytest.approx(0)
    assert found["worst_answer"]["untrained"]["value"] == pytest.approx(1 / 8)
    assert (found["rows"], found["relabelled_rows"], found["answers_tested"]) == (64, 56, 1)


def test_the_worst_answer_is_the_one_that_is_not_covered() -> None:
    parts, answers = parts_of(EIGHT, 8)
    x = along((EIGHT.sum(1) % 8 == 3).long())
    assert explained(x, exact_sae(4, [0])(x), answers) == pytest.approx([1, 1, 1, 0, 1, 1, 1, 1])
    assert explained(x, exact_sae(4, [0])(x), parts.values()) == pytest.approx([7 / 8, 24 / 28, 32 / 36])
    assert len(parts_of(EIGHT[:5], 8)[1]) == 5
    assert set(parts_of(EIGHT[:5], 8)[0]) == {"all", "does_not_wrap"}


def test_symmetric_latents_survive_a_swap_and_antisymmetric_ones_turn_round() -> None:
    operands = EIGHT[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    a, b = operands.double().numpy().T
    known = np.column_stack([(a + b) % 8, (a - b) ** 2, 7 + a - b, a, np.full(64, 2.0)])
    places, partners = swaps_of(operands)
    # cov(a, b) over all a != b is -var / 7; a constant correlates with nothing
    assert kept(known[places], known[partners]) == pytest.approx([1, 1, -1, -1 / 7, 0])
    assert len(places) == 56
    assert (operands[partners] == operands[places].flip(1)).all()


def test_another_row_is_one_of_the_same_kind_and_never_the_row_itself() -> None:
    alike = torch.tensor([7, 3, 7, 7, 5, 3, 9, 7])
    places, others = others_alike(alike)
    assert sorted(places.tolist()) == [0, 1, 2, 3, 5, 7]  # 5 and 9 are alone
    assert sorted(others.tolist()) == sorted(places.tolist())
    assert (alike[places] == alike[others]).all()
    assert (places != others).all()
    x = np.column_stack([alike, np.arange(8)]).astype(float)
    by_kind, _ = kept(x[places], x[others])
    assert by_kind == pytest.approx(1)  # what a token gives away by itself is no evidence
    assert others_alike(torch.tensor([1, 2, 3]))[0].numel() == 0


def test_only_alive_latents_that_vary_count_and_half_of_them_are_brittle(tmp_path: Path) -> None:
    a, b = EIGHT.float().T
    x = torch.stack([(a + b) % 8 + 1, 8 + a - b, a + 1, torch.ones(64)], dim=1)  # all above 0: latents 0 to 3
    alive = np.array([True, True] + [False] * 6)
    saes = [(exact_sae(4, [0, 1, 2, 3]), exact_sae(4, [0]))] * 3
    domain = addition_domain(saved(x, tmp_path / "a"), EIGHT, 8)
    found = coverage_summary(saes, [alive] * 3, domain, Groups(3), 0.95)
    # of the untrained SAE the first latent is the same, and the second never fires: nothing can be said of it
    assert found["relabelling"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["relabelling"]["untrained"]["value"] == pytest.approx(1)
    assert (found["unvaried"]["value"], found["unvaried"]["untrained"]["value"]) == (0, 0.5)
    assert abs(found["relabelling"]["null"]["value"]) < 0.3
    # dimensions: the sum 1, the difference -1, a -1/7, a constant 0
    assert found["relabelling"]["model"] == pytest.approx(-1 / 28, abs=1e-6)
    assert found["brittle"].pop("untrained") == pytest.approx(always(0))
    assert found["brittle"] == pytest.approx(always(0.5))


def test_rows_without_their_operands_are_refused(tokens: Tokens, tmp_path: Path) -> None:
    activations = saved(torch.eye(len(tokens.splits["test"])), tmp_path / "a")
    assert (held_out_operands(activations, tokens, "t" * 64) == tokens.splits["test"][:, :2]).all()
    with pytest.raises(ReseedError, match=r"found rows at \['equals'\] of the tokens tttt.*, allowed: .* of uuuu"):
        held_out_operands(activations, tokens, "u" * 64)
    with pytest.raises(ReseedError, match=r"allowed: at \['a'\]"):
        held_out_operands(activations, replace(tokens, predict="a"), "t" * 64)
    few = torch.tensor([[0, 1], [0, 2], [3, 3]])
    domain = addition_domain(saved(torch.eye(3), tmp_path / "b"), few, 8)
    with pytest.raises(ReseedError, match=r"found 0 test rows .*the operands swapped.*, allowed: 4 or more"):
        coverage_summary([], [], domain, Groups(3), 0.95)


def test_both_stages_on_a_symmetric_model(tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are sums of two embeddings are the same for (a, b) and (b, a), and so is every latent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subjects").mkdir()
    for name in ("params.yaml", "subjects/modular.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    short = {"batch_size": 32, "warm_up_steps": 10, "max_steps": 500, "check_every": 50, "min_steps": 100}
    edit(
        tmp_path / "subjects/modular.yaml", lambda content: (content["sae"].update(short), content["data"].update(p=P))
    )
    variant = {"architecture": "batchtopk", "d_sae": 24, "k": 2}
    edit(tmp_path / "params.yaml", lambda content: content.update(variants={"small": variant}))
    edit(tmp_path / "params.yaml", lambda content: content["train"].update(seeds=[0, 1, 2]))
    write_tokens(tokens, tokens_dir("modular"))
    made_of = replace(provenance(), tokens_sha256=sha256(tokens_dir("modular") / "index.json"))
    embedding = torch.randn(P, 8, generator=torch.Generator().manual_seed(0))
    rows = {split: embedding[found[:, :2].long()].sum(1) for split, found in tokens.splits.items()}
    write_activations(rows, made_of, "float32", activations_dir("modular", "trained"))
    noise = {split: 3 * torch.randn(len(x), 8, generator=torch.Generator().manual_seed(1)) for split, x in rows.items()}
    write_activations(noise, replace(made_of, arm="ood"), "float32", activations_dir("modular", "ood"))
    stage("train")("modular", "small", "trained")
    stage("coverage")("modular", "small")
    stage("ood")("modular", "small")

    covered, out = (read_json(metrics_dir("modular", "small") / f"{name}.json") for name in ("coverage", "ood"))
    trained = [read_json(tmp_path / f"models/modular/small/seed_{seed}/metrics.json") for seed in (0, 1, 2)]
    mean = float(np.mean([one["explained_variance"] for one in trained]))
    assert covered["parts"]["all"]["value"] == pytest.approx(mean, abs=1e-5)
    assert out["explained_variance"]["in"]["value"] == pytest.approx(mean, abs=1e-5)
    assert out["null"]["in"]["value"] == pytest.approx(covered["parts"]["all"]["untrained"]["value"], abs=1e-5)
    # every latent that fires on a swapped row survives the swap
    assert covered["relabelling"]["value"] == pytest.approx(1)
    assert covered["brittle"]["value"] == 0
    assert covered["unvaried"]["value"] < 0.2
    assert abs(covered["relabelling"]["null"]["value"]) < 0.3
    assert out["retained"]["value"] < 1
    own = artefacts("modular", "small")
    outside = activations_dir("modular", "ood")
    assert covered["artefacts"] == own
    assert out["artefacts"] == own | {outside.as_posix(): fingerprint(outside, "index.json")}
