"""Typed parameters: params.yaml, study.yaml and the subject files, checked as a whole before a stage does anything."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reseed import ReseedError

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
MODEL_SPLIT = "model"
"""Of a world with traces: the sequences that its transformer learns from, which no SAE sees."""
TRAINED = "trained"
RANDOM_MODEL = "random_model"
OOD = "ood"
GAUSSIAN = "gaussian"
ModelArm = Literal["trained", "random_model"]
"""What a forward pass gives: of the subject, and of the same model with random weights."""
LanguageArm = ModelArm | Literal["ood"]
"""And of the model reading the text of another subject."""
Arm = ModelArm | Literal["gaussian"]


class Disallowed(ValueError):
    """A value that is not allowed beside the others, found by a validator of the table that holds it."""

    def __init__(self, key: str, allowed: str) -> None:
        super().__init__(allowed)
        self.key = key


class Strict(BaseModel):
    """Unknown keys are errors: a misspelt knob must not be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Strict)

WORLDS = ("superposition", "published")
"""What the key `generator` of a world's data may say."""
KINDS = ("bpe", "pinned", "folder", "pretrained_here", "registered")
"""What the key `kind` of a tokenizer or a language model may say."""


class Budget(Strict):
    """What captures and sweeps may cost; what is estimated above it does not start. No stage depends on it."""

    gpu_hours: Positive = 100.0
    """Of one capture; of the workers of all sweeps together, each on GPUs of its own or on a machine without any."""
    activations_gigabytes: Positive = 100.0
    """Activations on disk: those of one capture; in sweeps, all of them, those of the committed results included."""


class Compute(Strict):
    threads: Count
    """torch threads of every stage; part of the bytes that a stage makes, so it is a parameter."""
    device: Literal["auto", "cpu", "cuda"]


class Convergence(Strict):
    """When a seed counts as converged; every figure is per doubling of the steps taken (see `saes.convergence`)."""

    loss_tolerance: Positive
    """Largest relative fall of the held-out loss over the last doubling of steps."""
    loss_rise_tolerance: Positive
    """Largest relative rise of the held-out loss: a slow one is overfitting to settled noise, a fast one divergence."""
    cosine_tolerance: Positive
    """Largest change of the mean cosine of alive decoder rows to their initialisation over the last doubling."""
    max_cosine_to_init: Fraction
    """A decoder closer than this to its own initialisation has not been trained, whatever its loss says."""


class Train(Strict):
    seeds: tuple[int, ...]
    vary: Literal["init", "order", "both"] = "both"
    """What a seed changes: the initialisation, the order of the rows, or both; the other is the same for all."""
    held: Annotated[int, Field(ge=0)] = 0
    """Which initialisation, or which order, `vary` holds fixed: runs of several `held` make a crossed design."""
    convergence: Convergence

    @field_validator("seeds")
    @classmethod
    def _enough_and_distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return _checked_seeds(seeds)


def _checked_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("every seed once: two runs of one seed are one run")
    if len(seeds) < 3:
        raise ValueError("at least 3 seeds: fewer give no interval")
    if min(seeds) < 0:
        raise ValueError("seeds of 0 or more")
    return seeds


class Sparsity(Strict):
    """A penalty on how much fires. Its coefficient is given, or found: raised while the L0 is above `target_l0`."""

    penalty: Literal["l1", "tanh", "l0"]
    """l1: sum of activations; tanh: sum of tanh(tanh_scale * activation); l0: number that fire, as a step function."""
    coefficient: Positive | None = None
    target_l0: Positive | None = None
    warm_up_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which a given coefficient rises linearly from zero."""
    tanh_scale: Positive = 4.0

    @model_validator(mode="after")
    def _coefficient_or_target(self) -> Self:
        if (self.coefficient is None) == (self.target_l0 is None):
            raise Disallowed("coefficient", "either coefficient or target_l0")
        return self


class Consistency(Strict):
    """Pulls the decoders of the seeds of one group together; only other groups may judge what that gives."""

    partner: Literal["nearest", "assigned"]
    """nearest: the most similar latent of each other seed; assigned: its one-to-one (Hungarian) partner there."""
    coefficient: Positive
    group_size: Annotated[int, Field(ge=2)]
    refresh_every: Count = 100
    """Steps between two assignments."""


class Objectives(Strict):
    """Terms beside reconstruction: coefficient times a term whose formula stands in `saes.objectives`."""

    sparsity: Sparsity | None = None
    decoder_decorrelation: Positive | None = None
    temporal_smoothness: Positive | None = None
    probe_guidance: Positive | None = None
    weight_decay: Positive | None = None
    encoder_decoder_alignment: Positive | None = None
    consistency: Consistency | None = None


class Archetypal(Strict):
    """A relaxed archetypal decoder: rows are convex combinations of data points, up to a bounded deviation."""

    points: Count
    """Data points a seed chooses from, the centroids of its own k-means over training rows."""
    delta: Annotated[float, Field(ge=0)]
    """Largest norm of the deviation of a row from its convex combination, in units of the normalised rows."""


class BaseVariant(Strict):
    """What every architecture has."""

    d_sae: Count
    seeds: tuple[int, ...] | None = None
    """The seeds of this variant, where they are not those of `train.seeds`: coupled ones come in whole groups."""
    steps: Count | None = None
    """Steps at the constant rate that every seed takes, converged or not: for comparisons at equal data and steps."""
    archetypal: Archetypal | None = None
    soft_frozen: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The least cosine of a decoder row to its own start: the soft-frozen decoder that Korznikov et al. 2026 (arXiv
    2602.14111) hold against trained SAEs, with 0.8. A control, whose latents are barely learned."""
    objectives: Objectives = Objectives()

    @model_validator(mode="after")
    def _frozen_rows_stay(self) -> Self:
        if self.soft_frozen and self.archetypal:
            raise ValueError("soft_frozen or archetypal, not both: an archetypal decoder has no rows of its own")
        return self

    @field_validator("seeds")
    @classmethod
    def _enough_and_distinct(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if seeds is None else _checked_seeds(seeds)

    @property
    def group_size(self) -> int:
        """How many seeds train together; those of different groups know nothing of each other."""
        return self.objectives.consistency.group_size if self.objectives.consistency else 1


class _FixedL0(BaseVariant):
    """An architecture that selects k latents a row (or k times the rows of a batch) by itself."""

    k: Count

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise Disallowed("k", f"at most d_sae ({self.d_sae})")
        if self.objectives.sparsity and (
            self.objectives.sparsity.target_l0 or self.objectives.sparsity.penalty == "l0"
        ):
            raise ValueError("no l0 penalty and no target_l0 on an architecture whose k is its L0")
        return self


class _Penalised(BaseVariant):
    """An architecture whose L0 comes from a penalty."""

    @model_validator(mode="after")
    def _has_a_penalty(self) -> Self:
        if self.objectives.sparsity is None:
            raise Disallowed("objectives.sparsity", "a penalty, without which nothing makes it sparse")
        return self


class Standard(_Penalised):
    """ReLU (Bricken et al. 2023)."""

    architecture: Literal["standard"]

    @model_validator(mode="after")
    def _no_step(self) -> Self:
        if self.objectives.sparsity and self.objectives.sparsity.penalty == "l0":
            raise Disallowed(
                "objectives.sparsity.penalty", "l1 or tanh: a ReLU has no threshold that an l0 penalty could move"
            )
        return self


class TopK(_FixedL0):
    """The k largest of each row (Gao et al. 2024, arXiv 2406.04093)."""

    architecture: Literal["topk"]


class BatchTopK(_FixedL0):
    """The k * rows largest of a batch; a threshold at inference (Bussmann et al. 2024, arXiv 2412.06410)."""

    architecture: Literal["batchtopk"]


class JumpReLU(_Penalised):
    """A learned threshold a latent, by straight-through gradients (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

    architecture: Literal["jumprelu"]
    init_threshold: Positive = 0.01
    bandwidth: Positive = 0.05

    @model_validator(mode="after")
    def _l0_or_tanh(self) -> Self:
        if self.objectives.sparsity and self.objectives.sparsity.penalty == "l1":
            raise Disallowed("objectives.sparsity.penalty", "l0 or tanh: an l1 penalty does not move a threshold")
        return self


class Gated(_Penalised):
    """Whether a latent fires and how much, by separate biases (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

    architecture: Literal["gated"]

    @model_validator(mode="after")
    def _l1(self) -> Self:
        if self.objectives.sparsity and self.objectives.sparsity.penalty != "l1":
            raise Disallowed("objectives.sparsity.penalty", "l1, which a gated SAE takes on its gate")
        return self


class Matryoshka(_FixedL0):
    """BatchTopK whose prefixes of the latents reconstruct by themselves (Bussmann et al. 2025, arXiv 2503.17547)."""

    architecture: Literal["matryoshka"]
    widths: Annotated[tuple[int, ...], Field(min_length=2)]
    """Prefixes of the latents, increasing; the last is d_sae."""

    @model_validator(mode="after")
    def _widths_increase(self) -> Self:
        if list(self.widths) != sorted(set(self.widths)) or self.widths[0] < 1 or self.widths[-1] != self.d_sae:
            raise Disallowed("widths", f"increasing widths of which the last is d_sae ({self.d_sae})")
        return self


class HierarchicalTopK(_FixedL0):
    """TopK that is good at every budget up to k (Balagansky et al. 2025, arXiv 2505.24473)."""

    architecture: Literal["hierarchical_topk"]
    budgets: Annotated[tuple[int, ...], Field(min_length=1)]
    """How many of the k largest reconstruct, increasing; the last is k."""

    @model_validator(mode="after")
    def _budgets_increase(self) -> Self:
        if list(self.budgets) != sorted(set(self.budgets)) or self.budgets[0] < 1 or self.budgets[-1] != self.k:
            raise Disallowed("budgets", f"increasing budgets of which the last is k ({self.k})")
        return self


class RouteSae(_FixedL0):
    """One TopK dictionary over several layers, a learned router choosing the layer of each row (arXiv 2503.08200)."""

    architecture: Literal["routesae"]
    routing: Literal["hard", "soft"] = "hard"
    decoder: Literal["shared", "per_layer"] = "shared"

    @model_validator(mode="after")
    def _per_layer_is_hard(self) -> Self:
        if self.decoder == "per_layer" and (self.routing == "soft" or self.archetypal):
            raise ValueError("the shared decoder with soft routing or an archetypal decoder")
        return self


class Transcoder(_FixedL0):
    """BatchTopK from one hook point to another (Dunefsky et al. 2024, arXiv 2406.11944)."""

    architecture: Literal["transcoder"]


class SkipTranscoder(_FixedL0):
    """A transcoder with a linear path beside the latents (Paulo et al. 2025, arXiv 2501.18823)."""

    architecture: Literal["skip_transcoder"]


Variant = Annotated[
    Standard
    | TopK
    | BatchTopK
    | JumpReLU
    | Gated
    | Matryoshka
    | HierarchicalTopK
    | RouteSae
    | Transcoder
    | SkipTranscoder,
    Field(discriminator="architecture"),
]


class Stability(Strict):
    alive_min_count: Count
    """A latent is alive if it fires at least this often per pass over the training rows."""
    shared_cosine: Fraction
    null_draws: Count
    """Monte Carlo draws per pair of seeds for each simulated null."""
    confidence: Fraction
    plateau_tolerance: Positive
    """Largest change of a statistic over the last doubling of steps that still counts as a plateau."""
    correctness: Correctness


class Correctness(Strict):
    """When agreement counts as stable and a dictionary as correct, on subjects whose features are known."""

    stable_kappa: Fraction
    """The whole interval of the kappa of pw_mcc lies above this: stable; below: unstable."""
    correct_gt_mcc: Fraction
    """The whole interval of gt_mcc lies above this: correct; below: wrong."""


class Calibration(Strict):
    """The search for k: which are tried with which seeds, and what a k must have to be chosen."""

    ks: Annotated[tuple[int, ...], Field(min_length=3)]
    search_seeds: tuple[int, ...]
    """Of the search alone: the chosen k is trained again with the seeds of `train.seeds`, which are others."""
    explained_variance_floor: Fraction
    """A k whose lower bound of the held-out explained variance is below this cannot be chosen for its stability."""
    control_k: Count
    """What the chosen k is compared with, by the same seeds and steps."""

    @field_validator("search_seeds")
    @classmethod
    def _enough_and_distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return _checked_seeds(seeds)


class SaeBench(Strict):
    k_values: tuple[Literal[1, 2, 5, 10, 20, 50, 100], ...]
    frequencies: Count
    """How many of the model's key frequencies, strongest first, are probed for their phase."""
    probe_train_rows: Count
    probe_test_rows: Count
    shuffles: Annotated[int, Field(ge=19)]
    """Label shuffles that the dense probe must all beat for a task to count (19 give a one-sided p of 0.05)."""


class SaeProbes(Strict):
    """sae-probes (Kantamneni et al. 2025, arXiv 2502.16681): probes on k latents, on 113 data sets of prompts."""

    datasets: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the package's data sets."""
    settings: Annotated[tuple[Literal["normal", "scarcity", "imbalance"], ...], Field(min_length=1)]
    splits: Annotated[tuple[int, ...], Field(min_length=1)]
    """Seeds of the splits into training and test rows; 42 is the package's own."""
    ks: Annotated[tuple[Count, ...], Field(min_length=1)]
    control_seeds: Count
    """Of so many seeds, the first ones, the controls are probed."""
    wide_ks: tuple[Count, ...] = ()
    """Of the setting normal, its first split and the SAE alone: a probe on 128 latents takes some forty times as long
    as one on 16."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({*self.ks, *self.wide_ks}) < len(self.ks) + len(self.wide_ks):
            raise ValueError("every k once, in ks or in wide_ks")
        return self


EvalName = Literal[
    "core", "sparse_probing", "sparse_probing_sae_probes", "absorption", "scr", "tpp", "autointerp", "ravel",
    "unlearning", "meta_structure",
]  # fmt: skip


class Evals(Strict):
    """SAEBench's own evals on the SAEs of language models, each in a process of its own."""

    seed: int
    """Of every generator that an eval may draw from."""
    control_seeds: Count
    """Of so many seeds, the first ones, the controls are judged."""
    sequences: Count
    """The first test sequences, which core reads."""
    settings: dict[EvalName, dict[str, Any]]
    """The evals to run, each with what it should not take from SAEBench's defaults."""


class CeBench(Strict):
    """Scores in the style of CE-Bench, on pairs of stories that differ in one respect."""

    source: Literal["edits", "hub"]
    """edits: of the subject's own test documents; hub: the official stories."""
    revision: str | None = None
    """Of the official stories, 40 hex digits."""
    pairs: Annotated[int, Field(ge=2)]
    """At most so many."""
    seed: int
    control_seeds: Count


class TruthRows(Strict):
    """At most so many rows, of whole sequences, on which detectors of states are chosen, and scored."""

    train: Count
    test: Count


class Truth(Strict):
    """Scores of SAEs against known states, planes or directions."""

    rows: TruthRows
    permutations: Annotated[int, Field(ge=19)]
    """Of the states over the sequences (19 give a latent a p of 0.05)."""
    min_fourier_r2: Fraction
    """Of the held-out activations of a model of modular addition that planes explain: below, it has no such truth."""


class DasOptions(Strict):
    """Distributed alignment search: subspaces trained on interchange interventions."""

    dims: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Dimensions of the subspaces; that of the first is compared as a direction, so it is 1."""
    rows: Annotated[int, Field(ge=16)]
    steps: Count
    lr: Positive

    @model_validator(mode="after")
    def _a_direction_first(self) -> Self:
        if self.dims[0] != 1:
            raise Disallowed("dims", "dims that begin with 1")
        return self


class Causal(Strict):
    """Edits of latents whose effect is read behind them, on subjects whose states are known."""

    concepts: Count
    """At most so many values of state variables, the variables in turns."""
    frequencies: Count
    """Of addition modulo p: how many of the model's key frequencies, strongest first, give concepts of their phase."""
    min_prevalence: Fraction
    """A value must be on, and off, in this share of the training rows."""
    rows: Annotated[int, Field(ge=16)]
    """Test rows that a concept is edited on, half of them on where there are as many."""
    probe_rows: Count
    """Training rows that latents are chosen and read-outs fitted on, and at most so many test rows to check those."""
    doses: Annotated[tuple[Positive, ...], Field(min_length=2)]
    """Of both signs, in standard deviations of the latent's activation."""
    matched_dose: Positive
    """The dose at which a control is scaled to the latent's KL divergence."""
    draws: Count
    """Of every control that is drawn at random."""
    min_auc: Fraction
    """A read-out must tell the state of unedited test rows at least so well to judge an edit."""
    off_target_correlation: Fraction
    """Concepts whose labels correlate less than this with the target's are off target."""
    das: DasOptions

    @model_validator(mode="after")
    def _doses_increase(self) -> Self:
        if list(self.doses) != sorted(set(self.doses)) or self.matched_dose not in self.doses:
            raise Disallowed("doses", "increasing doses, the matched_dose among them")
        return self


class Params(Strict):
    compute: Compute
    budget: Budget = Budget()
    train: Train
    variants: dict[str, Variant]
    stability: Stability
    calibration: Calibration
    saebench: SaeBench
    sae_probes: SaeProbes
    evals: Evals
    ce_bench: CeBench
    truth: Truth
    causal: Causal

    def seeds(self, variant: BaseVariant) -> tuple[int, ...]:
        """The seeds that a variant is trained with."""
        return variant.seeds or self.train.seeds

    def variant(self, name: str) -> Variant:
        """The variant called `name`; raises ReseedError if params.yaml has none."""
        return lookup(self.variants, name, "params.yaml: variants")


Rule = Literal[
    "accuracy", "correct", "coverage", "enrichment", "fidelity", "fourier_r2", "gt_mcc", "monosemanticity", "planes",
    "purity", "recall",
]  # fmt: skip
"""A figure of truth.json that a rule may bound from below."""


class Phase(Strict):
    """What a subject is for, and what its SAEs must reach, committed before the run."""

    question: Annotated[str, Field(min_length=1)]
    rules: dict[Rule, Annotated[float, Field(gt=0, le=1)]]


class ModularAddition(Strict):
    """Addition modulo p as sequences [a, b, =] with the answer predicted at `=`."""

    generator: Literal["modular_addition"]
    p: Annotated[int, Field(ge=5)]
    train_fraction: Fraction
    validation_fraction: Fraction
    seed: int

    @model_validator(mode="after")
    def _leaves_a_test_split(self) -> Self:
        left = 1 - self.train_fraction - self.validation_fraction
        if left < 0.01:
            raise Disallowed(
                "validation_fraction", f"at most 0.99 with train_fraction (the rest, {left:.3g}, is the test)"
            )
        return self


class Rows(Strict):
    """How many rows each split has."""

    train: Count
    validation: Count
    test: Count


class Superposition(Strict):
    """Rows that are sparse sums of known unit features, drawn by `sae_lens.synthetic`."""

    generator: Literal["superposition"]
    n_features: Count
    d_in: Count
    l0: Positive
    """Features that are on in a row: the mean, or the number where `exactly`."""
    exactly: bool = False
    """Every row has exactly `l0` features on, uniformly chosen; else each is on with probability l0 / n_features."""
    orthogonal: bool = False
    """Features as nearly orthogonal as SAELens' gradient descent makes them; else uniformly random directions."""
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Correlation of the normals whose thresholds decide which features are on, of every two features of a group."""
    groups: Count = 1
    """Consecutive features of equal number; those of two groups are on independently."""
    zipf: Annotated[float, Field(ge=0)] = 0.0
    """Features (parents, where there are any) are on in proportion to place ** -zipf; 0: all equally often."""
    children: Annotated[int, Field(ge=0)] = 0
    """Of every parent; they stand behind it, and are on only where it is."""
    child_probability: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of each child, independently, to be on where its parent is."""
    magnitude_mean: Annotated[float, Field(ge=0)] = 1.0
    magnitude_std: Annotated[float, Field(ge=0)] = 0.0
    magnitudes: Literal["folded_normal", "log_normal"] = "folded_normal"
    """A feature that is on has the magnitude |N(mean, std)|, 0 and 1 giving a half-normal one, or exp(N(mean, std))."""
    noise_std: Annotated[float, Field(ge=0)] = 0.0
    """Of the normal noise on every dimension of a row."""
    rows: Rows
    seed: int

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.l0 >= self.n_features:
            raise Disallowed("l0", f"below n_features ({self.n_features})")
        if self.exactly and (self.l0 != int(self.l0) or self.correlation):
            raise ValueError("exactly with a whole l0 and no correlation")
        if self.n_features % self.groups:
            raise Disallowed("groups", f"a number of groups that divides n_features ({self.n_features})")
        if self.n_features % (1 + self.children):
            raise Disallowed(
                "children", f"a number of children that, one added, divides n_features ({self.n_features})"
            )
        if (self.zipf or self.children) and (self.exactly or self.correlation):
            raise ValueError("zipf and children without exactly and correlation")
        if (most := max(self.firing_probabilities())) >= 1:
            raise ValueError(f"an l0 and a zipf at which no feature is always on; the first would be at {most:.2f}")
        if self.magnitude_mean == self.magnitude_std == 0 and self.magnitudes == "folded_normal":
            raise ValueError("a magnitude_mean or a magnitude_std above 0")
        return self

    def firing_probabilities(self) -> list[float]:
        """Of every feature, a child's given that its parent is on; l0 features are on in a row on average."""
        parents = [place**-self.zipf for place in range(1, self.n_features // (1 + self.children) + 1)]
        on = self.l0 / (1 + self.children * self.child_probability) / sum(parents)
        return [p for parent in parents for p in (on * parent, *[self.child_probability] * self.children)]


class Sequences(Strict):
    """How many sequences each split of a world has, disjoint by instance (a graph, a layout of walls, …)."""

    model: Count
    """What the transformer learns from; SAEs are trained and judged on sequences that it never saw."""
    train: Count
    validation: Count
    test: Count


class TraceDataBase(Strict):
    sequences: Sequences
    seed: int


class StackMachine(TraceDataBase):
    """Instructions of a stack machine, each followed by what is then on top (`reseed.subjects.stack`)."""

    generator: Literal["stack"]
    modulus: Annotated[int, Field(ge=2)]
    """Values are 0 to modulus - 1; `add` is modulo it."""
    max_depth: Annotated[int, Field(ge=2)]
    instructions: Count
    unpredicted: Annotated[int, Field(ge=0)] = 0
    """How many outputs are shown before the first that is predicted: programs of different splits begin alike."""

    @model_validator(mode="after")
    def _predicts_something(self) -> Self:
        if self.unpredicted >= self.instructions:
            raise Disallowed("unpredicted", f"below {self.instructions}, the number of instructions")
        return self


class GraphTraversal(TraceDataBase):
    """Breadth-first and depth-first traversals of random connected graphs (`reseed.subjects.graph`)."""

    generator: Literal["graph"]
    nodes: Annotated[int, Field(ge=3)]
    edges: Count

    @model_validator(mode="after")
    def _connected(self) -> Self:
        most = self.nodes * (self.nodes - 1) // 2
        if not self.nodes - 1 <= self.edges <= most:
            raise Disallowed(
                "edges", f"{self.nodes - 1} to {most} edges, with which {self.nodes} nodes can be connected"
            )
        return self


class GridWalk(TraceDataBase):
    """A walker on a square grid with walls (`reseed.subjects.walker`)."""

    generator: Literal["walker"]
    size: Annotated[int, Field(ge=2)]
    walls: Annotated[int, Field(ge=0)]
    moves: Count

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.walls >= self.size**2:
            raise Disallowed("walls", f"fewer walls than the {self.size**2} cells")
        return self


class LogicPuzzle(TraceDataBase):
    """4x4 sudoku puzzles that naked singles solve (`reseed.subjects.logic`)."""

    generator: Literal["logic"]
    blanks: Annotated[int, Field(ge=1, le=12)]


TraceData = Annotated[StackMachine | GraphTraversal | GridWalk | LogicPuzzle, Field(discriminator="generator")]
TRACED = ("stack", "graph", "walker", "logic")
"""The generators of worlds whose exact state is known at every step."""


class States(Strict):
    """Rows that are the exact states of a world themselves, without a transformer."""

    generator: Literal["states"]
    world: TraceData


class PublishedWorld(Strict):
    """Rows of a `sae_lens.synthetic` model that a hub keeps, features and all."""

    generator: Literal["published"]
    hub_id: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    rows: Rows
    seed: int


class ModelTraining(Strict):
    seed: int
    batch_size: Count
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    betas: tuple[Fraction, Fraction]
    warm_up_steps: Count
    max_steps: Count
    decay_fraction: Annotated[float, Field(ge=0, lt=1)] = 0
    """The last share of `max_steps`, over which the learning rate falls linearly to zero."""
    check_every: Count
    stop_loss: Positive
    """Training stops once the loss on the validation split is below this (nats)."""
    min_accuracy: Fraction
    """The stage fails unless the accuracy on the validation split reaches this."""


class Transformer(Strict):
    """The shape of a transformer that is trained here, in TransformerLens' words."""

    n_layers: Count
    d_model: Count
    n_heads: Count
    d_mlp: Count
    act_fn: Literal["relu", "gelu", "silu"]
    normalization_type: Literal["LN", "LNPre"] | None

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.d_model % self.n_heads:
            raise Disallowed("n_heads", f"a divisor of d_model ({self.d_model})")
        return self


class Model(Transformer):
    training: ModelTraining


class Capture(Strict):
    hook_name: str
    hook_name_out: str | None = None
    """A second hook point, at the same positions: where transcoders write."""
    positions: Annotated[tuple[str, ...], Field(min_length=1)]
    dtype: Literal["float32", "bfloat16", "float16"]
    arms: tuple[ModelArm, ...]


class TraceCapture(Strict):
    """What is read of a world's transformer, at every position whose next token it predicts."""

    hook_name: str
    dtype: Literal["float32", "bfloat16", "float16"]
    arms: tuple[ModelArm, ...]
    labels: str
    """The variable whose value is the label of a row, for the probe-guided objective."""


class SaeTraining(Strict):
    """What all SAEs of a subject share; a variant adds architecture, d_sae and k."""

    batch_size: Count
    lr: Positive
    warm_up_steps: Count
    max_steps: Count
    decay_fraction: Annotated[float, Field(ge=0, le=1)]
    """Length of the final linear decay of the learning rate, as a share of the steps taken before it."""
    check_every: Count
    min_steps: Count
    max_gradient_norm: Positive = 1.0
    """A member's gradient is shortened to this norm."""
    decoder_norm: Literal["unit", "free"] = "unit"
    """unit: rows stay at norm one, the gradient along them is dropped; free: norms are folded away at the end."""
    centre: Literal["mean", "geometric_median"] = "mean"
    """The point that is subtracted from the rows, where b_dec starts."""
    aux_k: Annotated[int, Field(ge=0)]
    """AuxK: dead latents that reconstruct the residual of a row; 0 turns it off."""
    aux_coefficient: Annotated[float, Field(ge=0)]
    dead_after_steps: Count
    """Steps without firing after which a latent counts as dead."""
    resample_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two resamplings of the dead latents; 0 turns it off."""
    buffer_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of the shuffle buffer when the rows are streamed from disk; 0 shuffles all rows of a pass."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the products are computed in; weights and moments are float32 always."""
    compile: bool = False
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints; 0 writes none."""

    @model_validator(mode="after")
    def _one_cure_for_dead_latents(self) -> Self:
        if self.aux_k and self.resample_every:
            raise Disallowed("resample_every", "0 beside AuxK (aux_k): one of the two")
        return self

    @model_validator(mode="after")
    def _ends_in_time(self) -> Self:
        if self.last_constant_step < max(1, self.min_steps):
            raise Disallowed(
                "max_steps",
                f"as many as leave min_steps ({self.min_steps}) and the decay after them, in whole checks of "
                f"check_every ({self.check_every}) steps",
            )
        return self

    def at_steps(self, steps: int | None) -> Self:
        """The training in which every seed takes so many steps at the constant rate, and then its decay."""
        if steps is None:
            return self
        steps = math.ceil(steps / self.check_every) * self.check_every
        wanted = {"min_steps": steps, "max_steps": steps + self.decay_steps(steps)}
        return type(self).model_validate(self.model_dump() | wanted)

    def decay_steps(self, decay_from: int) -> int:
        """Steps of the decay, rounded up to a whole number of checks so that a seed ends on one."""
        return math.ceil(int(decay_from * self.decay_fraction) / self.check_every) * self.check_every

    @property
    def last_constant_step(self) -> int:
        """The last check at which a decay still ends by max_steps; 0 if there is none."""
        checks = range(self.max_steps // self.check_every * self.check_every, 0, -self.check_every)
        return next((step for step in checks if step + self.decay_steps(step) <= self.max_steps), 0)


class Subject(Strict):
    data: ModularAddition
    model: Model
    capture: Capture
    sae: SaeTraining
    phase: Phase | None = None


class TracedSubject(Strict):
    """A world whose exact state is known at every step, and a transformer trained here that reads its traces."""

    data: TraceData
    model: Model
    capture: TraceCapture
    sae: SaeTraining
    phase: Phase | None = None


class StatesSubject(Strict):
    """A subject without a model: its rows are the exact states of a world."""

    data: States
    sae: SaeTraining
    phase: Phase | None = None


class Bpe(Strict):
    """A byte-level BPE tokenizer trained here, on the training documents alone."""

    kind: Literal["bpe"]
    vocabulary: Annotated[int, Field(ge=300)]
    """Tokens: the 256 bytes, the special tokens and the merges."""


class PinnedTokenizer(Strict):
    """A tokenizer of the registry (`reseed.text.tokenizers`), checked by its hash."""

    kind: Literal["pinned"]
    name: str


class TokenizerFolder(Strict):
    """The tokenizer.json of a local folder in Hugging Face format."""

    kind: Literal["folder"]
    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its tokenizer.json."""


Tokenizer = Annotated[Bpe | PinnedTokenizer | TokenizerFolder, Field(discriminator="kind")]


class Quality(Strict):
    """What tokenised text may hold at most; a breach stops the pipeline."""

    max_duplicates: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the documents that repeat an earlier one of their split."""
    max_unknown: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Share of the tokens that are the unknown token."""
    max_pads: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of the positions that are padding."""
    max_changed: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the tokens that change when the normalised text is tokenised again."""
    max_truncated: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the documents that were cut at n_ctx (padded ones; packed ones are never cut)."""
    min_aligned: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Share of the steps whose tokens give back their text exactly (as far as the tokenizer keeps it)."""


class Corpus(Strict):
    """A reasoning corpus of the registry (`reseed.subjects.corpora`), and how its text becomes tokens."""

    generator: Literal["corpus"]
    corpus: str
    source: Literal["folder", "https", "hub"] | None = None
    """None: the folder that RESEED_CORPORA names if it holds the corpus, else https, else the hub; and for a corpus
    that an installed package carries, which has no other source."""
    use: Literal["training", "evaluation"] = "training"
    """What the text is for; a licence that forbids it refuses the subject."""
    rows: Count | None = None
    """At most so many rows of each of the corpus' own splits, the first ones."""
    validation_fraction: Fraction
    """Of the questions of the corpus' training split, for validation, and as much again for the test; where the corpus
    has a validation or a test split of its own, that one is it."""
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity of word 5-grams from which a training question repeats a held-out one, and is removed."""
    seed: int
    tokenizer: Tokenizer
    n_ctx: Annotated[int, Field(ge=8)]
    """Tokens of a sequence."""
    packing: Literal["packed", "padded"]
    """packed: documents of a split end to end, separated, cut at n_ctx; padded: one document a sequence."""
    quality: Quality = Quality()

    @field_validator("corpus")
    @classmethod
    def _plain_name(cls, corpus: str) -> str:
        if not corpus or "/" in corpus:
            raise ValueError("a name of the registry of corpora")
        return corpus


class GptTraining(Strict):
    """AdamW with a linear warm-up and a cosine decay, on shuffled sequences."""

    seed: int
    batch_size: Count
    """Sequences a step."""
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    betas: tuple[Fraction, Fraction]
    warm_up_steps: Count
    steps: Count
    check_every: Count
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the products of a training step; the weights, their optimiser and every evaluation are float32."""
    below_bigram: Annotated[float, Field(ge=0)]
    """The stage fails unless the held-out loss is below that of the bigram model by so many nats a token."""


class Gpt(Transformer):
    """A decoder-only transformer pretrained here on the training sequences."""

    kind: Literal["pretrained_here"]
    training: GptTraining


class RegisteredModel(Strict):
    """A model of the registry (`reseed.models.registry`), fetched by its pin and checked by its hash."""

    kind: Literal["registered"]
    name: str


class ModelFolder(Strict):
    """A local folder in Hugging Face format: config.json and safetensors weights."""

    kind: Literal["folder"]
    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of its model.safetensors; a sharded model names that of model.safetensors.index.json."""


LanguageModel = Annotated[Gpt | RegisteredModel | ModelFolder, Field(discriminator="kind")]


class LanguageCapture(Strict):
    """What is read of a language model: hook points, and which positions of a sequence."""

    hook_name: str | tuple[str, ...]
    """Several give rows [n_layers, d_in], for RouteSAE."""
    hook_name_out: str | None = None
    """A second hook point, at the same positions: where transcoders write."""
    positions: Literal["all", "last", "steps"]
    """all: every token of the text; last: the last token of a document; steps: the tokens of labelled steps."""
    dtype: Literal["float32", "bfloat16", "float16"]
    arms: tuple[LanguageArm, ...]
    ood: str | None = None
    """The subject whose text the model reads in the arm `ood`; its tokenizer must be the same."""
    rows: Count | None = None
    """At most so many training rows (whole sequences, in order); held-out splits get a tenth of it each."""

    @model_validator(mode="after")
    def _ood_has_its_text(self) -> Self:
        if (OOD in self.arms) != (self.ood is not None):
            raise Disallowed("ood", "the subject whose text is read, together with the arm ood")
        return self


class LanguageSubject(Strict):
    """A language model that reads a corpus."""

    data: Corpus
    model: LanguageModel
    capture: LanguageCapture
    sae: SaeTraining


class World(Strict):
    """A subject without a model: its rows come from a generator that knows their features."""

    data: Annotated[Superposition | PublishedWorld, Field(discriminator="generator")]
    sae: SaeTraining
    phase: Phase | None = None


TrainedOn = Subject | LanguageSubject | World | TracedSubject | StatesSubject
"""What SAEs are trained on."""
WITH_SAES: dict[str, type[TrainedOn]] = {
    **dict.fromkeys(WORLDS, World),
    "corpus": LanguageSubject,
    "states": StatesSubject,
    **dict.fromkeys(TRACED, TracedSubject),
}
"""The type of a subject file by its data.generator; any other is a `Subject`."""


class LeakyAddition(Strict):
    """Addition modulo p as sequences [BOS, a, +, b, =, c, EOS] with the answer c read where c itself stands."""

    generator: Literal["modular_addition_with_its_answer"]
    p: Annotated[int, Field(ge=5)]
    train_fraction: Fraction
    """Of the p^2 ordered pairs, at random; the rest validates."""
    seed: int


class LeakyTraining(Strict):
    """AdamW at a constant rate; the first epoch of the best validation accuracy is kept."""

    seed: int
    batch_size: Count
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    max_epochs: Count


class LeakyModel(Strict):
    n_layers: Count
    d_model: Count
    n_heads: Count
    d_mlp: Count
    act_fn: Literal["relu"]
    normalization_type: Literal["LN"]
    training: LeakyTraining


class LeakyCapture(Strict):
    hook_name: str
    position: str
    dtype: Literal["float32"]


class Quarantined(Strict):
    """A subject with a known fault, kept to show what the fault does: it runs because its leak check fails."""

    quarantine: Annotated[str, Field(min_length=1)]
    """The fault. It travels with the activations, and no claim may use what carries it."""
    data: LeakyAddition
    model: LeakyModel
    capture: LeakyCapture


class Pair(Strict):
    subject: str
    variant: str
    controls: tuple[Arm, Arm]
    """The arms to compare with; a subject that has one only names it twice, because DVC wants a fixed number."""


class Run(Strict):
    subject: str
    variant: str
    arm: Arm
    out: str


class CaptureOf(Strict):
    subject: str
    arm: LanguageArm
    text: str
    """The subject whose tokens the model reads: another one in the arm `ood`."""


class SubjectEntry(Strict):
    control: ModelArm


class Factorial(Strict):
    """Initialisations crossed with orders of the rows, on subjects that differ in their model's seed only."""

    subjects: tuple[str, str, str]
    variant: str


class Comparison(Strict):
    """Variants of one subject beside each other; DVC wants a fixed number, so the last is repeated."""

    subject: str
    variants: tuple[str, str, str, str, str, str, str, str]
    baseline: str
    """The variant that the others are compared with."""
    l0_tolerance: Positive | None = None
    """For comparisons at equal L0: a variant whose held-out L0 differs by more, as a share of the baseline's, or whose
    seeds took another number of steps, is not comparable."""
    explained_variance_drop: Annotated[float, Field(ge=0)]
    """A variant is accepted over the baseline only if its held-out explained variance falls by no more than this."""
    gain: Annotated[float, Field(ge=0)]
    """A variant is accepted over the baseline only if its kappa of pw_mcc is above the baseline's by more than this."""

    @model_validator(mode="after")
    def _has_its_baseline(self) -> Self:
        if self.baseline not in self.variants:
            raise Disallowed("baseline", f"a baseline among the variants ({', '.join(dict.fromkeys(self.variants))})")
        return self


class OfSubject(Strict):
    subject: str
    variant: str


class Scored(Strict):
    """SAEs judged by what is known to be true of their subject, beside those of a control arm."""

    subject: str
    variant: str
    control: Arm
    reads: tuple[str, str]
    """Where else the truth stands: the tokens with their states and the trained model; for a subject that has only
    one of these, or neither, the activations in their place, because DVC wants a fixed number."""


class OfFamily(OfSubject):
    family: str | None = None
    """The kind of world, which is held out as a whole; None: the subject is a family of its own."""


class Reliability(Strict):
    """Seed sets whose truth is known, to fit P(correct); DVC wants a fixed number, so the last is repeated."""

    version: Count
    """Of the model that is fitted on them."""
    pairs: Annotated[tuple[OfFamily, ...], Field(min_length=12, max_length=12)]
    planted: Annotated[tuple[OfFamily, ...], Field(min_length=4, max_length=4)]
    """Worlds with planted controls, of which the detector of what is stable and wrong is fitted."""

    @property
    def sets(self) -> list[OfFamily]:
        """Each once."""
        return list(dict.fromkeys(self.pairs))


class PromptedArm(Strict):
    """An arm of a language subject that reads the prompts of sae-probes."""

    subject: str
    arm: ModelArm


class Probing(Strict):
    """An SAE whose latents are judged, and the variant of the same shape whose decoder is soft-frozen."""

    subject: str
    variant: str
    frozen: str


class Study(Strict):
    root: str
    study_file: str
    claims_file: str
    subjects: dict[str, SubjectEntry]
    probed: dict[str, dict[str, str]]
    captures: dict[str, CaptureOf]
    worlds: dict[str, dict[str, str]]
    quarantined: dict[str, dict[str, str]]
    gaussians: dict[str, dict[str, str]]
    runs: dict[str, Run]
    pairs: dict[str, Pair]
    outside: dict[str, OfSubject]
    covered: dict[str, OfSubject]
    scored: dict[str, Scored]
    exemplified: dict[str, OfSubject]
    benches: dict[str, OfSubject]
    prompted: dict[str, PromptedArm]
    baselines: dict[str, dict[str, str]]
    probings: dict[str, Probing]
    evaluations: dict[str, Probing]
    intervened: dict[str, Probing]
    comparisons: dict[str, Comparison]
    factorials: dict[str, Factorial]
    certificates: dict[str, OfSubject]
    calibrations: dict[str, OfSubject]
    replications: dict[str, dict[str, str]]
    planted: dict[str, OfSubject]
    reliabilities: dict[str, Reliability]
    bars: dict[str, str]


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml; raises ReseedError with one sentence for the first fault."""
    return load(Params, path)


def load_subject(name: str, folder: Path = Path("subjects")) -> Subject:
    """Read and check subjects/<name>.yaml; raises ReseedError for an unknown name or the first fault."""
    return load(Subject, _subject_file(name, folder))


def _subject_file(name: str, folder: Path) -> Path:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise ReseedError(f"subject {name!r}: {path} does not exist; known subjects: {known}")
    return path


def load_language(name: str, folder: Path = Path("subjects")) -> LanguageSubject:
    """Read and check subjects/<name>.yaml of a language model; raises ReseedError as `load_subject` does."""
    return load(LanguageSubject, _subject_file(name, folder))


def is_language(name: str, folder: Path = Path("subjects")) -> bool:
    """Whether subjects/<name>.yaml is of a language model that reads a corpus."""
    return bool(_generator(_subject_file(name, folder)) == "corpus")


def check_training_text(name: str) -> None:
    """Raise ReseedError if the text of a subject is for evaluation alone: nothing is trained on it."""
    if is_language(name) and (use := load_language(name).data.use) != "training":
        raise ReseedError(
            f"subjects/{name}.yaml: data.use: found {use!r}, allowed: 'training' for text that a model or an SAE is "
            "trained on"
        )


def _generator(path: Path) -> Any:
    return _generator_in(read_yaml(path))


def _generator_in(content: Any) -> Any:
    data = content.get("data") if isinstance(content, dict) else None
    return data.get("generator") if isinstance(data, dict) else None


def load_world(name: str, folder: Path = Path("subjects")) -> World:
    """Read and check subjects/<name>.yaml of a world; raises ReseedError for an unknown name or the first fault."""
    return load(World, _subject_file(name, folder))


def load_traced(name: str, folder: Path = Path("subjects")) -> TracedSubject:
    """Read and check subjects/<name>.yaml of a world with traces; raises ReseedError as `load_subject` does."""
    return load(TracedSubject, _subject_file(name, folder))


def is_traced(name: str, folder: Path = Path("subjects")) -> bool:
    """Whether subjects/<name>.yaml is of a world with traces, which a transformer reads."""
    return _generator(_subject_file(name, folder)) in TRACED


def load_states(name: str, folder: Path = Path("subjects")) -> StatesSubject:
    """Read and check subjects/<name>.yaml of the states of a world; raises ReseedError as `load_subject` does."""
    return load(StatesSubject, _subject_file(name, folder))


def is_states(name: str, folder: Path = Path("subjects")) -> bool:
    """Whether subjects/<name>.yaml is of the exact states of a world, without a model."""
    return bool(_generator(_subject_file(name, folder)) == "states")


def load_quarantined(name: str, folder: Path = Path("subjects")) -> Quarantined:
    """Read and check subjects/<name>.yaml of a quarantined subject; raises ReseedError as `load_subject` does."""
    return load(Quarantined, _subject_file(name, folder))


def load_sae_training(name: str, folder: Path = Path("subjects")) -> SaeTraining:
    """What the SAEs of a subject share, whatever the subject is; raises ReseedError for the first fault of its file."""
    path = _subject_file(name, folder)
    kind: type[TrainedOn] = WITH_SAES.get(str(_generator(path)), Subject)
    return load(kind, path).sae


def kind_of(file: str, content: Any) -> type[Strict] | None:
    """The type of a parameter file, by its path in the project and its content; None for a file that has none."""
    path = Path(file)
    if file == "params.yaml":
        return Params
    if path.name == "study.yaml":
        return Study
    if path.parent != Path("subjects"):
        return None
    kinds: dict[str, type[Strict]] = {**WITH_SAES, "modular_addition_with_its_answer": Quarantined}
    return kinds.get(str(_generator_in(content)), Subject)


def generator_of(name: str, folder: Path = Path("subjects")) -> str:
    """What data.generator of subjects/<name>.yaml says; raises ReseedError for an unknown name."""
    return str(_generator(_subject_file(name, folder)))


def load_phase(name: str, folder: Path = Path("subjects")) -> Phase | None:
    """What subjects/<name>.yaml commits its SAEs to; raises ReseedError for an unknown name or the first fault."""
    path = _subject_file(name, folder)
    content = read_yaml(path)
    phase = content.get("phase") if isinstance(content, dict) else None
    return None if phase is None else checked(Phase, phase, path)


def load_study(path: Path = Path("study.yaml")) -> Study:
    """Read and check a study file; raises ReseedError for the first fault."""
    return load(Study, path)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises ReseedError if it is missing or not YAML."""
    if not path.is_file():
        raise ReseedError(f"{path}: the file does not exist")
    try:
        return yaml.load(path.read_text(), yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ReseedError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def load(kind: type[S], path: Path) -> S:
    """Read a YAML file as `kind`; raises ReseedError with one sentence for the first fault."""
    return checked(kind, read_yaml(path), path)


def checked(kind: type[S], content: Any, path: Path) -> S:
    """The content of the YAML file `path` as `kind`; raises ReseedError with one sentence for the first fault."""
    if not isinstance(content, dict):
        raise ReseedError(f"{path}: found {type(content).__name__}, allowed: a mapping of keys to values")
    try:
        return kind.model_validate(_finite(content))
    except ValidationError as error:
        raise ReseedError(_sentence(path, error)) from error


def _finite(value: Any) -> Any:
    # YAML reads 1e-3 (no dot) as a string; Hydra writes such numbers back, so they are accepted here.
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, str) and len(value) < 32:  # a longer one is a hash, also if all its digits are decimal
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _sentence(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    # pydantic names the member of a union that it tried, after the key whose value chose it
    parts = [str(part) for part in first["loc"]]
    tags = [i + 2 for i, part in enumerate(parts[:-2]) if part == "variants"]
    tags += [i + 1 for i, part in enumerate(parts[:-2]) if part in ("tokenizer", "model") and parts[i + 1] in KINDS]
    tags += [1] if parts[:1] == ["data"] and parts[1:2] and parts[1] in WORLDS else []
    parts = [part for i, part in enumerate(parts) if i not in tags]
    found = first["input"]
    if isinstance(fault := first.get("ctx", {}).get("error"), Disallowed):
        parts.append(fault.key)
        for part in fault.key.split("."):
            found = found[int(part)] if isinstance(found, list | tuple) else dict(found or {}).get(part)
    key = ".".join(parts) or "the file"
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key {key!r}; remove it or correct its spelling"
    if first["type"] == "missing":
        return f"{path}: the key {key!r} is missing"
    allowed = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    # of pydantic's sentences, as "List should have at least 1 item after validation, not 0", what may follow "allowed:"
    allowed = re.sub(r"^\w+ should (have )?|( after validation)?, not \d+$", "", allowed)
    allowed = re.sub(r"^match pattern '(.*)'$", r"text that matches \1", allowed)
    shown = found if not isinstance(found, dict) else {k: v for k, v in found.items() if not isinstance(v, dict | list)}
    return f"{path}: {key}: found {'nothing' if shown is None else repr(shown)}, allowed: {allowed}"


def lookup(table: dict[str, T], name: str, where: str) -> T:
    """table[name]; raises ReseedError that says `where` and what is known there."""
    if name not in table:
        raise ReseedError(f"{where}: found no {name!r}; known: {', '.join(table) or 'none'}")
    return table[name]
