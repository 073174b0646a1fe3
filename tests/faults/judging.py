"""Faults that only the gate can refuse: of what is claimed, against which control, bound to what, promised when."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
import yaml

import reseed.benchmarks.evals as evals_room
import reseed.stability.ood as ood_room
from reseed import ReseedError
from reseed.activations.store import Activations, read_activations, read_truth
from reseed.artifacts import (
    activations_dir,
    artefacts,
    metrics_dir,
    raw_dir,
    read_json,
    sae_dir,
    tokens_dir,
    write_json,
)
from reseed.benchmarks.arms import SAE_ARM, JudgedSae
from reseed.claims.gates import FAILED, GATES, PASSED, Case
from reseed.claims.registry import ALWAYS, SLOTS
from reseed.matching import unit_rows
from reseed.params import TRAINED, Params, SaeTraining, load_params, load_sae_training
from reseed.review.check import check
from reseed.stability.activity import held_out_activity, held_out_places
from reseed.stability.arms import Activity
from reseed.stability.jackknife import Groups
from reseed.stability.variants import compare_variants
from tests import scratch
from tests.activations import builders
from tests.conftest import ROOT, stage
from tests.faults import bases
from tests.faults.attempts import change_json, change_params, change_subject, dvc
from tests.faults.museum import Exhibit, Fault
from tests.review import project
from tests.sweeps.toy import git

WORLD, FOUND, FROZEN, READ = "world", "found", "frozen", "read"
CLAIM = "they-agree"
STEPS = 1500
COMPARISON, INVERSE = (Path(f"metrics/comparisons/{name}.json") for name in ("rivals", "inverse"))
FOLLOWED = "evals:sparse_probing/followed"


def world(folder: Path) -> None:
    """A world of twenty known features, five seeds of SAEs that find them, five with soft-frozen decoders."""
    (folder / "subjects").mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(ROOT / "subjects/superposition.yaml", folder / f"subjects/{WORLD}.yaml")
    found = {"architecture": "batchtopk", "d_sae": 20, "k": 3, "steps": STEPS}

    def tiny(params: dict[str, Any]) -> None:
        params["compute"] = {"threads": 1, "device": "cpu"}
        params["variants"] = {FOUND: found, FROZEN: found | {"soft_frozen": 0.8}}
        params["evals"]["settings"] = {"sparse_probing": {}, "tpp": {}}
        params["stability"]["null_draws"] = 1

    def small(subject: dict[str, Any]) -> None:
        rows = {"train": 8000, "validation": 1000, "test": 1000}
        subject["data"] |= {"n_features": 20, "d_in": 40, "l0": 3, "correlation": 0.0, "groups": 1, "rows": rows}
        subject["sae"] |= {"batch_size": 128, "min_steps": 1200, "max_steps": 2400, "check_every": 50}
        subject["sae"] |= {"warm_up_steps": 50}

    scratch.edit(folder / "params.yaml", tiny)
    scratch.edit(folder / f"subjects/{WORLD}.yaml", small)
    with bases.inside(folder):
        stage("synthesise")(WORLD)
        for variant in (FOUND, FROZEN):
            stage("train")(WORLD, variant, TRAINED)
        for manifest in (raw_dir(WORLD) / "manifest.json", tokens_dir(WORLD) / "index.json"):
            write_json(manifest, {})  # of the benchmark's texts, which this one has none of
        for variant in (FOUND, FROZEN):
            _score(variant)
            benchmark(variant)
        compare(FOUND, FROZEN)
        compare(FROZEN, FOUND, INVERSE)
        elsewhere(0.75, 0.625)
        write_claim(FOUND)


def _score(variant: str) -> None:
    stage("stability")(WORLD, variant, TRAINED, TRAINED)


def benchmark(variant: str) -> None:
    """evals.json by its own writer: how well the best latent of each feature follows it on held-out rows (mean
    |correlation|), with controls, in the place of what SAEBench's processes would give for two of its evals."""
    params, training = load_params(), load_sae_training(WORLD).at_steps(STEPS)
    activations, truth = read_activations(activations_dir(WORLD, TRAINED)), read_truth(activations_dir(WORLD, TRAINED))
    assert truth is not None
    codes = truth.codes[held_out_places(len(truth.codes))].numpy()
    read = {name: _activity(name, params, training, activations) for name in (variant, FROZEN)}
    latents = {
        SAE_ARM: read[variant].trained,
        "random_sae": read[variant].untrained,
        "frozen_sae": read[FROZEN].trained,
    }
    followed = {
        f"{name}_seed_{seed}": _followed(one, codes)
        for name, some in latents.items()
        for seed, one in zip(params.train.seeds, some, strict=True)
    }
    saes = [JudgedSae(name, seed, Path(), TRAINED) for name in latents for seed in params.train.seeds]

    def given(_process: Any, _name: str, job: dict[str, Any], *_: Any) -> dict[str, dict[str, float]]:
        return {label: {"followed": followed[label]} for label in job["saes"]}

    with patch.multiple(evals_room, run=given, preflight=lambda *_: [], is_encoder=lambda _: False):
        content = evals_room.judge(
            saes, WORLD, {TRAINED: ""}, params, torch.device("cpu"), 1, Path("results"), Path("work")
        )
    write_json(metrics_dir(WORLD, variant) / "evals.json", {"artefacts": artefacts(WORLD, variant)} | content)


def _activity(variant: str, params: Params, training: SaeTraining, activations: Activations) -> Activity:
    return held_out_activity(sae_dir(WORLD, variant), params.variant(variant), training, params.train, activations)


def _followed(latents: Any, codes: Any) -> float:
    standard = [unit_rows((x - x.mean(0)).T + 1e-12) for x in (np.asarray(latents, dtype=float), codes)]
    return float(np.abs(standard[1] @ standard[0].T).max(1).mean())


def compare(variant: str, rival: str, path: Path = COMPARISON, l0: float | None = None) -> None:
    """An SAE beside a rival at equal L0 and steps, which is called a transcoder here."""
    contents = {name: read_json(metrics_dir(WORLD, name) / "stability.json") for name in (variant, rival)}
    contents[rival]["architecture"] = "transcoder"
    if l0 is not None:
        contents[rival]["trained"]["l0"]["value"] = l0
    write_json(path, compare_variants(contents, variant, 0.0, 1.0, 0.95, l0_tolerance=0.1))


def elsewhere(inside: float, outside: float) -> None:
    """ood.json by its own writer: SAEs of these explained variances at home and on other rows, untrained ones of 0."""

    def measured(trained: int, explained: float) -> dict[str, float]:
        return {"explained_variance": explained if trained else 0.0, "rows": 1000}

    seeds = [(cast(Any, 1), cast(Any, 0)) for _ in range(5)]
    with patch.object(ood_room, "evaluate", measured):
        rows = {ood_room.IN: cast(Any, inside), ood_room.OOD: cast(Any, outside)}
        content = ood_room.ood_summary(seeds, rows, Groups(5), load_params().stability.confidence)
    write_json(metrics_dir(WORLD, FOUND) / "ood.json", {"artefacts": artefacts(WORLD, FOUND)} | content)


def write_claim(variant: str, **change: Any) -> None:
    evidence = [f"metrics/{WORLD}/{variant}/{kind}.json" for kind in ("stability", "evals")]
    evidence.append(str(COMPARISON if variant == FOUND else INVERSE))
    claim = {
        "statement": "These SAEs agree across seeds, on features that are there.",
        "statistic": "pw_mcc", "unit": "kappa",
        "tests": [{"figure": "trained", "over": "each", "above": 0.1}],
        "evidence": evidence + [evidence[-1]] * (SLOTS - len(evidence)),
        "speaks_of": {f"{WORLD}/{variant}": {"k": 3}}, "minimum_seeds": 5, "benchmark": FOLLOWED,
        "gates": [*ALWAYS, "random_dictionary", "benchmark", "frozen_decoder", "transcoder", "correctness"],
        "registered": "a" * 40,
    } | change  # fmt: skip
    Path("claims.yaml").write_text(yaml.safe_dump({"claims": {CLAIM: claim}}, sort_keys=False))


def judged() -> None:
    """The claim's stage; its reasons are the message where it does not support the claim."""
    stage("claims")("claims.yaml", CLAIM)
    verdict = read_json(Path("metrics/claims") / f"{CLAIM}.json")
    if verdict["verdict"] != "supported":
        raise ReseedError(f"{verdict['verdict']}: " + "; ".join(verdict["reasons"]))


def judged_elsewhere() -> None:
    """The stage of a claim that other text must bear out, too."""
    evidence = [f"metrics/{WORLD}/{FOUND}/{kind}.json" for kind in ("stability", "ood")]
    write_claim(FOUND, evidence=evidence + [evidence[-1]] * (SLOTS - 2), gates=[*ALWAYS, "random_dictionary", "ood"])
    judged()


def trained_and_judged() -> None:
    """The stages train, stability and claims, and between them the benchmark."""
    for variant in (FOUND, FROZEN):
        stage("train")(WORLD, variant, TRAINED)
    for variant in (FROZEN, FOUND):
        _score(variant)
    benchmark(FOUND)
    compare(FOUND, FROZEN)
    judged()


def texts(folder: Path) -> None:
    """The tiny GPT and a text of many tokens, so that a token at a position is rarely there twice; a claim on them."""
    wide = {"VOCABULARY": 4000, "SIZES": {"train": 400, "validation": 40, "test": 40}}
    with patch.multiple(builders, **wide):
        bases.language(folder)

    def longer(subject: dict[str, Any]) -> None:
        subject["sae"] |= {"batch_size": 256, "warm_up_steps": 50, "max_steps": 4000, "check_every": 50}

    def five(params: dict[str, Any]) -> None:
        params["train"]["seeds"] = [0, 1, 2, 3, 4]
        params["variants"] = {READ: {"architecture": "batchtopk", "d_sae": 4, "k": 1, "steps": 3000}}

    scratch.edit(folder / "subjects/tiny.yaml", longer)
    scratch.edit(folder / "params.yaml", five)
    evidence = f"metrics/tiny/{READ}/stability.json"
    with bases.inside(folder):
        write_claim(
            READ, evidence=[evidence] * SLOTS, speaks_of={f"tiny/{READ}": {"k": 1}}, benchmark=None, gates=[*ALWAYS],
            tests=[{"figure": "trained", "over": "each", "above": 0.0}],
        )  # fmt: skip


def read_and_judged() -> None:
    """All stages from the capture of a language model to the claim."""
    stage("capture")("tiny", TRAINED)
    stage("train")("tiny", READ, TRAINED)
    stage("stability")("tiny", READ, TRAINED, TRAINED)
    judged()


def _in_front_of_the_model(_: Exhibit) -> None:
    change_subject(lambda subject: subject["capture"].update(hook_name="blocks.0.hook_resid_pre"), "tiny")


def reviewed(folder: Path) -> None:
    """A project in git with a claim, a phase and a remote, whose results are committed."""
    folder.rmdir()
    project.make(folder)


def checked() -> None:
    """`reseed claims check`; what blocks is the message."""
    found = check(Path())
    faults = [fault for one in found.claims for fault in one.faults] + [f for one in found.phases for f in one.faults]
    if faults:
        raise ReseedError("; ".join(faults))


def _claimed(variant: str, **change: Any) -> Any:
    return lambda _: write_claim(variant, **change)


def _stability(change: Any, variant: str = FOUND) -> Any:
    return lambda _: change_json(metrics_dir(WORLD, variant) / "stability.json", change)


def _barely_trained(_: Exhibit) -> None:
    change_params(lambda params: params["variants"][FOUND].update(steps=50))


def _another_sets_benchmark(_: Exhibit) -> None:
    shutil.copy(metrics_dir(WORLD, FROZEN) / "evals.json", metrics_dir(WORLD, FOUND) / "evals.json")


def _another_runs_agreement(_: Exhibit) -> None:
    shutil.copy(metrics_dir(WORLD, FROZEN) / "stability.json", metrics_dir(WORLD, FOUND) / "stability.json")


def _inverted(exhibit: Exhibit) -> None:
    """What passed fails, and what failed passes."""
    real = GATES["transcoder"]

    def look(case: Case) -> tuple[str, str]:
        outcome, said = real.look(case)
        return {PASSED: FAILED, FAILED: PASSED}.get(outcome, outcome), said

    exhibit.stack.enter_context(patch.dict(GATES, transcoder=replace(real, look=look)))


def _benchmark(change: Callable[[dict[str, Any]], object]) -> Any:
    return lambda _: change_json(
        metrics_dir(WORLD, FOUND) / "evals.json", lambda content: change(content["sparse_probing"]["followed"])
    )


def _without_controls(followed: dict[str, Any]) -> None:
    followed["over_dense_probe"] = followed.pop("over_random_sae")


def _pairs(content: dict[str, Any]) -> None:
    for one in content["records"]:
        if "kappa_deleted" in one:
            one["kappa_deleted"] = 2 * one["kappa_deleted"]


def _passes_everything(exhibit: Exhibit) -> None:
    open_gate = replace(GATES["random_dictionary"], look=lambda _: ("passed", "100 % of the edits moved something"))
    exhibit.stack.enter_context(patch.dict(GATES, random_dictionary=open_gate))


def _dead_disagree(content: dict[str, Any]) -> None:
    for one in content["records"]:
        if (one["arm"], one["statistic"], one["latents"]) == ("trained", "pw_mcc", "all"):
            one["kappa_deleted"] = [value - one["kappa"] for value in one["kappa_deleted"]]
            one["kappa"] = 0.0
            one["kappa_deleted"] = [value / 10 for value in one["kappa_deleted"]]


def _three_seeds(_: Exhibit) -> None:
    change_params(lambda params: params["train"].update(seeds=[0, 1, 2]))


def _never_passes(exhibit: Exhibit) -> None:
    shut = replace(
        GATES["benchmark"], look=lambda _: (FAILED, "five latents are below a dense probe of all dimensions")
    )
    exhibit.stack.enter_context(patch.dict(GATES, benchmark=shut))


def _the_same_id_twice(_: Exhibit) -> None:
    text = Path("claims.yaml").read_text()
    Path("claims.yaml").write_text(text + text.partition("\n")[2].replace("minimum_seeds: 5", "minimum_seeds: 3"))


def _tried(times: int) -> Any:
    def plant(_: Exhibit) -> None:
        for i in range(times):
            project.edit(Path(), "planted.yaml", "variants/topk-k4/kappa", 0.81 + i / 100)
            project.rerun(Path(), "another try")

    return plant


def _committed(change: Any) -> Any:
    def plant(exhibit: Exhibit) -> None:
        change(exhibit)
        project.commit(Path(), "a change")

    return plant


def _edit(name: str, path: str, value: Any) -> Any:
    return _committed(lambda _: project.edit(Path(), name, path, value))


def _better_number(_: Exhibit) -> None:
    path = Path(project.FIRST)
    path.write_text(path.read_text().replace("0.8,", "0.95,"))


def _committed_as_a_run(exhibit: Exhibit) -> None:
    """And judged again, so that no lock, metric or verdict contradicts another."""
    _better_number(exhibit)
    dvc("commit", "--force", "score@topk-k4")
    project.repro(Path())
    project.commit(Path(), "a better number")


def _merged_number(_: Exhibit) -> None:
    """As git merges two metric files line by line: figures of one side, interval of the other."""
    path, content = Path(project.FIRST), json.loads(Path(project.FIRST).read_text())
    content["trained"]["pw_mcc"] |= {"kappa_low": 0.6, "kappa_high": 0.7}
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _renamed_criterion(_: Exhibit) -> None:
    project.edit(Path(), "claims.yaml", "phases/first/criteria", {"a-stretch-goal": {"claim": project.CLAIM}})


def _lower_bound(_: Exhibit) -> None:
    project.edit(Path(), "claims.yaml", f"claims/{project.CLAIM}/tests/0/above", 0.3)


def _judged_again(plant: Any) -> Any:
    def planted(exhibit: Exhibit) -> None:
        plant(exhibit)
        project.repro(Path())
        project.commit(Path(), "results")

    return planted


def _go_regardless(_: Exhibit) -> None:
    project.edit(Path(), "planted.yaml", "variants/topk-k8/kappa", 0.2)
    project.commit(Path(), "a worse run")


def _hidden_history(_: Exhibit) -> None:
    """The same files in a new repository: nothing tells any more what was promised when."""
    shutil.rmtree(".git")
    git(Path(), "init", "-q", "-b", "main")
    project.commit(Path(), "everything at once")


FAULTS = (
    Fault(
        "under_training", "HUSAI 1.5.2", "SAEs stopped near their initialisation",
        "120 to 280 steps left decoders at cosine 0.81 to 0.975 to their own start. Starts are independent between "
        "seeds, so that agreement is that of chance by construction; the thesis 'trained is as random' followed.",
        "the SAEs take 50 steps.",
        world, _barely_trained, trained_and_judged,
        r"world/found: converged: (the decoder of the trained arm is at cosine|pw_mcc of the trained arm is not)",
    ),
    Fault(
        "gate_bound_elsewhere", "HUSAI 1.5.6", "A gate passed by other SAEs",
        "The gates of a release read artefacts of another model: a fixed number of the toy, 6.2e-5, passed for ever "
        "whatever the candidate was.",
        "the benchmark's file is that of the other seed set.",
        world, _another_sets_benchmark, judged,
        r"found/evals\.json is of models/world/found unknown, and .* not of the same run",
    ),
    Fault(
        "figures_of_two_runs", "HUSAI 1.5.15", "Figures of different runs side by side",
        "Agreement of SAEs of 120 steps was printed beside the explained variance of other checkpoints.",
        "stability.json is that of the other seed set.",
        world, _another_runs_agreement, judged,
        r"found/stability\.json does not say by hash which models/world/found it is of",
    ),
    Fault(
        "inverted_transcoder_gate", "HUSAI 1.5.6", "A gate that passes when the competitor is ahead",
        "The transcoder gate asked that the transcoder agree more than the SAE, failed as planned, and passed after "
        "the best of sixteen settings.",
        "the code of the gate takes failed for passed, and passed for failed.",
        world, _inverted, judged,
        r"transcoder: the gate passes a planted null \(kappa of pw_mcc less that of frozen: # \[#, #\]",
    ),
    Fault(
        "competitor_ahead", "HUSAI 1.5.6", "A claim whose competitor is ahead",
        "The same, with the gate as it should be: the transcoder agreed more than the SAE, and that was called passed.",
        "the claim is made of the set that agrees less than its competitor.",
        world, _claimed(FROZEN, gates=[*ALWAYS, "random_dictionary", "transcoder"]), judged,
        r"not supported: .*transcoder: kappa of pw_mcc less that of found: # \[#, #\], to be above 0",
    ),
    Fault(
        "l0_not_matched", "HUSAI 1.5.11", "A matched budget that is not",
        "At a 'matched budget' L0 was 32, 81, 654 and 976.",
        "the rival's L0 is 8 where the SAE's is 3.",
        world, lambda _: compare(FOUND, FROZEN, l0=8.0), judged,
        r"transcoder: against frozen it is not comparable: equal L0, steps and convergence are needed",
    ),
    Fault(
        "equally_bad_elsewhere", "HUSAI 1.5.6", "A small difference of two bad numbers",
        "The gate on other text asked that the score there be at most 0.1 below that at home. It was -0.029 at home "
        "and -0.043 elsewhere: worse than nothing twice, a difference of 0.014, passed.",
        "explained variance is -0.029 on the subject's own rows and -0.043 on others, where untrained SAEs have 0.",
        world, lambda _: elsewhere(-0.029, -0.043), judged_elsewhere,
        r"not supported: .*ood: explained variance out of distribution less that of an untrained SAE there: # \[#, #\]",
    ),
    Fault(
        "unmatched_baseline", "HUSAI 1.5.9", "A benchmark without its control",
        "At most five latents had to beat a dense probe of 512 dimensions, which the public SAE does not either; the "
        "comparison with an SAE of the same shape was never made.",
        "the benchmark stands beside a dense probe in place of an untrained SAE.",
        world, _benchmark(_without_controls), judged,
        r"evals\.json: sparse_probing/followed stands beside no random_sae, the control that this gate needs",
    ),
    Fault(
        "gate_that_cannot_pass", "HUSAI 1.5.9, 1.4", "A gate that nothing could pass",
        "At most five latents had to beat all 512 dimensions, which no SAE does: the external gate failed in every "
        "cycle, and said nothing of any candidate.",
        "the code of the gate fails whatever it sees.",
        world, _never_passes, judged,
        r"benchmark: the gate does not pass a planted positive \(five latents are below a dense probe",
    ),
    Fault(
        "null_baseline", "HUSAI 1.4", "A baseline that is null",
        "A layer had no baseline, its place in a table was null, and the aggregation broke down after 24 conditions.",
        "the difference to the control is null in the benchmark's file.",
        world, _benchmark(lambda followed: followed.update(over_random_sae=None)), judged,
        r"evals\.json: sparse_probing/followed/over_random_sae: .*found None, allowed",
    ),
    Fault(
        "unknown_figure", "HUSAI 1.4", "A figure that no file has",
        "The code of one benchmark asked for keys that the results of another had.",
        "the claim names a table that the benchmark's file does not have.",
        world, _claimed(FOUND, benchmark="evals:sparse-probing/followed"), judged,
        r"evals\.json: found no 'sparse-probing' of 'sparse-probing'; known there: artefacts, sparse_probing, tpp",
    ),
    Fault(
        "one_figure_under_anothers_name", "HUSAI 1.4", "A figure under another's name",
        "'Feature sensitivity' measured sparsity, an overlap by words had two definitions, and explained variance "
        "four.",
        "the claim calls its kappa an accuracy.",
        world, _claimed(FOUND, unit="accuracy"), judged,
        r"claims\.they-agree\.unit: found 'accuracy', allowed: kappa, which is that of a statistic",
    ),
    Fault(
        "key_overwritten", "RL-Decoder 2.3", "A key that stands twice",
        "Results were kept under a key that a later one overwrote.",
        "the claim stands twice under its id, the second time with fewer seeds.",
        world, _the_same_id_twice, judged,
        r"claims\.yaml: claims\.they-agree: found twice, allowed: every id once",
    ),
    Fault(
        "benchmark_of_the_seed", "HUSAI 1.5.10", "A benchmark that moves with the seed",
        "The same SAE scored -0.133 one day and -0.042 the next; SCR and TPP move with the seed alone.",
        "the claim's benchmark is TPP in the place of sparse probing.",
        world, _claimed(FOUND, benchmark="evals:tpp/followed"), judged,
        r"benchmark: .*evals\.json: tpp is not marked as one that may gate: it moves with the seed alone",
    ),
    Fault(
        "pairs_as_the_unit", "HUSAI 1.5.13", "Pairs of seeds in a claim",
        "Intervals and tests over the 10 pairs of 5 seeds, or the 28 of 8: p = 0.0086 for a difference of 0.0012.",
        "stability.json has ten left-out values for five seeds.",
        world, _stability(_pairs), judged, r"has 10 left-out values for 5 seeds: pairs of seeds share seeds",
    ),
    Fault(
        "too_few_seeds", "HUSAI 1.5.13", "Three seeds and a factor of 1.96",
        "Lower bounds over three to five seeds took the normal quantile.",
        "train.seeds has three seeds, and the claim asks for five.",
        world, _three_seeds, trained_and_judged, r"found/stability\.json: 3 seeds, the claim asks for 5",
    ),
    Fault(
        "another_condition", "HUSAI 1.5.15", "Evidence of another setting",
        "A README quoted 0.309 where the paper had 0.300: numbers of other settings under one name.",
        "the claim speaks of k = 4, and its evidence is of k = 3.",
        world, _claimed(FOUND, speaks_of={f"{WORLD}/{FOUND}": {"k": 4}}), judged, r"k is 3, the claim speaks of 4",
    ),
    Fault(
        "stable_and_wrong", "RL-Decoder 2.4.7", "Agreement without truth",
        "Whether latents correspond to states was never measured; agreement and reconstruction stood for it.",
        "the claim is made of the soft-frozen set, which agrees above chance and has not found the features.",
        world,
        _claimed(FROZEN, gates=[*ALWAYS, "random_dictionary", "correctness"]), judged,
        r"not supported: .*correctness: gt_mcc, similarity to the true features: #",
    ),
    Fault(
        "frozen_as_good", "HUSAI 1.5.2", "A control that does as well",
        "SAEs that had hardly left their start were compared with random decoders only.",
        "the claim is made of the soft-frozen set, against the soft-frozen control.",
        world, _claimed(FROZEN, gates=[*ALWAYS, "benchmark", "frozen_decoder"]), judged,
        r"not supported: .*frozen_decoder: evals: sparse_probing/followed less that of the frozen_sae: #",
    ),
    Fault(
        "test_that_cannot_fail", "RL-Decoder 2.4.7", "A test that cannot fail",
        "Every edit of a latent, dead ones included, raises the error of a linear decoder: the 'causal' test passed "
        "all of them, and the verdict was GO.",
        "the code of a gate passes whatever it sees.",
        world, _passes_everything, judged,
        r"random_dictionary: the gate passes a planted null \(100 % of the edits moved something\)",
    ),
    Fault(
        "dead_latents_counted", "HUSAI 1.5.16", "Dead latents among the scored",
        "Agreement and explained variance were taken over latents that never fire, too: a run of the same recipe gives "
        "0.40 over all latents and up to 0.76 over alive ones.",
        "the agreement over all latents lies below the bound where that over alive ones lies above.",
        world, _stability(_dead_disagree), judged,
        r"alive: trained, world/found: holds over alive latents, refuted over all",
    ),
    Fault(
        "quarantined_evidence", "HUSAI 1.5.8", "A claim on what the model did not compute",
        "The stability, the benchmarks and the frontier of a 'real language model' were of a hook point in front of "
        "its first layer, a table of tokens.",
        "capture.hook_name is blocks.0.hook_resid_pre, a lookup of the token and its position.",
        texts, _in_front_of_the_model, read_and_judged,
        r"read/stability\.json: the subject is quarantined \(blocks\.0\.hook_resid_pre is a lookup of the token and",
    ),
    Fault(
        "missing_evidence", "HUSAI 1.5.16", "A missing file that passes",
        "A missing artefact failed a gate only if an option asked for it.",
        "the benchmark's file is gone.",
        world, lambda _: (metrics_dir(WORLD, FOUND) / "evals.json").unlink(), judged,
        r"metrics/world/found/evals\.json: the file does not exist",
    ),
    Fault(
        "best_of_n", "HUSAI 1.5.6", "The best of sixteen",
        "A gate that failed as planned passed for the best of sixteen settings, uncorrected.",
        "two more settings of a seed set are run before the one that is kept.",
        reviewed, _tried(2), checked, r"tried: found 2, allowed: at least 3, as many settings as its seed sets",
    ),
    Fault(
        "hand_edited_metric", "HUSAI 1.4", "A number typed into a result",
        "Documents and results drifted apart in 223 places.",
        "kappa is 0.95 in the metric file instead of 0.8.",
        reviewed, _committed(_better_number), checked,
        r"stability\.json: it is not what score@topk-k4 made \(edited, merged",
    ),
    Fault(
        "edit_committed_as_a_run", "HUSAI 1.4", "A number typed into a result and into its lock",
        "Numbers were carried by hand from one document to the next, and nothing could tell them from results.",
        "kappa is 0.95 in the metric file, and `dvc commit --force` makes the lock say so.",
        reviewed, _committed_as_a_run, checked,
        r"stability\.json: its lock says that score@topk-k4 made it, and the facts of its run do not",
    ),
    Fault(
        "merged_metric", "HUSAI 1.5.15", "A metric that no run made",
        "git merges two metric files line by line, into figures of one side with the interval of the other.",
        "the interval of kappa is that of another branch.",
        reviewed, _committed(_merged_number), checked, r"stability\.json: it is not what score@topk-k4 made",
    ),
    Fault(
        "frozen_stage_behind_a_claim", "HUSAI 1.4", "A stage that never runs again",
        "Results stayed as they were while code and parameters moved on.",
        "the stage that makes the evidence is frozen.",
        reviewed, _edit("dvc.yaml", "stages/score/do/frozen", True), checked, r"score@topk-k4: found frozen: true",
    ),
    Fault(
        "bound_moved_afterwards", "RL-Decoder 2.4.11", "A bar lowered after the jump",
        "Criteria were changed after they had failed: an R^2 became a 'stretch goal'.",
        "the bound is lowered after the claim was judged, and it is judged again.",
        reviewed, _judged_again(_committed(_lower_bound)), checked,
        r"found standing 'confirmatory'.*what it asks for was changed in …, after it had been judged 'supported'",
    ),
    Fault(
        "criterion_renamed", "RL-Decoder 2.4.11", "A failed criterion under another name",
        "A criterion that failed was given another name and left out of the decision.",
        "the phase's criterion has a new name.",
        reviewed, _committed(_renamed_criterion), checked,
        r"phases\.first: found no criteria\.agree, allowed: all that it ever asked for",
    ),
    Fault(
        "go_regardless", "RL-Decoder 2.4.11", "Go, whatever the evidence",
        "A phase that had failed its criteria was declared GO.",
        "the claim that a phase needs is no longer supported, and the phase still says go.",
        reviewed, _judged_again(_go_regardless), checked, r"phases\.first: verdict: found 'go', allowed: 'no-go'",
    ),
    Fault(
        "phase_never_run", "RL-Decoder 2.3, 2.4.11", "A phase that was skipped",
        "The second phase was never done, its number was given to another, and the programme went on as if it had "
        "been.",
        "the phase still says go, and has no criteria.",
        reviewed, _edit("claims.yaml", "phases/first/criteria", {}), checked,
        r"phases\.first\.criteria: found .* allowed: ",
    ),
    Fault(
        "losses_compared", "RL-Decoder 2.4.9", "Losses of different data side by side",
        "A loss of 7.07 beside one of 53.0 was called a phase transition: both were sums over batches and data of "
        "their own size, and neither was over the variance.",
        "the claim bounds the mean squared error of the SAEs.",
        world, _claimed(FOUND, statistic=None, metric="stability:trained/mse", unit="fraction",
                        tests=[{"figure": "value", "over": "each", "below": 7.07}]), judged,
        r"metric: found 'stability:trained/mse', allowed: a metric whose unit is known",
    ),
    Fault(
        "evidence_before_the_claim", "HUSAI 1.5.14", "A claim made for its evidence",
        "Checkpoints, penalties and seeds were chosen by the figure that was then reported.",
        "history is rewritten into one commit, in which claim and evidence appear together.",
        reviewed, _hidden_history, checked, r"found standing 'confirmatory', allowed: 'exploratory'",
    ),
)  # fmt: skip
