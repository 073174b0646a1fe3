"""The trainer: all seeds of a variant in one stacked run, each with its own initialisation, data order and stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from reseed.activations.store import Activations
from reseed.artifacts import generator
from reseed.params import Convergence, SaeTraining, Train, Variant
from reseed.saes import kernels
from reseed.saes.architectures import REGISTRY, Architecture, Batch, RouteSaeArchitecture, Stack, TranscoderArchitecture
from reseed.saes.checkpoint import Fingerprint, load_checkpoint, remove_checkpoint, save_checkpoint
from reseed.saes.checks import check_trainable
from reseed.saes.convergence import judge
from reseed.saes.objectives import add_objectives, check_objectives, refresh_partners
from reseed.saes.rows import BLOCK_ROWS, Feed, Order, Scale, seen_by
from reseed.saes.run import Member, Run, TrainedSae
from reseed.saes.step import Scratch, gradients_of, is_sparse, resample, sparse_code, take_step
from reseed.stage import progress

SEEN_ROWS = 256
SMALL_STEP = 1 << 24
"""Weights of the stack times rows of a step, up to which a second thread costs more than it does."""

Log = Callable[[int, dict[str, float]], None]


def train_saes(
    variant: Variant,
    training: SaeTraining,
    train: Train,
    activations: Activations,
    device: torch.device,
    ks: tuple[int, ...] | None = None,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> list[TrainedSae]:
    """Train one SAE a seed, in the order of `train.seeds`, on the training rows; stop each by the validation rows.

    A member of the stack gets the bytes that it would get alone up to the rounding of batched products; seeds that an
    objective couples form groups, and a group does. A seed that converges decays its learning rate to zero and leaves
    the stack; one that does not by `max_steps` ends with `converged` False. With `ks` several sparsities of an
    architecture that has k share the stack, all seeds of the first k first. With `checkpoint` the run is saved there
    every `checkpoint_every` steps, continued from there, and the file removed at the end. `log` gets every check.
    Raises ReseedError for what cannot be trained, and for a checkpoint of another run.
    """
    activations = seen_by(variant, activations)
    check_trainable(variant, training, activations, ks)
    feed = Feed(activations, training.centre, device)
    check_objectives(variant, training, feed, train.seeds)
    architecture = architecture_of(variant, training, feed)
    run = start(architecture, training, train, feed, ks_of(variant, ks))
    fingerprint = Fingerprint.of(variant, training, train, ks, activations)
    # by all members, whichever are left of a run that is continued
    small = _weights(run.stack) * training.batch_size <= SMALL_STEP
    if checkpoint is not None:
        load_checkpoint(run, checkpoint, fingerprint, device)
    ceiling, size = training.last_constant_step, variant.group_size
    if not run.step:
        _snapshot(architecture, run, feed, list(range(len(run.members))))
    total = training.max_steps * training.batch_size
    with _one_thread(small), progress(total, f"{len(run.members)} SAEs", "row") as bar:
        bar.update(run.step * training.batch_size)
        while run.members:
            run.step += 1
            one_step(architecture, training, run, feed)
            bar.update(training.batch_size)
            everyone = list(range(len(run.members)))
            if run.step >= run.next_snapshot:
                _snapshot(architecture, run, feed, everyone)
                run.next_snapshot *= 2**0.5
            if run.step % training.check_every == 0 or run.step == training.max_steps:
                _check(architecture, training, train.convergence, run, feed, ceiling, size)
                if log is not None:
                    for member in run.members:
                        log(member.seed, member.curve[-1])
                bar.set_postfix_str(f"{len(run.members)} training, {run.members[0].losses[-1]:.4g} unexplained")
                _snapshot(architecture, run, feed, [i for i in everyone if run.members[i].decay_from == run.step])
                finished = [i for i in everyone if run.members[i].finished(run.step, training)]
                _snapshot(architecture, run, feed, finished)
                run.done += [_export(architecture, run, i, feed) for i in finished]
                if finished:
                    run.keep([i for i in everyone if i not in finished])
            if checkpoint is not None and training.checkpoint_every and run.step % training.checkpoint_every == 0:
                save_checkpoint(run, checkpoint, fingerprint)
    if checkpoint is not None:
        remove_checkpoint(checkpoint)
    place = {key: i for i, key in enumerate((k, seed) for k in ks_of(variant, ks) for seed in train.seeds)}
    return sorted(run.done, key=lambda sae: place[sae.k, sae.seed])


def _weights(stack: Stack) -> int:
    return sum(p.numel() for p in stack.parameters.values())


@contextmanager
def _one_thread(small: bool) -> Iterator[None]:
    """One thread for small steps: an SAE has the same bytes from any number of them."""
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ks_of(variant: Variant, ks: tuple[int, ...] | None) -> tuple[int, ...]:
    """The k of each share of the stack; 0 for an architecture that has none."""
    return ks or (getattr(variant, "k", 0),)


def start(
    architecture: Architecture[Variant], training: SaeTraining, train: Train, feed: Feed, ks: tuple[int, ...]
) -> Run:
    """Every member at its initialisation; what `vary` does not name is the same for all seeds."""
    if feed.device.type == "cpu":
        kernels.ready()
    inits = [_init_key(train, seed) for seed in train.seeds]
    orders = [seed if train.vary in ("order", "both") else f"fixed-{train.held}" for seed in train.seeds]
    each = [k for k in ks for _ in train.seeds]
    stack = architecture.initialise(inits * len(ks), each, feed.written)
    add_objectives(architecture.variant, stack, feed)
    refresh_partners(architecture, stack)
    W_dec = _unit(architecture.raw_decoder(stack))
    members = [
        Member(
            seed=train.seeds[i % len(train.seeds)],
            group=_group(train.seeds, i % len(train.seeds), architecture.variant.group_size),
            k=k,
            order=Order(len(feed), training.batch_size, training.buffer_rows, orders[i % len(train.seeds)]),
            resampler=generator("sae", train.seeds[i % len(train.seeds)], "resample"),
            init=W_dec[i].clone(),
        )
        for i, k in enumerate(each)
    ]
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in stack.parameters.items()}
    idle = torch.zeros(len(stack), architecture.variant.d_sae, dtype=torch.int64, device=feed.device)
    return Run(stack, moments, members, idle, {})


def _init_key(train: Train, seed: int) -> object:
    return seed if train.vary in ("init", "both") else f"fixed-{train.held}"


def _group(seeds: tuple[int, ...], place: int, size: int) -> list[int]:
    first = place - place % size
    return list(seeds[first : first + size])


def one_step(architecture: Architecture[Variant], training: SaeTraining, run: Run, feed: Feed) -> None:
    """One optimiser step of every member on the next batch of its own order."""
    objectives = architecture.variant.objectives
    if objectives.consistency and run.step % objectives.consistency.refresh_every == 0:
        refresh_partners(architecture, run.stack)
    indices = torch.stack([member.order.next_batch() for member in run.members])
    batch = feed.batch(indices, following=objectives.temporal_smoothness is not None)
    long_idle = run.idle + 1 >= training.dead_after_steps
    found = gradients_of(architecture, training, run.stack, batch, long_idle, run.step, run.scratch)
    run.idle = torch.where(found.fired, 0, run.idle + 1)
    rates = [member.learning_rate(run.step, training) for member in run.members]
    norms = take_step(architecture, training, run.stack, run.moments, found, rates, run.step)
    logged = {f"loss/{name}": value for name, value in found.terms.items()} | {"gradient_norm": norms}
    for name, value in logged.items():
        run.sums[name] = run.sums[name] + value if name in run.sums else value
    if training.resample_every and run.step % training.resample_every == 0:
        dead = run.idle >= training.dead_after_steps
        resample(architecture, run.stack, run.moments, dead, found, [member.resampler for member in run.members])
        run.idle = torch.where(dead, 0, run.idle)


@torch.no_grad()
def _check(
    architecture: Architecture[Variant],
    training: SaeTraining,
    tolerance: Convergence,
    run: Run,
    feed: Feed,
    ceiling: int,
    group_size: int,
) -> None:
    """Log the held-out loss of every member and begin the decay of the groups that converged or ran out of steps."""
    members, step = run.members, run.step
    held_out = _on_held_out(architecture, run.stack, feed, training.batch_size)
    cosines = (_unit(architecture.raw_decoder(run.stack)) * torch.stack([member.init for member in members])).sum(-1)
    # a latent that never fires stays where it was put, and says nothing about the training of the others
    firing = held_out.fired.repeat(1, cosines.shape[1] // held_out.fired.shape[1])
    cosines = torch.where(firing, cosines, 0).sum(1) / firing.sum(1).clamp(min=1)
    alive = (run.idle < training.dead_after_steps).double().mean(1)
    since = step - (members[0].steps[-1] if members[0].steps else 0)
    means = {name: (value.double() / since).tolist() for name, value in run.sums.items()}
    run.sums = {}
    for i, member in enumerate(members):
        member.steps.append(step)
        member.losses.append(held_out.unexplained[i].item())
        member.cosines.append(cosines[i].item())
        member.curve.append(
            {
                "step": step,
                "unexplained_variance": member.losses[-1],
                "explained_variance": 1 - member.losses[-1],
                "l0": held_out.l0[i].item(),
                "alive_fraction": alive[i].item(),
                "firing_fraction": held_out.fired[i].double().mean().item(),
                "activation_coverage": held_out.coverage[i].item(),
                "cosine_to_init": member.cosines[-1],
                "learning_rate": member.learning_rate(step, training),
                **{name: values[i] for name, values in means.items()},
            }
        )
        verdict = judge(member.steps, member.losses, member.cosines, tolerance)
        if member.decay_from is None and verdict is not None and step >= training.min_steps:
            member.loss_fall, member.cosine_change = verdict.loss_fall, verdict.cosine_change
            member.converged = verdict.converged
    for first in range(0, len(members), group_size):
        group = members[first : first + group_size]
        if group[0].decay_from is None and (all(member.converged for member in group) or step >= ceiling):
            for member in group:
                member.decay_from = step


@dataclass
class _HeldOut:
    """On the held-out rows: error over power [S], mean L0 [S], latents that fire [S, d_sae], rows with any [S]."""

    unexplained: Tensor
    l0: Tensor
    fired: Tensor
    coverage: Tensor


def _on_held_out(architecture: Architecture[Variant], stack: Stack, feed: Feed, size: int) -> _HeldOut:
    # as many rows at once as in a step: a selection over the batch must not depend on how many members there are
    S, d_sae, rows = len(stack), architecture.variant.d_sae, feed.held_out.x.shape[1]
    device = feed.device
    error, power = torch.zeros(S, device=device), torch.zeros(S, device=device)
    active, covered = torch.zeros(S, device=device), torch.zeros(S, device=device)
    fired = torch.zeros(S, d_sae, dtype=torch.bool, device=device)
    sparse, scratch = is_sparse(architecture, device), Scratch()
    for start in range(0, rows, size):
        x = feed.held_out.x[:, start : start + size]
        if sparse:
            code, _ = sparse_code(architecture, stack, x.expand(S, *x.shape[1:]), scratch)
            error += kernels.squared_errors(x, stack.parameters["W_dec"], stack.parameters["b_dec"][:, 0], code)
            power += x.square().sum()
            active += code.rowptr[:, -1]
            covered += (code.rowptr.diff(dim=1) > 0).sum(1)
            fired |= code.fired(d_sae)
            continue
        target = feed.held_out.target[:, start : start + size]
        forward = architecture.forward(stack, Batch(x.expand(S, *x.shape[1:]), target.expand(S, *target.shape[1:])))
        error += (forward.target - forward.out).square().sum((1, 2))
        power += forward.target.square().sum((1, 2))
        on = forward.acts > 0
        active += on.sum((1, 2))
        covered += on.any(-1).sum(-1)
        fired |= on.any(1)
    return _HeldOut(error / power, active / rows, fired, covered / rows)


@torch.no_grad()
def _snapshot(architecture: Architecture[Variant], run: Run, feed: Feed, which: list[int]) -> None:
    for i in which:
        one = run.stack.select([i])
        architecture.calibrate(one, feed.calibration)
        decoder, encoder = _unit(architecture.raw_decoder(one))[0], one.parameters["W_enc_T"][0].T
        run.members[i].snapshots[run.step] = (decoder.clone(), encoder.clone(), firing_counts(architecture, one, feed))


@torch.no_grad()
def firing_counts(architecture: Architecture[Variant], stack: Stack, feed: Feed) -> Tensor:
    """How many of the training rows each latent of a single-member stack fires on: int64 [d_sae].

    Counted on an evenly spread sample, and scaled up, where there are more than CALIBRATION_ROWS training rows.
    """
    counts = torch.zeros(architecture.variant.d_sae, dtype=torch.int64, device=feed.device)
    # a threshold needs no selection
    sparse, scratch = is_sparse(architecture, feed.device) and not architecture.has_threshold, Scratch()
    for block in feed.calibration.split(BLOCK_ROWS):
        if sparse:
            code, _ = sparse_code(architecture, stack, block.unsqueeze(0), scratch)
            counts += code.index[0, : int(code.rowptr[0, -1])].long().bincount(minlength=len(counts))
        else:
            counts += (architecture.infer(stack, block.unsqueeze(0)) > 0).sum(1)[0]
    if len(feed) > len(feed.calibration):
        counts = (counts.double() * len(feed) / len(feed.calibration)).round().long()
    return counts


@torch.no_grad()
def _export(architecture: Architecture[Variant], run: Run, i: int, feed: Feed) -> TrainedSae:
    member, one = run.members[i], run.stack.select([i])
    architecture.calibrate(one, feed.calibration)
    return TrainedSae(
        seed=member.seed,
        group=member.group,
        k=member.k,
        weights=fold(architecture, one, feed.scale, feed.target_scale),
        firing_counts=member.snapshots[run.step][2],
        seen=_seen(architecture, one, feed),
        converged=member.converged,
        steps=run.step,
        constant_steps=member.decay_from or run.step,
        loss_fall=member.loss_fall,
        cosine_change=member.cosine_change,
        cosine_to_init=member.cosines[-1],
        snapshots=member.snapshots,
        curve=member.curve,
    )


@torch.no_grad()
def _seen(architecture: Architecture[Variant], one: Stack, feed: Feed) -> tuple[Tensor, Tensor, Tensor]:
    x = feed.held_out.x[:, :SEEN_ROWS]
    acts = architecture.infer(one, x)
    out = architecture.reconstruct(one, x, acts)
    acts, rows = architecture.in_output_units(one, acts)[0], feed.held_out_raw[:SEEN_ROWS]
    if isinstance(architecture, RouteSaeArchitecture):
        return rows, acts, out[0]
    return rows, acts / feed.target_scale.factor, feed.target_scale.centre + out[0] / feed.target_scale.factor


def initial_weights(
    variant: Variant, training: SaeTraining, train: Train, seed: int, activations: Activations
) -> dict[str, Tensor]:
    """The weights that `seed` trained from, as an SAE for raw activations (a threshold calibrated as at the end)."""
    feed = Feed(seen_by(variant, activations), training.centre, torch.device("cpu"))
    architecture = architecture_of(variant, training, feed)
    one = architecture.initialise([_init_key(train, seed)], ks_of(variant, None), feed.written)
    architecture.calibrate(one, feed.calibration)
    return fold(architecture, one, feed.scale, feed.target_scale)


def architecture_of(variant: Variant, training: SaeTraining, feed: Feed) -> Architecture[Variant]:
    made: Architecture[Variant] = REGISTRY[variant.architecture](
        variant, feed.d_in, feed.d_out, feed.n_layers, training.decoder_norm == "unit"
    )
    return made


def fold(architecture: Architecture[Variant], one: Stack, scale: Scale, target_scale: Scale) -> dict[str, Tensor]:
    """The weights of a single-member stack such that the SAE reads and writes raw activations, with unit decoder rows.

    Normalisation is x -> (x - centre) * factor. Activations shrink by the target's factor, so W_enc is multiplied by
    factor / target factor (one for an SAE) and biases and thresholds are divided by the target's. An SAE subtracts
    b_dec from its input, a transcoder does not. A router mixes layers before anything could be folded: its SAE keeps
    the normalisation as `layer_mean` and `layer_scale`.
    """
    p = {name: tensor[0] for name, tensor in one.parameters.items()}
    norms = architecture.norms(one)
    length = torch.ones_like(p["b_enc"][0]) if norms is None else norms[0, 0]
    W_enc = p["W_enc_T"].T * length
    b_enc = p["b_enc"][0] * length
    weights = {"W_dec": _unit(architecture.raw_decoder(one))[0], "b_dec": p["b_dec"][0]}
    thresholds = {}
    if architecture.has_threshold:
        # what it was calibrated on already counts the norms of the decoder rows
        thresholds["threshold"] = one.buffers["threshold"][0].expand(len(length))
    elif "threshold" in p:
        thresholds["threshold"] = p["threshold"][0] * length
    if "W_router" in p:
        layers = {"W_router": p["W_router"], "layer_mean": scale.centre, "layer_scale": scale.factor[:, 0]}
        if len(weights["W_dec"]) > architecture.variant.d_sae:
            weights["W_dec"] = weights["W_dec"].unflatten(0, (architecture.n_layers, -1))
        return {"W_enc": W_enc.contiguous(), "b_enc": b_enc, **weights, **layers}
    factor = target_scale.factor
    biases = {"b_enc": b_enc / factor}
    if "r_mag" in p:
        biases = {"b_gate": b_enc / factor, "b_mag": p["b_mag"][0] * length / factor, "r_mag": p["r_mag"][0]}
    weights["b_dec"] = target_scale.centre + p["b_dec"][0] / factor
    if isinstance(architecture, TranscoderArchitecture):
        ratio = scale.factor / factor
        W_enc = W_enc * ratio
        biases["b_enc"] = biases["b_enc"] - scale.centre @ W_enc
        if "W_skip" in p:
            # [d_out, d_in], as SAELens has it
            weights["W_skip"] = (p["W_skip"] * ratio).T.contiguous()
            weights["b_dec"] = weights["b_dec"] - weights["W_skip"] @ scale.centre
    folded = {name: threshold / factor for name, threshold in thresholds.items()}
    return {"W_enc": W_enc.contiguous(), **biases, **weights, **folded}


def _unit(rows: Tensor) -> Tensor:
    return normalize(rows, dim=-1)
