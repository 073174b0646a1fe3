"""How much of what an SAE explains it still explains where its model reads other text, beside its untrained start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sae_lens import SAE

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.params import OOD, TRAINED
from reseed.saes.export import evaluate
from reseed.stability.jackknife import Groups, mean_over_seeds
from reseed.stability.report import with_interval

IN = "in"


def check_same_model(trained: Activations, ood: Activations) -> None:
    """Raise ReseedError unless both are of one hook point of one model, and the second is of the arm `ood`."""
    wanted = {name: trained.index[name] for name in ("subject", "hook_name", "model_sha256")} | {"arm": OOD}
    wrong = {name: ood.index.get(name) for name, value in wanted.items() if ood.index.get(name) != value}
    for name, found in wrong.items():
        raise ReseedError(
            f"data/{trained.index['subject']}/activations/{OOD}: {name}: found {found!r}, allowed: {wanted[name]!r}, "
            f"as it is to stand beside the arm {TRAINED}"
        )


def ood_summary(
    saes: Iterable[tuple[SAE[Any], SAE[Any]]], rows: Mapping[str, Activations], groups: Groups, confidence: float
) -> dict[str, Any]:
    """Explained variance of the test rows of `rows` (`in` and `ood`), by every seed's (SAE, untrained SAE).

    Each arm's variance is about its own mean. over_null: ood, above the untrained SAE of the seed. retained: the share
    of the gain over the untrained SAE that is kept ood; a seed without a gain in distribution keeps 0.
    """
    trained: dict[str, list[float]] = {name: [] for name in rows}
    untrained: dict[str, list[float]] = {name: [] for name in rows}
    counts = {}
    for sae, start in saes:
        for name, activations in rows.items():
            figures = evaluate(sae, activations)
            trained[name].append(figures["explained_variance"])
            untrained[name].append(evaluate(start, activations)["explained_variance"])
            counts[name] = figures["rows"]
    gains = {name: [own - null for own, null in zip(trained[name], untrained[name], strict=True)] for name in (IN, OOD)}
    retained = [kept / gain if gain > 0 else 0.0 for kept, gain in zip(gains[OOD], gains[IN], strict=True)]

    def figure(values: list[float]) -> dict[str, Any]:
        return with_interval(mean_over_seeds(values, groups), confidence)

    return {
        "explained_variance": {name: figure(values) for name, values in trained.items()},
        "null": {name: figure(values) for name, values in untrained.items()},
        "over_null": figure(gains[OOD]),
        "retained": figure(retained),
        "rows": counts,
    }
