"""How fast activations are captured to disk: reseed against SAELens' CacheActivationsRunner, same model and text.

    python benches/capture.py                                   # a small model on the CPU
    python benches/capture.py --device cuda --layers 12 --d 768 --n-ctx 512 --tokens 4194304

A GPT of random weights reads packed sequences of random tokens, the residual stream after its middle block is stored in
float32; both stop the forward pass there, in batches of the same size. Each lives in a process of its own and they
take turns: one warm-up, then rounds. Printed are medians, the ratio from the same run, and the peak memory beyond that
of the model and the tokens. Then what the capture adds to a plain forward pass (`reseed.activations.validation`).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benches.measure import Turns, machine, resident

RUNNERS = ("SAELens", "reseed")
VOCABULARY = 4096


def build(arguments: argparse.Namespace) -> Any:
    from reseed.models.transformer import build_transformer
    from reseed.params import Gpt, GptTraining

    training = GptTraining(
        seed=0, batch_size=1, lr=1e-3, weight_decay=0, betas=(0.9, 0.95), warm_up_steps=1, steps=1, check_every=1,
        below_bigram=0,
    )  # fmt: skip
    model = Gpt(
        kind="pretrained_here", n_layers=arguments.layers, d_model=arguments.d, n_heads=max(1, arguments.d // 64),
        d_mlp=4 * arguments.d, act_fn="gelu", normalization_type="LN", training=training,
    )  # fmt: skip
    built = build_transformer(model, VOCABULARY, arguments.n_ctx, "bench").eval()
    built.to(arguments.device, print_details=False)
    return built


def text(arguments: argparse.Namespace) -> Any:
    """Random tokens [n_sequences, n_ctx]."""
    import torch

    shape = (arguments.tokens // arguments.n_ctx, arguments.n_ctx)
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(0), dtype=torch.int32)


def hook(arguments: argparse.Namespace) -> str:
    return f"blocks.{arguments.layers // 2}.hook_resid_post"


def saelens(arguments: argparse.Namespace, model: Any, tokens: Any) -> Callable[[Path], None]:
    import sae_lens.cache_activations_runner as runner
    from datasets import Dataset

    from reseed.activations.language import SHARD_BYTES, TOKENS_PER_BATCH

    dataset = Dataset.from_dict({"tokens": tokens.numpy()})
    runner.load_model = lambda **_: model  # it would fetch one from a hub
    batch = max(1, TOKENS_PER_BATCH[arguments.device] // arguments.n_ctx) * arguments.n_ctx
    if arguments.tokens % batch:
        raise SystemExit(f"--tokens: found {arguments.tokens}, allowed: a multiple of the batch of {batch} tokens")
    # its buffers must fill whole: the largest power of two of batches that fits into one of reseed's shards
    fitting = max(1, min(SHARD_BYTES // (4 * arguments.d), arguments.tokens) // batch)
    batches = math.gcd(1 << (fitting.bit_length() - 1), arguments.tokens // batch)

    def run(folder: Path) -> None:
        config = runner.CacheActivationsRunnerConfig(
            dataset_path="", model_name="bench", model_batch_size=batch // arguments.n_ctx, hook_name=hook(arguments),
            d_in=arguments.d, training_tokens=arguments.tokens, context_size=arguments.n_ctx,
            new_cached_activations_path=str(folder / "cache"), shuffle=False, device=arguments.device,
            buffer_size_gb=(batches * batch * 4 * arguments.d + 1) / 1e9, prepend_bos=False, streaming=False,
        )  # fmt: skip
        stored = runner.CacheActivationsRunner(config, override_dataset=dataset).run()
        assert len(stored) == len(tokens)

    return run


def reseed(arguments: argparse.Namespace, model: Any, tokens: Any, place: Path) -> tuple[Callable[[Path], None], Any]:
    import torch

    from reseed.activations.language import capture_language
    from reseed.activations.store import Provenance
    from reseed.artifacts import read_json, write_json
    from reseed.params import Budget, LanguageCapture
    from reseed.text.sequences import TEXT, read_sequences, write_shard

    place.mkdir()
    splits = {}
    for split, part in (("train", tokens), ("validation", tokens[:1]), ("test", tokens[:1])):
        tensors = {
            "tokens": part,
            "document": torch.arange(len(part), dtype=torch.int32)[:, None].expand(part.shape),
            "kind": torch.full(part.shape, TEXT, dtype=torch.uint8),
            "label": torch.full(part.shape, -1, dtype=torch.int8),
        }
        entry = write_shard(place / f"{split}-00000.safetensors", tensors)
        splits[split] = {"sequences": len(part), "shards": [entry]}
    write_json(place / "index.json", {"n_ctx": arguments.n_ctx, "vocabulary": VOCABULARY, "splits": splits})
    sequences = read_sequences(place)
    options = LanguageCapture(hook_name=hook(arguments), positions="all", dtype="float32", arms=("trained",))
    provenance = Provenance(
        "bench", "trained", hook(arguments), ("all",), "forward pass of the trained model", "m" * 64, "t" * 64
    )

    def run(folder: Path) -> None:
        capture_language(
            model, sequences, options, provenance, folder / "rows", torch.device(arguments.device),
            Budget(activations_gigabytes=1e6, gpu_hours=1e6), folder / "resumable",
        )  # fmt: skip
        assert read_json(folder / "rows" / "index.json")["splits"]["train"]["rows"] == tokens.numel()

    return run, (sequences, options)


def child(arguments: argparse.Namespace, temporary: Path) -> None:
    """Take turns: a line "capture" on stdin is answered by time and peak memory, "cost" by what the validation says."""
    import torch

    from reseed.activations.validation import validate_capture

    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    model, tokens = build(arguments), text(arguments)
    ours = arguments.child == "reseed"
    run, of = (
        reseed(arguments, model, tokens, temporary / "tokens") if ours else (saelens(arguments, model, tokens), None)
    )
    for line in sys.stdin:
        if line.strip() == "cost":
            sequences, options = of
            cost = validate_capture(model, sequences, options, torch.device(arguments.device), tokens=1 << 16, rounds=5)
            print(json.dumps({"cost": str(cost)}), flush=True)
            continue
        with tempfile.TemporaryDirectory(dir=temporary) as folder:
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
            started = time.perf_counter()
            run(Path(folder))
            seconds = time.perf_counter() - started
            print(json.dumps({"seconds": seconds, "peak": resident("VmHWM") - before}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--n-ctx", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=1 << 18)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with tempfile.TemporaryDirectory(prefix="reseed-bench-") as temporary:
            child(arguments, Path(temporary))
        return
    rounds: dict[str, list[dict[str, float]]] = {runner: [] for runner in RUNNERS}
    with Turns(__file__, RUNNERS, sys.argv[1:], arguments.threads) as turns:
        for runner in RUNNERS:
            turns.turn(runner, "capture")
        for _ in range(arguments.rounds):
            for runner in RUNNERS:
                rounds[runner].append(turns.turn(runner, "capture"))
        cost = turns.turn("reseed", "cost")["cost"]
    print(
        f"{machine(arguments.device)}, {arguments.threads} threads; {arguments.layers} layers of {arguments.d}, "
        f"{arguments.tokens:,} tokens in sequences of {arguments.n_ctx}, medians of {arguments.rounds} rounds\n"
    )
    print("| runner | tokens/s | ratio | peak MB |")
    print("|---|---|---|---|")
    rates = {r: arguments.tokens / statistics.median(row["seconds"] for row in rounds[r]) for r in RUNNERS}
    for runner in RUNNERS:
        peak = max(row["peak"] for row in rounds[runner])
        print(f"| {runner} | {rates[runner]:,.0f} | {rates[runner] / rates['SAELens']:.2f} | {peak:.0f} |")
    print(f"\nreseed: {cost}")


if __name__ == "__main__":
    main()
