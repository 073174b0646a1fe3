"""Where an SAE holds: parts of its domain, the same said in another way, and the text of another subject."""

from __future__ import annotations

from reseed.reports.site.collect import Variant
from reseed.reports.site.figures import NOTHING, Cell, Page, Section, Table
from reseed.reports.studies import class_name


def coverage_sections(page: Page, v: Variant) -> list[Section]:
    """One table of the parts and one of the relabelling, nothing where the stage has not run."""
    n, file = page.numbers, f"{v.folder}/coverage.json"
    if not n.workspace.has(file):
        return []
    content = n.workspace.json(file)
    of = class_name(content)
    rows: list[list[Cell]] = [
        [part.replace("_", " "), n.of(file, "parts", part), n.of(file, "parts", part, "untrained")]
        for part in content["parts"]
    ]
    rows.append([f"the {of} explained worst", n.of(file, f"worst_{of}"), n.of(file, f"worst_{of}", "untrained")])
    parts = Table(
        "Explained variance by part",
        ["part", "held-out explained variance", "untrained SAE"],
        rows,
        f"Where a part has several values, the one that is explained worst. Share of the {of}s that test rows have: "
        + n.of(file, f"{of}s_tested"),
    )
    at = "relabelling"
    told = Table(
        f"Put another way: {content['relabelled_by']}",
        ["figure", "mean over seeds", "untrained SAE", "the model itself", "with another row of the token"],
        [
            [
                "correlation of a latent with itself", n.of(file, at), n.of(file, at, "untrained"),
                n.of(file, at, "model"), n.of(file, at, "null"),
            ],
            ["share of brittle latents", n.of(file, "brittle"), n.of(file, "brittle", "untrained"), NOTHING, NOTHING],
        ],
        "Brittle: a correlation below 0.5. Rows of the same token behind something that was put another way: "
        + n.of(file, "relabelled_rows")
        + ". Share of latents that do not vary on them, and count nowhere: "
        + n.of(file, "unvaried"),
    )  # fmt: skip
    return [Section("coverage", "Parts of the domain", [parts, told])]


def other_text_sections(page: Page, v: Variant) -> list[Section]:
    """One table of what is explained in distribution and out of it, nothing where the stage has not run."""
    n, file = page.numbers, f"{v.folder}/ood.json"
    if not n.workspace.has(file):
        return []
    rows: list[list[Cell]] = [
        [name, n.of(file, "explained_variance", side), n.of(file, "null", side), n.of(file, "rows", side)]
        for side, name in (("in", "its own subject"), ("ood", "another subject"))
    ]
    table = Table(
        "Explained variance where the model reads other text",
        ["text of", "held-out explained variance", "untrained SAE", "rows"],
        rows,
        "Gain over the untrained SAE on the other text: "
        + n.of(file, "over_null")
        + "; share of the gain in distribution that is kept there: "
        + n.of(file, "retained")
        + ".",
    )
    return [Section("ood", "Other text", [table])]
