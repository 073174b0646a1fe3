"""The L1 recipe of Song et al.: a step of it against torch's own modules, and its signs on their world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reseed.params import load_world
from reseed.replication import song
from reseed.replication.song import D_SAE, INITIAL_NORM, L1_COEFFICIENT, LR, initial_weights, song_l1, trained
from reseed.subjects.superposition import draw
from tests.conftest import ROOT


def test_a_step_is_that_of_the_published_autoencoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear layers, a mean over all numbers and an L1 that does not look at the decoder: the first Adam step."""
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    start = initial_weights(16, (1, 2))
    torch.testing.assert_close(start.norm(dim=2), torch.full((2, D_SAE), INITIAL_NORM))

    def every(high: int, *_: Any, **__: Any) -> torch.Tensor:
        return torch.arange(high)

    monkeypatch.setattr(torch, "randint", every)
    W_enc, b_enc, W_dec, bias = trained(rows, start, (1, 2), steps=1)
    for member in range(2):
        encoder, decoder = torch.nn.Linear(16, D_SAE), torch.nn.Linear(D_SAE, 16, bias=False)
        encoder.weight.data, decoder.weight.data = start[member].clone(), start[member].T.clone()
        encoder.bias.data.zero_()
        offset = torch.nn.Parameter(torch.zeros(16))
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), offset], lr=LR)
        acts = torch.relu(encoder(rows - offset))
        loss = torch.mean((decoder(acts) + offset - rows) ** 2) + L1_COEFFICIENT * acts.abs().sum(1).mean()
        loss.backward()
        optimizer.step()
        for mine, theirs in (
            (W_enc[member], encoder.weight.T), (b_enc[member, 0], encoder.bias),
            (W_dec[member], decoder.weight.T), (bias[member, 0], offset),
        ):  # fmt: skip
            torch.testing.assert_close(mine, theirs.detach(), atol=2e-6, rtol=0)


def test_before_training_it_has_the_published_figure_and_then_dodges_its_penalty() -> None:
    drawn = draw(load_world("song", ROOT / "subjects").data)
    directions = drawn.directions.double().numpy()
    found = song_l1(drawn.rows["train"], directions, steps=600)
    assert found.untrained.value == pytest.approx(0.452, abs=0.015)  # published: 0.448 to 0.456
    assert found.decoder_norm.value > 2 * INITIAL_NORM
    assert found.l0.value > 10  # of features, 3 are on
    again = song_l1(drawn.rows["train"], directions, steps=600)
    assert found == again


def test_the_figures_of_a_perfect_dictionary_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((D_SAE, D_SAE)))[0]
    perfect = torch.from_numpy(directions).float().repeat(3, 1, 1)
    weights = (perfect.transpose(1, 2), torch.full((3, 1, D_SAE), -0.5), 2 * perfect, torch.zeros(3, 1, D_SAE))
    monkeypatch.setattr(song, "trained", lambda *_: weights)
    rows = torch.from_numpy(directions[:8]).float()
    found = song_l1(rows, directions, seeds=(1, 2, 3))
    assert found.trained.value == pytest.approx(1)
    assert found.recovery.value == pytest.approx(1)
    assert found.l0.value == 1
    assert found.decoder_norm.value == pytest.approx(2)
