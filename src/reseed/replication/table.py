"""The table of published figures: each beside what its recipe gives, what it was, and the corrected figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from reseed import ReseedError
from reseed.replication.husai import TRANSPOSED, Measured, agrees
from reseed.replication.song import D_SAE, INITIAL_NORM, SongL1
from reseed.stability.jackknife import Estimate
from reseed.stability.nulls import isotropic_mean_max_cos

CORRECTED = ("topk-d1024-k32", "topk-k8", "topk-d64-k32", "topk-k4", "topk-k32")
"""The variants of the right task that stand beside HUSAI's figures."""
SYNTHETIC = ("song-topk", "song-l1")
"""The variants of the synthetic setting of Song et al. 2025 (arXiv 2505.20254: d 16, 32 features, 3 on)."""

TRAINED, LOW_K, FEW_LATENTS, L0 = 0.300059, 0.009773, 0.119986, 0.05701
L0_PAIR_INTERVAL = (0.05482, 0.05921)
FLOORS = {"d1024-k32": 0.298829, "l0-k4": 0.24624}
EXPLAINED_VARIANCES = {"d128-k8": 0.2282, "d64-k32": 0.294, "l0-k4": 0.53170, "l0-k32": 0.68875}
SONG = {"song-topk": 0.951, "song-l1": 0.609}
SONG_UNTRAINED = 0.45


@dataclass(frozen=True)
class Corrected:
    """A figure of our own pipeline. null is the strictest; null and kappa are absent where the figure has none."""

    value: Estimate
    converged: bool
    kappa: Estimate | None
    null: float | None = None
    strictest_null: str | None = None


@dataclass(frozen=True)
class Row:
    """One published figure. signs: what shows what it was, as numbers; `was` says the same in words.

    difference: whether the published figure is one.
    """

    name: str
    figure: str
    published: float
    reproduced: Estimate
    signs: dict[str, Estimate]
    was: str
    corrected: Corrected
    statistic: str = "mean_max_cos"
    difference: bool = False


@dataclass(frozen=True)
class Table:
    """All rows, with the settings and the leak that they rest on. leak: the content of leak.json."""

    rows: list[Row]
    measured: dict[str, Measured]
    l1: SongL1
    leak: Mapping[str, Any]
    d_in: int
    confidence: float

    def content(self) -> dict[str, Any]:
        """The content of replication.json. It holds figures of a quarantined subject and says so."""
        return {
            "quarantined": self.leak["quarantine"],
            "leak": {name: value for name, value in self.leak.items() if name != "quarantine"},
            "settings": {name: self._setting(name, measured) for name, measured in self.measured.items()},
            "figures": {row.name: self._row(row) for row in self.rows},
        }

    def page(self) -> str:
        """The content of docs/replication.md."""
        lines = [
            _HEAD.format(confidence=self.confidence),
            "| published | by its recipe | what it was | corrected |",
            "|---|---|---|---|",
        ]
        for row in self.rows:
            verdict = "agrees" if agrees(row.published, row.reproduced, self.confidence) else "does not agree"
            cells = (
                row.figure,
                f"{self._shown(row.reproduced, '+' if row.difference else '')}, {verdict}",
                row.was,
                self._corrected(row),
            )
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", self._faults(), ""])

    def _setting(self, name: str, measured: Measured) -> dict[str, Any]:
        setting = measured.setting
        figures = {
            "trained": measured.trained,
            "untrained": measured.untrained,
            "floor": measured.floor,
            "delta": measured.delta,
            "untrained_delta": measured.untrained_delta,
            "explained_variance": measured.explained_variance,
            "centred_explained_variance": measured.centred_explained_variance,
            "inflated_explained_variance": measured.inflated_explained_variance,
            "cosine_to_init": measured.cosine_to_init,
        }
        published = {
            key: table[name]
            for key, table in (("floor", FLOORS), ("explained_variance", EXPLAINED_VARIANCES))
            if name in table
        }
        return {
            "d_sae": setting.d_sae,
            "k": setting.k,
            "seeds": len(setting.seeds),
            "steps": measured.steps,
            "spread_over_pairs": measured.spread,
            **{figure: self._interval(estimate) for figure, estimate in figures.items()},
            **({"published": published} if published else {}),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        found = row.corrected
        corrected: dict[str, Any] = {"statistic": row.statistic} | self._interval(found.value)
        corrected |= {"converged": int(found.converged)}
        if found.null is not None and found.strictest_null is not None:
            corrected |= {"null": found.null, "strictest_null": found.strictest_null}
        if found.kappa is not None:
            corrected["kappa"] = self._interval(found.kappa)
        return {
            "published": row.published,
            "reproduced": self._interval(row.reproduced),
            "agrees": int(agrees(row.published, row.reproduced, self.confidence)),
            "signs": {name: self._interval(estimate) for name, estimate in row.signs.items()},
            "corrected": corrected,
        }

    def _interval(self, estimate: Estimate) -> dict[str, float]:
        low, high = estimate.interval(self.confidence)
        return {"value": estimate.value, "low": low, "high": high}

    def _shown(self, estimate: Estimate, sign: str = "") -> str:
        low, high = estimate.interval(self.confidence)
        return f"{estimate.value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"

    def _corrected(self, row: Row) -> str:
        found = row.corrected
        parts = [f"{row.statistic} {self._shown(found.value)}"]
        if found.null is not None:
            parts.append(f"null {found.null:.4f} ({found.strictest_null})")
        parts.append("no κ" if found.kappa is None else f"κ {self._shown(found.kappa)}")
        parts.append("converged" if found.converged else "**not converged**")
        return "; ".join(parts)

    def _faults(self) -> str:
        wide, few, low, high = (self.measured[name] for name in ("d1024-k32", "d64-k32", "l0-k4", "l0-k32"))
        transposed = self.measured["d64-k32" + TRANSPOSED]
        sweep = ", ".join(
            f"k {self.measured[name].setting.k} {self._shown(self.measured[name].delta, '+')}"
            for name in ("d128-k8", "d128-k16", "d128-k32", "d128-k64")
        )
        steps = sorted({measured.steps for measured in self.measured.values()})
        cosines = [measured.cosine_to_init.value for measured in self.measured.values()]
        epochs = ", ".join(f"{accuracy:.3f}" for accuracy in self.leak["validation_accuracy"])
        text = _FAULTS.format(
            refusal=self.leak["refusal"],
            epochs=epochs,
            randomised=self.leak["randomised_accuracy"],
            copied=self.leak["copied"],
            answer=self.leak["answer_variance"],
            first=steps[0],
            last=steps[-1],
            low_cosine=min(cosines),
            high_cosine=max(cosines),
            untrained=self._shown(wide.untrained),
            closed=isotropic_mean_max_cos(wide.setting.d_sae, wide.setting.d_sae, self.d_in),
            floor=wide.floor.value,
            few=self._shown(few.delta, "+"),
            transposed=self._shown(transposed.delta, "+"),
            untouched=self._shown(transposed.untrained_delta, "+"),
            few_floor=few.floor.value,
            pairs=L0_PAIR_INTERVAL,
            jackknife=self._shown(low.trained - high.trained, "+"),
            ev=wide.explained_variance.value,
            centred=wide.centred_explained_variance.value,
            inflated=wide.inflated_explained_variance.value,
            sweep=sweep,
            initial=INITIAL_NORM,
            grown=self._shown(self.l1.decoder_norm),
            l0=self._shown(self.l1.l0),
            d_sae=D_SAE,
        )
        return "\n\n".join(fill(paragraph, 120) for paragraph in text.split("\n\n"))


def husai_rows(
    measured: dict[str, Measured], stability: Mapping[str, Mapping[str, Any]], confidence: float
) -> list[Row]:
    """The rows of HUSAI; `stability` is {variant of CORRECTED: the content of its stability.json}."""
    corrected = {name: corrected_figure(stability[name], "mean_max_cos", name) for name in CORRECTED}
    wide, low_k, few = (measured[name] for name in ("d1024-k32", "d128-k8", "d64-k32"))
    transposed, low, high = (measured[name] for name in ("d64-k32" + TRANSPOSED, "l0-k4", "l0-k32"))

    def signed(estimate: Estimate) -> str:
        bounds = estimate.interval(confidence)
        return f"{estimate.value:+.4f} [{bounds[0]:+.4f}, {bounds[1]:+.4f}]"

    return [
        Row(
            "trained_is_random",
            f"trained {TRAINED:.4f} against random {FLOORS['d1024-k32']:.4f} (d_sae 1024, k 32)",
            TRAINED,
            wide.trained,
            _signs(wide) | {"delta": wide.delta},
            f"{_said(wide)}; random {wide.floor.value:.6f}, delta {signed(wide.delta)}",
            corrected["topk-d1024-k32"],
        ),
        Row(
            "low_k",
            f"k 8 is {LOW_K:+.4f} above random (d_sae 128)",
            LOW_K,
            low_k.delta,
            _signs(low_k),
            _said(low_k),
            corrected["topk-k8"],
            difference=True,
        ),
        Row(
            "few_latents",
            f"d_sae 64 is {FEW_LATENTS:+.4f} above random (k 32)",
            FEW_LATENTS,
            transposed.delta,
            _signs(few) | {"delta_right_way_up": few.delta, "untrained_delta": transposed.untrained_delta},
            f"{_said(few)}; not transposed {signed(few.delta)}; untrained and transposed "
            f"{signed(transposed.untrained_delta)}",
            corrected["topk-d64-k32"],
            difference=True,
        ),
        Row(
            "low_l0",
            f"k 4 is {L0:+.4f} above k 32 (d_sae 128)",
            L0,
            low.trained - high.trained,
            {f"{name}_k{m.setting.k}": sign for m in (low, high) for name, sign in _signs(m).items()},
            f"k 4: {_said(low)}; k 32: {_said(high)}",
            paired_difference(corrected["topk-k4"], corrected["topk-k32"]),
            difference=True,
        ),
    ]


def song_rows(stability: Mapping[str, Mapping[str, Any]], l1: SongL1) -> list[Row]:
    """The rows of Song et al. 2025; `stability` is {variant of SYNTHETIC: the content of its stability.json}.

    Their code scores all latents, so that is what stands beside the published figure; the correction is to the alive.
    TopK is our own trainer's: the recipe has no fault that the figure shows.
    """
    of_all = _record(stability["song-topk"], "pw_mcc", "all", "song-topk")
    recovery = stability["song-topk"]["trained"].get("recovery", {}).get("gt_mcc", {})
    correct = f"; recovery of the true features (gt_mcc) {recovery['value']:.4f}" if recovery else ""
    return [
        Row(
            "song_topk",
            _SONG.format(name="TopK", published=SONG["song-topk"], untrained=SONG_UNTRAINED),
            SONG["song-topk"],
            _estimate(of_all, "value"),
            {},
            f"the untrained SAE has {of_all['nulls']['untrained']:.4f}{correct}",
            corrected_figure(stability["song-topk"], "pw_mcc", "song-topk"),
            "pw_mcc",
        ),
        Row(
            "song_l1",
            _SONG.format(name="L1", published=SONG["song-l1"], untrained=SONG_UNTRAINED),
            SONG["song-l1"],
            l1.trained,
            {"untrained": l1.untrained, "recovery": l1.recovery, "l0": l1.l0, "decoder_norm": l1.decoder_norm},
            f"L0 {l1.l0.value:.1f} where 3 features are on, decoder rows grown from {INITIAL_NORM} to "
            f"{l1.decoder_norm.value:.1f}; the untrained SAE has {l1.untrained.value:.4f}; gt_mcc "
            f"{l1.recovery.value:.4f}",
            corrected_figure(stability["song-l1"], "pw_mcc", "song-l1"),
            "pw_mcc",
        ),
    ]


def corrected_figure(content: Mapping[str, Any], statistic: str, variant: str) -> Corrected:
    """The trained arm's figure over alive latents from stability.json; raises ReseedError if it is not there."""
    record = _record(content, statistic, "alive", variant)
    return Corrected(
        value=_estimate(record, "value"),
        converged=bool(record["converged"]),
        kappa=_estimate(record, "kappa") if "kappa" in record else None,
        null=record["nulls"][record["strictest_null"]],
        strictest_null=record["strictest_null"],
    )


def paired_difference(a: Corrected, b: Corrected) -> Corrected:
    """a - b, each seed left out of both; converged if both are. Each has a null of its own, so none stands beside."""
    kappa = a.kappa - b.kappa if a.kappa is not None and b.kappa is not None else None
    return Corrected(a.value - b.value, a.converged and b.converged, kappa)


def _record(content: Mapping[str, Any], statistic: str, latents: str, variant: str) -> Mapping[str, Any]:
    asked = {"arm": "trained", "statistic": statistic, "latents": latents}
    for record in content["records"]:
        if all(record[key] == value for key, value in asked.items()):
            return record  # type: ignore[no-any-return]
    raise ReseedError(f"stability.json of {variant}: records: found none with {asked}; run its stage stability")


def _estimate(record: Mapping[str, Any], name: str) -> Estimate:
    return Estimate(record[name], tuple(record[f"{name}_deleted"]))


def _signs(measured: Measured) -> dict[str, Estimate]:
    return {
        "explained_variance": measured.explained_variance,
        "cosine_to_init": measured.cosine_to_init,
        "untrained": measured.untrained,
    }


def _said(measured: Measured) -> str:
    return (
        f"after {measured.steps} steps EV {measured.explained_variance.value:.3f}, cosine to own initialisation "
        f"{measured.cosine_to_init.value:.3f}; an untrained SAE scores {measured.untrained.value:.4f}"
    )


_SONG = "Song et al. 2025, synthetic: {name} pw_mcc {published:.3f}, {untrained:.2f} before training"

_HEAD = """\
# Published figures, made again and corrected

Written by `stages/replicate.py` with `metrics/replication.json`; edit neither. The first four rows are of
[HUSAI](https://github.com/brightlikethelight/HUSAI) (2026), whose statistic is `mean_max_cos` here, the last two of
[Song et al. 2025](https://arxiv.org/abs/2505.20254).

- *By its recipe*: the published task, data, optimiser, steps, seeds and statistic, faults included, on the quarantined
  subject `modular-leaky`. For Song et al. their synthetic setting (subject `song`), all latents scored as they do: the
  L1 autoencoder by its recipe, on batches of rows instead of all of them a step; TopK by our own trainer.
- Intervals are {confidence:.0%} delete-one-seed jackknife. *Agrees*: the published value lies in the interval for a
  repeat with as many other seeds, √2 times as wide. The model is one, trained once: its spread is in no interval.
- *Corrected*: the task without the leak (subject `modular`), decoders the right way up, seeds trained until they
  converge, alive latents, held against the strictest null of their shape: κ = (value - null) / (1 - null).
"""

_FAULTS = """\
## The faults

**The answer stands in the input.** The loss reads the logits at the position of the answer token itself. Validation
accuracy by epoch: {epochs}. With both operands randomised the accuracy is {randomised:.3f}; a replaced answer is copied
in {copied:.1%} of the rows; the answer alone explains {answer:.1%} of the activations' variance. The check that every
subject passes refuses this one ("{refusal}"), and only that lets it run.

**Stopped before it had learned.** Training ends after {first} to {last} steps, with decoders at a cosine of
{low_cosine:.3f} to {high_cosine:.3f} to their own initialisation. Initialisations are independent, so what hardly left
them scores as chance does: for the first row untrained SAEs have {untrained}, random decoders {floor:.6f}, and uniform
unit vectors {closed:.4f} in closed form. "Trained = random" says that the training was short.

**A transposed decoder.** The orientation is guessed from the shape (the larger side is the latents), which fails for 64
latents in 128 dimensions: 128 vectors in 64 dimensions are compared with a floor of 64 in 128. Transposed the
difference is {transposed}, right way up {few}; SAEs that were never trained, transposed, have {untouched}. The
published +0.119986 and ratio 1.527 together imply a floor of 0.2277; the published baseline seeds give {few_floor:.6f}.

**Pairs of seeds taken for observations.** For k 4 against k 32 the published interval, a bootstrap over 28 dependent
pairs, is [{pairs[0]:+.4f}, {pairs[1]:+.4f}]; with the seed as the unit the same recipe gives {jackknife}.

**Explained variance of scalar variances.** The first row's {ev:.4f} counts the offsets of the dimensions as variance;
about the mean row it is {centred:.4f}. A later script of the same project divides a mean over numbers by a sum over
dimensions, and would print {inflated:.4f} for these same SAEs.

**A wrong null.** The isotropic floor knows nothing of the dimensions that the data have; the corrected column is held
against dictionaries of the decoders' own covariance as well.

**A penalty that is dodged.** The L1 autoencoder of Song et al. pays for the size of its activations and not for that of
its decoder rows, which grow from {initial} to {grown} while the activations shrink; it ends with {l0} of its {d_sae}
latents on in a row where 3 features are. At an L0 of 3 an L1 SAE recovers the features (the corrected column), so the
low figure is one of that recipe, not of the L1 penalty.

**Not in these figures:** the auxiliary loss of the wrong sign, which suppresses unselected latents instead of reviving
them. The commands behind these figures train on the squared error alone.

The published sweep over k by the recipe, above random: {sweep}. It is a snapshot of the first steps.
"""
