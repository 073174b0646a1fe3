"""The charts of the site: Vega-Lite specifications whose data and colours the page fills in."""

from __future__ import annotations

import json
import math
from typing import Any

ARM_NAMES = {"trained": "trained", "random_model": "random weights", "gaussian": "Gaussian", "ood": "other domain"}
SETTLED = ["converged", "not converged"]
SHAPE = {
    "field": "settled",
    "type": "nominal",
    "title": "certificate",
    "scale": {"domain": SETTLED, "range": ["circle", "cross"]},
}
SERIES = ["SAEs", "covariance null"]


def _arm(arms: list[str]) -> dict[str, Any]:
    """An arm has the same colour in every chart, whichever others stand beside it."""
    legend = {"values": arms, "labelExpr": f"({json.dumps(ARM_NAMES)})[datum.label]"}
    return {"field": "arm", "type": "nominal", "title": "arm", "scale": {"domain": list(ARM_NAMES)}, "legend": legend}


def _quantity(field: str, title: str | None, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title} | more


def statistics(names: list[str], arms: list[str], title: str, null: bool) -> dict[str, Any]:
    """Rows (statistic, arm, value, low, high, null, settled): an interval a statistic and arm, beside its null."""
    near = {"zero": False}
    down = {
        "y": {"field": "statistic", "type": "nominal", "sort": names, "title": None},
        "yOffset": {"field": "arm", "sort": arms},
    }
    value = {"x": _quantity("value", title, scale=near), "color": _arm(arms), "shape": SHAPE}
    interval = {"x": _quantity("low", title, scale=near), "x2": {"field": "high"}, "color": _arm(arms)}
    if null:
        tick = {"type": "tick", "thickness": 3, "size": 13, "opacity": 0.9}
        reference = {"mark": tick, "encoding": down | {"x": _quantity("null", title, scale=near)}}
    else:
        reference = {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": {"datum": 0}}}
    return {
        "width": "container",
        "height": 16 * len(names) * len(arms),
        "layer": [
            reference,
            {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": down | interval},
            {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1}, "encoding": down | value},
        ],
    }


def steps(arms: list[str]) -> dict[str, Any]:
    """Rows (arm, step, statistic, value, null); `statistic` is chosen."""
    x = _quantity("place", "steps (log scale)", scale={"type": "log"}, axis={"format": "~s"})
    return {
        "width": "container",
        "height": 240,
        "params": [{"name": "statistic", "value": "pw_mcc"}],
        "transform": [
            {"filter": "datum.statistic == statistic"},
            {"calculate": "max(datum.step, 10)", "as": "place"},
            {"fold": ["value", "null"], "as": ["series", "height"]},
        ],
        "mark": {"type": "line", "point": {"size": 18}},
        "encoding": {
            "x": x,
            "y": _quantity("height", "agreement", scale={"zero": False}),
            "color": _arm(arms),
            "strokeDash": {
                "field": "series",
                "type": "nominal",
                "title": "series",
                "scale": {"domain": ["value", "null"], "range": [[1, 0], [4, 3]]},
                "legend": {"symbolType": "stroke"},
            },
        },
    }


def training(arms: list[str]) -> dict[str, Any]:
    """Rows (arm, seed, step, unexplained_variance)."""
    return {
        "width": "container",
        "height": 240,
        "mark": {"type": "line", "strokeWidth": 1.2, "opacity": 0.8},
        "encoding": {
            "x": _quantity("step", "steps", axis={"format": "~s"}),
            "y": _quantity(
                "unexplained_variance", "unexplained variance (log scale)", scale={"type": "log", "nice": False}
            ),
            "color": _arm(arms),
            "detail": {"field": "seed"},
        },
    }


def matches() -> dict[str, Any]:
    """Rows (arm, series, cosine, share); `arm` is chosen."""
    return {
        "width": "container",
        "height": 220,
        "params": [{"name": "arm", "value": "trained"}],
        "transform": [
            {"filter": "datum.arm == arm"},
            {"calculate": "datum.cosine + 0.025", "as": "end"},
        ],
        "mark": {"type": "bar", "opacity": 0.55},
        "encoding": {
            "x": _quantity("cosine", "|cosine| of the best match", bin="binned", scale={"domain": [0, 1]}),
            "x2": {"field": "end"},
            "y": _quantity("share", "share of latents", stack=None),
            "color": {"field": "series", "type": "nominal", "title": None, "scale": {"domain": SERIES}},
        },
    }


def frontier(x: str, title: str, log: bool, line: bool) -> dict[str, Any]:
    """Rows (variant, l0, explained_variance, kappa, low, high, settled, frontier): kappa against `x`.

    line: whether any of them is on the frontier.
    """
    scale = {"nice": False, "padding": 16} | ({"type": "log"} if log else {"zero": False})
    across = _quantity(x, title, scale=scale)
    up = _quantity("kappa", "κ of pw_mcc, trained arm")
    colour = (
        _quantity("l0", "L0", scale={"type": "log"})
        if x != "l0"
        else _quantity("explained_variance", "explained variance")
    )
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "rule", "opacity": 0.6},
            "encoding": {"x": across, "y": _quantity("low", None), "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1, "cursor": "pointer"},
            "encoding": {
                "x": across,
                "y": up,
                "color": colour,
                "shape": SHAPE,
                "tooltip": [{"field": name} for name in ("variant", "l0", "explained_variance", "kappa", "settled")],
            },
        },
    ]
    if line:
        front = {
            "transform": [{"filter": "datum.frontier"}],
            "mark": {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1},
            "encoding": {"x": across, "y": up, "order": {"field": x, "type": "quantitative"}},
        }
        layers.insert(0, front)
    return {"width": "container", "height": 300, "layer": layers}


def controls(labels: list[str], title: str) -> dict[str, Any]:
    """Rows (label, who, value, low, high): an SAE with its interval beside its controls."""
    near = {"zero": False}
    return {
        "width": "container",
        "height": 24 * len(labels),
        "encoding": {"y": {"field": "label", "type": "nominal", "sort": None, "title": None}},
        "layer": [
            {
                "transform": [{"filter": "datum.low != null"}],
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "x": _quantity("low", title, scale=near),
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {
                    "x": _quantity("value", title, scale=near),
                    "color": {"field": "who", "type": "nominal", "sort": None, "title": None},
                    "shape": {"field": "who", "type": "nominal", "sort": None, "title": None},
                },
            },
        ],
    }


def causal_calibration(concept: str) -> dict[str, Any]:
    """Rows (concept, dose, predicted, observed): a line a concept; `concept` is chosen."""
    across = _quantity("predicted", "predicted change of log-odds")
    up = _quantity("observed", "observed change of log-odds")
    in_order = {"x": across, "y": up, "order": {"field": "predicted", "type": "quantitative"}}
    return {
        "width": "container",
        "height": 300,
        "params": [{"name": "concept", "value": concept}],
        "layer": [
            {
                "mark": {"type": "line", "strokeDash": [4, 3]},
                "encoding": {"x": across, "y": _quantity("predicted", "observed change of log-odds")},
            },
            {
                "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.5},
                "encoding": in_order | {"detail": {"field": "concept"}},
            },
            {
                "transform": [{"filter": "datum.concept == concept"}],
                "mark": {"type": "line", "point": {"size": 30}, "strokeWidth": 2},
                "encoding": in_order
                | {
                    "color": {"datum": "the concept chosen", "type": "nominal", "title": None},
                    "tooltip": [{"field": name} for name in ("concept", "dose", "predicted", "observed")],
                },
            },
        ],
    }


def causal_doses(direction: str, supervised: list[str]) -> dict[str, Any]:
    """Rows (direction, dose, change): a line a direction, coloured by its kind; `direction` is chosen."""
    kinds = ["latent", "found with labels", "control"]
    of = f"indexof({json.dumps(supervised)}, datum.direction) >= 0 ? '{kinds[1]}' : '{kinds[2]}'"
    return {
        "width": "container",
        "height": 300,
        "params": [{"name": "direction", "value": direction}],
        "transform": [{"calculate": f"datum.direction == '{kinds[0]}' ? '{kinds[0]}' : {of}", "as": "kind"}],
        "mark": {"type": "line", "point": {"size": 18}},
        "encoding": {
            "x": _quantity("dose", "dose (standard deviations of the latent's activation)"),
            "y": _quantity("change", "change of log-odds"),
            "color": {"field": "kind", "type": "nominal", "title": None, "scale": {"domain": kinds}},
            "detail": {"field": "direction"},
            "strokeWidth": {
                "condition": {
                    "test": f"datum.direction == direction || datum.direction == '{kinds[0]}'",
                    "value": 3,
                },
                "value": 1,
            },
            "tooltip": [{"field": name} for name in ("direction", "dose", "change")],
        },
    }


def reliability(families: list[str]) -> dict[str, Any]:
    """Rows (model, family, predicted, observed, share, latents): a line a family; `model` is chosen."""
    whole = {"domain": [0, 1]}
    across = _quantity("predicted", "predicted P(correct), mean of a bin", scale=whole)
    up = _quantity("observed", "share of correct latents", scale=whole)
    family = {"field": "family", "type": "nominal", "title": "held-out family", "scale": {"domain": families}}
    return {
        "width": "container",
        "height": 360,
        "params": [{"name": "model", "value": "signals"}],
        "transform": [{"filter": "datum.model == model"}],
        "layer": [
            {
                "mark": {"type": "rule", "strokeDash": [4, 3]},
                "encoding": {
                    "x": {"datum": 0, "type": "quantitative"},
                    "y": {"datum": 0, "type": "quantitative"},
                    "x2": {"datum": 1},
                    "y2": {"datum": 1},
                },
            },
            {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"x": across, "y": up, "color": family}},
            {
                "mark": {"type": "point", "filled": True, "opacity": 0.8},
                "encoding": {
                    "x": across,
                    "y": up,
                    "color": family,
                    "shape": family,  # more families than colours
                    "size": _quantity("share", "share of latents", legend={"format": "%", "tickCount": 3}),
                    "tooltip": [{"field": name} for name in ("family", "predicted", "observed", "latents")],
                },
            },
        ],
    }


def firing(most: int) -> dict[str, Any]:
    """Rows of latents that are shown (`log_count`): how often they fire, up to `most` rows.

    The axes are fixed, so that they stand still while the reader filters.
    """
    return {
        "width": "container",
        "height": 180,
        "mark": "bar",
        "encoding": {
            "x": {
                "field": "log_count",
                "type": "quantitative",
                "bin": {"step": 0.2, "extent": [0, math.ceil(5 * math.log10(1 + most)) / 5]},
                "title": "log10(1 + training rows on which the latent fires)",
            },
            "y": {"aggregate": "count", "title": "latents"},
        },
    }


def latents(least: int, most: int) -> dict[str, Any]:
    """Rows of latents that are shown: how often they come back against how often they fire, `least` to `most`."""
    return {
        "width": "container",
        "height": 320,
        "params": [{"name": "chosen", "value": -1}],
        "transform": [{"filter": "datum.reappearance != null"}],
        "mark": {"type": "point", "filled": True, "cursor": "pointer"},
        "encoding": {
            "x": _quantity(
                "firing_count",
                "training rows on which it fires (log scale)",
                scale={"type": "log", "domain": [least, most]},
            ),
            "y": _quantity(
                "jittered", "share of the other seeds in which it reappears", scale={"domain": [-0.05, 1.05]}
            ),
            "color": {"field": "seed", "type": "nominal", "title": "seed"},
            "size": {"condition": {"test": "datum.place == chosen", "value": 220}, "value": 28},
            "opacity": {"condition": {"test": "chosen < 0 || datum.place == chosen", "value": 0.8}, "value": 0.35},
            "tooltip": [
                {"field": name} for name in ("seed", "latent", "firing_count", "reappearance", "partner_cosine")
            ],
        },
    }
