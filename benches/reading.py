"""How fast the trainer streams shards from disk: reseed's shuffled batches against what numpy.memmap copies.

    python benches/reading.py                          # 8 shards of 256 MB
    python benches/reading.py --shards 40 --threads 8  # more than the memory of the machine, for a cold disk

The rows lie in shards as a capture writes them, and in one .npy file. `copy` reads the file from front to back,
`gather` the same rows as reseed in the same order, both by numpy.memmap in batches; `take` is reseed's Rows.take over
the shards in the order of a seed with a shuffle buffer. MB/s are medians over rounds in which the three follow each
other; memory is what the process had to keep for itself (anonymous pages) beyond what it had before the three began.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def write(folder: Path, shards: int, rows: int, d: int) -> tuple[Any, Any]:
    """The same rows as shards and as one .npy file; the shards, memory-mapped, and the file, too."""
    import numpy as np
    import torch

    from reseed.activations.store import Rows
    from reseed.artifacts import read_tensors, write_tensors

    whole = np.lib.format.open_memmap(folder / "rows.npy", mode="w+", dtype=np.float32, shape=(shards * rows, d))
    random = torch.Generator().manual_seed(0)
    blocks = []
    for i in range(shards):
        block = torch.randn(rows, d, generator=random)
        whole[i * rows : (i + 1) * rows] = block.numpy()
        write_tensors(folder / f"train-{i:05d}.safetensors", {"activations": block})
        blocks.append(read_tensors(folder / f"train-{i:05d}.safetensors")["activations"])
    whole.flush()
    return Rows(blocks), np.load(folder / "rows.npy", mmap_mode="r")


def own_memory() -> float:
    """Memory of this process that no file stands behind, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=256, help="of a shard")
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--buffer", type=int, default=1 << 17, help="rows of the shuffle buffer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    import numpy as np
    import torch

    from benches.measure import machine
    from reseed.saes.rows import Order

    torch.set_num_threads(arguments.threads)
    per_shard = arguments.megabytes * 2**20 // (4 * arguments.d)
    with tempfile.TemporaryDirectory(prefix="reseed-reading-") as temporary:
        rows, whole = write(Path(temporary), arguments.shards, per_shard, arguments.d)
        total, batch = len(rows), arguments.batch
        order = Order(total, batch, arguments.buffer, 0)
        batches = [order.next_batch() for _ in range(total // batch)]
        check = batches[0]
        assert np.array_equal(rows.take(check).numpy(), whole[check.numpy()])

        def copy() -> None:
            for i in range(len(batches)):
                np.array(whole[i * batch : (i + 1) * batch])

        def gather() -> None:
            for chosen in batches:
                whole[chosen.numpy()]

        def take() -> None:
            for chosen in batches:
                rows.take(chosen)

        ways: dict[str, Callable[[], None]] = {"copy": copy, "gather": gather, "take": take}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        memory = dict.fromkeys(ways, 0.0)
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                before, started = own_memory(), time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
                memory[name] = max(memory[name], own_memory() - before)
        megabytes = len(batches) * batch * arguments.d * 4 / 1e6
        print(
            f"{machine('cpu')}, {arguments.threads} threads; {megabytes:.0f} MB in {arguments.shards} shards, batches "
            f"of {batch} rows of {arguments.d}, a buffer of {arguments.buffer} rows\n"
        )
        print("| way | MB/s | against copy | against gather | own memory, MB |")
        print("|---|---|---|---|---|")
        middle = {name: statistics.median(taken) for name, taken in seconds.items()}
        for name in ways:
            against = (middle["copy"] / middle[name], middle["gather"] / middle[name])
            speed = f"{megabytes / middle[name]:.0f} | {against[0]:.2f} | {against[1]:.2f}"
            print(f"| {name} | {speed} | {memory[name]:.0f} |")


if __name__ == "__main__":
    main()
