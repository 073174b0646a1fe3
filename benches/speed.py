"""How fast S TopK SAEs train at once: reseed against SAELens' MultiSAETrainer and dictionary_learning.

    make bench            # on the CPU, with the threads of params.yaml
    python benches/speed.py --device cuda --shape 128,1024,32,1024 --seeds 1,5,8

Each trainer lives in a process of its own, which tells its peak memory, and takes its turn: one warm-up, then rounds in
which the trainers follow each other, so that whatever slows the machine slows all of them. Same rows, batch, precision,
learning rate and number of steps; printed are medians over the rounds, ratios from the same run, and the loss that each
has reached (mean over its SAEs and the last round). The peers step on one batch for all seeds, which is all they can
do; reseed also gathers each seed's own batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benches.measure import Turns, machine, resident

SHAPES = ((128, 1024, 32, 1024), (768, 6144, 32, 4096))
SEEDS = (1, 5, 8)
TRAINERS = ("SAELens", "dictionary_learning", "reseed")
SECONDS = 2.0
"""How long a round of one trainer should take at least."""
ROUNDS = 5
MIN_STEPS = 30
"""Steps that every trainer takes before the clock (4 where one takes over a second)."""


def rows_for(d_in: int, batch: int) -> Any:
    """Centred sums of 32 of 4 d_in unit features: 32 batches of mean square norm d_in."""
    import torch

    random = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(4 * d_in, d_in, generator=random), dim=1)
    blocks = []
    for _ in range(32):
        codes = torch.rand(batch, 4 * d_in, generator=random)
        codes = torch.where(codes < 8 / d_in, 0.5 + torch.rand(codes.shape, generator=random), 0)
        blocks.append(codes @ features)
    rows = torch.cat(blocks)
    rows -= rows.mean(0)
    return rows * (d_in / rows.square().sum(1).mean()).sqrt()


def stepper(
    trainer: str, rows: Any, seeds: int, d_in: int, d_sae: int, k: int, batch: int, device: str
) -> Callable[[int], Any]:
    """step(i) takes one step of every SAE on its i-th batch and returns the reconstruction losses."""
    import torch

    if trainer == "reseed":
        return reseed_stepper(rows, seeds, d_sae, k, batch, device)
    from benches.peers import dictionary_learning_stepper, saelens_stepper

    make = {"SAELens": saelens_stepper, "dictionary_learning": dictionary_learning_stepper}[trainer]
    step = make(range(seeds), d_in, d_sae, k, device)
    batches = rows.to(device).split(batch)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(1)).tolist()
    return lambda i: step(batches[order[i % len(batches)]])


def reseed_stepper(rows: Any, seeds: int, d_sae: int, k: int, batch: int, device: str) -> Callable[[int], Any]:
    import torch

    from reseed.activations.store import Activations
    from reseed.params import Convergence, SaeTraining, TopK, Train
    from reseed.saes.rows import Feed
    from reseed.saes.train import architecture_of, one_step, start

    shard = [{"activations": rows}]
    activations = Activations({"train": shard, "validation": [{"activations": rows[:64]}]}, {})
    tolerance = Convergence(loss_tolerance=0.1, loss_rise_tolerance=0.1, cosine_tolerance=0.1, max_cosine_to_init=0.9)
    train = Train.model_construct(seeds=tuple(range(seeds)), vary="both", convergence=tolerance)
    training = SaeTraining(
        batch_size=batch, lr=3e-4, warm_up_steps=1, max_steps=10**6, decay_fraction=0, check_every=10**6, min_steps=1,
        aux_k=d_sae // 2, aux_coefficient=1 / 32, dead_after_steps=1000,
    )  # fmt: skip
    variant = TopK(architecture="topk", d_sae=d_sae, k=k)
    feed = Feed(activations, "mean", torch.device(device))
    architecture = architecture_of(variant, training, feed)
    run = start(architecture, training, train, feed, (k,))

    def step(_: int) -> list[float]:
        run.step += 1
        run.sums = {}
        one_step(architecture, training, run, feed)
        losses: list[float] = run.sums["loss/reconstruction"].tolist()
        return losses

    return step


def child(arguments: argparse.Namespace) -> None:
    """Take turns: each line on stdin is a number of steps; the answer is their time, mean loss and peak memory."""
    import torch

    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    import benches.peers  # noqa: F401
    import reseed.saes.train  # noqa: F401 (memory is counted from after the imports and the making of the rows)

    d_in, d_sae, k, batch = arguments.shape[0]
    rows = rows_for(d_in, batch)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    step = stepper(arguments.child, rows, arguments.seeds[0], d_in, d_sae, k, batch, arguments.device)
    taken = 0
    for line in sys.stdin:
        losses: list[float] = []
        started = time.perf_counter()
        for _ in range(int(line)):
            losses += step(taken)
            taken += 1
        if arguments.device == "cuda":
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resident("VmHWM") - before
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "loss": statistics.mean(losses), "peak": peak}), flush=True)


def compare(shape: tuple[int, ...], seeds: int, threads: int, device: str) -> list[dict[str, Any]]:
    batch = shape[3]
    of_shape = [
        "--shape",
        ",".join(map(str, shape)),
        "--seeds",
        str(seeds),
        "--threads",
        str(threads),
        "--device",
        device,
    ]
    with Turns(__file__, TRAINERS, of_shape, threads) as turns:
        # as many steps for all, from the time that the slowest takes for two
        slowest = max(turns.turn(trainer, 2)["seconds"] for trainer in TRAINERS)
        slowest = max(turns.turn(trainer, 2)["seconds"] for trainer in TRAINERS) / 2
        steps = max(1, round(SECONDS / slowest))
        if slowest < 1:
            for trainer in TRAINERS:
                turns.turn(trainer, MIN_STEPS - 4)
        rounds: dict[str, list[dict[str, float]]] = {trainer: [] for trainer in TRAINERS}
        for _ in range(ROUNDS):
            for trainer in TRAINERS:
                rounds[trainer].append(turns.turn(trainer, steps))
    table = []
    for trainer in TRAINERS:
        seconds = statistics.median(row["seconds"] for row in rounds[trainer]) / steps
        table.append(
            {
                "trainer": trainer,
                "ms": 1000 * seconds,
                "per_second": seeds * batch / seconds,
                "spread": max(row["seconds"] for row in rounds[trainer]) / min(r["seconds"] for r in rounds[trainer]),
                "loss": rounds[trainer][-1]["loss"],
                "peak": max(row["peak"] for row in rounds[trainer]),
            }
        )
    return table


def main() -> None:
    def shapes(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=shapes, action="append", help="d_in,d_sae,k,batch; may be repeated")
    parser.add_argument("--seeds", type=shapes, default=SEEDS, help="numbers of SAEs, as 1,5,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    print(f"{machine(arguments.device)}, {arguments.threads} threads, float32, medians of {ROUNDS} rounds\n")
    print("| d_in, d_sae, k, batch | SAEs | trainer | activations/s | ratio | ms/step | loss | peak MB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for shape in arguments.shape or SHAPES:
        for seeds in arguments.seeds:
            table = compare(shape, seeds, arguments.threads, arguments.device)
            base = table[0]["per_second"]
            for row in table:
                print(
                    f"| {', '.join(map(str, shape))} | {seeds} | {row['trainer']} | {row['per_second']:,.0f} | "
                    f"{row['per_second'] / base:.2f} | {row['ms']:.1f} | {row['loss']:.4g} | {row['peak']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
