"""The SAEs that a benchmark judges together: every seed of a variant, and the controls of the first seeds beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reseed import ReseedError
from reseed.activations.store import Activations
from reseed.artifacts import sae_dir
from reseed.benchmarks import imported
from reseed.benchmarks.controls import load_sae, random_sae
from reseed.params import RANDOM_MODEL, TRAINED, Params, Variant, load_sae_training

SAE_ARM = "sae"
PUBLIC_ARM = "public_sae"
PUBLIC_SAES = {
    ("gpt2", "blocks.6.hook_resid_post", 32768): "gpt2-small-resid-post-v5-32k:blocks.6.hook_resid_post",
    ("gpt2", "blocks.6.hook_resid_post", 131072): "gpt2-small-resid-post-v5-128k:blocks.6.hook_resid_post",
    ("gemma-2-2b", "blocks.13.hook_resid_post", 16384): "gemma-scope-2b-pt-res-canonical:layer_13/width_16k/canonical",
    ("gemma-2-2b", "blocks.13.hook_resid_post", 65536): "gemma-scope-2b-pt-res-canonical:layer_13/width_65k/canonical",
}
"""(model, hook point, width) -> release:id of SAELens, of the SAE of others that stands beside ours."""


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

    Beside them the SAE of PUBLIC_SAES of the same model, hook point and width, if there is one: fetched from a hub, and
    of an L0 of its own. models: the sha256 of the model of each arm. What is not the pipeline's is written into the
    folder `temporary`. Raises ReseedError if `frozen` differs from the variant in more than its decoder, an SAE read
    another hook point or model, or the public one cannot be had.
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
    if source := public_sae(subject, hook_name, chosen.d_sae):
        folder = temporary / PUBLIC_ARM
        imported.load(source, hook_name, activations.d_in, subject).save_model(folder)
        found.append(JudgedSae(PUBLIC_ARM, params.seeds(chosen)[0], folder, TRAINED))
    return sorted(found, key=lambda one: (one.name != SAE_ARM, one.name, one.seed))


def public_sae(subject: str, hook_name: str, d_sae: int) -> str | None:
    """release:id of the public SAE of the subject's model, hook point and width, if one is known."""
    found = (PUBLIC_SAES.get((name, hook_name, d_sae)) for name in imported.model_names(subject))
    return next((source for source in found if source), None)


def _check_frozen(params: Params, chosen: Variant, frozen: str) -> None:
    """A control must differ from what it controls in its decoder alone."""
    other = params.variant(frozen)
    if not other.soft_frozen or other.model_copy(update={"soft_frozen": chosen.soft_frozen}) != chosen:
        raise ReseedError(
            f"params.yaml: variants.{frozen}: found {other.model_dump(exclude_defaults=True)}, allowed as a control: "
            f"{chosen.model_dump(exclude_defaults=True)} with soft_frozen"
        )
