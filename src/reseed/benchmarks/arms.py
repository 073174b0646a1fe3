"""The SAEs that a benchmark judges together: every seed of a variant, and the controls of the first seeds beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import sae_dir
from reseed.benchmarks.controls import load_sae, random_sae
from reseed.params import RANDOM_MODEL, TRAINED, Params, Variant, load_sae_training

SAE_ARM = "sae"


@dataclass(frozen=True)
class JudgedSae:
    """An SAE in SAELens' format: `name` says what it is (`sae` or a control), `reads` the arm of the model it reads."""

    name: str
    seed: int
    folder: Path
    reads: str


def with_controls(
    params: Params,
    control_seeds: int,
    subject: str,
    variant: str,
    frozen: str,
    activations: Activations,
    models: Mapping[str, str],
    temporary: Path,
) -> list[JudgedSae]:
    """All seeds of `variant`; of the first `control_seeds` its start, its soft-frozen twin, that of the random model.

    models: the sha256 of the model of each arm. The starts are written into the folder `temporary`. Raises ReseedError
    if `frozen` differs from the variant in more than its decoder, or an SAE read another hook point or model.
    """
    chosen, training = params.variant(variant), load_sae_training(subject)
    _check_frozen(params, chosen, frozen)
    hook_name = activations.index["hook_name"]
    found = []
    for i, seed in enumerate(params.seeds(chosen)):
        folder = sae_dir(subject, variant) / f"seed_{seed}"
        sae = load_sae(folder, hook_name, TRAINED, models[TRAINED])
        found.append(JudgedSae(SAE_ARM, seed, folder, TRAINED))
        if i >= control_seeds:
            continue
        random = temporary / f"random_{seed}"
        random_sae(sae, chosen, training, params.train, seed, activations).save_model(random)
        found.append(JudgedSae("random_sae", seed, random, TRAINED))
        folder = sae_dir(subject, frozen) / f"seed_{seed}"
        load_sae(folder, hook_name, TRAINED, models[TRAINED])
        found.append(JudgedSae("frozen_sae", seed, folder, TRAINED))
        folder = sae_dir(subject, variant, RANDOM_MODEL) / f"seed_{seed}"
        load_sae(folder, hook_name, RANDOM_MODEL, models[RANDOM_MODEL])
        found.append(JudgedSae("random_model_sae", seed, folder, RANDOM_MODEL))
    return sorted(found, key=lambda one: (one.name != SAE_ARM, one.name, one.seed))


def _check_frozen(params: Params, chosen: Variant, frozen: str) -> None:
    """A control must differ from what it controls in its decoder alone."""
    other = params.variant(frozen)
    if not other.soft_frozen or other.model_copy(update={"soft_frozen": chosen.soft_frozen}) != chosen:
        raise ReseedError(
            f"params.yaml: variants.{frozen}: found {other.model_dump(exclude_defaults=True)}, allowed as a control: "
            f"{chosen.model_dump(exclude_defaults=True)} with soft_frozen"
        )
