"""CE-Bench-style scores: closed forms, the published code's faults planted, and pairs that differ as they should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reseed import ReseedError
from reseed.benchmarks.ce_bench import PairActivations, edited_pairs, hub_pairs, scores
from tests.benchmarks.builders import oracle
from tests.text.builders import look_alikes, write_rows

D = 8  # the oracle's latents: relu(x) and relu(-x), 16 in all


def z(values: np.ndarray) -> float:
    return float(((values - values.mean()) / values.std(ddof=1)).max())


def latents(story: Tensor) -> np.ndarray:
    x = story.numpy()
    return np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=1)


def test_a_latent_that_alone_tells_the_stories_apart_scores_as_the_closed_form() -> None:
    calm = torch.zeros(5, D)
    angry = calm.clone()
    angry[:, 3] = 2.0
    found = scores(oracle(D), [PairActivations(calm, angry, 0), PairActivations(calm, angry, 0)])
    # one of n latents differs: z is (1 - 1/n) / sqrt(1/n)
    assert found["corrected.contrastive"] == pytest.approx((2 * D - 1) / np.sqrt(2 * D), rel=1e-5)
    # all pairs are alike: nothing sets one apart from their mean, which the published code takes for zero
    assert found["corrected.independence"] == pytest.approx(0, abs=1e-6)
    assert found["as_published.independence"] == pytest.approx((2 * D - 1) / np.sqrt(2 * D), rel=1e-5)
    assert found["l0"] == pytest.approx(0.5)


def test_the_scores_by_hand_with_bos_and_without() -> None:
    random = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(4):
        stories = [torch.randn(n, D, generator=random) for n in (6, 9)]
        for story in stories:
            story[0] = 100 * torch.arange(D)  # BOS as models have it
        pairs.append(PairActivations(stories[0], stories[1], 1))
    found = scores(oracle(D), pairs)
    for name, first in (("as_published", 0), ("corrected", 1)):
        means = []
        for pair in pairs:
            a, b = latents(pair.story1[first:]), latents(pair.story2[first:])
            means.append((a.mean(0), b.mean(0), np.concatenate([a, b]).mean(0)))
        centre = 0 if name == "as_published" else np.mean([both for _, _, both in means], axis=0)
        contrast = [np.abs(a - b) for a, b, _ in means]
        apart = [np.abs(both - centre) for _, _, both in means]
        assert found[f"{name}.contrastive"] == pytest.approx(np.mean([z(c) for c in contrast]), rel=1e-4)
        assert found[f"{name}.independence"] == pytest.approx(np.mean([z(i) for i in apart]), rel=1e-4)
        combined = [z(c + i) for c, i in zip(contrast, apart, strict=True)]
        assert found[f"{name}.combined"] == pytest.approx(np.mean(combined), rel=1e-4)


def test_pairs_differ_in_relations_or_in_numbers_alone(tmp_path: Path) -> None:
    raw = write_rows({"test": look_alikes(200, 0)}, tmp_path / "raw") / "test.jsonl"
    found = edited_pairs(raw, 40, 0)
    assert [pair.subject for pair in found] == ["numbers"] * 20 + ["relations"] * 20
    for pair in found:
        differing = [(a, b) for a, b in zip(pair.story1.split(), pair.story2.split(), strict=True) if a != b]
        assert differing
        if pair.subject == "numbers":
            assert all(any(c.isdigit() for c in a) for a, _ in differing)
            letters = [c for c in pair.story1 if not c.isdigit()]
            assert letters == [c for c in pair.story2 if not c.isdigit()]
            changed = [a != b for a, b in zip(pair.story1, pair.story2, strict=True) if a.isdigit()]
            assert all(changed)
        else:
            known = {("twice", "half"), ("sold", "bought"), ("before", "after")}
            assert {(a.lower().strip(".,"), b.lower().strip(".,")) for a, b in differing} <= known
    assert found == edited_pairs(raw, 40, 0)
    assert found != edited_pairs(raw, 40, 1)


def test_nothing_to_edit_and_stories_without_a_pin_are_refused(tmp_path: Path) -> None:
    row = {"question": "Who is there?", "steps": [], "answer": ""}
    raw = write_rows({"test": [row, row]}, tmp_path / "raw") / "test.jsonl"
    with pytest.raises(ReseedError, match=r"test\.jsonl: found 0 texts with words or numbers to edit, allowed"):
        edited_pairs(raw, 10, 0)
    assert json.loads(raw.read_text().splitlines()[0])["question"] == row["question"]
    with pytest.raises(ReseedError, match=r"ce_bench\.revision: found 'main', allowed with the hub: 40 hex digits"):
        hub_pairs("main", 10)
