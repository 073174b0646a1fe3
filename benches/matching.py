"""How long it takes to match two dictionaries one to one: reseed.matching against scipy's linear_sum_assignment.

    python benches/matching.py                      # on the CPU, up to 32,768 latents
    python benches/matching.py --latents 131072     # the size whose published run took 8 h and over 300 GB
    python benches/matching.py --device cuda

Float32 rows, at random on the sphere; where a fraction is shared, that part of the second dictionary is a noisy copy of
the first at cosine 0.8, in another order. Each case is a process of its own: seconds are of the whole match, cosines
included, after compilation; peak MB is that of the process, with its imports and both dictionaries. The gap is per
pair; `against scipy` is scipy's time over reseed's, and `sum - scipy's` the difference of the sums of float64 cosines.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benches.measure import environment, machine, resident  # noqa: E402 (a script, not a package)

LATENTS = (1024, 4096, 16384, 32768)
SHARED = (0.0, 0.5)
DENSE = 16384
"""Up to so many latents, scipy's solver runs too (2 GB of cosines)."""
NOISE = 0.75
"""Of a shared latent's copy, to its length: a cosine of 1 / sqrt(1 + NOISE**2) = 0.8."""


def dictionaries(latents: int, d: int, shared: float) -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)

    def unit(rows: Any) -> Any:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    a = unit(random.standard_normal((latents, d), dtype=np.float32))
    b = unit(random.standard_normal((latents, d), dtype=np.float32))
    copies = round(shared * latents)
    b[:copies] = unit(a[:copies] + np.float32(NOISE) * b[:copies])
    return a, b[random.permutation(latents)]


def child(solver: str, latents: int, d: int, shared: float, threads: int, device: str) -> None:
    import numpy as np
    import torch
    from scipy.optimize import linear_sum_assignment

    from reseed.assignment import sparse_match
    from reseed.matching import match

    torch.set_num_threads(threads)
    a, b = dictionaries(latents, d, shared)
    sparse_match(a[:100], b[:100], device=device)  # compiled before the clock starts
    gap = None
    started = time.perf_counter()
    if solver == "reseed":
        found = match(a, b, device=device)
        rows, columns, gap = found.rows, found.columns, found.gap
    else:
        rows, columns = linear_sum_assignment(a.astype(np.float64) @ b.T.astype(np.float64), maximize=True)
    seconds = time.perf_counter() - started
    total = float(np.einsum("nd,nd->n", a[rows], b[columns], dtype=np.float64).sum())
    print(json.dumps({"seconds": seconds, "peak": resident("VmHWM"), "gap": gap, "sum": total}))


def run(solver: str, latents: int, shared: float, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", solver, "--latents", str(latents), "--shared", str(shared)]
    command += ["--d", str(arguments.d), "--threads", str(arguments.threads), "--device", arguments.device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(arguments.threads))
    if done.returncode != 0:
        raise SystemExit(f"{solver}: its process ended; run `{' '.join(command)}` by hand")
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def main() -> None:
    def integers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    def fractions(text: str) -> tuple[float, ...]:
        return tuple(float(part) for part in text.split(","))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=integers, default=LATENTS, help="sizes, as 1024,131072")
    parser.add_argument("--shared", type=fractions, default=SHARED, help="fractions, as 0,0.5")
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        one = (arguments.latents[0], arguments.d, arguments.shared[0], arguments.threads, arguments.device)
        child(arguments.child, *one)
        return
    print(f"{machine(arguments.device)}, {arguments.threads} threads, d = {arguments.d}\n")
    print("| latents | shared | seconds | peak MB | gap | scipy's seconds | its MB | against scipy | sum - scipy's |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for latents in arguments.latents:
        for shared in arguments.shared:
            ours = run("reseed", latents, shared, arguments)
            line = f"| {latents} | {shared:g} | {ours['seconds']:.2f} | {ours['peak']:.0f} | {ours['gap']:.1g} |"
            if latents <= DENSE:
                dense = run("scipy", latents, shared, arguments)
                line += f" {dense['seconds']:.2f} | {dense['peak']:.0f} | {dense['seconds'] / ours['seconds']:.1f} |"
                line += f" {ours['sum'] - dense['sum']:.1g} |"
            else:
                line += " | | | |"
            print(line, flush=True)


if __name__ == "__main__":
    main()
