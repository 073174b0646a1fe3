"""Benchmarks beside their controls: the SAE, an untrained one, one of the random model, the model's own dimensions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from reseed.reports.site import charts
from reseed.reports.site.collect import Variant
from reseed.reports.site.figures import NOTHING, Block, Cell, Chart, Page, Section, Table, Text, code
from reseed.reports.studies import EVAL_FIGURES, PROBE_CONTROLS, SAE_CONTROLS

CORE = {
    "ce_loss_score": "CE loss score",
    "kl_div_score": "KL divergence score",
    "explained_variance": "explained variance",
    "l0": "L0",
}
PROBED = {"random_sae": "random SAE", "neurons": "neurons", "model": "the model's dimensions"}
COLUMNS = ["label", "who", "value", "low", "high"]
SCORES = ("contrastive", "independence", "combined")


def benchmark_sections(page: Page, variants: Sequence[Variant]) -> list[Section]:
    """The benchmarks that these variants have; empty where none was run."""
    shown = (
        ("saebench", "SAEBench on the subject's own tasks", _saebench),
        ("evals", "SAEBench on a language model", _evals),
        ("sae_probes", "Probes on 113 data sets", _probes),
        ("ce_bench", "Contrastive scores", _contrasts),
    )
    sections = []
    for name, title, show in shown:
        found = [v for v in variants if page.numbers.workspace.has(f"{v.folder}/{name}.json")]
        if found:
            sections.append(Section(name, title, show(page, found)))
    return sections


def _named(v: Variant) -> str:
    """The SAE, and whether every seed's loss has converged."""
    converged, seeds = v.stability["trained"]["seeds_converged"], v.stability["seeds"]
    return f"{v.subject}/{v.name}" + ("" if converged == seeds else f" ({converged} of {seeds} seeds converged)")


def _ks(content: dict[str, Any]) -> list[str]:
    return sorted((key for key in content if re.fullmatch(r"top_\d+", key)), key=lambda key: int(key[4:]))


def _point(label: str, who: str, one: dict[str, Any] | float) -> list[Any]:
    if isinstance(one, dict):
        return [label, who, one["value"], one.get("low"), one.get("high")]
    return [label, who, one, None, None]


def _labels(points: list[list[Any]]) -> list[str]:
    return list(dict.fromkeys(point[0] for point in points))


def _saebench(page: Page, variants: list[Variant]) -> list[Block]:
    n = page.numbers
    core: list[list[Cell]] = []
    probing: list[list[Cell]] = []
    points = []
    for v in variants:
        file = f"{v.folder}/saebench.json"
        content = n.workspace.json(file)
        for key, label in CORE.items():
            core.append(
                [_named(v), label, n.of(file, "core", key), n.maybe(file, "core", "random_sae", key)]
            )  # fmt: skip
        scores = content["sparse_probing"]
        for k in _ks(scores):
            label = f"{v.name}, {k.replace('_', ' ')}" if len(variants) > 1 else k.replace("_", " ")
            points.append(_point(label, "SAE", scores[k]))
            points += [_point(label, name, scores[k][key]) for key, name in PROBED.items()]
            points.append(_point(label, "dense probe", scores["dense"]))
            probing.append(
                [
                    _named(v), k.removeprefix("top_"), n.of(file, "sparse_probing", k),
                    n.of(file, "sparse_probing", k, "over_random_sae"),
                    *(n.of(file, "sparse_probing", k, key) for key in PROBED),
                    n.of(file, "sparse_probing", "dense"),
                    n.of(file, "sparse_probing", "tasks_counted"),
                ]
            )  # fmt: skip
    blocks: list[Block] = []
    if points:
        chart = Chart(
            "saebench", "Sparse probing: the SAE beside its controls",
            "Mean test accuracy over the tasks that a dense probe solves better than shuffled labels; bars are "
            "intervals over SAE seeds, controls have none. The null is the random SAE. The table names the SAEs whose "
            "seeds have not all converged.",
            charts.controls(_labels(points), "test accuracy"), has_table=False,
        )  # fmt: skip
        blocks += [
            page.draw(chart, "", COLUMNS, points),
            Table(
                "Sparse probing, test accuracy",
                ["SAE", "k", "SAE", "SAE less random SAE", *PROBED.values(), "dense probe", "tasks counted"],
                probing,
            ),
        ]
    blocks.append(
        Table("Core: what the model keeps when it reads through the SAE", ["SAE", "figure", "SAE", "random SAE"], core)
    )
    return blocks


def _evals(page: Page, variants: list[Variant]) -> list[Block]:
    n = page.numbers
    rows: list[list[Cell]] = []
    left_out: set[str] = set()
    for v in variants:
        file = f"{v.folder}/evals.json"
        content = n.workspace.json(file)
        left_out |= {f"{name}: {one['not_run']}" for name, one in content.items() if "not_run" in one}
        for name, pattern, label in EVAL_FIGURES:
            for key in content.get(name, {}):
                if found := re.fullmatch(pattern, key):
                    rows.append(
                        [
                            _named(v), label.format(*found.groups()), n.of(file, name, key),
                            *(n.maybe(file, name, key, control) for control in SAE_CONTROLS),
                            "yes" if content[name]["may_gate"] else "no",
                        ]
                    )  # fmt: skip
    blocks: list[Block] = [
        Table(
            "SAEBench's own code, beside controls of two seeds",
            ["SAE", "figure", "SAE", *SAE_CONTROLS.values(), "may gate a claim"],
            rows,
        )
    ]
    if left_out:
        items = Markup("").join(Markup("<li>{}</li>").format(reason) for reason in sorted(left_out))
        blocks.append(Text(Markup("<p>Not run:</p><ul>{}</ul>").format(items)))
    return blocks


def _probes(page: Page, variants: list[Variant]) -> list[Block]:
    n = page.numbers
    rows: list[list[Cell]] = []
    points = []
    for v in variants:
        file = f"{v.folder}/sae_probes.json"
        normal = n.workspace.json(file)["normal"]
        for k in (*_ks(normal), "best_k"):
            label = "k by validation" if k == "best_k" else f"k = {k.removeprefix('top_')}"
            auc = normal[k]["auc"]
            if "random_sae" in auc:
                place = f"{v.name}, {label}" if len(variants) > 1 else label
                points.append(_point(place, "SAE", auc["delta"]))
                points += [_point(place, name, auc[key]) for key, name in PROBE_CONTROLS.items() if key in auc]
            rows.append(
                [
                    _named(v), label,
                    *(n.of(file, "normal", k, metric, "delta") for metric in ("auc", "f1", "acc")),
                    *(n.maybe(file, "normal", k, "auc", control) for control in PROBE_CONTROLS),
                    Markup(" / ").join(n.of(file, "normal", k, "auc", key) for key in ("wins", "losses", "ties")),
                ]
            )  # fmt: skip
    chart = Chart(
        "probes", "AUC of probes on k latents, less that of a dense probe",
        "Means over 113 data sets; bars are intervals over SAE seeds, controls are means of two seeds. The null is the "
        "random SAE; 0 is the dense probe. The table names the SAEs whose seeds have not all converged.",
        charts.controls(_labels(points), "AUC less that of the dense probe"), has_table=False,
    )  # fmt: skip
    table = Table(
        "Probes on k latents less a dense probe on the model",
        [
            "SAE", "k", "AUC", "F1", "accuracy", *(f"AUC, {name}" for name in PROBE_CONTROLS.values()),
            "wins / losses / ties",
        ],
        rows, "A line without controls has no null, and is no evidence.",
    )  # fmt: skip
    return [page.draw(chart, "", COLUMNS, points), table]


def _contrasts(page: Page, variants: list[Variant]) -> list[Block]:
    n = page.numbers
    rows: list[list[Cell]] = []
    for v in variants:
        file = f"{v.folder}/ce_bench.json"
        for score in SCORES:
            key = f"corrected.{score}"
            rows.append(
                [
                    _named(v), score, n.of(file, key), *(n.maybe(file, key, control) for control in SAE_CONTROLS),
                    n.maybe(file, f"as_published.{score}", "value") or NOTHING,
                ]
            )  # fmt: skip
    note = code(
        "Definitions of CE-Bench on pairs of the subject's own test documents. A maximum over latents grows with their "
        "number: compare only within a line. *As published* keeps two faults of the published code."
    )
    return [
        Table(
            "Scores of contrastive pairs, beside controls",
            ["SAE", "score", "SAE", *SAE_CONTROLS.values(), "as published"],
            rows,
            note,
        )
    ]
