"""The pages: what stands on each, with every number taken from a metrics file by its key."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reseed import ReseedError
from reseed.artifacts import writing
from reseed.claims.judge import NOT_TESTABLE
from reseed.reports.site import charts, latents
from reseed.reports.site.benchmarks import benchmark_sections
from reseed.reports.site.charts import ARM_NAMES, SETTLED
from reseed.reports.site.collect import ARMS, Claim, Variant, Workspace
from reseed.reports.site.coverage import coverage_sections, other_text_sections
from reseed.reports.site.figures import (
    NOTHING,
    UNSETTLED,
    Block,
    Cell,
    Chart,
    Numbers,
    Page,
    Section,
    Table,
    Text,
    code,
)
from reseed.reports.site.replication import replication_section
from reseed.reports.site.truth import truth_sections, variant_truth_sections
from reseed.reports.standing import checked, is_clone

PACKAGE = "reseed.reports.site"
VEGA_LITE = "6.4"
"""The Vega-Lite of the bundle, which always has its newest Vega: an older one warns about that."""
ASSETS = ("style.css", "site.js", "latents.js")
NULLS = ("isotropic", "covariance", "untrained", "permuted")
ARM_FIGURES = {
    "explained_variance": "explained variance",
    "l0": "L0",
    "mse": "mean squared error",
    "alive_fraction": "alive fraction",
    "cosine_to_init": "cosine to own initialisation",
    "decoder_dimension": "decoder dimension",
    "activation_dimension": "activation dimension",
    "reappear_always": "latents that reappear in every other seed",
    "reappear_never": "latents that reappear in none",
    "seeds_converged": "seeds converged",
    "steps": "steps",
}
INTERVAL = "Intervals are delete-one-seed jackknife over the seeds, at the level of `stability.confidence` (0.95)."
KAPPA = "κ is agreement above the strictest null: (value - null) / (1 - null); 1 is the same dictionary, 0 is chance."


def build(out: Path = Path("site"), root: Path = Path()) -> list[Path]:
    """Write the whole site into `out`, replacing what is there; returns its pages.

    In a git clone verdicts are those of `reseed claims check`, else those that the locks bear out. Raises ReseedError
    if a metrics file or a table is not what it should be.
    """
    workspace, by = _judged(root)
    variants = workspace.variants()
    with writing(out) as partial:
        pages = [
            _index(workspace, variants, by),
            _frontier(workspace, variants),
            _benchmarks(workspace, variants),
            _truth(workspace, variants),
            _replication(workspace),
        ]
        for variant in variants:
            page = _variant(workspace, variant)
            page.sections = [*page.sections, *_latents(workspace, variant, page, partial)]
            pages.append(page)
        environment = Environment(
            loader=PackageLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, keep_trailing_newline=True,
        )  # fmt: skip
        template = environment.get_template("page.html")
        for page in pages:
            _write(page, template.render(page=page, origins=[asdict(o) for o in page.numbers.origins()]), partial)
        (partial / "assets").mkdir()
        for name in ASSETS:
            shutil.copyfile(str(resources.files(PACKAGE) / "assets" / name), partial / "assets" / name)
        (partial / "assets" / "vega.js").write_text(
            vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
        )
        (partial / ".nojekyll").touch()
    return [out / page.path for page in pages]


def _judged(root: Path) -> tuple[Workspace, Cell]:
    """The workspace, with its claims checked where that can be, and by what they stand, in words."""
    locks = "only files, locks and parameters were compared: not the code of the stages, nor the history of a claim"
    if not is_clone(root):
        return Workspace(root), code(f"This site was made outside a git clone, where {locks}.")
    try:
        return Workspace(root, checked(root)), code("Verdicts are those of `reseed claims check` when this was made.")
    except ReseedError as error:
        return Workspace(root), code("`reseed claims check` could not look, so that ") + f"{locks}. It said: {error}"


def _write(page: Page, html: str, out: Path) -> None:
    target, data = out / page.path, out / page.data_path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html)
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(f"window.RESEED.charts = {_script(page.data)};\n")


def _script(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _link(url: str, text: str) -> Markup:
    return Markup('<a href="{}">{}</a>').format(url, text)


def _address(variant: Variant) -> str:
    return f"variants/{variant.subject}/{variant.name}.html"


def _studies(workspace: Workspace, variant: Variant) -> str:
    return ", ".join(workspace.origin(f"{variant.folder}/stability.json").studies) or "none"


def _index(workspace: Workspace, variants: list[Variant], by: Cell) -> Page:
    numbers = Numbers(workspace)
    lead = code(
        "Train a sparse autoencoder again from another seed: which latents come back, how much of that is chance, and "
        "which claims may be made? Every agreement stands beside its null, its interval over seeds and its convergence "
        "certificate. Point at a number, or move to it with the keyboard, to see where it comes from."
    )
    page = Page("index.html", "Claims and variants", lead, numbers)
    claims = workspace.claims()
    pages = {f"{v.folder}/stability.json": _link(_address(v), f"{v.subject}/{v.name}") for v in variants}
    rows = [
        [
            Markup('{}<br><span class="quiet"><code>{}</code>, {}; evidence: {}</span>').format(
                c.statement, c.name, c.registered, Markup(", ").join(pages.get(path, path) for path in c.evidence)
            ),
            _verdict(page.numbers, c),
            _because(page.numbers, c),
        ]
        for c in claims
    ]
    table = Table("Registered claims and their verdicts", ["claim", "verdict", "because"], rows, kind="claims")
    note = code(
        "A claim is registered before its evidence. It is *supported* if every test holds, *not testable* if its "
        "evidence lacks convergence, seeds or a null, or if it must be judged again because the evidence, the verdict "
        "or what is claimed is not what was judged, and *not judged* where its stage has not run. A test holds if the "
        "whole interval of its figure lies beyond its bound. "
    )
    sections = [Section("claims", "Claims", [Text(note + by), table])]
    for subject in dict.fromkeys(v.subject for v in variants):
        chosen = [v for v in variants if v.subject == subject]
        sections.append(Section(f"subject-{subject}", f"Subject {subject}", [_overview(workspace, page, chosen)]))
    page.sections = sections
    return page


def _verdict(numbers: Numbers, claim: Claim) -> Cell:
    kind = claim.verdict.replace(" ", "-")
    badge = Markup('<span class="badge verdict {}">{}</span>').format(kind, claim.verdict)
    if not claim.content:
        return badge
    standing = Markup(" (exploratory)") if claim.exploratory else Markup("")
    if claim.standing.faults:  # the file may say something else
        return badge + standing
    return numbers.mark(badge, claim.file, "verdict") + standing


def _because(numbers: Numbers, claim: Claim) -> Cell:
    if not claim.content:
        return "Its stage has not run."
    standing = claim.standing
    above = [
        *(f"To be judged again: {fault}" for fault in standing.faults),
        *(f"exploratory: {why}" for why in standing.why_exploratory),
    ]
    if not above:
        return _said(numbers, claim)
    items = Markup("").join(Markup("<li>{}</li>").format(code(sentence)) for sentence in above)
    html = Markup('<ul class="plain">{}</ul>').format(items)
    if not standing.faults:
        return html + _said(numbers, claim)
    return html + Markup("<details><summary>What its file says</summary>{}</details>").format(_said(numbers, claim))


def _said(numbers: Numbers, claim: Claim) -> Markup:
    """What the verdict's file says of figures, gates and artefacts."""
    parts: list[Cell] = []
    tests, more = claim.content.get("tests", []), claim.content.get("reasons", [])
    for i, test in enumerate(tests):
        figure = numbers.of(claim.file, "tests", i)
        arm = "|".join(ARMS)
        of_arm = "κ of " if re.match(rf"({arm})( - ({arm}))?(,|$)", test["figure"]) else ""
        parts.append(
            Markup("<li>{}{}: {}, to be {}: <b>{}</b></li>").format(
                of_arm, test["figure"], figure, test["bound"], test["outcome"]
            )
        )
    # those after the tests in words, where the claim was testable, are the gates that it did not pass
    more = more if claim.content.get("verdict") == NOT_TESTABLE else more[len(tests) :]
    parts += [Markup("<li>{}</li>").format(reason) for reason in more]
    html = Markup('<ul class="plain">{}</ul>').format(Markup("").join(parts))
    if gates := claim.content.get("gates"):
        items = Markup("").join(
            Markup('<li><span class="badge gate {}">{}</span> {} of {}{}</li>').format(
                gate["outcome"].replace(" ", "-"), gate["outcome"], gate["gate"], gate["of"],
                f": {gate['reason']}" if gate.get("reason") else "",
            )
            for gate in gates
        )  # fmt: skip
        count = sum(gate["outcome"] == "passed" for gate in gates)
        html += Markup('<details><summary>Gates: {} of {} passed</summary><ul class="plain">{}</ul></details>').format(
            count, len(gates), items
        )
    if known := claim.content.get("artefacts"):
        items = Markup("").join(
            Markup("<li><code>{}</code><br>sha256 <code>{}…</code>: {}</li>").format(
                path, known[path][:12], claim.artefacts[path]
            )
            for path in sorted(known)
        )
        html += Markup('<details><summary>Artefacts: {}</summary><ul class="plain">{}</ul></details>').format(
            len(known), items
        )
    return html


def _overview(workspace: Workspace, page: Page, variants: list[Variant]) -> Table:
    controls = [a for a in ARM_NAMES if a != "trained" and any(a in v.arms for v in variants)]
    header = [
        "variant", "study", "architecture", "d_sae", "L0", "explained variance", "alive", "pw_mcc", "null", "κ trained",
        *(f"κ {ARM_NAMES[arm]}" for arm in controls),
    ]  # fmt: skip
    rows = []
    n = page.numbers
    for v in variants:
        file = f"{v.folder}/stability.json"
        rows.append(
            [
                _link(_address(v), v.name),
                _studies(workspace, v),
                v.stability["architecture"].replace("_", " "),
                n.of(file, "d_sae"),
                n.of(file, "trained", "l0", "value"),
                n.of(file, "trained", "explained_variance"),
                n.of(file, "trained", "alive_fraction", "value"),
                n.of(file, "trained", "pw_mcc"),
                Markup('{} <span class="quiet">{}</span>').format(
                    n.of(file, "trained", "pw_mcc", "null"), v.stability["trained"]["pw_mcc"]["strictest_null"]
                ),
                n.with_kappa(file, "trained", "pw_mcc"),
                *(n.with_kappa(file, arm, "pw_mcc") for arm in controls),
            ]
        )
    note = code(f"{KAPPA} {INTERVAL} Latents are those alive.")
    return Table(f"Variants of {variants[0].subject}: agreement of the decoders over seeds", header, rows, note)


def _variant(workspace: Workspace, v: Variant) -> Page:
    numbers = Numbers(workspace)
    file, s = f"{v.folder}/stability.json", v.stability
    facts: list[Cell] = [
        Markup("architecture <b>{}</b>").format(s["architecture"].replace("_", " ")),
        Markup("d_sae {}").format(numbers.of(file, "d_sae")),
        *([Markup("k {}").format(numbers.of(file, "k"))] if "k" in s else []),
        Markup("independent seeds {}").format(numbers.of(file, "seeds")),
        *([Markup("seeds a group {}").format(numbers.of(file, "group_size"))] if "group_size" in s else []),
        Markup("a latent is alive if it fires on {} training rows").format(numbers.of(file, "alive_min_count")),
        Markup("study {}").format(_studies(workspace, v)),
    ]
    lead = Markup('<ul class="facts">{}</ul>').format(Markup("").join(Markup("<li>{}</li>").format(f) for f in facts))
    if "verdict" in s:
        lead += Markup("<p>Agreement and correctness together: {}</p>").format(
            numbers.mark(s["verdict"], file, "verdict")
        )
    if "quarantined" in s:
        lead += Markup('<p class="notice">Quarantined: {}. No claim rests on this subject.</p>').format(
            s["quarantined"]
        )
    page = Page(
        f"variants/{v.subject}/{v.name}.html", f"{v.subject} / {v.name}", lead, numbers,
        up=(f"../../index.html#subject-{v.subject}", f"subject {v.subject}"),
    )  # fmt: skip
    sections = [_stability(page, v), _curves(workspace, page, v), _matches(workspace, page, v)]
    if workspace.has(f"{v.folder}/certificate.json"):
        sections.insert(2, _certificate(page, v))
    sections += coverage_sections(page, v)
    sections += other_text_sections(page, v)
    sections += variant_truth_sections(page, v)
    sections += benchmark_sections(page, [v])
    page.sections = sections
    return page


def _records(v: Variant, latents_: str) -> list[tuple[int, dict[str, Any]]]:
    return [(i, record) for i, record in enumerate(v.stability["records"]) if record["latents"] == latents_]


def _stability(page: Page, v: Variant) -> Section:
    file, n = f"{v.folder}/stability.json", page.numbers
    every = {(r["arm"], r["statistic"]): i for i, r in _records(v, "all")}
    columns = ["arm", "statistic", "value", "low", "high", "null", "settled"]
    values, kappas, rows = [], [], []
    for i, record in _records(v, "alive"):
        arm, statistic = record["arm"], record["statistic"]
        one = v.stability[arm][statistic]
        settled = SETTLED[0] if one["converged"] else SETTLED[1]
        values.append([arm, statistic, one["value"], one["low"], one["high"], one["null"], settled])
        if "kappa" in one:
            kappas.append([arm, statistic, one["kappa"], one["kappa_low"], one["kappa_high"], None, settled])
        place = every[arm, statistic]
        nulls = [n.of(file, "records", i, "nulls", x) if x in record["nulls"] else NOTHING for x in NULLS]
        nulls = [
            Markup("<b>{}</b>").format(cell) if name == one["strictest_null"] else cell
            for name, cell in zip(NULLS, nulls, strict=True)
        ]
        everything = v.stability["records"][place]
        rows.append(
            [
                Markup("{} <span class='quiet'>{}</span>").format(statistic, ARM_NAMES.get(arm, arm)),
                n.of(file, arm, statistic),
                *nulls,
                n.with_kappa(file, arm, statistic),
                n.of(file, "records", place, form="kappa") if "kappa" in everything else NOTHING,
                n.maybe(file, arm, statistic, "minimum_detectable_kappa"),
                Markup("{} <span class='quiet'>change {}</span>").format(
                    "yes" if one["converged"] else UNSETTLED, n.of(file, arm, statistic, "plateau_change")
                ),
            ]
        )
    order = {name: i for i, name in enumerate(v.statistics)}
    rows = [
        row
        for _, row in sorted(zip(_records(v, "alive"), rows, strict=True), key=lambda p: order[p[0][1]["statistic"]])
    ]
    caption = code(
        f"Alive latents. Bars: {INTERVAL.lower()} Ticks: the strictest null of each. A cross: not converged, no "
        "claim may use it."
    )
    arms = v.arms
    value = Chart(
        "values", "Agreement between seeds, and its null", caption,
        charts.statistics(v.statistics, arms, "agreement", null=True), has_table=False,
    )  # fmt: skip
    kappa = Chart(
        "kappas", "κ: agreement above chance", code(f"{KAPPA} Dashed: 0. A cross: not converged."),
        charts.statistics(v.statistics, arms, "κ", null=False), has_table=False,
    )  # fmt: skip
    table = Table(
        "Each statistic against its nulls, by arm (the strictest null in bold)",
        ["statistic", "value", *NULLS, "κ (alive latents)", "κ (all latents)", "detectable κ", "converged"],
        rows,
        code(
            f"{KAPPA} {INTERVAL} *Detectable* is the distance that these seeds resolve four times in five. "
            "*Converged*: every seed by its own rule, and the statistic moved by no more than "
            "`stability.plateau_tolerance` over the last doubling of steps."
        ),
    )
    arm_rows = [
        [label, *(n.maybe(file, arm, key) for arm in arms)]
        for key, label in ARM_FIGURES.items()
        if any(n.has(file, arm, key) for arm in arms)
    ]
    blocks: list[Block] = [
        page.draw(value, file, columns, values),
        page.draw(kappa, file, columns, kappas),
        table,
        Table("The SAEs of each arm, on held-out rows", ["figure", *(ARM_NAMES.get(a, a) for a in arms)], arm_rows),
    ]
    if recovery := v.stability["trained"].get("recovery"):
        known = [
            [
                name, n.of(file, "trained", "recovery", name),
                Markup("{} <span class='quiet'>{}</span>").format(
                    n.of(file, "trained", "recovery", name, "null"), one["strictest_null"]
                ),
                n.with_kappa(file, "trained", "recovery", name),
            ]
            for name, one in recovery.items()
        ]  # fmt: skip
        blocks.append(Table("Against the known features", ["figure", "value", "null", "κ"], known))
    if tests := [name for name in v.stability if name.startswith("trained - ")]:
        rows = [
            [
                f"{statistic}, trained less {ARM_NAMES.get(name.removeprefix('trained - '), name)}",
                n.of(file, name, statistic, form="kappa") if "kappa" in one else NOTHING,
                *(n.of(file, name, statistic, key) for key in ("p", "p_floor", "paired_p", "paired_p_floor")),
            ]
            for name in tests
            for statistic, one in v.stability[name].items()
        ]
        blocks.append(
            Table(
                "The trained arm less its controls",
                ["difference", "κ less κ", "p", "p floor", "paired p", "its floor"],
                rows, "p: seeds permuted between the arms; the floor is the smallest that so many seeds can give.",
            )
        )  # fmt: skip
    return Section("stability", "Stability", blocks)


def _certificates(v: Variant) -> str:
    """Which arms' agreement may be used, in words."""
    said = (
        f"{ARM_NAMES.get(arm, arm)} {SETTLED[0] if v.stability[arm]['pw_mcc']['converged'] else SETTLED[1]}"
        for arm in v.arms
    )
    return f"Certificate of `pw_mcc`: {', '.join(said)}."


def _curves(workspace: Workspace, page: Page, v: Variant) -> Section:
    blocks: list[Block] = []
    if workspace.has(file := f"{v.folder}/steps.csv"):
        frame = workspace.csv(file)
        caption = code(
            "Means over pairs of seeds at each snapshot before the learning rate falls (no interval is kept for them); "
            "dashed: the covariance null at the same step. Step 0 stands at 10. " + _certificates(v)
        )
        chart = Chart(
            "steps", "Certificate curves: the statistic against steps", caption, charts.steps(v.arms),
            {"statistic": ("Statistic", list(dict.fromkeys(frame["statistic"])))},
        )  # fmt: skip
        blocks.append(page.draw_csv(chart, file))
    if workspace.has(file := f"{v.folder}/training.csv"):
        converged = Markup(", ").join(
            Markup("{}: {} of {}").format(
                ARM_NAMES.get(arm, arm), page.numbers.of(f"{v.folder}/stability.json", arm, "seeds_converged"),
                page.numbers.of(f"{v.folder}/stability.json", "seeds"),
            )
            for arm in v.arms
        )  # fmt: skip
        caption = Markup(
            "Held-out rows, one line a seed; 1 is no better than the mean row. Independent seeds that converged by "
            "their own loss: {}."
        ).format(converged)
        chart = Chart("training", "Training curves", caption, charts.training(v.arms))
        blocks.append(page.draw_csv(chart, file))
    return Section("curves", "Convergence", blocks, side_by_side=True)


def _certificate(page: Page, v: Variant) -> Section:
    file, n = f"{v.folder}/certificate.json", page.numbers
    content = n.workspace.json(file)
    rows = []
    for statistic, one in content.items():
        if not isinstance(one, dict):
            continue
        for reading in ("value", "kappa"):
            if reading in one:
                rows.append(
                    [
                        f"{statistic}, {'κ' if reading == 'kappa' else 'value'}",
                        n.of(file, statistic, reading, "short"),
                        n.maybe(file, statistic, reading, "long"),
                        n.maybe(file, statistic, reading, "moved"),
                        "certified" if one["certified"] else UNSETTLED,
                        one["verdict"],
                    ]
                )
    table = Table(
        "The same seeds trained four times longer",
        ["figure", "certified run", "four times longer", "moved by", "certificate", "verdict"],
        rows,
        Markup("Steps at a constant learning rate: {} and {}. {}").format(
            n.of(file, "constant_steps"), n.of(file, "constant_steps_long"), code(INTERVAL)
        ),
    )
    return Section("certificate", "Certificate under longer training", [table])


def _matches(workspace: Workspace, page: Page, v: Variant) -> Section:
    file = f"{v.folder}/matches.csv"
    if not workspace.has(file):
        return Section("matches", "Best matches", [Text(f"{file} is not in this workspace.")])
    caption = code(
        "Every alive latent's largest |cosine| with a latent of another seed, over all pairs of seeds, beside "
        "dictionaries drawn with the decoders' own covariance (the null). Shares of all latents; no interval. "
        + _certificates(v)
    )
    chart = Chart("matches", "Best-match histogram", caption, charts.matches(), {"arm": ("Arm", v.arms)})
    return Section("matches", "Best matches", [page.draw_csv(chart, file)])


def _latents(workspace: Workspace, v: Variant, page: Page, out: Path) -> list[Section]:
    file = f"{v.folder}/tables/latents.parquet"
    table = workspace.table(file)
    if table is None:
        origin = workspace.origin(f"{v.folder}/stability.json")
        text = Markup(
            "<p>The table of latents is not in this workspace. Fetch it with <code>dvc pull {}/tables</code>"
        ).format(v.folder)
        if origin.studies:
            target = workspace.target(origin.stage, origin.studies[0])
            text += Markup(", or make it with <code>dvc repro {}</code>").format(target)
        text += Markup("; then run <code>make report</code> again.</p>")
        return [Section("latents", "Latents", [Text(text)])]
    counts = table["firing_count"][table["alive"]]
    least, most = max(1, int(counts.min())), max(2, int(counts.max()))
    panel = latents.explorer(page.numbers, v, table, code(_certificates(v)), out)
    for name, spec in (("firing", charts.firing(most)), ("latents", charts.latents(least, most))):
        page.data[name] = {"spec": spec, "file": panel.source, "columns": [], "rows": []}
    return [Section("latents", "Latents", [panel])]


def on_frontier(points: list[dict[str, Any]]) -> set[str]:
    """Converged variants that no other one beats: less L0, more explained variance, more kappa (or equal)."""
    usable = [p for p in points if p["settled"] == SETTLED[0]]

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        no_worse = a["l0"] <= b["l0"] and a["ev"] >= b["ev"] and a["kappa"] >= b["kappa"]
        return no_worse and (a["l0"], a["ev"], a["kappa"]) != (b["l0"], b["ev"], b["kappa"])

    return {p["name"] for p in usable if not any(beats(other, p) for other in usable)}


def _frontier(workspace: Workspace, variants: list[Variant]) -> Page:
    page = Page(
        "frontier.html", "L0, stability and explained variance",
        code(
            "All variants of a subject, from every study: how sparse, how stable above chance, how faithful. "
            f"{KAPPA} {INTERVAL} The frontier (dashed) is of converged variants that no other converged "
            "one beats, by value, in all three; what is not converged stands as a cross and is on no frontier."
        ),
        Numbers(workspace),
    )  # fmt: skip
    n, sections = page.numbers, []
    columns = ["variant", "l0", "explained_variance", "kappa", "low", "high", "settled", "frontier", "url"]
    for subject in dict.fromkeys(v.subject for v in variants):
        points, by_name = [], {}
        for v in (v for v in variants if v.subject == subject):
            trained = v.stability["trained"]
            by_name[v.name] = v
            if "kappa" in trained["pw_mcc"]:
                points.append(
                    {
                        "name": v.name, "l0": trained["l0"]["value"], "ev": trained["explained_variance"]["value"],
                        "kappa": trained["pw_mcc"]["kappa"], "low": trained["pw_mcc"]["kappa_low"],
                        "high": trained["pw_mcc"]["kappa_high"],
                        "settled": SETTLED[0] if trained["pw_mcc"]["converged"] else SETTLED[1],
                    }
                )  # fmt: skip
        front = on_frontier(points)
        data = [[*p.values(), p["name"] in front, _address(by_name[p["name"]])] for p in points]
        rows = []
        for v in sorted(by_name.values(), key=lambda v: (v.stability["trained"]["l0"]["value"], v.name)):
            file = f"{v.folder}/stability.json"
            rows.append(
                [
                    _link(_address(v), v.name), _studies(workspace, v), n.of(file, "trained", "l0"),
                    n.of(file, "trained", "explained_variance"), n.with_kappa(file, "trained", "pw_mcc"),
                    Markup("{} <span class='quiet'>{}</span>").format(
                        n.of(file, "trained", "pw_mcc", "null"), v.stability["trained"]["pw_mcc"]["strictest_null"]
                    ),
                    "yes" if v.name in front else "no",
                ]
            )  # fmt: skip
        blocks: list[Block] = []
        for x, title, log in (
            ("l0", "L0 of the trained arm (log scale)", True),
            ("explained_variance", "explained variance", False),
        ):
            chart = Chart(
                f"{subject}-{x}", f"{subject}: κ against {title}",
                "A click on a point leads to its variant, as the table does. "
                "The null is each variant's strictest; bars are intervals over seeds. A cross: not converged.",
                charts.frontier(x, title, log, bool(front)), has_table=False,
            )  # fmt: skip
            blocks.append(page.draw(chart, "", columns, data))
        table = Table(
            f"Variants of {subject} by L0",
            ["variant", "study", "L0", "explained variance", "κ of pw_mcc", "null", "on the frontier"],
            rows,
        )
        sections += [
            Section(f"frontier-{subject}", f"Subject {subject}", blocks, side_by_side=True),
            Section(f"table-{subject}", "", [table]),
        ]
    page.sections = sections
    return page


def _benchmarks(workspace: Workspace, variants: list[Variant]) -> Page:
    numbers = Numbers(workspace)
    page = Page(
        "benchmarks.html", "Benchmarks beside their controls",
        "A score of an SAE says something only beside an untrained SAE of the same shape, an SAE of the random model, "
        "the model's own dimensions and a dense probe. Intervals are over the seeds of the SAE.",
        numbers,
    )  # fmt: skip
    page.sections = benchmark_sections(page, variants)
    return page


def _truth(workspace: Workspace, variants: list[Variant]) -> Page:
    numbers = Numbers(workspace)
    page = Page(
        "truth.html", "Known truth",
        "That something comes back from another seed does not make it right. Where the truth is known, SAEs are scored "
        "against it and their latents edited; what must be exceeded stands beside every figure.",
        numbers,
    )  # fmt: skip
    names = {f"{v.subject}/{v.name}": v for v in variants}
    page.sections = truth_sections(page, {name: _link(_address(v), name) for name, v in names.items()})
    return page


def _replication(workspace: Workspace) -> Page:
    numbers = Numbers(workspace)
    page = Page(
        "replication.html", "Published figures, made again and corrected",
        "Figures of two prior systems by their own recipes, faults included, and as this project measures them.",
        numbers,
    )  # fmt: skip
    page.sections = [replication_section(page)]
    return page
