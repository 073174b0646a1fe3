"""The model card of a seed set: what its SAEs are, what was measured, and what may not be said of them.

A pure function of what publish read: tracked metrics, parameters of the lock, run facts, the SAEs' own cfg.json. A
figure stands here only with its interval and beside its null or its controls; one that has none is left out. The card
cannot live in models/<subject>/<variant>/, which is an output of the train stage and would get another hash by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from reseed.models.registry import MODELS, RegisteredWeights
from reseed.params import GAUSSIAN, RANDOM_MODEL, TRAINED, lookup
from reseed.reports.standing import EXPLORATORY, Standing
from reseed.reports.studies import EVAL_FIGURES, SAE_CONTROLS, interval, kappa
from reseed.stability.jackknife import Estimate
from reseed.subjects.corpora import CORPORA, TRAINING, Registered

ARMS = {TRAINED: "these SAEs", RANDOM_MODEL: "SAEs of random weights", GAUSSIAN: "SAEs of Gaussian noise"}
STATISTICS = ("pw_mcc", "mean_max_cos", "shared_fraction")
SHARES = {
    "explained_variance": "explained variance of held-out rows",
    "l0": "L0",
    "alive_fraction": "alive latents",
    "cosine_to_init": "cosine of the decoder to its own start",
    "reappear_always": "latents shared with every other seed",
    "reappear_never": "latents shared with no other seed",
}
CORE = {
    "ce_loss_score": "loss kept (1: all, 0: as without the activation)",
    "kl_div_score": "predictions kept",
    "explained_variance": "explained variance",
}
FREE = ("MIT", "Apache-2.0")
"""Licences of models that leave the licence of SAEs of them open."""
PATH = r"metrics/(\S+)/stability\.json"
OWN_CODE = ("hierarchical_topk", "routesae")
"""Architectures that SAELens knows only after `import reseed`."""


@dataclass(frozen=True)
class Said:
    """A claim that may be said, and as what."""

    statement: str
    standing: Standing
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class SeedSet:
    """All SAEs of one (subject, variant) and everything that is known of them."""

    subject: str
    variant: str
    about: Mapping[str, Any]
    """`data`, `model` and `capture` of the subject, as the stages upstream of the training recorded them."""
    train: Mapping[str, Any]
    """Run facts of the train stage."""
    stability: Mapping[str, Any]
    """Run facts of the stability stage."""
    target: str
    """What `dvc repro` is given to make the seed set and its metrics again."""
    configs: Mapping[str, Mapping[str, Any]]
    """cfg.json by the folder of each seed, ascending."""
    metrics: Mapping[str, Mapping[str, Any]]
    """The metrics of the variant by file name; stability.json is one of them."""
    claims: Mapping[str, Said]
    """Each claim whose evidence this seed set is part of, by its id."""
    hashes: Mapping[str, str]
    """DVC's md5 of what was read and made, by path."""
    repo_id: str | None = None
    looked_back: bool = False
    """Whether the claims were held against the code and their history, and not against files and locks alone."""

    @property
    def found(self) -> Mapping[str, Any]:
        """The content of stability.json."""
        return self.metrics["stability.json"]

    @property
    def config(self) -> Mapping[str, Any]:
        """cfg.json of the first seed: but for the seed and how it ended, that of all."""
        return next(iter(self.configs.values()))

    @property
    def arms(self) -> list[str]:
        return [arm for arm in ARMS if arm in self.found]

    @property
    def corpus(self) -> Registered | None:
        """The corpus that the model read; raises ReseedError for one that is not registered."""
        data = self.about["data"]
        return lookup(CORPORA, data["corpus"], "data.corpus") if data["generator"] == "corpus" else None

    @property
    def weights(self) -> RegisteredWeights | None:
        """The pretrained model; raises ReseedError for one that is not registered."""
        model = self.about.get("model", {})
        return lookup(MODELS, model["name"], "model.name") if model.get("kind") == "registered" else None


def card(of: SeedSet) -> str:
    """The whole README.md, front matter first; raises ReseedError for a corpus or model that the registry lacks."""
    seeds = [int(name.removeprefix("seed_")) for name in of.configs]
    parts = [
        f"---\n{yaml.safe_dump(front_matter(of), sort_keys=False, allow_unicode=True)}---\n",
        f"# Sparse autoencoders of {of.subject}: {of.variant}, {len(seeds)} seeds\n",
        f"{len(seeds)} `{_variant(of)['architecture']}` SAEs of `{_hook(of)}`, trained by one recipe from the seeds "
        f"{', '.join(map(str, seeds))}: how far they agree tells which of their latents come back.\n",
        "\n".join(f"- {sentence}" for sentence in agreement(of)) + "\n",
        f"## Load\n\n{_load(of)}",
        f"## What they are\n\n{_what(of)}",
        f"## Results\n\n{_results(of)}",
        f"## Claims\n\n{_claims(of)}",
        "## What may not be said\n\n" + "\n".join(f"- {sentence}" for sentence in limits(of)) + "\n",
        f"## Make them again\n\n{_again(of)}",
        f"## Licence and citation\n\n{_licence(of)}",
    ]
    return "\n".join(parts)


def front_matter(of: SeedSet) -> dict[str, Any]:
    """The metadata that the hub reads."""
    named, reasons = licence(of), {}
    if named == "other":
        reasons = {"license_name": "see-licence-and-citation", "license_link": "README.md"}
    content: dict[str, Any] = {
        "license": named, **reasons, "library_name": "saelens",
        "tags": ["saelens", "sparse-autoencoder", "mechanistic-interpretability", "reseed"],
    }  # fmt: skip
    if of.weights:
        content["base_model"] = of.weights.hub_id
    if of.corpus and of.corpus.hub:
        content["datasets"] = [of.corpus.hub.id]
    return content


def licence(of: SeedSet) -> str:
    """mit as all of the project, or other where the text or the model has terms of its own."""
    return "other" if _restrictions(of) else "mit"


def beyond(of: SeedSet, control: str) -> str:
    """Whether kappa of pw_mcc is above, below or not apart from that of a control arm.

    `unsettled` where that must not be asked: an arm is not converged, or has no kappa. `depends` where it is above over
    alive latents or over all of them, and not over both: then it is not testable.
    """
    found = of.found
    if not (found[TRAINED]["pw_mcc"]["converged"] and found[control]["pw_mcc"]["converged"]):
        return "unsettled"
    answers = set()
    for latents in ("alive", "all"):
        records = [_record(found, arm, latents) for arm in (TRAINED, control)]
        if any("kappa" not in record for record in records):
            return "unsettled"
        ours, theirs = (Estimate(record["kappa"], tuple(record["kappa_deleted"])) for record in records)
        low, high = (ours - theirs).interval(of.stability["parameters"]["stability"]["confidence"])
        answers.add("above" if low > 0 else "below" if high < 0 else "not apart")
    if len(answers) > 1:
        return "depends" if "above" in answers else "not apart"
    return answers.pop()


def agreement(of: SeedSet) -> list[str]:
    """The headline in sentences: agreement with its null, its convergence, and what the control arms say of it."""
    found, trained = of.found, of.found[TRAINED]["pw_mcc"]
    sentences = [
        f"Agreement between seeds: κ {kappa(trained)} (1: the same dictionary, 0: chance), from `pw_mcc` "
        f"{interval(trained)} against {trained['null']:.3f} of the {trained['strictest_null']} null."
    ]
    if not trained["converged"]:
        sentences.append(
            f"**Not converged:** {_settled(of, TRAINED)} by their own loss; `pw_mcc` itself changed by "
            f"{trained['plateau_change']:.3f} over the last doubling of steps (allowed: "
            f"{_options(of)['plateau_tolerance']:g}). No claim may use it."
        )
    for control, what in ((RANDOM_MODEL, "the same model with random weights"), (GAUSSIAN, "Gaussian noise")):
        if control not in found:
            continue
        theirs, difference = found[control]["pw_mcc"], found[f"trained - {control}"]["pw_mcc"]
        apart = f"κ there is {kappa(theirs)}"
        if "kappa" in difference:
            low, high = difference["kappa_low"], difference["kappa_high"]
            apart += f", the difference {difference['kappa']:.3f} [{low:.3f}, {high:.3f}]"
        answer = beyond(of, control)
        if answer == "above":
            sentences.append(f"More than SAEs of {what} by the same recipe: {apart}.")
            continue
        said = {
            "below": f"Agreement is below that of SAEs of {what}",
            "not apart": f"Agreement does not exceed that of SAEs of {what}",
            "unsettled": f"Agreement is not shown to exceed that of SAEs of {what}",
            "depends": f"Agreement exceeds that of SAEs of {what} or not, as dead latents count or not",
        }[answer]
        so = ""
        if control == RANDOM_MODEL:
            so = " By itself it says nothing about what the model has learned."
        sentences.append(f"**{said}**: {apart}.{so}")
    if RANDOM_MODEL not in found and "model" in of.about:
        sentences.append(
            "**No SAEs of the model with random weights were trained beside these**, so nothing shows that the "
            "agreement comes from what the model has learned."
        )
    return sentences


def limits(of: SeedSet) -> list[str]:
    """What a reader might take from the numbers and must not."""
    found, trained = of.found, of.found[TRAINED]
    said = []
    for statistic in STATISTICS:
        if not trained[statistic]["converged"]:
            said.append(f"How large `{statistic}` is: it is not converged.")
        if "kappa" not in trained[statistic]:
            said.append(f"That `{statistic}` is above chance: its null leaves no room.")
        elif trained[statistic]["kappa_low"] <= 0:
            said.append(f"That `{statistic}` is above chance: the interval of its κ is not above 0.")
    if "model" in of.about and (RANDOM_MODEL not in found or beyond(of, RANDOM_MODEL) != "above"):
        said.append("That these latents come back because of what the model has learned: see the first lines.")
    if trained["seeds_converged"] < found["seeds"]:
        said.append(f"That every SAE here is a finished one: {_settled(of, TRAINED)} by their own loss.")
    if found.get("group_size", 1) > 1:
        said.append(
            f"That seeds of one group agree: an objective pulled {found['group_size']} seeds together; all figures are "
            "of pairs from different groups."
        )
    if _variant(of).get("soft_frozen"):
        said.append("That these latents are learned: the decoder was held near its start, as a control.")
    broken = of.metrics.get("certificate.json", {})
    if broken and broken["verdict"] != "holds":
        said.append(
            f"That longer training changes nothing: four times as many steps were tried, verdict {broken['verdict']}."
        )
    verdict = found.get("verdict")
    if verdict is None:
        said.append(
            "That a latent which comes back is a feature of the model: consistent is not correct, and here the true "
            "features are not known."
        )
    elif verdict != "stable and correct":
        said.append(f"That the dictionary is the true one: the features are known here, and the verdict is: {verdict}.")
    for k, over in _over_random(of):
        if over["low"] <= 0:
            said.append(
                f"That its latents make better probes than those of an untrained SAE ({k}: {_whole(over)} better)."
            )
    if not of.metrics.keys() - {"stability.json", "certificate.json"}:
        said.append("That these SAEs are of use: no benchmark was run on them.")
    said.append(
        "Anything about other models, other seeds of the model, layers or data: one checkpoint was read at one place."
        if "model" in of.about
        else "Anything about models: no model made these rows."
    )
    return said


def _variant(of: SeedSet) -> Mapping[str, Any]:
    variant: Mapping[str, Any] = of.train["parameters"]["variant"]
    return variant


def _options(of: SeedSet) -> Mapping[str, Any]:
    options: Mapping[str, Any] = of.stability["parameters"]["stability"]
    return options


def _record(found: Mapping[str, Any], arm: str, latents: str) -> Mapping[str, Any]:
    key = {"arm": arm, "statistic": "pw_mcc", "latents": latents}
    return next(record for record in found["records"] if key.items() <= record.items())


def _settled(of: SeedSet, arm: str) -> str:
    unit = "groups of seeds" if of.found.get("group_size", 1) > 1 else "seeds"
    return f"{of.found[arm]['seeds_converged']} of {of.found['seeds']} {unit} settled"


def _hook(of: SeedSet) -> str:
    if "model" not in of.about:
        return "synthetic rows"
    metadata = of.config["metadata"]
    hook = metadata.get("hook_name") or ", ".join(metadata["hook_names"])
    return f"{hook} → {out}" if (out := metadata.get("hook_name_out")) else str(hook)


def _load(of: SeedSet) -> str:
    folders, own = list(of.configs), _own_code(of)
    source = (
        f'SAE.from_pretrained("{of.repo_id}", "{folders[0]}")' if of.repo_id else f'SAE.load_from_disk("{folders[0]}")'
    )
    register = "import reseed  # registers the architecture with SAELens\n" if own else ""
    local = f'; `SAE.load_from_disk("{folders[0]}")` loads from a copy of this repository' if of.repo_id else ""
    rows = "[rows, layers, d_in]" if "n_layers" in of.config else "[rows, d_in]"
    return (
        f"```python\n{register}from sae_lens import SAE\n\nsae = {source}\nlatents = sae.encode(x)\n```\n\n"
        f"`x` is {rows} with d_in = {of.config['d_in']}, float32, raw rows of `{_hook(of)}`: all scaling is folded "
        f"into the weights. The folders are `{folders[0]}` to `{folders[-1]}`{local}.\n"
        + ("The module `reseed` is that of the project, below.\n" if own else "")
    )


def _own_code(of: SeedSet) -> bool:
    return of.config["architecture"] in OWN_CODE


def _what(of: SeedSet) -> str:
    variant, config, parameters = _variant(of), of.config, of.train["parameters"]
    sae, train = parameters["sae"], parameters["train"]
    positions = of.about.get("capture", {}).get("positions")
    others = {key: value for key, value in variant.items() if key not in ("architecture", "d_sae", "k", "seeds")}
    rows = {
        "architecture": f"`{variant['architecture']}`, saved for SAELens as `{config['architecture']}`",
        "d_in, d_sae": f"{config['d_in']}, {config['d_sae']}",
        "k": str(variant.get("k", "")),
        "other settings": _pairs(others),
        "hook point": f"`{_hook(of)}`" + (f", positions: {_listed(positions)}" if positions else ""),
        "model": _model(of),
        "data": _data(of),
        "a seed changes": {"both": "initialisation and order of the rows"}.get(train["vary"], train["vary"]),
        "optimiser": f"Adam, learning rate {sae['lr']:g} after a warm-up of {sae['warm_up_steps']} steps, in the end a "
        f"linear decay over {sae['decay_fraction']:g} of the steps before it; gradients of norm "
        f"{sae['max_gradient_norm']:g} at most; {sae['precision']}",
        "rows a step": str(sae["batch_size"]),
        "steps": _steps(of),
        "dead latents": _dead(sae),
    }
    return _table(["", ""], [[name, text] for name, text in rows.items() if text])


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_listed(value)}" for key, value in sorted(values.items()) if value not in ({}, None))


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_pairs(value)})"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _steps(of: SeedSet) -> str:
    """Steps of each seed; what they are when all are alike is said once."""
    ends = {}
    for name, config in of.configs.items():
        metadata = config["metadata"]
        ends[name] = f"{metadata['reseed_steps']}{'' if metadata['reseed_converged'] else ', not converged'}"
    if len(set(ends.values())) == 1:
        return f"{next(iter(ends.values()))} (every seed)"
    return "; ".join(f"{name} {end}" for name, end in ends.items())


def _dead(sae: Mapping[str, Any]) -> str:
    if sae["aux_k"]:
        silent = f"{sae['aux_k']} of those silent for {sae['dead_after_steps']} steps"
        return f"AuxK with {silent}, coefficient {sae['aux_coefficient']:g}"
    return f"resampled every {sae['resample_every']} steps" if sae["resample_every"] else "left alone"


def _model(of: SeedSet) -> str:
    model = of.about.get("model")
    if model is None:
        return "none: a generator makes the rows"
    if weights := of.weights:
        pinned = f"at `{weights.revision}`, " if weights.revision else ""
        what = f"[{weights.hub_id}](https://huggingface.co/{weights.hub_id}) {pinned}licence {weights.licence}"
    elif model.get("kind") == "folder":
        what = "a checkpoint that its owner had in a folder"
    else:
        shape = {key: value for key, value in model.items() if key not in ("training", "kind")}
        what = f"a transformer trained by the project: {_pairs(shape)}"
    return f"{what}; sha256 `{of.config['metadata']['reseed_model_sha256']}`"


def _data(of: SeedSet) -> str:
    data, corpus = of.about["data"], of.corpus
    if corpus is None:
        return f"generated by the project: {_pairs(data)}"
    pinned = f" at `{corpus.revision}`" if corpus.revision else ""
    taken = f", at most {data['rows']} rows of a split" if data.get("rows") else ""
    return f"{corpus.name} ({corpus.repository}{pinned}{taken}), licence {corpus.licence}: {corpus.terms}"


def _results(of: SeedSet) -> str:
    found, options = of.found, _options(of)
    units = f"{found['seeds']} groups of {found['group_size']}" if found.get("group_size", 1) > 1 else found["seeds"]
    parts = [
        f"Intervals: {options['confidence']:.0%}, delete-one-seed jackknife over {units} seeds. κ = (value - null) / "
        f"(1 - null), against the strictest of the nulls simulated for this shape. Alive: fires at least "
        f"{found['alive_min_count']} times in a pass over the training rows.\n",
        _agreement_table(of),
        _shares_table(of),
    ]
    if recovery := found[TRAINED].get("recovery"):
        lines = [
            [f"`{name}`", _whole(one), f"{one['null']:.3f}", _kappa(one) if "kappa" in one else ""]
            for name, one in recovery.items()
        ]
        parts.append(
            "Against the features that the rows are made of, and are known:\n\n"
            + _table(["figure", "value", "null", "κ"], [line for line in lines if line[1]])
            + f"\nAgreement and correctness together: **{found['verdict']}**.\n"
        )
    return "\n".join([*parts, *_benchmarks(of)])


def _agreement_table(of: SeedSet) -> str:
    lines = []
    for statistic in STATISTICS:
        for arm in of.arms:
            one = of.found[arm][statistic]
            moved = f"no: changed by {one['plateau_change']:.3f}, {_settled(of, arm)}"
            null = f"{one['null']:.3f} ({one['strictest_null']})"
            lines.append(
                [f"`{statistic}`", ARMS[arm], _whole(one), null, _kappa(one), "yes" if one["converged"] else moved]
            )
    return _table(["agreement", "of", "value", "null", "κ", "converged"], lines)


def _shares_table(of: SeedSet) -> str:
    untrained = _untrained_explained_variance(of)
    header = ["figure", *(ARMS[arm] for arm in of.arms), *(["untrained SAE"] if untrained else [])]
    lines = []
    for key, label in SHARES.items():
        line = [label, *(_whole(of.found[arm][key]) for arm in of.arms)]
        if untrained:
            line.append(untrained if key == "explained_variance" else "")
        lines.append(line)
    return _table(header, lines)


def _untrained_explained_variance(of: SeedSet) -> str:
    core = of.metrics.get("saebench.json", {}).get("core")
    return f"{core['random_sae']['explained_variance']:.3f}" if core else ""


def _kappa(figures: Mapping[str, Any]) -> str:
    """Kappa with its interval; whether it is converged has a column of its own."""
    return kappa({**figures, "converged": 1})


def _whole(figures: Mapping[str, Any]) -> str:
    """A value with its interval, and nothing where it has none."""
    return interval(dict(figures)) if "low" in figures else ""


def _benchmarks(of: SeedSet) -> list[str]:
    parts = []
    if content := of.metrics.get("saebench.json"):
        core, probing = content["core"], content["sparse_probing"]
        lines = [[label, _whole(core[key]), f"{core['random_sae'][key]:.3f}", "", ""] for key, label in CORE.items()]
        for k in sorted((key for key in probing if key.startswith("top_")), key=lambda key: int(key[4:])):
            one, control = probing[k], f"{probing[k]['random_sae']:.3f}"
            label = f"test accuracy of a probe, k = {k[4:]}"
            lines.append([label, _whole(one), control, _whole(one["over_random_sae"]), f"{one['model']:.3f}"])
        header = ["SAEBench", "these SAEs", "untrained SAE", "less the untrained", "k of the model's dimensions"]
        parts.append(
            _table(header, [line for line in lines if line[1]])
            + f"\nProbes: {probing['tasks_counted']} of {len(probing['tasks'])} tasks count, those that a probe learns "
            "better than shuffled labels.\n"
        )
    rows = []
    for name, pattern, label in EVAL_FIGURES:
        evaluated = of.metrics.get("evals.json", {}).get(name, {})
        if evaluated.get("may_gate"):  # TPP and SCR move with the seed alone and gate nothing
            rows += [
                (f"SAEBench {name}: {label.format(*match.groups())}", one)
                for figure, one in evaluated.items()
                if not figure.startswith("llm.") and (match := re.fullmatch(pattern, figure))
            ]
    normal = of.metrics.get("sae_probes.json", {}).get("normal", {})
    for k in sorted((key for key in normal if key.startswith("top_")), key=lambda key: int(key[4:])):
        auc = normal[k]["auc"]
        beside = {name: value for name, value in auc.items() if name != "delta"}
        rows.append((f"113 data sets: AUC of a probe less that of a dense one, k = {k[4:]}", beside | auc["delta"]))
    for score in ("contrastive", "independence", "combined"):
        if one := of.metrics.get("ce_bench.json", {}).get(f"corrected.{score}"):
            rows.append((f"{score} score", one))
    lines = []
    for label, one in rows:
        if "low" in one and SAE_CONTROLS.keys() & one.keys():
            controls = (f"{one[control]:.3f}" if control in one else "" for control in SAE_CONTROLS)
            lines.append([label, _whole(one), *controls, _whole(one.get("over_random_sae", {}))])
    if lines:
        parts.append(_table(["benchmark", "these SAEs", *SAE_CONTROLS.values(), "less the random SAE"], lines))
    return parts


def _over_random(of: SeedSet) -> list[tuple[str, Mapping[str, Any]]]:
    """How much better its probes are than those of an untrained SAE, by benchmark and number of latents."""
    probing = of.metrics.get("saebench.json", {}).get("sparse_probing", {})
    evaluated = of.metrics.get("evals.json", {}).get("sparse_probing", {})
    normal = of.metrics.get("sae_probes.json", {}).get("normal", {})
    tables = {
        "SAEBench": {int(k[4:]): one for k, one in probing.items() if k.startswith("top_")},
        "SAEBench on language": {
            int(match[1]): one
            for figure, one in evaluated.items()
            if (match := re.fullmatch(r"sae\.sae_top_(\d+)_test_accuracy", figure))
        },
        "113 data sets": {int(k[4:]): one["auc"] for k, one in normal.items() if k.startswith("top_")},
    }
    return [
        (f"{name}, k = {k}", ks[k]["over_random_sae"])
        for name, ks in tables.items()
        for k in sorted(ks)
        if "low" in ks[k].get("over_random_sae", {})
    ]


def _verdict(standing: Standing) -> str:
    if standing.standing != EXPLORATORY:
        return f"**{standing.verdict}**"
    why = standing.why_exploratory or ("it was written down when its evidence was known",)
    return f"**{standing.verdict}** (exploratory: {'; '.join(why)})"


def _claims(of: SeedSet) -> str:
    if not of.claims:
        return "No registered claim speaks of this seed set.\n"
    lines = [
        [one.statement, _verdict(one.standing), re.sub(PATH, r"\1", "; ".join(one.reasons))]
        for one in of.claims.values()
    ]
    by = (
        "Verdicts are those of `reseed claims check` when this card was made."
        if of.looked_back
        else "This card was made outside a git clone: verdicts were held against files, locks and parameters, and "
        "not against the code and the history of the claims."
    )
    return (
        "Registered before the evidence, if nothing else is said; each rests on several seed sets, of which this is "
        f"one. {by}\n\n" + _table(["claim", "verdict", "because"], lines)
    )


def _again(of: SeedSet) -> str:
    metadata, machine = of.config["metadata"], of.train["machine"]
    hashes = {
        **{f"`{path}` (DVC, md5)": md5 for path, md5 in of.hashes.items()},
        "index of the activations (sha256)": metadata["reseed_activations_sha256"],
    }
    return (
        f"```\ngit checkout {of.stability['revision']}   # of a clone of the project reseed\n"
        f"make setup && source .venv/bin/activate\ndvc repro {of.target}\n```\n\n"
        f"Trained at revision `{of.train['revision']}`, compared at `{of.stability['revision']}`, on "
        f"{machine['processor']} ({machine['device']}), {machine['threads']} threads. The same kind of processor with "
        "as many threads gives the same bytes; elsewhere sums differ in the last digit, which training amplifies.\n\n"
        + _table(["what", "hash"], [[name, f"`{md5}`"] for name, md5 in hashes.items()])
        + "\n`manifest.json` has the sha256 of every file here, `metrics/` the figures of this card and more.\n"
    )


def _restrictions(of: SeedSet) -> list[str]:
    """The terms that keep these files from being under the project's licence alone."""
    found, corpus, weights = [], of.corpus, of.weights
    if corpus and TRAINING not in corpus.uses:
        found.append(
            f"The text is of {corpus.name}, whose licence ({corpus.licence}) does not let what is derived from it be "
            f"passed on: {corpus.terms}."
        )
    if weights and weights.licence not in FREE:
        found.append(
            f"The model is {weights.hub_id}, whose terms ({weights.licence}) also hold for what is made of it."
        )
    if of.about.get("model", {}).get("kind") == "folder":
        found.append("The model came from a folder, and its licence is not known to the project.")
    return found


def _licence(of: SeedSet) -> str:
    lines = [f"**{reason}**" for reason in _restrictions(of)] or ["These files: MIT."]
    if of.corpus:
        lines.append(f"Text: {of.corpus.citation}; licence {of.corpus.licence}, {of.corpus.terms}.")
    if of.weights:
        lines.append(f"Model: {of.weights.hub_id}, licence {of.weights.licence}.")
    lines.append(
        "Statistics: `pw_mcc` is that of Song et al. 2025 (arXiv 2505.20254), `shared_fraction` that of Paulo and "
        "Belrose 2025 (arXiv 2501.16615)."
    )
    return "\n\n".join(lines) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))
