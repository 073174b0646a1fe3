"""One latent, one concept: what editing it does to what is read behind the edit, beside controls of equal size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformer_lens import HookedTransformer

from reseed import ReseedError
from reseed.artifacts import generator
from reseed.interventions.concepts import LEAST_ROWS, Concept
from reseed.interventions.das import fit_subspace
from reseed.interventions.edits import Edit, ablate, clamp, interchange_latent, interchange_subspace
from reseed.interventions.hooks import Continuation, continuation
from reseed.interventions.latents import Candidates, Chosen
from reseed.interventions.readouts import (
    DECODER,
    ROWS_PER_PASS,
    Linear,
    Read,
    ReadOut,
    expected_calibration_error,
    fit_linear,
    places,
    read,
    read_outs,
)
from reseed.matching import Array
from reseed.params import Causal
from reseed.stability.statistics import standardised
from reseed.text.traces import Traces

LATENT = "latent"
NULL_SAES = ("frozen_sae", "random_model_sae", "untrained_sae")
NULLS = ("random_direction", "random_latent", "shuffled_decoder", "pca", "neuron", *NULL_SAES)
"""Controls that a latent must be beyond."""
REFERENCES = ("difference_of_means", "das")
"""Directions found with the labels: what supervision reaches."""
EDITS = ("ablation", "clamp", "interchange")
EDIT_NULLS = {"shuffled": "shuffled_decoder", "random": "random_direction", "random_latent": "random_latent"}
"""Controls of these edits, by what their figures are called."""
LEAST_EDIT = 1e-3
"""Of the length of a row: an edit of that size in some direction must be felt behind it."""
DOUBLINGS, HALVINGS = 5, 9
"""A control is scaled to a KL divergence by a factor between 2^-5 and 2^5, bisected so often."""


@dataclass(frozen=True)
class Ground:
    """A model, its sequences, and unedited rows of them: what all concepts of a subject share.

    train, test: rows as the model has them, at the places train_rows and test_rows of the captured ones.
    """

    model: HookedTransformer
    traces: Traces
    hook_name: str
    train_rows: Tensor
    test_rows: Tensor
    train: Read
    test: Read

    @property
    def has_decoder(self) -> bool:
        return self.train.final is not None


@dataclass(frozen=True)
class Bench:
    """Everything about one concept that does not depend on an SAE.

    rest: behind the edited test rows, of which on [rows] says the concept. judges: the read-outs that can tell the
    concept from unedited rows, the output before the decoder; probe: the linear read-out at the edit, which predicts.
    off_target: read-outs of unassociated concepts. supervised: directions [n, d_in] that need no SAE;
    bases: DAS subspaces [k, d_in] by k.
    """

    concept: Concept
    rest: Continuation
    on: Tensor
    targets: Tensor
    judges: tuple[ReadOut, ...]
    read_outs: tuple[ReadOut, ...]
    probe: Linear
    off_target: tuple[ReadOut, ...]
    clean_logits: Tensor
    clean_final: Tensor | None
    supervised: dict[str, Tensor]
    bases: dict[int, Tensor]

    @property
    def read_out(self) -> ReadOut:
        """The first of the judges, whose figures stand for the concept."""
        return self.judges[0]

    @property
    def needs_final(self) -> bool:
        return any(one.kind == DECODER for one in (*self.judges, *self.off_target))

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the keys of what each of the judges reads."""
        return ("", *(f"_{one.kind}" for one in self.judges[1:]))


@dataclass(frozen=True)
class Response:
    """What edits do: change of the target's log-odds [edits, judges, rows]; mean KL divergence of the output [edits];
    mean |change| of the log-odds of off-target concepts [edits], NaN without any; right [edits, rows], the token is
    the one to predict."""

    changes: Tensor
    kl: Tensor
    off_target: Tensor
    right: Tensor

    @property
    def change(self) -> Tensor:
        """As the first of the judges reads it."""
        return self.changes[:, 0]


@dataclass
class Measured:
    """One seed. effect: matching ("norm", that of a further judge, "kl") -> direction -> log-odds, signed by
    the dose, a mean over doses; of controls that are drawn the mean size. curves: direction -> mean change [doses].
    figures: the latent's own."""

    effect: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, Array] = field(default_factory=dict)
    predicted: Array = field(default_factory=lambda: np.zeros(0))
    figures: dict[str, float] = field(default_factory=dict)
    latent: int | None = None


def ground(
    model: HookedTransformer, traces: Traces, hook_name: str, rows: tuple[Tensor, Tensor], decoder: bool
) -> Ground:
    """Read the unedited model at captured training and test rows; with `decoder` also its last residual stream."""
    train, test = (
        read(model, traces, split, some, hook_name, decoder)
        for split, some in zip(("train", "test"), rows, strict=True)
    )
    return Ground(model, traces, hook_name, *rows, train, test)


def read_outs_of(found: Ground, concept: Concept) -> list[ReadOut]:
    """The read-outs of a concept behind the hook point, with how well they read unedited test rows."""
    labels = [concept.labels["train"][found.train_rows], concept.labels["test"][found.test_rows]]
    (on, test_on), (known, test_known) = [one == 1 for one in labels], [one >= 0 for one in labels]
    return read_outs(found.train, on, known, found.test, test_on, test_known)


def judges_of(available: list[ReadOut], options: Causal) -> list[ReadOut]:
    """The read-outs that tell the concept, the output before the decoder; none of them: nothing could be seen."""
    return [one for one in available if one.auc >= options.min_auc]


def bench(
    found: Ground, concept: Concept, available: list[ReadOut], off_target: list[ReadOut], options: Causal, key: str
) -> Bench:
    """Prepare one concept; raises ValueError if no read-out tells it."""
    judges = judges_of(available, options)
    if not judges:
        raise ValueError(f"{concept.name}: no read-out tells it")
    random = generator("causal", key, concept.name)
    rows = _balanced(concept.labels["test"], options.rows, random)
    final = found.has_decoder and any(one.kind == DECODER for one in (*judges, *off_target))
    with torch.no_grad():
        rest = continuation(found.model, *places(found.traces, "test", rows), found.hook_name)
        logits, last = rest(rest.residual[None], final)
    labels = concept.labels["train"][found.train_rows]
    known = labels >= 0
    x, on = found.train.residual[known], labels[known] == 1
    difference = x[on].mean(0) - x[~on].mean(0)
    bases = _subspaces(found, concept, judges[0], difference, options, random)
    supervised = {
        "pca": _best_column(x, on, torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh),
        "neuron": _best_column(x, on, torch.eye(x.shape[1])),
        "difference_of_means": normalize(difference, dim=0)[None],
        "das": bases[options.das.dims[0]],
    }
    return Bench(
        concept,
        rest,
        concept.labels["test"][rows] == 1,
        found.traces.targets("test").flatten()[rows],
        tuple(judges),
        tuple(available),
        fit_linear(x, on),
        tuple(off_target),
        logits[0],
        None if last is None else last[0],
        supervised,
        bases,
    )


def _balanced(labels: Tensor, rows: int, random: torch.Generator) -> Tensor:
    """Places of rows, half of them on where there are as many, in increasing order of either side."""
    sides = []
    for side in (1, 0):
        among = (labels == side).nonzero()[:, 0]
        assert len(among) >= LEAST_ROWS
        sides.append(among[torch.randperm(len(among), generator=random)])
    size = [min(rows // 2, len(side)) for side in sides]
    return torch.cat([side[: rows - size[1 - i]].sort().values for i, side in enumerate(sides)])


def _best_column(x: Tensor, on: Tensor, directions: Tensor) -> Tensor:
    """Of unit directions [n, d_in] the one [1, d_in] that correlates most with a concept, pointing to it."""
    correlations = standardised((x @ directions.T).numpy()).T @ standardised(on.numpy()[:, None])[:, 0]
    best = int(np.argmax(np.abs(correlations)))
    return directions[best : best + 1] * float(np.sign(correlations[best]) or 1.0)


def _subspaces(
    found: Ground, concept: Concept, judge: ReadOut, difference: Tensor, options: Causal, random: torch.Generator
) -> dict[int, Tensor]:
    labels = concept.labels["train"][found.train_rows]
    rows = _balanced(labels, options.das.rows, random)
    tokens, positions = places(found.traces, "train", found.train_rows[rows])
    rest = continuation(found.model, tokens, positions, found.hook_name)
    final = judge.kind == DECODER

    def read_edited(edited: Tensor) -> Tensor:
        logits, last = rest(edited[None], final)
        return judge(logits, last, edited[None] - rest.residual)[0]

    return {
        k: fit_subspace(read_edited, rest.residual, labels[rows] == 1, k, difference, options.das, random)
        for k in options.das.dims
    }


@torch.no_grad()
def respond(one: Bench, edited: Tensor, off_target: bool = False) -> Response:
    """What the model makes of edited residuals [edits, rows, d_in]."""
    clean_log_probs = one.clean_logits.log_softmax(-1)
    clean = [judge(one.clean_logits, one.clean_final) for judge in one.judges]
    clean_off = [other(one.clean_logits, one.clean_final) for other in one.off_target] if off_target else []
    parts = []
    for some in edited.split(max(1, ROWS_PER_PASS // edited.shape[1])):
        logits, final = one.rest(some, one.needs_final)
        carried = some - one.rest.residual
        kl = (clean_log_probs.exp() * (clean_log_probs - logits.log_softmax(-1))).sum(-1).mean(-1)
        off = torch.full((len(some),), torch.nan)
        if clean_off:
            moved = [
                (other(logits, final, carried) - before).abs().mean(-1)
                for other, before in zip(one.off_target, clean_off, strict=True)
            ]
            off = torch.stack(moved).mean(0)
        right = logits.argmax(-1) == one.targets
        changes = [judge(logits, final, carried) - before for judge, before in zip(one.judges, clean, strict=True)]
        parts.append((torch.stack(changes, dim=1), kl, off, right))
    return Response(*(torch.cat(part) for part in zip(*parts, strict=True)))


def signed_doses(options: Causal) -> Tensor:
    """Increasing, of both signs."""
    doses = torch.tensor(options.doses)
    return torch.cat([-doses.flip(0), doses])


def measure(
    one: Bench,
    chosen: Chosen | None,
    trained: Candidates,
    others: Mapping[str, Chosen | None],
    options: Causal,
    key: str,
) -> Measured:
    """The latent `chosen` for a concept, beside its controls; a seed without any such latent moves nothing.

    others: the latent that each of NULL_SAES has for the concept. Steering is x + dose * sigma * unit direction, sigma
    that of the latent for every control ("norm"), or times a factor by which the control has the KL divergence that the
    latent has at +-matched_dose ("kl"). Raises ReseedError if no edit changes anything.
    """
    if chosen is None:
        nothing = dict.fromkeys((LATENT, *NULLS, *REFERENCES), 0.0)
        return Measured({kind: dict(nothing) for kind in (*(f"norm{of}" for of in one.suffixes), "kl")})
    random = generator("causal", key, one.concept.name, "controls")
    d_in = len(chosen.direction)
    groups = {
        LATENT: chosen.direction[None],
        "random_direction": normalize(torch.randn(options.draws, d_in, generator=random), dim=1),
        "random_latent": trained.as_frequent(chosen.latent, options.draws, random),
        "shuffled_decoder": trained.shuffled(chosen.latent, options.draws, random),
        **one.supervised,
        **{name: torch.zeros(1, d_in) if other is None else other.direction[None] for name, other in others.items()},
    }
    names = [name for name, rows in groups.items() for _ in rows]
    directions = torch.cat(list(groups.values()))
    doses = signed_doses(options)
    response = respond(one, _steered(one, directions, chosen.sigma * doses))
    # smaller ones could be lost to rounding
    felt = chosen.sigma * options.doses[-1] > LEAST_EDIT * float(one.rest.residual.norm(dim=1).mean())
    if felt and not response.kl.any():
        raise ReseedError(
            f"{one.concept.name}: the output is the same, bit for bit, after every edit in {len(directions)} "
            f"directions of up to {options.doses[-1]:g} standard deviations, allowed: edits that edit"
        )
    change = response.change.unflatten(0, (len(names), len(doses)))
    at = [int((doses == sign * options.matched_dose).nonzero()) for sign in (-1, 1)]
    kl = response.kl.unflatten(0, (len(names), len(doses)))[:, at].mean(1)
    factors = scale_to_kl(one, directions, chosen.sigma * options.matched_dose, float(kl[0]))
    factors[0] = 1.0
    pair = torch.tensor([-1.0, 1.0]) * chosen.sigma * options.matched_dose
    matched = respond(one, _steered(one, directions * factors[:, None], pair), off_target=True)
    effects = {}
    for i, of in enumerate(one.suffixes):
        at_norm = response.changes[:, i].unflatten(0, (len(names), len(doses)))
        effects[f"norm{of}"] = (at_norm.mean(-1) * doses.sign()).mean(1)
    # of the first judge alone: a control that is scaled to move the output is far from where a decoder was fitted
    effects["kl"] = (matched.change.mean(-1).unflatten(0, (len(names), 2)) * pair.sign()).mean(1)
    found = Measured(latent=chosen.latent)
    for kind, values in effects.items():
        found.effect[kind] = {name: _size(name, values, names) for name in groups}
    found.curves = {
        name: change[[i for i, other in enumerate(names) if other == name]].mean(dim=(0, 2)).numpy() for name in groups
    }
    slope_at_edit = float(one.probe.weights @ chosen.direction)
    found.predicted = (slope_at_edit * chosen.sigma * doses).double().numpy()
    found.figures = (
        {"correlation": chosen.correlation, "kl": float(kl[0]), "sigma": chosen.sigma}
        | {"kl_unmatched": _unmatched(matched, directions)}
        | _calibration(one, change[0], found.predicted)
        | _calibration_of_random_latents(one, change, directions, names, chosen.sigma * doses)
        | _specificity(matched, names)
        | _accuracy(one, matched, names)
        | _other_edits(one, chosen, groups)
    )
    return found


def _unmatched(matched: Response, directions: Tensor) -> float:
    """The share of controls whose KL divergence is not within a tenth of the latent's, however they are scaled."""
    kl = matched.kl.unflatten(0, (len(directions), 2)).mean(1)
    moves = directions[1:].norm(dim=1) > 0  # an SAE without any such latent has nothing to scale
    # so written, a divergence of zero or NaN of the latent is matched by nothing
    return float((~((kl[1:] - kl[0]).abs() < 0.1 * kl[0]))[moves].double().mean())


def _size(name: str, values: Tensor, names: list[str]) -> float:
    own = values[[i for i, other in enumerate(names) if other == name]]
    return float(own.abs().mean() if name in NULLS and name not in NULL_SAES else own.mean())


def _steered(one: Bench, directions: Tensor, amounts: Tensor) -> Tensor:
    """[directions * amounts, rows, d_in], the amounts of a direction following each other."""
    steps = (amounts[None, :, None] * directions[:, None, :]).flatten(0, 1)
    return one.rest.residual[None] + steps[:, None, :]


def scale_to_kl(one: Bench, directions: Tensor, amount: float, target: float) -> Tensor:
    """Factors [n] by which steps of +-amount along directions [n, d_in] have the mean KL divergence `target`."""
    amounts = torch.tensor([-amount, amount])

    def kl(factors: Tensor) -> Tensor:
        moved = respond(one, _steered(one, directions * factors[:, None], amounts))
        both: Tensor = moved.kl.unflatten(0, (len(directions), 2))
        return both.mean(1)

    return factors_at(kl, len(directions), target)


def factors_at(kl: Callable[[Tensor], Tensor], n: int, target: float) -> Tensor:
    """Factors [n] at which the rising function `kl` of them has the value `target` everywhere."""
    low, high = torch.full((n,), -float(DOUBLINGS)), torch.full((n,), float(DOUBLINGS))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = kl(middle.exp2()) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).exp2()


def _calibration(one: Bench, change: Tensor, predicted: Array) -> dict[str, float]:
    """Line of observed (mean over rows) on predicted change, calibration of probabilities, share of steps that rise."""
    observed = change.double().mean(1).numpy()
    slope, intercept = np.polyfit(predicted, observed, 1) if np.ptp(predicted) > 0 else (0.0, float(observed.mean()))
    clean = one.read_out(one.clean_logits, one.clean_final).double()
    probability = torch.sigmoid(clean + torch.from_numpy(predicted)[:, None]).numpy().ravel()
    after = torch.sigmoid(clean + change.double()).numpy().ravel()
    half = len(change) // 2
    steps = torch.cat([change[:half], torch.zeros_like(change[:1]), change[half:]]).diff(dim=0)
    return {
        "slope": float(slope),
        "intercept": float(intercept),
        "calibration_error": expected_calibration_error(probability, after),
        "monotone": float((steps > 0).double().mean()),
    }


def _calibration_of_random_latents(
    one: Bench, change: Tensor, directions: Tensor, names: list[str], amounts: Tensor
) -> dict[str, float]:
    """Calibration and rising steps of the latents of equal frequency, means over them: what any latent has.

    No slope: where next to nothing is predicted, it is a quotient of noise.
    """
    drawn = [i for i, name in enumerate(names) if name == "random_latent"]
    slopes = (directions[drawn] @ one.probe.weights).double()
    every = [
        _calibration(one, change[i], (slope * amounts.double()).numpy()) for i, slope in zip(drawn, slopes, strict=True)
    ]
    return {
        f"{name}_random_latent": float(np.mean([found[name] for found in every]))
        for name in ("calibration_error", "monotone")
    }


def _specificity(matched: Response, names: list[str]) -> dict[str, float]:
    """|change| of the target over that of the target and of an off-target concept; 0.5 where both move alike."""
    target = matched.change.abs().mean(1).unflatten(0, (len(names), 2)).mean(1)
    off = matched.off_target.unflatten(0, (len(names), 2)).mean(1)
    share = target / (target + off).clamp(min=1e-12)
    found = {}
    for name in (LATENT, "random_latent", "das"):
        label = "specificity" if name == LATENT else f"specificity_{name}"
        value = float(share[[i for i, other in enumerate(names) if other == name]].mean())
        if np.isfinite(value):
            found[label] = value
    return found


def _accuracy(one: Bench, matched: Response, names: list[str]) -> dict[str, float]:
    """Share of right answers without any edit (`accuracy`), and of these the share that stays right where the edit says
    what is so already: up where on, down where off. By a latent of equal frequency and DAS, too."""
    before = one.clean_logits.argmax(-1) == one.targets
    found = {"accuracy": float(before.double().mean())}
    right = matched.right.unflatten(0, (len(names), 2))
    for name in (LATENT, "random_latent", "das") if before.any() else ():
        of_name = right[[i for i, other in enumerate(names) if other == name]]
        after = torch.where(one.on, of_name[:, 1], of_name[:, 0])
        label = "accuracy_kept" if name == LATENT else f"accuracy_kept_{name}"
        found[label] = float(after[:, before].double().mean())
    return found


@torch.no_grad()
def _other_edits(one: Bench, chosen: Chosen, groups: Mapping[str, Tensor]) -> dict[str, float]:
    """Ablation where the concept is on and the latent fires, clamping where it is off, interchange of the two sides.

    Each beside the same edit along other directions: of equal size, and (`_kl`) of the size at which the output's mean
    KL divergence is that of the latent's edit. edits_kl_unmatched: the share of these that no size makes so.
    """
    residual, on = one.rest.residual, one.on
    clean = one.read_out(one.clean_logits, one.clean_final)
    fires = chosen.sae.encode(residual)[:, chosen.latent] > 0
    source = _other_side(on)
    patched, both = residual[source], torch.ones_like(on)
    found: dict[str, float] = {}
    unmatched: list[Tensor] = []

    def score(label: str, change: Tensor, rows: Tensor, towards: Tensor) -> None:
        """Change towards a state [rows] of the rows, and the share whose read-out is on that side afterwards."""
        sign = torch.where(towards, 1.0, -1.0)
        found[label] = float((change * sign)[rows].mean())
        found[f"{label}_flipped"] = float(((clean + change) * sign > 0)[rows].double().mean())

    latent, sae = chosen.latent, chosen.sae
    edits: dict[str, tuple[Callable[[Tensor | None], Edit], Tensor, Tensor]] = {
        "ablation": (lambda along: ablate(sae, latent, along), on & fires, torch.zeros_like(on)),
        "clamp": (lambda along: clamp(sae, latent, chosen.on_value, along), ~on, both),
        "interchange": (lambda along: interchange_latent(sae, latent, patched, along), both, on[source]),
    }
    others = torch.stack([groups[null][0] for null in EDIT_NULLS.values()])
    for name, (edit, rows, towards) in edits.items():
        if not rows.any():
            continue
        own = respond(one, edit(None)(residual)[None])
        score(name, own.change[0], rows, towards)
        moved = torch.stack([edit(direction)(residual) - residual for direction in others])

        def along_others(factors: Tensor, moved: Tensor = moved) -> Response:
            return respond(one, residual + factors[:, None, None] * moved)

        target = float(own.kl[0])
        at_norm = along_others(torch.ones(len(others)))
        at_kl = along_others(factors_at(lambda factors, of=along_others: of(factors).kl, len(others), target))  # type: ignore[misc]
        unmatched.append(~((at_kl.kl - target).abs() < 0.1 * target))
        for place, suffix in enumerate(EDIT_NULLS):
            score(f"{name}_{suffix}", at_norm.change[place], rows, towards)
            score(f"{name}_{suffix}_kl", at_kl.change[place], rows, towards)
    if unmatched:
        found["edits_kl_unmatched"] = float(torch.cat(unmatched).double().mean())
    bases = {
        "_direction": normalize(chosen.direction, dim=0)[None],
        "_pca": one.supervised["pca"],
        "_neuron": one.supervised["neuron"],
        "_difference_of_means": one.supervised["difference_of_means"],
        **{f"_das_{k}": basis for k, basis in one.bases.items()},
    }
    for suffix, basis in bases.items():
        score(
            f"interchange{suffix}",
            respond(one, interchange_subspace(basis, patched)(residual)[None]).change[0],
            both,
            on[source],
        )
    return found


def _other_side(on: Tensor) -> Tensor:
    """For every row [rows] the place of a row of the other side, each about equally often."""
    sides = [on.nonzero()[:, 0], (~on).nonzero()[:, 0]]
    source = torch.empty(len(on), dtype=torch.long)
    for own, other in (sides, sides[::-1]):
        source[own] = other[torch.arange(len(own)) % len(other)]
    return source
