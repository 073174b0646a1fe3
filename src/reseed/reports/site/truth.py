"""Known truth: go or no-go, scores beside nulls and peers, causal tests, and P(correct) with its detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from reseed.reports import truth
from reseed.reports.site import charts
from reseed.reports.site.collect import Variant
from reseed.reports.site.figures import NOTHING, Block, Cell, Chart, Page, Section, Table, Text, code

MATCHINGS = {"norm": "equal norm", "kl": "equal KL"}
EFFECTS = [f"effect at {how}, and the strongest control" for how in MATCHINGS.values()]
SEEDS = "Intervals are delete-one-seed jackknife over the seeds."
PREDICTIONS = "That of the model's accuracy is the exact one over its predictions."
Links = Mapping[str, Cell]
"""subject/variant -> link to its page."""


def truth_sections(page: Page, links: Links) -> list[Section]:
    """All that is measured where the truth is known, or what would measure it."""
    workspace = page.numbers.workspace
    known, edited = workspace.found("metrics/*/*/truth.json"), workspace.found("metrics/*/*/causal.json")
    fitted = workspace.found("metrics/reliability/*.json")
    sections = []
    if judged := [file for file in known if truth.ruled(workspace.json(file))]:
        sections.append(Section("go", "Go or no-go", [_go(page, judged, links)]))
    for subject in dict.fromkeys(_subject(file) for file in known):
        of = [file for file in known if _subject(file) == subject]
        sections.append(Section(f"truth-{subject}", f"Scores: {subject}", _scores(page, of, links)))
    if edited:
        sections.append(Section("causal", "Causal tests", _causal(page, edited, links)))
        for file in edited:
            if pictures := _pictures(page, file):
                name = _name(file).replace("/", "-")
                sections.append(Section(f"causal-{name}", f"Edits of {_name(file)}", pictures, side_by_side=True))
    for file in fitted:
        name = file.rpartition("/")[2].removesuffix(".json")
        sections += [
            Section(f"reliability-{name}", f"P(correct): {name}", _models(page, file)),
            Section(f"families-{name}", f"Families held out: {name}", _families(page, file, name), side_by_side=True),
            Section(f"detector-{name}", f"The detector: {name}", [_detector(page, file)]),
        ]
    said = "No stage `truth`, `causal` or `reliability` has run in this workspace: see docs/truth.md."
    return sections or [Section("none", "Not run", [Text(code(said))])]


def variant_truth_sections(page: Page, v: Variant) -> list[Section]:
    """One SAE: every figure with every null and peer, and every concept that was edited."""
    n, sections = page.numbers, []
    if n.workspace.has(file := f"{v.folder}/truth.json"):
        sections.append(Section("truth", "Known truth", [_every_figure(page, file)]))
    if n.workspace.has(file := f"{v.folder}/causal.json"):
        sections.append(Section("causal", "Causal tests", [_concepts(page, file), _other_edits(page, file)]))
    return sections


def _name(file: str) -> str:
    """subject/variant of a metrics file."""
    _, subject, variant, _ = file.split("/")
    return f"{subject}/{variant}"


def _subject(file: str) -> str:
    return _name(file).partition("/")[0]


def _linked(page: Page, file: str, links: Links) -> Cell:
    """The SAE, and whether every seed's loss has converged."""
    name = _name(file)
    stability = f"metrics/{name}/stability.json"
    said = links.get(name, name)
    if not page.numbers.workspace.has(stability):
        return said
    content = page.numbers.workspace.json(stability)
    converged, seeds = content["trained"]["seeds_converged"], content["seeds"]
    if converged == seeds:
        return said
    mark = Markup('{} <span class="badge unsettled">{} of {} seeds converged</span>')
    return mark.format(
        said, page.numbers.of(stability, "trained", "seeds_converged"), page.numbers.of(stability, "seeds")
    )


def _go(page: Page, files: Sequence[str], links: Links) -> Table:
    n = page.numbers
    rows: list[list[Cell]] = []
    for file in files:
        phase = n.workspace.json(file)["phase"]
        rules = []
        for name, rule in phase["rules"].items():
            found = Markup("{}, ").format(n.of(file, "figures", name)) if "found" in rule else ""
            outcome = Markup('<b class="{}">{}</b>').format("met" if rule["met"] else "unmet", truth.met(rule))
            rules.append(
                Markup("<li>{} ≥ {}: {}{}</li>").format(
                    name, n.of(file, "phase", "rules", name, "bound"), found, outcome
                )
            )
        said = truth.verdict(phase)
        rows.append(
            [
                Markup('{}<br><span class="quiet">{}</span>').format(
                    _linked(page, file, links), phase["question"] + truth.supervised(phase)
                ),
                Markup('<ul class="plain">{}</ul>').format(Markup("").join(rules)),
                n.of(file, "figures", "l0_over_d_in", "value") + ("" if phase["sparse"] else ": not below 1"),
                Markup('<span class="badge verdict {}">{}</span>').format(said, said),
            ]
        )
    note = code(
        "A rule is met if the low end of the figure's interval (of the model's accuracy, the share itself) reaches the "
        "bound and the figure exceeds its nulls seed by seed. *go* needs every rule, and an L0 below d_in: with as "
        f"many latents as dimensions anything is reconstructed. {SEEDS} {PREDICTIONS}"
    )
    header = ["SAE", "rules, committed before the run", "L0 / d_in", "verdict"]
    return Table("Every SAE of a subject with rules", header, rows, note)


def _null(page: Page, file: str, figure: str) -> Cell:
    content = page.numbers.workspace.json(file)
    null = truth.strictest(content["figures"][figure])
    if null is None:
        return NOTHING
    return Markup('{} <span class="quiet">{}</span>').format(
        page.numbers.of(file, "figures", figure, "nulls", null), truth.named(null, content)
    )


def _above(figure: Mapping[str, Any]) -> Cell:
    return {0: "no", 1: "yes"}.get(figure.get("exceeds_nulls", -1), NOTHING)


def _scores(page: Page, files: Sequence[str], links: Links) -> list[Block]:
    n = page.numbers
    saes: list[list[Cell]] = []
    for file in files:
        content = n.workspace.json(file)
        unusable = content["figures"]["fidelity"].get("no_evidence")
        saes.append(
            [
                _linked(page, file, links), truth.known(content),
                n.of(file, "figures", "fidelity")
                + (Markup(' <span class="badge unsettled">no evidence: L0 ≥ d_in</span>') if unusable else ""),
                _null(page, file, "fidelity"), n.maybe(file, "figures", "fidelity", "peers", "pca_at_l0"),
                n.of(file, "figures", "l0", "value"), n.of(file, "figures", "l0_over_d_in", "value"),
                n.of(file, "figures", "alive_fraction", "value"), n.maybe(file, "figures", "accuracy"),
            ]
        )  # fmt: skip
    rows: list[list[Cell]] = []
    shown = dict.fromkeys(figure for file in files for figure in truth.scores(n.workspace.json(file)))
    for figure in shown:
        for file in files:
            found = n.workspace.json(file)["figures"].get(figure)
            if found is None:
                continue
            at = ("figures", figure)
            ceiling = truth.ceiling(figure, found)
            rows.append(
                [
                    Markup('{} <span class="quiet">{}</span>').format(figure, _name(file).partition("/")[2]),
                    n.of(file, *at), _null(page, file, figure), _above(found),
                    *(n.maybe(file, *at, "peers", peer) for peer in truth.PEERS),
                    Markup('{} <span class="quiet">{}</span>').format(
                        n.of(file, *at, "peers", ceiling), truth.CEILINGS[ceiling]
                    ) if ceiling else NOTHING,
                ]
            )  # fmt: skip
    return [
        Table(
            f"SAEs of {_subject(files[0])}: how faithful, how sparse",
            [
                "SAE", "known", "fidelity", "strictest null", "PCA at L0", "L0", "L0 / d_in", "alive",
                "accuracy of the model",
            ],
            saes,
            f"{SEEDS} {PREDICTIONS}",
        ),
        Table(
            f"Scores of {_subject(files[0])} beside the strictest null and peers",
            ["figure", "value", "strictest null", "exceeds nulls", *truth.PEERS.values(), "ceiling"],
            rows,
            code(
                f"{SEEDS} *Exceeds*: the interval of the difference to every null lies above 0; the strictest is that "
                "whose interval reaches lowest. Peers and the ceiling need not be beaten. Every null stands on the "
                "page of the SAE."
            ),
        ),
    ]  # fmt: skip


def _every_figure(page: Page, file: str) -> Table:
    n = page.numbers
    content = n.workspace.json(file)

    def beside(figure: str, kind: str, names: Mapping[str, str]) -> Cell:
        """name and number of each null or peer, the strictest null in bold."""
        one = content["figures"][figure]
        parts = []
        for key in one.get(kind, {}):
            form = "{} <b>{}</b>" if kind == "nulls" and key == truth.strictest(one) else "{} {}"
            parts.append(Markup(form).format(names.get(key, key), n.of(file, "figures", figure, kind, key)))
        return Markup(", ").join(parts) if parts else NOTHING

    peers = truth.PEERS | truth.CEILINGS | {"pca_at_l0": "PCA at L0"}
    rows: list[list[Cell]] = [
        [
            figure, n.of(file, "figures", figure), _above(one),
            beside(figure, "nulls", {"control": truth.named("control", content)}), beside(figure, "peers", peers),
        ]
        for figure, one in content["figures"].items()
    ]  # fmt: skip
    of_model = f" {PREDICTIONS}" if "accuracy" in content["figures"] else ""
    unjudged = "Neither yes nor no: a figure without a null. Splitting and absorption exceed one from below."
    header = ["figure", "value", "exceeds nulls", "nulls (the strictest in bold)", "peers"]
    return Table(f"Against {truth.known(content)}", header, rows, f"{SEEDS}{of_model} {unjudged}")


def _effects(page: Page, file: str, *at: str) -> list[Cell]:
    """The effect of the latent over that of the control whose effect is largest, at equal norm and at equal KL."""
    n = page.numbers
    found: list[Cell] = []
    for matching in MATCHINGS:
        place = (*at, f"effect_at_equal_{matching}")
        if not n.has(file, *place):
            found.append(NOTHING)
            continue
        content: Any = n.workspace.json(file)
        for key in place:
            content = content[key]
        control = truth.strongest(content)
        found.append(
            Markup('{}<br><span class="quiet">{} {}</span>').format(
                n.of(file, *place, "latent"), truth.CONTROLS[control], n.of(file, *place, control)
            )
        )
    return found


def _causal(page: Page, files: Sequence[str], links: Links) -> list[Block]:
    n = page.numbers
    passed: list[list[Cell]] = []
    edits: list[list[Cell]] = []
    for file in files:
        passed.append(
            [
                _linked(page, file, links), n.of(file, "judged"), n.of(file, "passed"),
                f"{len(n.workspace.json(file)['untold'])}", *_effects(page, file, "mean"),
                *(n.of(file, "null_saes", name) for name in ("latent", *truth.NULL_SAES)),
            ]
        )  # fmt: skip
        edits.append([_linked(page, file, links), *(n.maybe(file, "mean", figure) for figure in truth.EDITS)])
    return [
        Table(
            "Concepts that an edit of a latent moves more than every control",
            [
                "SAE", "judged", "passed", "untold", *EFFECTS, "passes at equal norm alone",
                *(truth.CONTROLS[name] for name in truth.NULL_SAES),
            ],
            passed,
            code(
                "A concept *passes* if the effect of its latents is beyond that of every control, at equal norm and at "
                "equal KL divergence of the output, after Holm's correction; one that is *untold* no read-out tells "
                "from unedited rows. Effects: log-odds, means over concepts, and the largest of a control. Last, the "
                "passes of the SAE and of null SAEs at equal norm, beyond the controls that are no SAEs: what null "
                f"SAEs reach there is no evidence. {SEEDS}"
            ),
        ),
        Table(
            "How the edits behave, means over concepts",
            ["SAE", *truth.EDITS.values()],
            edits,
            "As predicted: slope 1, calibration error 0. Monotone: share of steps of the dose at which it rises. "
            "Specificity is 0.5 where all concepts move alike; a random latent is its null, DAS the ceiling.",
        ),
    ]  # fmt: skip


def _concepts(page: Page, file: str) -> Table:
    n = page.numbers
    content = n.workspace.json(file)
    rows: list[list[Cell]] = [
        [
            concept, one["read_out"], n.maybe(file, "concepts", concept, "slope"),
            n.maybe(file, "concepts", concept, "specificity"), *_effects(page, file, "concepts", concept),
            n.of(file, "concepts", concept, "p_holm"), "yes" if one["passes"] else "no",
        ]
        for concept, one in content["concepts"].items()
    ]  # fmt: skip
    header = ["concept", "read out", "slope", "specificity", *EFFECTS, "p (Holm)", "passes"]
    untold = ", ".join(content["untold"]) or "none"
    return Table("Each concept: its latents beside controls", header, rows, f"{SEEDS} Untold: {untold}.")


def _other_edits(page: Page, file: str) -> Table:
    """Ablation, clamping and interchange of the same latents, each with the p that no control moves as much."""
    n = page.numbers
    rows: list[list[Cell]] = [
        [concept, *(n.maybe(file, "concepts", concept, f"{edit}{of}") for edit in truth.PATCHES for of in ("", "_p"))]
        for concept in n.workspace.json(file)["concepts"]
    ]
    header = ["concept", *(f"{edit}{of}" for edit in truth.PATCHES for of in ("", ", p"))]
    note = (
        "Change of log-odds towards what the edit means. p: that it is beyond the same edit along a random direction, "
        "another latent's decoder row and one of equal frequency (one of each a seed), of equal size and at equal KL "
        "divergence of the output; not corrected over concepts, and no part of what passes."
    )
    return Table("Each concept: its latents ablated, clamped and interchanged", header, rows, f"{SEEDS} {note}")


def _pictures(page: Page, file: str) -> list[Block]:
    """Calibration and doses of one SAE; none where no concept was judged."""
    blocks: list[Block] = []
    name = _name(file).replace("/", "-")
    calibration, doses = (file.replace("causal.json", f"causal_{kind}.csv") for kind in ("calibration", "doses"))
    workspace = page.numbers.workspace
    if workspace.has(calibration) and (concepts := list(dict.fromkeys(workspace.csv(calibration)["concept"]))):
        chart = Chart(
            f"calibration-{name}", "Predicted and observed change of log-odds",
            "A line a concept, over the doses: predicted by the probe at the edit, observed behind it. Dashed: as "
            "predicted; a null, which moves nothing, lies along 0. Means over seeds, no interval.",
            charts.causal_calibration(concepts[0]), {"concept": ("Concept", concepts)},
        )  # fmt: skip
        blocks.append(page.draw_csv(chart, calibration))
    if workspace.has(doses) and (directions := list(dict.fromkeys(workspace.csv(doses)["direction"]))):
        controls = [direction for direction in directions if direction != "latent"]
        chart = Chart(
            f"doses-{name}", "Change of log-odds against the dose",
            "Every direction at equal norm: the latent, the controls that it must be beyond (nulls), and directions "
            "found with labels. Thick: the one that is chosen. Means over concepts and seeds, no interval.",
            charts.causal_doses(controls[0], list(truth.SUPERVISED)), {"direction": ("Direction", controls)},
        )  # fmt: skip
        blocks.append(page.draw_csv(chart, doses))
    return blocks


def _models(page: Page, file: str) -> list[Block]:
    n = page.numbers
    content = n.workspace.json(file)
    rows: list[list[Cell]] = []
    for model, label in truth.MODELS.items():
        at = ("transfer", model)
        skills = [
            Markup('{}<br><span class="quiet">over seeds {} to {}</span>').format(
                n.of(file, *at, skill), n.of(file, *at, skill, "seeds_low"), n.of(file, *at, skill, "seeds_high")
            )
            if n.has(file, *at, skill)
            else NOTHING
            for skill in truth.SKILLS
        ]
        worst = content["transfer"][model]["worst_family"]["name"]
        rows.append(
            [
                f"{label} (shipped)" if model == content["shipped"] else label,
                n.of(file, *at, "brier"), n.of(file, *at, "ece"), *skills,
                Markup("{} {}").format(worst, n.of(file, *at, "worst_family", "brier")),
            ]
        )  # fmt: skip
    return [
        Text(Markup("<p>Verdict: {}.</p>").format(n.mark(content["verdict"], file, "verdict"))),
        Table(
            "P(correct) of a latent, on families that the model never saw",
            ["model", "Brier score", "calibration error", *truth.SKILLS.values(), "Brier score of the worst family"],
            rows,
            "Means over families held out in turn; smaller is better. A skill is 1 - Brier / Brier of the reference. "
            "Intervals delete a family, those over seeds a seed of every set.",
        ),
    ]


_LEARNED = ("signals", "reappearance")


def _families(page: Page, file: str, name: str) -> list[Block]:
    n = page.numbers
    families = list(n.workspace.json(file)["held_out"])
    blocks: list[Block] = []
    if n.workspace.has(diagram := file.replace(".json", ".csv")):
        chart = Chart(
            f"reliability-{name}", "Predicted P(correct) and the share that is correct",
            "A line a held-out family, a point a bin. Dashed: as predicted. The null, the base rate of the other "
            "families, says the same of every latent. No interval: those of the errors stand above.",
            charts.reliability(families), {"model": ("Model", ["signals", "reappearance"])},
        )  # fmt: skip
        blocks.append(page.draw_csv(chart, diagram))
    rows: list[list[Cell]] = [
        [
            family, n.of(file, "held_out", family, "latents"), n.of(file, "held_out", family, "correct"),
            *(n.of(file, "held_out", family, model, "brier") for model in truth.MODELS),
            *(n.of(file, "held_out", family, model, "skill_above_constant") for model in _LEARNED),
        ]
        for family in families
    ]  # fmt: skip
    header = ["family", "latents", "share correct", *(f"Brier, {label}" for label in truth.MODELS.values())]
    header += [f"skill, {truth.MODELS[model]}" for model in _LEARNED]
    note = (
        "Skill: above the base rate of the other families. Intervals delete a seed of every set; models are refitted."
    )
    return [*blocks, Table("Each family held out", header, rows, note)]


def _detector(page: Page, file: str) -> Table:
    n = page.numbers
    rows: list[list[Cell]] = [
        [label, *(n.maybe(file, "detector", *at, key) for key in ("sets", "alarms", "rate", "passed"))]
        for label, at in truth.SEED_SETS.items()
    ]
    note = Markup("Passed: stable, and no alarm. Plants that left the latents right, counted nowhere: {}.").format(
        n.of(file, "detector", "detected", "idle")
    )
    header = ["seed sets", "sets", "alarms", "rate", "passed"]
    return Table("The detector of what is stable and wrong, on families that it never saw", header, rows, note)
