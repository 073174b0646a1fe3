"""What measures and what trains, tried on cases whose answers are known before a figure is made of them.

A mistake in a formula gives figures that look like any other. Each formula is asked here for a number that a closed
form, scipy or scikit-learn knows as well; one that answers otherwise stops the stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from scipy.stats import ttest_1samp
from sklearn.metrics import r2_score
from torch import Tensor

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import generator
from reseed.matching import Array
from reseed.params import SPLITS, RouteSae, SaeTraining, SkipTranscoder, Transcoder, Variant
from reseed.saes import kernels
from reseed.saes.architectures import REGISTRY, Architecture, Batch, RouteSaeArchitecture, Stack
from reseed.saes.export import evaluate
from reseed.saes.objectives import decorrelation, weight_terms
from reseed.saes.step import gradients_of, is_sparse
from reseed.stability.dictionaries import Dictionary
from reseed.stability.jackknife import Groups, mean_over_seeds
from reseed.stability.statistics import agreement, matched, matched_correlations, standardised

D_IN, ROWS = 16, 64
LATENTS = 8
"""Of a dictionary of known agreement, in 3 * LATENTS dimensions, so that others can be orthogonal to it."""
TOLERANCE = 1e-3
"""Relative; sums of float32 stay far below, a wrong formula far above."""
BARS = {"shared_cosine": 0.7, "rank": LATENTS}
CONFIDENCE = 0.95


def check_instruments(variant: Variant, training: SaeTraining) -> None:
    """Raise ReseedError unless statistics, interval, explained variance and trainer give what is known on known cases.

    The trainer is that of the variant: its architecture, its own terms and its threshold, on rows of no meaning.
    """
    for name, found, known in (
        *_agreements(),
        *_correlations(),
        *_intervals(),
        *_explained(),
        *_trainer(variant, training),
    ):
        if not abs(found - known) <= TOLERANCE * max(1.0, abs(known)):
            raise ReseedError(f"{name}: found {found:.4g}, allowed: {known:.4g}, which is known; its code is wrong")


Known = Iterator[tuple[str, float, float]]
"""What is tried, the value found and the one that is known."""


def _agreements() -> Known:
    """Statistics of dictionaries of orthonormal rows, of which they share all, half, or the negative of a half."""
    random = np.random.default_rng(0)
    q = np.linalg.qr(random.standard_normal((3 * LATENTS, 3 * LATENTS)))[0]
    half, order = LATENTS // 2, random.permutation(LATENTS)
    own = _tied(q[:LATENTS])
    all_of = dict.fromkeys(("pw_mcc", "mean_max_cos", "shared_fraction", "subspace_overlap"), 1.0)
    half_of = dict.fromkeys(all_of, 0.5)
    cases: tuple[tuple[str, Dictionary, Mapping[str, float]], ...] = (
        ("the same latents in another order", _tied(q[:LATENTS][order]), all_of | {"matching_agreement": 1.0}),
        ("half of the latents", _tied(q[half : half + LATENTS]), half_of),
        ("half of the latents with their sign turned", _tied(np.vstack([-q[:half], q[half:LATENTS]])),
         {"pw_mcc": 0.5, "mean_max_cos": 1.0, "shared_fraction": 0.5, "subspace_overlap": 1.0}),
        ("the same decoder and another encoder", Dictionary(own.decoder, q[LATENTS : 2 * LATENTS], own.firing_counts),
         {"pw_mcc": 1.0, "shared_fraction": 0.0}),
        ("twice as many latents", _tied(q[: 2 * LATENTS]),
         {"pw_mcc": 0.5, "mean_max_cos": 0.75, "shared_fraction": 0.5, "matching_agreement": 0.5}),
    )  # fmt: skip
    for label, other, known in cases:
        found = agreement(own, other, **BARS)  # type: ignore[arg-type]
        yield from ((f"{name} of {label}", found[name], value) for name, value in known.items())


def _tied(rows: Array) -> Dictionary:
    return Dictionary(rows, rows, np.ones(len(rows), dtype=np.int64))


def _correlations() -> Known:
    """Matched latents whose activations are a line of each other, rising or falling, or have nothing in common."""
    acts = np.array([[1, 1, 1, 1, -1, -1, -1, -1], [1, 1, -1, -1, 1, 1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]], float).T
    other = np.stack([3 * acts[:, 0] + 5, 2 - acts[:, 1], acts[:, 0] * acts[:, 1] + 1], axis=1)
    eye = _tied(np.eye(3))
    found = matched_correlations(standardised(acts), standardised(other), matched(eye, eye))
    for label, value, known in zip(
        ("a rising line", "a falling line", "nothing"), found, (1.0, -1.0, 0.0), strict=True
    ):
        yield f"activation_correlation of latents that have {label} in common", float(value), known


def _intervals() -> Known:
    """Of a mean over seeds, the t interval of scipy: its standard deviation is over n - 1."""
    figures = [0.2, 0.5, 0.3, 0.9, 0.4]
    low, high = mean_over_seeds(figures, Groups(len(figures))).interval(CONFIDENCE)
    known = ttest_1samp(figures, 0.0).confidence_interval(CONFIDENCE)
    yield "the low end of an interval over 5 seeds", low, float(known.low)
    yield "the high end of an interval over 5 seeds", high, float(known.high)


def _explained() -> Known:
    """Of an SAE that gives nine tenths of every row, as scikit-learn has it: squares over those around the mean."""
    config = StandardSAEConfig(d_in=3, d_sae=3, dtype="float32", device="cpu")
    lens, eye = StandardSAE(config), torch.eye(3)
    zero = torch.zeros(3)
    lens.load_state_dict({"W_enc": eye, "W_dec": 0.9 * eye, "b_enc": zero, "b_dec": zero})
    rows = torch.rand(ROWS, 3, generator=generator("instruments", "explained")) * torch.tensor([1.0, 3.0, 9.0])
    found = evaluate(lens, Activations({split: [{"activations": rows}] for split in SPLITS}, {"d_in": 3}))
    known = r2_score(rows.double(), 0.9 * rows.double(), multioutput="variance_weighted")
    yield "explained_variance of an SAE that gives nine tenths of every row", found["explained_variance"], float(known)
    yield "l0 of an SAE with 3 latents on", found["l0"], 3.0


def _trainer(variant: Variant, training: SaeTraining) -> Known:
    """The terms and gradients of this variant's own architecture, at its first step."""
    bare = variant.model_copy(update={"objectives": type(variant.objectives)()})
    plain = training.model_copy(update={"precision": "float32", "compile": False})
    architecture = _made(bare, training)
    random, layers = generator("instruments", variant.architecture), architecture.n_layers
    points = variant.archetypal.points if variant.archetypal else 0
    first = torch.randn(max(8 * ROWS, 2 * points), D_IN, generator=random)
    x = torch.randn(1, ROWS, *([layers] if layers > 1 else []), D_IN, generator=random)
    translates = isinstance(variant, Transcoder | SkipTranscoder)
    target = torch.randn(1, ROWS, D_IN, generator=random) if translates else x
    stack = architecture.initialise([0], (getattr(variant, "k", 0),), first)
    batch, busy = Batch(x, target), torch.zeros(1, variant.d_sae, dtype=torch.bool)
    if is_sparse(architecture, x.device):
        kernels.ready()
    found = gradients_of(architecture, plain, stack, batch, busy, 1)
    for name, gradient in found.by.items():
        # of a threshold only rows within its bandwidth give one
        if name != "threshold":
            yield (
                f"gradient of the loss by {name} ({variant.architecture}): share that is there",
                float(gradient.any()),
                1.0,
            )
    if variant.objectives.decoder_decorrelation:
        terms = weight_terms(_made(variant, training), stack)
        yield "terms of decoder_decorrelation in the loss", float("decoder_decorrelation" in terms), 1.0
        rows = torch.nn.functional.normalize(first[:ROWS], dim=1)
        squares = (rows @ rows.T).square()
        known = (squares.sum() - squares.diag().sum()) / (ROWS * (ROWS - 1))
        yield "decoder_decorrelation of random rows", float(decorrelation(rows[None])), float(known)
    if architecture.has_threshold and 2 * stack.k[0] < variant.d_sae:
        one = stack.select([0])
        architecture.calibrate(one, first)
        fires = float((architecture.infer(one, first[None]) > 0).sum()) / len(first)
        yield f"L0 at the threshold of {variant.architecture}", fires, float(stack.k[0])
    if training.aux_k and 0 < stack.k[0] < variant.d_sae and not isinstance(architecture, RouteSaeArchitecture):
        yield from _auxiliary(architecture, plain, stack, batch)


def _made(variant: Variant, training: SaeTraining) -> Architecture[Variant]:
    layers = 2 if isinstance(variant, RouteSae) else 1
    made: Architecture[Variant] = REGISTRY[variant.architecture](
        variant, D_IN, D_IN, layers, training.decoder_norm == "unit"
    )
    return made


def _auxiliary(architecture: Architecture[Variant], training: SaeTraining, stack: Stack, batch: Batch) -> Known:
    """AuxK of latents that k others keep from firing, by its formula (Gao et al. 2024, arXiv 2406.04093) in float64.

    Only this term has a gradient for their decoder rows; a step along it must change the term as the gradient says.
    """
    k = stack.k[0]
    stack.parameters["b_enc"][..., :k] += 10.0
    idle = torch.ones(1, stack.parameters["b_enc"].shape[-1], dtype=torch.bool)
    found = gradients_of(architecture, training, stack, batch, idle, 1)
    forward = architecture.forward(stack, batch)
    residual, dead = (forward.target - forward.out)[0].double(), slice(k, None)
    pre = architecture.pre_activations(stack, batch.x)[0, :, dead]
    # those that are chosen stay chosen while the decoder moves by a little
    chosen = pre.topk(min(training.aux_k, pre.shape[1]), dim=1).indices

    def term(moved: Tensor | float) -> float:
        parameters = dict(stack.parameters)
        if "W_dec" in parameters:
            parameters["W_dec"] = parameters["W_dec"] + moved
        one = Stack(parameters, stack.buffers, stack.k)
        pre = architecture.pre_activations(one, batch.x)[0, :, dead].double()
        acts = torch.zeros_like(pre).scatter(1, chosen, pre.gather(1, chosen).relu())
        error = acts @ architecture.decoder(one)[0, dead].double() - residual
        return float(D_IN * error.square().sum() / residual.square().sum())

    yield (
        "aux_k of latents that do not fire",
        float(found.terms.get("aux_k", torch.zeros(1))[0]),
        term(0.0),
    )
    if "W_dec" in stack.parameters:
        gradient = found.by["W_dec"].clone()
        gradient[:, :k] = 0
        length = float(gradient.norm())
        step = 1e-2 * gradient / max(length, 1e-12)
        slope = training.aux_coefficient * (term(step) - term(-step)) / 2e-2
        yield "gradient of aux_k along its own direction", slope / max(length, 1e-12), 1.0
