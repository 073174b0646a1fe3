"""The replication table: published figures, the same by their recipe, and as corrected."""

from __future__ import annotations

from markupsafe import Markup

from reseed.reports.site.figures import UNSETTLED, Cell, Page, Section, Table, Text, code

FILE = "metrics/replication.json"
FIGURES = {
    "trained_is_random": "HUSAI: “trained equals random” (d_sae 1024, k 32)",
    "low_k": "HUSAI: k 8 above random (d_sae 128)",
    "few_latents": "HUSAI: d_sae 64 above random (k 32)",
    "low_l0": "HUSAI: k 4 above k 32 (d_sae 128)",
    "song_topk": "Song et al. 2025, synthetic: TopK",
    "song_l1": "Song et al. 2025, synthetic: L1",
}
"""In the order of docs/replication.md."""


def replication_section(page: Page) -> Section:
    """The table, or why there is none."""
    n = page.numbers
    if not n.workspace.has(FILE):
        return Section("table", "Not run", [Text(code("`dvc repro studies/replication/dvc.yaml` makes it."))])
    content = n.workspace.json(FILE)
    rows: list[list[Cell]] = []
    for name in sorted(content["figures"], key=list(FIGURES).index):
        one, at = content["figures"][name], ("figures", name)
        corrected = one["corrected"]
        signs = Markup("").join(
            Markup("<li>{} {}</li>").format(sign.replace("_", " "), n.of(FILE, *at, "signs", sign))
            for sign in one["signs"]
        )
        null: Cell = "a difference of two variants, each above its own null"
        if "null" in corrected:
            null = Markup("{} ({})").format(n.of(FILE, *at, "corrected", "null"), corrected["strictest_null"])
        rows.append(
            [
                FIGURES[name],
                n.of(FILE, *at, "published"),
                n.of(FILE, *at, "reproduced"),
                "agrees" if one["agrees"] else "does not agree",
                Markup('<ul class="plain">{}</ul>').format(signs),
                Markup("{} {}").format(corrected["statistic"], n.of(FILE, *at, "corrected")),
                null,
                n.of(FILE, *at, "corrected", "kappa") if "kappa" in corrected else "none",
                "yes" if corrected["converged"] else UNSETTLED,
            ]
        )
    table = Table(
        "Each published figure, by its recipe and corrected",
        [
            "figure", "published", "by its recipe", "published value", "what it was", "corrected", "its null", "κ",
            "converged",
        ],
        rows,
        "Intervals are delete-one-seed jackknife. Agrees: the published value lies in the interval for a repeat with "
        "as many other seeds. Corrected: the right task, decoders the right way up, alive latents, the strictest null.",
    )  # fmt: skip
    notice = Markup('<p class="notice">Quarantined subject behind the recipes: {}.</p>').format(content["quarantined"])
    return Section("table", "The table", [Text(notice), table])
