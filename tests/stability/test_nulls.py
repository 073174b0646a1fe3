"""The nulls against figures that others published and against what they must reproduce."""

from dataclasses import replace

import numpy as np
import pytest

from reseed.matching import unit_rows
from reseed.stability.nulls import CovarianceNull, isotropic, isotropic_mean_max_cos
from reseed.stability.statistics import agreement
from tests.stability.builders import dictionary


@pytest.mark.parametrize(
    ("d_in", "d_sae", "published"),
    # random decoders of HUSAI (github.com/brightlikethelight/HUSAI): its "trained = random" is this closed form
    [(128, 1024, 0.298829), (128, 512, 0.2820), (128, 256, 0.2655), (128, 128, 0.2459), (128, 64, 0.2282)],
)
def test_the_isotropic_floor_is_the_published_one(d_in: int, d_sae: int, published: float) -> None:
    assert isotropic_mean_max_cos(d_sae, d_sae, d_in) == pytest.approx(published, abs=0.0015)  # theirs are single draws


def test_the_isotropic_draws_meet_the_closed_form_and_the_signed_hungarian_floor() -> None:
    random = np.random.default_rng(0)
    draws = [agreement(isotropic(512, 64, random), isotropic(512, 64, random), 0.7, 4) for _ in range(3)]
    mean = {name: np.mean([draw[name] for draw in draws]) for name in draws[0]}
    assert mean["mean_max_cos"] == pytest.approx(isotropic_mean_max_cos(512, 512, 64), abs=0.002)
    assert mean["mean_max_cos"] == pytest.approx(0.394, abs=0.002)
    assert mean["pw_mcc"] == pytest.approx(0.355, abs=0.003)
    assert mean["shared_fraction"] == 0


def test_unequal_shapes_take_the_mean_of_both_directions() -> None:
    random = np.random.default_rng(3)
    draws = [agreement(isotropic(300, 32, random), isotropic(40, 32, random), 0.7, 4) for _ in range(20)]
    found = np.mean([draw["mean_max_cos"] for draw in draws])
    assert found == pytest.approx(isotropic_mean_max_cos(300, 40, 32), abs=0.004)


def test_the_covariance_null_has_mean_covariance_and_encoder_alignment_of_its_seeds() -> None:
    random = np.random.default_rng(0)
    spread = np.array([3.0, 2.0, 1.0, 0.2, 0.1])
    like = dictionary(random.standard_normal((4000, 5)) * spread + 0.5)
    drawn = CovarianceNull.of([like]).draw(4000, random)
    np.testing.assert_allclose(np.einsum("nd,nd->n", drawn.decoder, drawn.encoder), 1, atol=1e-9)
    np.testing.assert_allclose(np.cov(drawn.decoder.T), np.cov(like.decoder.T), atol=0.03)
    np.testing.assert_allclose(drawn.decoder.mean(axis=0), like.decoder.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.linalg.norm(drawn.decoder, axis=1), 1, atol=1e-9)


SPREADS = {
    "two scales": (np.concatenate([np.ones(6), np.full(26, 0.3)]), 64),
    "power law": (np.arange(1, 129.0) ** -0.5, 128),
    "isotropic": (np.ones(64), 128),
}


@pytest.mark.parametrize("name", SPREADS)
def test_independent_dictionaries_do_not_agree_above_the_covariance_null(name: str) -> None:
    """The gate must fail a null: without the stretching, `two scales` has a kappa of 0.08 with a narrow interval."""
    spread, n = SPREADS[name]
    kappas = []
    for repeat in range(4):
        random = np.random.default_rng(repeat)
        seeds = [dictionary(random.standard_normal((n, len(spread))) * spread) for _ in range(5)]
        gaussian = CovarianceNull.of(seeds)
        value = np.mean([agreement(seeds[i], seeds[i + 1], 0.7, 4)["pw_mcc"] for i in range(4)])
        draws = [agreement(gaussian.draw(n, random), gaussian.draw(n, random), 0.7, 4) for _ in range(8)]
        null = np.mean([draw["pw_mcc"] for draw in draws])
        kappas.append((value - null) / (1 - null))
    assert -0.05 < np.mean(kappas) < 0.015


def test_the_covariance_null_sees_what_the_isotropic_floor_cannot() -> None:
    """Dictionaries that merely live in the same three dimensions agree far above the isotropic floor."""
    random = np.random.default_rng(0)
    narrow = np.concatenate([np.ones(3), np.full(61, 0.05)])
    seeds = [dictionary(random.standard_normal((128, 64)) * narrow) for _ in range(4)]
    gaussian = CovarianceNull.of(seeds)
    value = agreement(seeds[0], seeds[1], 0.7, 4)["pw_mcc"]
    assert value > agreement(isotropic(128, 64, random), isotropic(128, 64, random), 0.7, 4)["pw_mcc"] + 0.4
    null = agreement(gaussian.draw(128, random), gaussian.draw(128, random), 0.7, 4)["pw_mcc"]
    assert value == pytest.approx(null, abs=0.04)


def test_the_covariance_null_of_a_transcoder_keeps_both_of_its_spaces() -> None:
    random = np.random.default_rng(0)
    reads = random.standard_normal((4000, 3)) * [2, 1, 0.5]
    writes = reads @ random.standard_normal((3, 6)) * [3, 1, 1, 1, 0.5, 0.2]
    like = replace(dictionary(writes), encoder=unit_rows(reads))
    drawn = CovarianceNull.of([like]).draw(4000, random)
    assert (drawn.decoder.shape, drawn.encoder.shape) == ((4000, 6), (4000, 3))
    for found, rows in ((drawn.decoder, like.decoder), (drawn.encoder, like.encoder)):
        np.testing.assert_allclose(found.T @ found / 4000, rows.T @ rows / 4000, atol=0.03)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-9)
    together = drawn.decoder.T @ drawn.encoder / 4000
    np.testing.assert_allclose(together, like.decoder.T @ like.encoder / 4000, atol=0.05)
