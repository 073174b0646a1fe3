"""describe: the small tracked summary of a subject, from the records inside its cached artefacts.

A stage of its own, because DVC's run-cache carries a stage between machines only if all its outputs are cached; the
expensive stages before it therefore track nothing in git.
"""

from pathlib import Path
from typing import Any

from reseed.artifacts import activations_dir, lm_dir, raw_dir, read_json, tokens_dir, write_json
from reseed.params import TRAINED
from reseed.stage import run_stage


def describe(subject: str, control: str) -> dict[str, Any]:
    quality = read_json(tokens_dir(subject) / "quality.json")
    summary: dict[str, Any] = {
        "licence": read_json(raw_dir(subject) / "manifest.json")["licence"],
        "model": read_json(lm_dir(subject) / "metrics.json"),
        "sequences": {split: counts["sequences"] for split, counts in quality.items()},
    }
    for fault in ("duplicates", "leaked", "seen_prefixes"):
        if found := {split: counts[fault] for split, counts in quality.items() if fault in counts}:
            summary[fault] = found
    for arm in dict.fromkeys((TRAINED, control)):
        index = read_json(activations_dir(subject, arm) / "index.json")
        summary[arm] = {
            name: index[name] for name in ("d_in", "effective_dimension", "effective_rank", "mean_norm", "variance")
        }
    write_json(Path("metrics") / subject / "subject.json", summary)
    return {}


if __name__ == "__main__":
    run_stage(describe)
