"""What is known of every single latent: how often it fires, and in which other seeds it appears again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln

from reseed.assignment import BLOCK
from reseed.matching import Array, row_and_column_maxima
from reseed.stability.dictionaries import SeedSet
from reseed.stability.jackknife import Estimate, Groups, leave_one_out, mean_over_seeds
from reseed.stability.statistics import Matched, matched_correlations


@dataclass(frozen=True)
class Latents:
    """The table of latents, and the shares of alive latents that appear again in every other seed, and in none.

    table: one row a latent of each seed, dead ones included, with the columns
    seed, latent, firing_count (training rows), alive;
    c_dec: mean |cos| of its decoder row to those of the other alive latents of its seed (absent for a latent without
    others): the mean over latents is c_dec of Chanin and Garriga-Alonso 2025 (arXiv 2508.16560), low at the true L0;
    encoder_decoder_cosine: of its encoder and decoder row (absent if they are of different spaces);
    reappearance: the share of the seeds of other groups in which it has a shared partner, decoder and encoder cosine
    above `shared_cosine`: the estimated probability that it appears again (Gerasimov et al. 2026, arXiv 2606.12138);
    partner_cosine, best_cosine: mean decoder cosine to its one-to-one partners, mean |cos| to the most similar latents;
    activation_correlation: mean correlation with its partners on held-out rows.
    The last five are absent for dead latents and the partners' means also where it is matched with none.
    """

    table: pd.DataFrame
    always: Estimate
    never: Estimate
    c_dec: Estimate | None
    """The mean over the latents of a seed, then over seeds; None where a seed has one alive latent."""
    isotropic_c_dec: float
    """That of uniformly random directions."""

    @classmethod
    def of(
        cls,
        seed_set: SeedSet,
        masks: list[NDArray[np.bool_]],
        matches: dict[tuple[int, int], Matched],
        activity: list[Array] | None,
        shared_cosine: float,
    ) -> Latents:
        """masks: alive latents [d_sae] a seed. matches: of the alive latents, by pairs i < j of places in the set.

        activity: standardised activations [rows, d_sae] a seed, or None.
        """
        final, groups = seed_set.final(), seed_set.groups
        alive = [dictionary.select(mask) for dictionary, mask in zip(final, masks, strict=True)]
        # figures[i][name][j, latent]: of alive latents of seed i with seed j; NaN where there is no partner
        names = ("shared", "partner_cosine", "best_cosine", "activation_correlation")
        figures = [{name: np.full((len(final), int(mask.sum())), np.nan) for name in names} for mask in masks]
        for (i, j), match in matches.items():
            most_of_i, most_of_j = row_and_column_maxima(alive[i].decoder, alive[j].decoder)
            correlations = (
                None
                if activity is None
                else matched_correlations(activity[i][:, masks[i]], activity[j][:, masks[j]], match)
            )
            for one, other, places, most in ((i, j, match.rows, most_of_i), (j, i, match.columns, most_of_j)):
                own = figures[one]
                own["shared"][other] = 0
                own["shared"][other, places] = match.shared(shared_cosine)
                own["partner_cosine"][other, places] = match.decoder
                own["best_cosine"][other] = most
                if correlations is not None:
                    own["activation_correlation"][other, places] = correlations
        blocks = []
        for i, (seed, dictionary, mask) in enumerate(zip(seed_set.seeds, final, masks, strict=True)):
            columns = {"seed": seed, "latent": np.arange(len(mask)), "firing_count": dictionary.firing_counts}
            block = pd.DataFrame(columns | {"alive": mask})
            if dictionary.decoder.shape == dictionary.encoder.shape:
                block["encoder_decoder_cosine"] = np.einsum("nd,nd->n", dictionary.decoder, dictionary.encoder)
            block["c_dec"] = np.nan
            block.loc[mask, "c_dec"] = c_dec(alive[i].decoder)
            for column, name in (("reappearance", "shared"), *((name, name) for name in names[1:])):
                if name != "activation_correlation" or activity is not None:
                    block[column] = np.nan
                    block.loc[mask, column] = _mean_of_known(figures[i][name])
            blocks.append(block)
        shared = [own["shared"] for own in figures]
        overlaps = [float(np.mean(c_dec(one.decoder))) for one in alive]
        return cls(
            pd.concat(blocks, ignore_index=True),
            _share(shared, groups, lambda found: np.all(found, axis=0)),
            _share(shared, groups, lambda found: ~np.any(found, axis=0)),
            None if any(len(one.decoder) < 2 for one in alive) else mean_over_seeds(overlaps, groups),
            isotropic_cosine(alive[0].decoder.shape[1]),
        )


def c_dec(rows: Array) -> Array:
    """The mean |cos| [n] of each of the unit rows [n, d] to the n - 1 others, NaN where there is none."""
    sums = np.zeros(len(rows))
    step = max(1, BLOCK // len(rows))
    for start in range(0, len(rows), step):  # all of them at once are 2 GB at 16,384 latents
        sums[start : start + step] = np.abs(rows[start : start + step] @ rows.T).sum(axis=1)
    others = sums - np.einsum("nd,nd->n", rows, rows)
    return others / (len(rows) - 1) if len(rows) > 1 else np.full(len(rows), np.nan)


def isotropic_cosine(d: int) -> float:
    """The mean |cos| of two uniformly random directions in d dimensions: Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))."""
    return float(np.exp(gammaln(d / 2) - gammaln((d + 1) / 2)) / np.sqrt(np.pi))


def _mean_of_known(figures: Array) -> Array:
    """Column means [n] of figures [seeds, n] over what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(figures)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, figures, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _share(shared: list[Array], groups: Groups, rule: Callable[[NDArray[np.bool_]], Any]) -> Estimate:
    """The mean over seeds of the share of their alive latents for which `rule` holds over the seeds of other groups.

    A group left out is left out as owner and as partner.
    """

    def figure(left: Sequence[int]) -> float:
        members = groups.members(left)
        shares = []
        for i in members:
            others = [j for j in members if j // groups.size != i // groups.size]
            shares.append(float(np.mean(rule(shared[i][others] > 0))))
        return float(np.mean(shares))

    estimate = leave_one_out(figure, len(groups))
    assert estimate is not None
    return estimate
