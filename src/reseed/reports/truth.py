"""How correctness is told, the same in docs/studies.md and on the site: which figures, which null, which control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCORES = {
    "states": ("coverage", "recall", "purity", "enrichment", "monosemanticity", "gt_mcc", "correct"),
    "planes": (
        "fourier_r2", "planes", "plane_cosine", "correct", "coverage", "recall", "purity", "enrichment",
        "monosemanticity",
    ),
    "directions": (
        "gt_mcc", "recall", "precision", "f1", "uniqueness", "correct", "coverage", "purity", "enrichment",
        "monosemanticity",
    ),
}  # fmt: skip
"""Kind of truth -> its main figures, those of its own kind first."""
PEERS = {"neurons": "neurons", "pca": "PCA", "ica": "ICA"}
CEILINGS = {"linear_probe": "linear probe", "held_out_planes": "planes of held-out rows"}
CONTROLS = {
    "random_direction": "random direction",
    "random_latent": "random latent",
    "shuffled_decoder": "shuffled decoder",
    "pca": "principal component",
    "neuron": "neuron",
    "frozen_sae": "soft-frozen SAE",
    "random_model_sae": "SAE of the random model",
    "untrained_sae": "untrained SAE",
}
"""Directions that a latent's effect must be beyond."""
NULL_SAES = ("frozen_sae", "random_model_sae", "untrained_sae")
SUPERVISED = {"difference_of_means": "difference of means", "das": "DAS"}
"""Directions found with labels, which need not be beaten."""
EDITS = {
    "slope": "slope",
    "calibration_error": "calibration error",
    "monotone": "monotone",
    "specificity": "specificity",
    "specificity_random_latent": "specificity of a random latent",
    "specificity_das": "specificity of DAS",
}
PATCHES = ("ablation", "clamp", "interchange")
"""Edits that set a latent, where steering adds to it."""
MODELS = {"signals": "all signals", "reappearance": "reappearance alone", "constant": "constant"}
SKILLS = {"skill_above_constant": "skill above constant", "skill_above_reappearance": "skill above reappearance"}
SEED_SETS = {
    "planted": ("detected",),
    "planted: pulled": ("controls", "pulled"),
    "planted: shared reference": ("controls", "shared_reference"),
    "planted: label leak": ("controls", "label_leak"),
    "honest (false alarms)": ("false_alarms",),
    "wrong without a plant": ("wrong_without_a_plant",),
}
"""What the detector is tried on, and where its counts stand."""


def ruled(truth: Mapping[str, Any]) -> bool:
    """Whether rules were committed: without any there is neither go nor no-go."""
    return bool(truth.get("phase", {}).get("rules"))


def verdict(phase: Mapping[str, Any]) -> str:
    return "go" if phase["go"] else "no-go"


def supervised(phase: Mapping[str, Any]) -> str:
    """What is said beside the question of SAEs that were trained with labels of the truth; else nothing."""
    return " Trained with labels: to find them shows nothing." if phase.get("supervised") else ""


def met(rule: Mapping[str, Any]) -> str:
    """What decides about a rule beside its bound, in words."""
    outcome = "met" if rule["met"] else "not met"
    if "found" not in rule:
        return f"not measured: {outcome}"
    return f"{'above' if rule['exceeds_nulls'] else 'not above'} its nulls: {outcome}"


def scores(truth: Mapping[str, Any]) -> list[str]:
    """The main figures that there are."""
    return [name for name in SCORES[truth["truth"]] if name in truth["figures"]]


def strictest(figure: Mapping[str, Any]) -> str | None:
    """The null whose margin has the lowest low end, the one that the gate `correctness` names; None without any."""
    over: str | None = figure.get("margin", {}).get("over")
    return over


def named(null: str, truth: Mapping[str, Any]) -> str:
    """A null, the control by its arm."""
    return f"{truth['control']} arm" if null == "control" else null


def ceiling(name: str, figure: Mapping[str, Any]) -> str | None:
    """The peer that a figure cannot be expected to exceed; of directions a probe's are a peer like others."""
    peers = figure.get("peers", {}) if name != "gt_mcc" else {}
    return next((peer for peer in CEILINGS if peer in peers), None)


def strongest(effects: Mapping[str, Any]) -> str:
    """The control whose effect is largest in size: it counts whichever way it pushes."""
    return max(CONTROLS, key=lambda name: abs(effects[name]["value"]))


def known(truth: Mapping[str, Any]) -> str:
    """What is known of the subject, in words."""
    kind = truth["truth"]
    if kind == "states":
        return f"{truth['concepts']} concepts of exact states, {truth['concepts_untested']} more too rare"
    if kind == "directions":
        return f"{truth['features']} directions"
    found = f"{len(truth['frequencies'])} planes"
    return found if truth["testable"] else f"{found}, not testable: the model's waves explain too little"
