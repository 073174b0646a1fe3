"""Faults of tests of cause: edits that edit nothing, latents that move nothing, read-outs that could not tell."""

from __future__ import annotations

import sys
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

import reseed.interventions.latents as latents_room
import reseed.interventions.readouts as readouts_room
import reseed.interventions.run as run_room
from reseed import ReseedError
from reseed.interventions.edits import ablate, interchange_subspace
from reseed.interventions.hooks import Continuation, intervene, last_residual
from reseed.interventions.protocol import LATENT
from tests.faults import bases
from tests.faults.museum import Exhibit, Fault
from tests.interventions.builders import HOOK, random_sae, reading_sae, true_sae, world
from tests.interventions.test_protocol import concepts, judged

SEEDS, CONCEPT = 5, "bit_0=1"


def trained_sae(seed: int) -> SAE[Any]:
    """The SAE of a seed: its latents lie along the directions that the model reads."""
    return true_sae(seed)


def tested() -> None:
    """The causal protocol on a model of known directions; what it says of a concept that fails is the message."""
    found = judged(trained_sae, SEEDS, [one for one in concepts() if one.name == CONCEPT])
    failed = [_sentence(name, one) for name, one in found["concepts"].items() if not one["passes"]]
    if failed:
        raise ReseedError(f"{found['passed']} of {found['judged']} concepts pass: {'; '.join(failed)}")


def _sentence(name: str, one: dict[str, Any]) -> str:
    moved = one["effect_at_equal_norm"]
    return (
        f"{name}: the latents move its log-odds by {moved[LATENT]['value']:.3g} at a KL divergence of "
        f"{one['kl']['value']:.3g}, decoder rows of other latents by {moved['shuffled_decoder']['value']:.3g} "
        f"(p {one['p_holm']:.3g})"
    )


def _edits_nothing(exhibit: Exhibit) -> None:
    real = Continuation.__call__

    def unedited(self: Continuation, edited: Tensor, final: bool = False) -> Any:
        return real(self, 0 * edited + self.residual, final)

    exhibit.replace(Continuation, "__call__", unedited)


def _reads_and_moves_nothing(exhibit: Exhibit) -> None:
    exhibit.replace(sys.modules[__name__], "trained_sae", reading_sae)


def _inverted(exhibit: Exhibit) -> None:
    real = readouts_room.auc
    exhibit.replace(readouts_room, "auc", lambda values, on: real(-values, on))


def _first_of_all(exhibit: Exhibit) -> None:
    exhibit.replace(latents_room, "drawn", lambda among, draws, _: [int(among[0])] * draws)


def _without_random_directions(exhibit: Exhibit) -> None:
    real = run_room.measure

    def alone(*arguments: Any) -> Any:
        found = real(*arguments)
        for effects in found.effect.values():
            del effects["random_direction"]
        return found

    exhibit.replace(run_room, "measure", alone)


def spanned() -> Tensor:
    """What three latents span, as orthonormal rows."""
    return torch.linalg.qr(random_sae(0).W_dec[:3].T).Q.T


def _patched() -> None:
    model, traces = world()
    tokens = traces.splits["test"][:8].long()
    source = torch.zeros(model.cfg.d_model)
    intervene(model, tokens, HOOK, interchange_subspace(spanned(), source), torch.tensor([1]), [read_at()])


def _oblique(exhibit: Exhibit) -> None:
    exhibit.replace(sys.modules[__name__], "spanned", lambda: random_sae(0).W_dec[:3])


def read_at() -> str:
    """Where the effect of an edit is read."""
    return last_residual(world()[0])


def _ablated() -> None:
    model, traces = world()
    intervene(model, traces.splits["test"][:8].long(), HOOK, ablate(true_sae(0), 0), torch.tensor([1]), [read_at()])


def _read_at_the_edit(exhibit: Exhibit) -> None:
    exhibit.replace(sys.modules[__name__], "read_at", lambda: HOOK)


FAULTS = (
    Fault(
        "ablation_of_nothing", "RL-Decoder 2.4.2", "An ablation that ablates nothing",
        "The 'causal ablation' ablated nothing: it correlated the variance of five features with that of the same five "
        "in the same noise.",
        "the code that goes on from an edited activation goes on from the unedited one.",
        bases.nothing, _edits_nothing, tested,
        r"bit_0=1: the output is the same, bit for bit, after every edit in \d+ directions of up to 4 standard devia",
    ),
    Fault(
        "latent_that_only_reads", "HUSAI 1.4, RL-Decoder 2.4.7", "A latent that follows a state and moves nothing",
        "Features were called causal by a product of mean and standard deviation, or because any edit raises the error "
        "of a linear decoder. The ablation of a single one, done at last, had an effect of 0.0000.",
        "the latents' encoders are as they were, and their decoder rows are directions that the model does not read.",
        bases.nothing, _reads_and_moves_nothing, tested,
        r"0 of 1 concepts pass: bit_0=1: the latents move its log-odds by # at a KL divergence of #, .* by # \(p 1\)",
    ),
    Fault(
        "patch_without_random", "RL-Decoder 2.4.6", "A patch without a random one beside it",
        "A patch of 128 features moved the answer in 21 of 24 layers by a little; no random subspace was patched, so "
        "that nobody can say what any patch of that size would have done.",
        "the code that measures edits leaves out what random directions do.",
        bases.nothing, _without_random_directions, tested,
        r"bit_0=1: the effect at equal norm stands without 'random_direction', allowed: beside every one of",
    ),
    Fault(
        "latents_drawn_with_a_bias", "RL-Decoder 2.3", "Random latents that are not random",
        "The dimensions of the causal test were sampled with a bias.",
        "the code that draws random latents takes the first.",
        bases.nothing, _first_of_all, tested,
        r"random latents: 10 of them are drawn \[1000, 0, .* allowed: each about 100 times",
    ),
    Fault(
        "patch_along_oblique_rows", "RL-Decoder 2.4.6", "A projection that is none",
        "What was patched was D D^T of the difference, with decoder rows in D that are not orthogonal: no projection, "
        "with a gain above one.",
        "the span of three latents is given by their decoder rows as they are.",
        bases.nothing, _oblique, _patched,
        r"interchange of a subspace: found rows whose products are off those of orthonormal ones by #, allowed: at m",
    ),
    Fault(
        "polarity_inverted", "RL-Decoder 2.3", "A read-out with its sign turned",
        "The polarity of a ROC curve was inverted: what told least was reported as telling most.",
        "the code that scores a read-out on unedited rows turns its sign.",
        bases.nothing, _inverted, tested,
        r"no read-out behind blocks\.0\.hook_resid_post tells any of bit_0=1 from unedited test rows \(auc of #",
    ),
    Fault(
        "read_where_edited", "RL-Decoder 2.4.7", "An effect that is the edit itself",
        "Every edit of a latent, dead ones included, moves what is read in front of the model: the error of a linear "
        "decoder rose for all of them, and the test could not fail.",
        "the effect is read at the hook point of the edit.",
        bases.nothing, _read_at_the_edit, _ablated,
        r"a read-out at 'blocks\.0\.hook_resid_post' .* found the edited activation itself, allowed: a hook point str",
    ),
)  # fmt: skip
