"""The panel of latents: the table of a variant, its examples and partners, as files that a page loads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from reseed.reports.site.collect import Variant
from reseed.reports.site.figures import Cell, Explorer, Numbers

FIGURES = (
    "encoder_decoder_cosine", "reappearance", "partner_cosine", "best_cosine", "activation_correlation",
)  # fmt: skip
"""Columns of latents.parquet that may be absent."""
MORE = {"c_dec": " c_dec: mean |cosine| of its decoder row to those of the other latents of its seed.", "p_correct": ""}
"""Likewise, which the list shows as well, and what they are."""


def explorer(numbers: Numbers, v: Variant, table: pd.DataFrame, certificates: Cell, out: Path) -> Explorer:
    """Write the data of a variant's latents below `out`; returns the panel that shows them."""
    workspace = numbers.workspace
    place = f"data/latents/{v.subject}/{v.name}"
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    columns = ["arm", "seed", "latent", "firing_count", "alive", *(name for name in (*FIGURES, *MORE) if name in table)]
    more = [name for name in MORE if name in table]
    frame = table[columns].assign(alive=table["alive"].astype(int))
    content = {name: [_plain(value) for value in frame[name]] for name in columns}
    _write(out / f"{place}.js", "window.RESEED.latents", content)
    file = f"{v.folder}/examples/examples.parquet"
    examples, partners = workspace.table(file), workspace.table(f"{v.folder}/examples/partners.parquet")
    have = examples is not None and partners is not None
    if examples is not None and partners is not None:
        for seed in sorted(set(examples["seed"]) | set(partners["seed"])):
            of_seed = {"rows": _rows(examples[examples["seed"] == seed])}
            of_seed |= {"partners": _partners(partners[partners["seed"] == seed])}
            _write(out / f"{place}-{seed}.js", f"window.RESEED.examples[{seed}]", of_seed)
    return Explorer(
        folder=v.folder,
        arms=[arm for arm in v.arms if (table["arm"] == arm).any()],
        seeds=sorted(int(seed) for seed in table["seed"].unique()),
        source=numbers.source(f"{v.folder}/tables/latents.parquet"),
        data=f"{place}.js",
        examples=f"{place}-" if have else "",
        examples_source=numbers.source(file) if have else -1,
        stage=workspace.exemplified.get((v.subject, v.name), ""),
        training_rows=v.stability.get("held_out", {}).get("training_rows"),
        certificates=certificates,
        more=more,
        about=Markup("").join(_p_correct(numbers, v) if name == "p_correct" else MORE[name] for name in more),
    )


def _p_correct(numbers: Numbers, v: Variant) -> Cell:
    """What P(correct) is worth: the errors of its model where it was not fitted."""
    file = f"{v.folder}/stability.json"
    if not numbers.has(file, "reliability"):
        return ""
    at = ("reliability", "transfer")
    worst = v.stability["reliability"]["transfer"]["worst_family"]["name"]
    return Markup(
        " P(correct): by a model whose Brier score is {} on families of worlds that it never saw (on {}, the worst, "
        "{}); {}.{}"
    ).format(
        numbers.of(file, *at, "brier"), worst, numbers.of(file, *at, "worst_family", "brier"),
        numbers.mark(v.stability["reliability"]["verdict"], file, "reliability/verdict"), _above_arms(numbers, v, file),
    )  # fmt: skip


def _above_arms(numbers: Numbers, v: Variant, file: str) -> Cell:
    """The mean over the latents, and how far it lies above that of the arm in which there is nothing to find."""
    at = ("reliability", "mean_p_correct")
    if not numbers.has(file, *at, "margin"):
        return ""
    arm = v.stability["reliability"]["mean_p_correct"]["margin"]["over"]
    return Markup(" Its mean over these latents is {}, less that of the {} arm {}.").format(
        numbers.of(file, *at), arm, numbers.of(file, *at, "margin")
    )


def _rows(examples: pd.DataFrame) -> dict[str, Any]:
    """Latent -> [[test row, activation], …], and the text of every row once."""
    texts = examples.drop_duplicates("row")
    of_latent: dict[str, list[list[float]]] = {}
    for latent, row, activation in examples[["latent", "row", "activation"]].itertuples(index=False):
        of_latent.setdefault(str(latent), []).append([int(row), float(activation)])
    columns = texts[["row", "before", "token", "after"]].itertuples(index=False)
    return {"of": of_latent, "text": {str(row): [before, token, after] for row, before, token, after in columns}}


def _partners(partners: pd.DataFrame) -> dict[str, list[list[float]]]:
    """Latent -> [[other seed, its latent, decoder cosine, encoder cosine], …]."""
    found: dict[str, list[list[float]]] = {}
    columns = ["latent", "other_seed", "partner", "decoder_cosine", "encoder_cosine"]
    for latent, seed, partner, decoder, encoder in partners[columns].itertuples(index=False):
        found.setdefault(str(latent), []).append([int(seed), int(partner), float(decoder), float(encoder)])
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    number = float(value)
    if math.isnan(number):
        return None
    return int(number) if number.is_integer() else number


def _write(path: Path, name: str, content: Any) -> None:
    path.write_text(f"{name} = {json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(',', ':'))};\n")
