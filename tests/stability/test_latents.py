"""The table of latents: a planted half that appears again, another that does not, and what was dead."""

import numpy as np
import pytest

from reseed.stability.arms import Activity, analyse
from tests.stability.builders import dictionary, seed_set, stability_options

OPTIONS = stability_options(null_draws=2)


def planted(n: int = 4) -> tuple[np.random.Generator, list[np.ndarray]]:
    """20 latents common to all seeds, then 10 of each seed's own, in 64 dimensions where chance cannot reach 0.7."""
    random = np.random.default_rng(0)
    common = random.standard_normal((20, 64))
    return random, [np.vstack([common, random.standard_normal((10, 64))]) for _ in range(n)]


def test_what_is_common_reappears_always_and_what_is_not_never() -> None:
    random, rows = planted()
    counts = [1000] * 20 + [500] * 8 + [3] * 2
    report = analyse(seed_set([dictionary(r, counts) for r in rows], random), OPTIONS, "a")
    table = report.latents.table
    assert len(table) == 4 * 30
    first = table[table.latent < 20]
    assert (first.reappearance == 1).all()
    assert first.partner_cosine.to_numpy() == pytest.approx(1)
    own = table[(table.latent >= 20) & table.alive]
    assert (own.reappearance == 0).all()
    assert (own.best_cosine < 0.7).all()
    dead = table[~table.alive]
    assert len(dead) == 8
    assert dead[["reappearance", "partner_cosine", "best_cosine"]].isna().all(axis=None)
    assert table.encoder_decoder_cosine.to_numpy() == pytest.approx(1)
    assert table.firing_count.max() == 1000
    assert report.latents.always.value == pytest.approx(20 / 28)
    assert report.latents.never.value == pytest.approx(8 / 28)
    assert report.latents.always.deleted == pytest.approx([20 / 28] * 4)


def test_a_latent_of_two_seeds_out_of_four() -> None:
    random, rows = planted()
    rows[1][25] = rows[0][25]
    table = analyse(seed_set([dictionary(r) for r in rows], random), OPTIONS, "a").latents.table
    found = table[(table.seed == 0) & (table.latent == 25)].reappearance.item()
    assert found == pytest.approx(1 / 3)


def test_seeds_of_one_group_are_no_reappearance() -> None:
    random, rows = planted(3)
    finals = [dictionary(r) for r in rows for _ in range(2)]
    report = analyse(seed_set(finals, random, group_size=2), OPTIONS, "a")
    assert report.latents.never.value == pytest.approx(10 / 30)
    assert len(report.latents.never.deleted) == 3


def test_activations_of_matched_latents_and_their_nulls() -> None:
    random, rows = planted(3)
    signal = np.abs(random.standard_normal((200, 20)))
    trained = [np.hstack([signal, np.abs(random.standard_normal((200, 10)))]) for _ in range(3)]
    untrained = [np.abs(random.standard_normal((200, 30))) for _ in range(3)]
    report = analyse(seed_set([dictionary(r) for r in rows], random), OPTIONS, "a", Activity(trained, untrained))
    figures = report.alive["activation_correlation"]
    assert figures.value.value == pytest.approx(20 / 30, abs=0.05)
    assert set(figures.nulls) == {"untrained", "permuted"}
    assert abs(figures.nulls["untrained"]) < 0.05
    expected = np.corrcoef(trained[0].T, trained[1].T)[:30, 30:].mean()
    pair = next(row for row in report.pairs if row["statistic"] == "activation_correlation" and row["seed_b"] == 1)
    assert pair["permuted"] == pytest.approx(expected)
    table = report.latents.table
    assert table[table.latent < 20].activation_correlation.to_numpy() == pytest.approx(1)


def test_unstable_latents_of_one_plane_span_it_again() -> None:
    """Each seed turns its own basis of the same plane: no direction is shared, the plane is."""
    random = np.random.default_rng(3)

    def seed() -> np.ndarray:
        angles = random.uniform(0, 2 * np.pi, 12)
        plane = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return np.hstack([np.zeros((12, 30)), plane]) + 1e-3 * random.standard_normal((12, 32))

    common = np.eye(32)[:20]
    finals = [dictionary(np.vstack([common, seed()])) for _ in range(4)]
    options = OPTIONS.model_copy(update={"shared_cosine": 0.999})  # a finer bar than the spacing of the angles
    report = analyse(seed_set(finals, random), options, "a")
    figures = report.alive["unstable_overlap"]
    assert figures.value.value > figures.nulls["isotropic"]
    nothing_left = analyse(seed_set([dictionary(common) for _ in range(3)], random), options, "b")
    assert "unstable_overlap" not in nothing_left.alive
