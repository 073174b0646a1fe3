"""The tracked summary of a variant's edits: every concept with its controls, judged over seeds, and the plots' rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import binomtest, t

from reseed import ReseedError
from reseed.interventions.protocol import (
    EDIT_NULLS,
    EDITS,
    LATENT,
    NULL_SAES,
    NULLS,
    REFERENCES,
    Bench,
    Measured,
)
from reseed.stability.comparison import holm
from reseed.stability.jackknife import Estimate, Groups, mean_over_seeds
from reseed.stability.report import with_interval

MATCHINGS = ("norm", "kl")


def p_above_zero(estimate: Estimate) -> float:
    """One-sided p that the figure is not above zero: its jackknife error, t(n-1); 1 where nothing varies over seeds,
    since nothing can be said of others then."""
    if estimate.error == 0:
        return 1.0
    return float(t.sf(estimate.value / estimate.error, len(estimate.deleted) - 1))


def margins(
    measured: Sequence[Measured], name: str, nulls: Sequence[str], kinds: Sequence[str]
) -> dict[str, list[float]]:
    """`matching null` -> effect of `name` less the size of the null's, one a seed: the null may push either way."""
    return {
        f"{kind} {null}": [one.effect[kind][name] - abs(one.effect[kind][null]) for one in measured]
        for kind in kinds
        for null in nulls
    }


def p_beyond(found: Mapping[str, list[float]], groups: Groups) -> float:
    """p that an effect is beyond all of its nulls: the largest of theirs (an intersection-union test, Berger 1982)."""
    return max(p_above_zero(mean_over_seeds(one, groups)) for one in found.values())


def sign_test(found: Mapping[str, list[float]], groups: Groups) -> float:
    """One-sided sign test over seeds (groups of them): how many are beyond every null."""
    worst = np.min(list(found.values()), axis=0).reshape(len(groups), groups.size).mean(axis=1)
    return float(binomtest(int((worst > 0).sum()), len(worst), alternative="greater").pvalue)


def causal_summary(
    benches: Mapping[str, Bench],
    measured: Mapping[str, Sequence[Measured]],
    untold: Mapping[str, Mapping[str, float]],
    groups: Groups,
    confidence: float,
) -> dict[str, Any]:
    """The content of causal.json.

    measured: concept -> one a seed, in order. untold: concepts that no read-out tells from unedited rows, with the auc
    of each; they are listed and not judged. A concept passes if, over seeds, the effect of its latents is beyond the
    size of that of every null, at equal norm in every read-out that tells the concept and at equal KL divergence in the
    first, at 1 - confidence after Holm's correction for all concepts. null_saes: how many concepts pass by the same
    rule if the latents are those of an SAE that learned nothing of the model (at equal norm, against the nulls that are
    no SAEs, in the first read-out that tells the concept), beside the trained SAE by that rule; references: how many if
    they are directions that were found with the labels. mean: of all concepts together; it passes by the same rule on
    their mean effects, at 1 - confidence, and is not one of the corrected ones.
    """
    _check_controls(measured)
    against = [null for null in NULLS if null not in NULL_SAES]
    beyond = {name: margins(one, LATENT, NULLS, tuple(one[0].effect)) for name, one in measured.items()}
    p = {name: p_beyond(one, groups) for name, one in beyond.items()}
    corrected = dict(zip(p, holm(list(p.values())), strict=True)) if p else {}
    signs = {name: sign_test(one, groups) for name, one in beyond.items()}
    floor = 0.5 ** len(groups)
    level = 1 - confidence
    by_one_rule = {
        name: sum(
            value < level
            for value in holm([p_beyond(margins(one, name, against, ("norm",)), groups) for one in measured.values()])
        )
        for name in (LATENT, *NULL_SAES, *REFERENCES)
    }
    concepts = {}
    for name, found in measured.items():
        concepts[name] = _concept(benches[name], found, groups, confidence) | {
            "p": p[name],
            "p_by_read_out": _by_read_out(benches[name], found, groups),
            "p_holm": corrected[name],
            "sign_p": signs[name],
            "passes": int(corrected[name] < level),
        }
    content: dict[str, Any] = {
        "seeds": len(groups),
        "judged": len(measured),
        "passed": sum(one["passes"] for one in concepts.values()),
        "sign_p_floor": floor,
        "sign_p_floor_holm": min(1.0, floor * max(1, len(measured))),
        "null_saes": {name: by_one_rule[name] for name in (LATENT, *NULL_SAES)},
        "references": {name: by_one_rule[name] for name in REFERENCES},
        "concepts": concepts,
        "untold": {name: dict(aucs) for name, aucs in untold.items()},
    }
    if measured:
        content |= _means(measured, groups, confidence)
        p_mean = p_beyond(_mean_margins(list(beyond.values())), groups)
        content["mean"] |= {"p": p_mean, "passes": int(p_mean < level)}
    return content


def _check_controls(measured: Mapping[str, Sequence[Measured]]) -> None:
    """Raise ReseedError unless every effect stands beside that of every control."""
    for name, found in measured.items():
        for kind, effects in ((kind, effects) for each in found for kind, effects in each.effect.items()):
            if missing := {*NULLS, *REFERENCES} - effects.keys():
                raise ReseedError(
                    f"{name}: the effect at equal {kind} stands without {sorted(missing)[0]!r}, allowed: beside every "
                    f"one of {', '.join((*NULLS, *REFERENCES))}"
                )


def _by_read_out(one: Bench, found: Sequence[Measured], groups: Groups) -> dict[str, float]:
    """p at equal norm in each of the read-outs that tell a concept, of which it needs all."""
    return {
        judge.kind: p_beyond(margins(found, LATENT, NULLS, (f"norm{of}",)), groups)
        for judge, of in zip(one.judges, one.suffixes, strict=True)
    }


def _mean_margins(beyond: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """Of all concepts together, one a seed, where all of them are read."""
    shared = sorted(set.intersection(*({*found} for found in beyond)))
    return {key: list(np.mean([found[key] for found in beyond], axis=0)) for key in shared}


def _concept(one: Bench, found: Sequence[Measured], groups: Groups, confidence: float) -> dict[str, Any]:
    content: dict[str, Any] = {
        "prevalence": one.concept.prevalence("test"),
        "rows_on": int(one.on.sum()),
        "rows_off": int((~one.on).sum()),
        "read_out": " and ".join(each.kind for each in one.judges),
        "auc": {each.kind: each.auc for each in one.read_outs},
        "latents": [each.latent if each.latent is not None else "none" for each in found],
    }
    for figure in sorted({name for each in found for name in each.figures}):
        if all(figure in each.figures for each in found):
            content[figure] = with_interval(
                mean_over_seeds([each.figures[figure] for each in found], groups), confidence
            )
    content |= {f"{edit}_p": p for edit in EDITS if (p := _p_of_edit(found, edit, groups)) is not None}
    for kind in found[0].effect:
        content[f"effect_at_equal_{kind}"] = {
            name: with_interval(mean_over_seeds([each.effect[kind][name] for each in found], groups), confidence)
            for name in (LATENT, *NULLS, *REFERENCES)
        }
    return content


def _p_of_edit(found: Sequence[Measured], edit: str, groups: Groups) -> float | None:
    """p that an ablation, clamp or interchange moves more than every control of equal norm and of equal KL divergence;
    None where a seed has no such edit."""
    if not all(edit in each.figures for each in found):
        return None
    return p_beyond(
        {
            f"{null}{kl}": [each.figures[edit] - abs(each.figures[f"{edit}_{null}{kl}"]) for each in found]
            for null in EDIT_NULLS
            for kl in ("", "_kl")
        },
        groups,
    )


def _figure(each: Measured, name: str) -> float:
    return each.figures[name]


def _effect(each: Measured, kind: str, name: str) -> float:
    return each.effect[kind][name]


def _means(measured: Mapping[str, Sequence[Measured]], groups: Groups, confidence: float) -> dict[str, Any]:
    """Means over concepts: what a reader sees first."""
    every = [each for found in measured.values() for each in found]

    def shown(of: Callable[[Measured], float]) -> dict[str, Any]:
        means = np.mean([[of(each) for each in found] for found in measured.values()], axis=0)
        return with_interval(mean_over_seeds(list(means), groups), confidence)

    mean: dict[str, Any] = {}
    for figure in sorted(set.intersection(*({*each.figures} for each in every))):
        mean[figure] = shown(partial(_figure, name=figure))
    for kind in MATCHINGS:
        mean[f"effect_at_equal_{kind}"] = {
            name: shown(partial(_effect, kind=kind, name=name)) for name in (LATENT, *NULLS, *REFERENCES)
        }
    return {"mean": mean}


def calibration_rows(measured: Mapping[str, Sequence[Measured]], doses: Sequence[float]) -> list[dict[str, Any]]:
    """One row a concept and dose: predicted and observed change of log-odds, means over seeds that have a latent."""
    rows = []
    for name, found in measured.items():
        having = [each for each in found if each.latent is not None]
        for i, dose in enumerate(doses if having else []):
            predicted = float(np.mean([each.predicted[i] for each in having]))
            observed = float(np.mean([each.curves[LATENT][i] for each in having]))
            rows.append({"concept": name, "dose": dose, "predicted": predicted, "observed": observed})
    return rows


def dose_rows(measured: Mapping[str, Sequence[Measured]], doses: Sequence[float]) -> list[dict[str, Any]]:
    """One row a direction and dose: change of log-odds, the mean over concepts and seeds that have a latent."""
    having = [each for found in measured.values() for each in found if each.latent is not None]
    return [
        {"direction": name, "dose": dose, "change": float(np.mean([each.curves[name][i] for each in having]))}
        for name in (LATENT, *NULLS, *REFERENCES)
        for i, dose in enumerate(doses if having else [])
    ]
