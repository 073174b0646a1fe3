"""docs/studies.md: what the studies found, made from their metrics; nothing there is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from reseed.artifacts import read_json
from reseed.reports import truth

TITLES = {"sae_probes": "Probes on 113 data sets", "evals": "SAEBench", "ce_bench": "Contrastive scores"}
SAE_CONTROLS = {
    "random_sae": "random SAE",
    "frozen_sae": "soft-frozen decoder",
    "random_model_sae": "SAE of the random model",
}
PROBE_CONTROLS = SAE_CONTROLS | {"pca": "PCA", "neurons": "the model's dimensions"}
FACTORIAL = ["what differs", "pw_mcc", "κ (covariance null)"]
PAGE = Path("docs/studies.md")
HEAD = """# What the studies found

Written by `make table` from `metrics/`. What a column is and which nulls it has: [stability.md](stability.md).
Intervals are 95 % delete-one-seed jackknife, that of a model's accuracy the exact one over its predictions. *not
converged* travels with a number: no claim may use it.
"""
LANGUAGE = """
Losses are of the test text, in nats a token, beside those of the n-grams of the training text; an encoder sees every
token and has none. The effective rank is that of the captured rows, of the model and of its random-weights arm.
"""
PROBES = """
Probes on k latents of an SAE less a dense probe on the model, on the 113 data sets of sae-probes
([Kantamneni et al. 2025](https://arxiv.org/abs/2502.16681)): means over data sets and splits with intervals over SAE
seeds; wins, losses and ties count data sets by AUC. Beside them the same difference in AUC for each control, of two
seeds. A line without controls has no null, and is no evidence. An SAE says so if not every seed's loss has converged.
"""
EVALS = """
SAEBench's own code. Loss kept: of the model's loss on the first test sequences when it reads through the SAE (1: all of
it, 0: as without the activation); explained variance as SAELens computes it; how much of the decoder a smaller SAE
explains; test accuracy of probes on the k best latents, and of a dense probe, for the operation behind a number
([what that is](benchmarks.md#saebench); 0.5 is chance). TPP and SCR are shown and gate nothing. Below the table, what
could not be run and why.
"""
EVAL_FIGURES = (
    ("core", r"model_performance_preservation\.ce_loss_score", "loss kept"),
    ("core", r"reconstruction_quality\.explained_variance", "explained variance"),
    ("meta_structure", r"meta_structure\.decoder_fraction_variance_explained", "explained by a smaller SAE"),
    ("sparse_probing", r"sae\.sae_top_(\d+)_test_accuracy", "probe, k {}"),
    ("sparse_probing", r"llm\.llm_test_accuracy", "dense probe of the model"),
    ("tpp", r"tpp_metrics\.tpp_threshold_(\d+)_total_metric", "TPP, {} latents"),
    ("scr", r"scr_metrics\.scr_metric_threshold_(\d+)", "SCR, {} latents"),
)
"""(eval, its figure, how the table calls it)."""
CONTRASTS = """
Not CE-Bench itself but its definitions ([Gulko et al. 2025](https://arxiv.org/abs/2509.00691)) on pairs of the
subject's own test documents, one edited in its numbers or its relations. A maximum over latents grows with their
number: compare only within a line. *As published* keeps two faults of the published code.
"""
GO = """
Every subject commits its rules before its run. A rule is met if the low end of the figure's interval (of the model's
accuracy, the share itself) reaches the bound and the figure exceeds its nulls seed by seed; *go* needs every rule and
an L0 below d_in, since with as many latents as dimensions anything is reconstructed ([truth.md](truth.md#go-or-no-go)).
"""
KNOWN = """
SAEs against what is known of their subject, on test rows: a figure says something where it exceeds its nulls, of which
the strictest stands here, that whose margin reaches lowest. Peers need not be beaten: the model's dimensions, PCA and
ICA as detectors, and a ceiling. Fidelity is no evidence where L0 reaches d_in. What a figure is, and the nulls:
[truth.md](truth.md).
"""
CAUSAL = """
Latents are edited and the state is read behind the edit. What counts is how many concepts *passed*: the effect of
their latents is beyond every control at equal norm and at equal KL divergence of the output, after Holm's correction.
*Untold* concepts no read-out tells from unedited rows; they are not judged. Effects are log-odds, means over concepts,
beside the control of the largest; their mean effect has a p of its own, since few seeds let no single concept pass.
Last, the passes at equal norm alone, beyond the controls that are no SAEs: of the SAE, of null SAEs, whose passes are
no evidence, and of directions found with the labels. As predicted: slope 1 and calibration error 0; specificity is 0.5
where all concepts move alike ([causal.md](causal.md)).
"""
EXACT = """
No causal tests: a row that is a state itself has no model behind it. The best latent of a concept is clamped where the
concept is false: the share of rows that then show it, and of the other variables' states that stay, beside the same
amount along another row of the decoder ([truth.md](truth.md#worlds-with-states)).
"""
RELIABILITY = """
What stability says about the correctness of a latent, on families of worlds that the model never saw: only the skill
above reappearance alone makes more of it than counting seeds. Brier score and calibration error: smaller is better;
their intervals delete a family, those of the rates are exact binomial ones. The detector is to raise an alarm for seed
sets that were planted to agree and be wrong, and for no honest one; *passed* sets would be believed
([reliability.md](reliability.md)).
"""
DOMAIN = """
Held-out explained variance of the whole and of the value, answer or part of the domain that each SAE explains worst;
beside them the share of these that test rows have. Then the same tokens once what stands before them is put in another
way that leaves its meaning: mean correlation of alive latents with themselves, of untrained SAEs and of the model's own
dimensions, from which an SAE inherits it, and of latents with another row of the same token (null). *Brittle* latents
keep less than half; neither counts latents that do not vary on these rows
([stability.md](stability.md#where-it-holds-parts-of-the-domain-relabelling-other-text)).
"""
OUTSIDE = """
The same SAEs where their model reads the text of another subject: held-out explained variance in distribution and
there, each about the mean of its own rows and beside that of untrained SAEs (null), the gain over these, and the share
of the gain in distribution that is kept, of which the gate `ood` asks more than half
([stability.md](stability.md#where-it-holds-parts-of-the-domain-relabelling-other-text)).
"""
CALIBRATION = """
c_dec is the mean |cosine| of two latents of one decoder, lowest where k is the number of features that are on
([Chanin and Garriga-Alonso 2025](https://arxiv.org/abs/2508.16560)). The k chosen is its elbow; the k that is most
stable for certain (largest lower bound of κ, explained variance above the floor) is reported beside it.
"""
CERTIFICATES = """
Each architecture trained four times longer. *holds*: what was certified stayed inside the certified intervals (value
and κ of every statistic); *broken*: it left one; *not certified*: some statistic never had a certificate. An interval
of seeds that agree to five digits is left by a change in the sixth, so the last column names only what moved by more
than a certificate allows: `stability.plateau_tolerance` per doubling, of which four times longer are two.
"""


def update(root: Path = Path()) -> bool:
    """Write the page; returns whether that changed it."""
    text, path = page(root), root / PAGE
    if path.is_file() and path.read_text() == text:
        return False
    path.write_text(text)
    return True


def page(root: Path = Path()) -> str:
    """The whole page, from whichever studies have metrics."""
    metrics = root / "metrics"
    parts = [HEAD]
    for path in sorted((metrics / "comparisons").glob("*.json")):
        parts.append(f"\n## Variants: {path.stem}\n\n{_comparison(read_json(path))}")
    parts.append(correctness(metrics))
    if covered := {_named(path): read_json(path) for path in sorted(metrics.glob("*/*/coverage.json"))}:
        parts.append(f"\n## Parts of the domain\n{DOMAIN}\n{_coverage(covered)}")
    if outside := {_named(path): read_json(path) for path in sorted(metrics.glob("*/*/ood.json"))}:
        parts.append(f"\n## Other text\n{OUTSIDE}\n{_outside(outside)}")
    described = {path.parent.name: read_json(path) for path in sorted(metrics.glob("*/subject.json"))}
    if language := {name: one for name, one in described.items() if "accuracy" not in one["model"]}:
        parts.append(f"\n## Language models\n{LANGUAGE}\n{_language(language)}")
    parts.append(benchmarks(metrics))
    if searched := sorted(metrics.glob("*/calibration.json")):
        parts.append(f"\n## The search for k\n{CALIBRATION}")
        parts += [f"\n### {path.parent.name}\n\n{_calibration(read_json(path))}" for path in searched]
    if certified := sorted(metrics.glob("*/*/certificate.json")):
        parts.append(f"\n## Certificates\n{CERTIFICATES}\n{_certificates(certified)}")
    for path in sorted((metrics / "factorial").glob("*.json")):
        parts.append(f"\n## Initialisation, order and model: {path.stem}\n\n{_factorial(read_json(path))}")
    return "".join(parts)


def correctness(metrics: Path) -> str:
    """What is known to be right: the go/no-go table, scores, causal tests, and P(correct) of a latent."""
    parts = []
    known = {_named(path): read_json(path) for path in sorted(metrics.glob("*/*/truth.json"))}
    if judged := {name: one for name, one in known.items() if truth.ruled(one)}:
        parts.append(f"\n## Go or no-go\n{GO}\n{_go(judged)}")
    if known:
        parts.append(f"\n## Known truth\n{KNOWN}\n{_fidelity(known)}")
        for subject in dict.fromkeys(name.partition("/")[0] for name in known):
            of = {name: one for name, one in known.items() if name.partition("/")[0] == subject}
            parts.append(f"\n### Scores: {subject}\n\n{_scores(of)}")
    if edited := {_named(path): read_json(path) for path in sorted(metrics.glob("*/*/causal.json"))}:
        parts.append(f"\n## Causal tests\n{CAUSAL}\n{_causal(edited)}")
    if exact := {name: one for name, one in known.items() if "edits" in one}:
        parts.append(f"\n### Edits of exact states\n{EXACT}\n{_exact(exact)}")
    if fitted := sorted(metrics.glob("reliability/*.json")):
        parts.append(f"\n## P(correct) and the detector\n{RELIABILITY}")
        parts += [f"\n### {path.stem}\n\n{_reliability(read_json(path))}" for path in fitted]
    return "".join(parts)


def benchmarks(folder: Path, which: str = "*/*") -> str:
    """The benchmarks of language models under <folder>/<subject>/<SAE>, and what their figures are."""
    shown = (("sae_probes", PROBES, _probes), ("evals", EVALS, _evals), ("ce_bench", CONTRASTS, _ce))
    return "".join(
        f"\n## {TITLES[name]}\n{head}\n{show(found)}"
        for name, head, show in shown
        if (found := sorted(folder.glob(f"{which}/{name}.json")))
    )


def _comparison(content: dict[str, Any]) -> str:
    rows, truth = content["variants"], any("recovery" in row for row in content["variants"].values())
    controls = sorted({key for row in rows.values() for key in row if key.startswith("trained - ")})
    header = [
        "variant", "L0", "steps", "explained variance", "alive", "pw_mcc (null)", "κ",
        *(["gt_mcc", "recall"] if truth else []),
        *(f"κ less κ of {control.removeprefix('trained - ')} (Holm p, floor)" for control in controls),
        f"κ less κ of {content['baseline']} at {content['corrected_confidence']:.2%} (Holm p)", "verdict",
    ]  # fmt: skip
    lines = []
    for name, row in rows.items():
        agreement = row["pw_mcc"]
        cells = [
            f"`{name}`", f"{row['l0']['value']:.2f}", f"{row['steps']}", interval(row["explained_variance"]),
            f"{row['alive_fraction']['value']:.0%}", f"{interval(agreement)} ({agreement['null']:.3f})",
            kappa(agreement),
        ]  # fmt: skip
        if truth:
            recovery = row.get("recovery", {})
            cells += [interval(recovery[figure]) if figure in recovery else "" for figure in ("gt_mcc", "recall")]
        for control in controls:
            test = row.get(control, {})
            difference = kappa(test | {"converged": 1}) if "kappa" in test else "none"
            cells.append(f"{difference} ({test['p_holm']:.3f}, {test['p_holm_floor']:.3f})" if test else "")
        against = row.get("against_baseline", {})
        found = against.get("kappa_difference")
        cells.append(f"{interval(found)} ({found['p_holm']:.3f})" if found else "")
        cells.append(against.get("verdict", "baseline"))
        lines.append(cells)
    return _table(header, lines)


def _go(judged: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, one in judged.items():
        phase, figures = one["phase"], one["figures"]
        rules = []
        for name_of, rule in phase["rules"].items():
            found = f"{interval(figures[name_of])}, " if "found" in rule else ""
            rules.append(f"{name_of} ≥ {rule['bound']:g}: {found}{truth.met(rule)}")
        sparse = "" if phase["sparse"] else ", not below 1"
        l0 = f"{figures['l0_over_d_in']['value']:.3f}{sparse}"
        question = phase["question"] + truth.supervised(phase)
        lines.append([name, question, "; ".join(rules), l0, f"**{truth.verdict(phase)}**"])
    return _table(["SAE", "question", "rules", "L0 / d_in", "verdict"], lines)


def _fidelity(known: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, one in known.items():
        figures = one["figures"]
        fidelity = figures["fidelity"]
        unusable = ", no evidence: L0 ≥ d_in" if "no_evidence" in fidelity else ""
        lines.append(
            [
                name, truth.known(one), interval(fidelity) + unusable, _null(fidelity, one),
                f"{fidelity['peers']['pca_at_l0']:.3f}" if "peers" in fidelity else "",
                f"{figures['l0']['value']:.2f}", f"{figures['l0_over_d_in']['value']:.3f}",
                f"{figures['alive_fraction']['value']:.0%}",
                interval(figures["accuracy"]) if "accuracy" in figures else "",
            ]
        )  # fmt: skip
    header = [
        "SAE", "known", "fidelity", "strictest null", "PCA at L0", "L0", "L0 / d_in", "alive", "accuracy of the model",
    ]  # fmt: skip
    return _table(header, lines)


def _scores(known: dict[str, dict[str, Any]]) -> str:
    lines = []
    for figure in dict.fromkeys(figure for one in known.values() for figure in truth.scores(one)):
        for name, one in known.items():
            if found := one["figures"].get(figure):
                peers, ceiling = found.get("peers", {}), truth.ceiling(figure, found)
                above = {0: "no", 1: "yes"}.get(found.get("exceeds_nulls"), "")
                lines.append(
                    [
                        figure, name.partition("/")[2], interval(found), _null(found, one), above,
                        *(f"{peers[peer]:.3f}" if peer in peers else "" for peer in truth.PEERS),
                        f"{peers[ceiling]:.3f} ({truth.CEILINGS[ceiling]})" if ceiling else "",
                    ]
                )  # fmt: skip
    header = ["figure", "SAE", "value", "strictest null", "exceeds nulls", *truth.PEERS.values(), "ceiling"]
    return _table(header, lines)


def _null(figure: dict[str, Any], of: dict[str, Any]) -> str:
    null = truth.strictest(figure)
    return f"{figure['nulls'][null]:.3f} ({truth.named(null, of)})" if null else ""


def _causal(edited: dict[str, dict[str, Any]]) -> str:
    passed, edits = [], []
    for name, one in edited.items():
        mean, effects = one.get("mean", {}), []
        for matching in ("norm", "kl"):
            if found := mean.get(f"effect_at_equal_{matching}"):
                control = truth.strongest(found)
                beside = f"{truth.CONTROLS[control]} {found[control]['value']:.3f}"
                effects.append(f"{interval(found['latent'])} ({beside})")
            else:
                effects.append("")
        alone = [one["null_saes"][which] for which in ("latent", *truth.NULL_SAES)]
        alone += [one["references"][which] for which in truth.SUPERVISED]
        of_mean = f"{mean['p']:.3f}" if mean else ""
        counts = [one["judged"], one["passed"], len(one["untold"])]
        passed.append([name, *map(str, counts), of_mean, *effects, *map(str, alone)])
        edits.append([name, *(interval(mean[figure]) if figure in mean else "" for figure in truth.EDITS)])
    header = [
        "SAE", "judged", "passed", "untold", "p of the mean effect", "effect at equal norm (strongest control)",
        "at equal KL (strongest control)", "passes at equal norm alone",
        *(truth.CONTROLS[which] for which in truth.NULL_SAES), *truth.SUPERVISED.values(),
    ]  # fmt: skip
    return f"{_table(header, passed)}\n{_table(['SAE', *truth.EDITS.values()], edits)}"


def _exact(known: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, one in known.items():
        found = [one["edits"][figure] for figure in ("reached", "spared")]
        rows.append([name, *(text for one in found for text in (interval(one), f"{one['nulls']['shuffled']:.3f}"))])
    return _table(["SAE", "reached", "another row", "spared", "another row"], rows)


def _reliability(content: dict[str, Any]) -> str:
    models = []
    for name, label in truth.MODELS.items():
        one = content["transfer"][name]
        worst = one["worst_family"]
        models.append(
            [
                f"{label} (shipped)" if name == content["shipped"] else label,
                *(interval(one[figure]) for figure in ("brier", "ece")),
                *(interval(one[skill]) if skill in one else "" for skill in truth.SKILLS),
                f"{worst['name']}: {worst['brier']:.3f} ({worst['skill_above_constant']:.2f})",
            ]
        )
    header = ["model", "Brier score", "calibration error", *truth.SKILLS.values(), "worst family: Brier score (skill)"]
    detector = content["detector"]
    sets = []
    for label, at in truth.SEED_SETS.items():
        found = reduce(getitem, at, detector)
        rate = interval(found["rate"]) if "rate" in found else ""
        sets.append([label, f"{found['sets']}", f"{found['alarms']}", rate, f"{found.get('passed', '')}"])
    return (
        f"Verdict: {content['verdict']}.\n\n{_table(header, models)}\n"
        f"{_table(['seed sets', 'sets', 'alarms', 'rate', 'passed'], sets)}\n"
        f"Plants that left the latents right, counted nowhere: {detector['detected']['idle']}.\n"
    )


def _coverage(covered: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, one in covered.items():
        of, kept = class_name(one), one["relabelling"]
        worst, tested = f"{of}: {interval(one[f'worst_{of}'])}", f"{one[f'{of}s_tested']:.3f}"
        others = [interval(kept["untrained"]), f"{kept['model']:.3f}", interval(kept["null"]), interval(one["brittle"])]
        rows.append([name, interval(one["parts"]["all"]), worst, tested, one["relabelled_by"], interval(kept), *others])
    header = ["SAE", "explained", "worst", "tested", "put another way", "kept", "untrained", "model", "null", "brittle"]
    return _table(header, rows)


def _outside(summaries: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, one in summaries.items():
        explained, null = one["explained_variance"], one["null"]
        sides = [f"{interval(explained[side])} ({interval(null[side])})" for side in ("in", "ood")]
        rows.append([name, *sides, interval(one["over_null"]), interval(one["retained"]), f"{one['rows']['ood']:,}"])
    return _table(["SAE", "in distribution (null)", "other text (null)", "gain there", "kept", "rows"], rows)


def class_name(coverage: dict[str, Any]) -> str:
    """What a coverage.json calls the classes of which it names the worst: answer, value or part."""
    return next(key for key in coverage if key.startswith("worst_")).removeprefix("worst_")


def _language(subjects: dict[str, dict[str, Any]]) -> str:
    losses = {"loss": "loss", "bigram": "bigram_loss", "unigram": "unigram_loss"}
    arms = {"effective rank": "trained", "random weights": "random_model"}
    lines = []
    for name, one in subjects.items():
        model = one["model"]
        cells = [name, f"{model['parameters']:,}", f"{one['sequences']['test']}", f"{one['trained']['d_in']}"]
        cells += [f"{model[key]['test']:.3f}" if key in model else "" for key in losses.values()]
        # a subject that only lends its text has no control
        lines.append([*cells, *(f"{one[arm]['effective_rank']:.1f}" if arm in one else "" for arm in arms.values())])
    return _table(["subject", "parameters", "test sequences", "d_in", *losses, *arms], lines)


def _probes(paths: list[Path]) -> str:
    lines = []
    for path in paths:
        normal = read_json(path)["normal"]
        ks = sorted((key for key in normal if key.startswith("top_")), key=lambda key: int(key[4:]))
        for k in (*ks, "best_k"):
            figures = normal[k]
            auc = figures["auc"]
            lines.append(
                [
                    _named(path), "by validation" if k == "best_k" else k.removeprefix("top_"),
                    *(interval(figures[metric]["delta"]) for metric in ("f1", "acc", "auc")),
                    f"{auc['wins']}/{auc['losses']}/{auc['ties']}",
                    *(f"{auc[control]:.3f}" if control in auc else "" for control in PROBE_CONTROLS),
                ]
            )  # fmt: skip
    header = ["SAE", "k", "F1", "accuracy", "AUC", "wins/losses/ties", *PROBE_CONTROLS.values()]
    dense = {_named(path): read_json(path)["normal"]["dense"] for path in paths}
    means = "; ".join(
        f"{name}: F1 {one['f1']:.3f}, accuracy {one['acc']:.3f}, AUC {one['auc']:.3f}" for name, one in dense.items()
    )
    return f"{_table(header, lines)}\nThe dense probe itself: {means}.\n"


def _evals(paths: list[Path]) -> str:
    lines, left_out = [], set()
    for path in paths:
        content = read_json(path)
        left_out |= {f"{name}: {one['not_run']}" for name, one in content.items() if "not_run" in one}
        for name, pattern, label in EVAL_FIGURES:
            for figure, one in content.get(name, {}).items():
                if found := re.fullmatch(pattern, figure):
                    controls = (f"{one[control]:.3f}" if control in one else "" for control in SAE_CONTROLS)
                    lines.append([_named(path), label.format(*found.groups()), interval(one), *controls])
    reasons = "".join(f"- {reason}\n" for reason in sorted(left_out))
    return _table(["SAE", "figure", "value", *SAE_CONTROLS.values()], lines) + (f"\n{reasons}" if reasons else "")


def _ce(paths: list[Path]) -> str:
    lines = []
    for path in paths:
        content = read_json(path)
        for score in ("contrastive", "independence", "combined"):
            one, published = content[f"corrected.{score}"], content[f"as_published.{score}"]
            controls = (f"{one[control]:.2f}" if control in one else "" for control in SAE_CONTROLS)
            lines.append([_named(path), score, interval(one), *controls, f"{published['value']:.2f}"])
    return _table(["SAE", "score", "value", *SAE_CONTROLS.values(), "as published"], lines)


def _named(path: Path) -> str:
    """The SAE, and whether its seeds' losses have converged (its agreement stands in the tables of variants)."""
    name, stability = f"{path.parent.parent.name}/`{path.parent.name}`", path.with_name("stability.json")
    if not stability.is_file():
        return name  # from elsewhere: its training is not known
    content = read_json(stability)
    converged, seeds = content["trained"]["seeds_converged"], content["seeds"]
    return name if converged == seeds else f"{name}, {converged} of {seeds} seeds converged"


def _calibration(content: dict[str, Any]) -> str:
    header = ["k", "c_dec", "explained variance", "pw_mcc (null)", "κ"]

    def cells(label: str, one: dict[str, Any]) -> list[str]:
        agreement = one["pw_mcc"]
        return [
            label, interval(one["c_dec"]), interval(one["explained_variance"]),
            f"{interval(agreement)} ({agreement['null']:.3f})", kappa(agreement | {"converged": one["converged"]}),
        ]  # fmt: skip

    rows = [
        cells(key.removeprefix("k"), one)
        for key, one in sorted(content["searched"].items(), key=lambda item: int(item[0][1:]))
    ]
    chosen = [f"**{content['k']}** by c_dec"]
    if "by_stability" in content:
        chosen.append(f"{content['by_stability']['k']} by stability")
    again = []
    for criterion in ("c_dec", "stability"):
        if one := content.get(f"by_{criterion}"):
            again.append(cells(f"{one['k']} (by {criterion})", one))
            if difference := one.get("minus_control", {}).get("kappa"):
                again[-1][-1] += f"; minus that of k = {content['control']['k']}: {interval(difference)}"
    again.append(cells(f"{content['control']['k']} (control)", content["control"]))
    return (
        f"`{content['variant']}`, search:\n\n{_table(header, rows)}\nChosen: {', '.join(chosen)}. Retrained with fresh "
        f"seeds and equal steps:\n\n{_table(header, again)}"
    )


def _certificates(paths: Iterable[Path]) -> str:
    lines = []
    for path in paths:
        content = read_json(path)
        checks = {name: one for name, one in content.items() if isinstance(one, dict)}
        certified = [name for name, one in checks.items() if one["certified"]]
        broken = [name for name, one in checks.items() if one["verdict"] == "broken"]
        beyond = [name for name in broken if not _as_allowed(checks[name])]
        value = checks["pw_mcc"]["value"]
        lines.append(
            [
                f"{path.parent.parent.name}/`{path.parent.name}`", content["architecture"],
                f"{content['constant_steps']} → {content['constant_steps_long']}", interval(value["short"]),
                interval(value["long"]) if "long" in value else "none",
                f"{len(certified)} of {len(checks)}", ", ".join(broken) or "none", content["verdict"],
                ", ".join(beyond) or "none",
            ]
        )  # fmt: skip
    header = [
        "variant", "architecture", "steps", "pw_mcc", "four times longer", "statistics certified", "of these broken",
        "verdict", "moved by more than allowed",
    ]  # fmt: skip
    return _table(header, lines)


def _as_allowed(check: dict[str, Any]) -> bool:
    return all(check[reading]["inside_widened"] for reading in ("value", "kappa") if reading in check)


def _factorial(content: dict[str, Any]) -> str:
    found = content["pw_mcc"]
    over, settled = found["over_models"], "" if found["converged"] else " Not converged."
    kinds = {"init_differs": "initialisation", "order_differs": "order of the rows", "both_differ": "both"}
    lines = []
    for kind, label in kinds.items():
        kappas = over["kappa"].get(kind)
        lines.append([label, interval(over["agreement"][kind]), interval(kappas) if kappas else "none"])
    shares = ", ".join(f"{name} {interval(one)}" for name, one in over["share"].items())
    seed = over["agreement"]["both_differ"]["model_seed"]
    return (
        f"`{content['variant']}`, {content['models']} models, {content['saes_per_model']} SAEs each; the model is the "
        f"unit of the intervals.{settled}\n\n"
        f"{_table(FACTORIAL, lines)}\n"
        f"Shares of what two ordinary seeds lack to full agreement: {shares}. Variance of pw_mcc between models "
        f"{seed['variance']:.2g} [{seed['variance_low']:.2g}, {seed['variance_high']:.2g}], of which the seeds "
        f"within a model explain {seed['variance_within']:.2g}.\n"
    )


def interval(figures: dict[str, Any] | float) -> str:
    """value [low, high] at three decimals, the value alone where it has no interval."""
    if isinstance(figures, float):
        return f"{figures:.3f}"
    if "low" not in figures:
        return f"{figures['value']:.3f}"
    return f"{figures['value']:.3f} [{figures['low']:.3f}, {figures['high']:.3f}]"


def kappa(figures: dict[str, Any]) -> str:
    """Kappa with its interval, and whether it may be used."""
    if "kappa" not in figures:
        return "none: the null is too high"
    shown = f"{figures['kappa']:.3f} [{figures['kappa_low']:.3f}, {figures['kappa_high']:.3f}]"
    return shown if figures["converged"] else f"{shown}, not converged"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
