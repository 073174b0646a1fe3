"""compare: variants of one subject in one table, each against its controls and a baseline, corrected for how many."""

from pathlib import Path
from typing import Any

from reseed.artifacts import metrics_dir, read_json, write_json
from reseed.params import load_params, load_study, lookup
from reseed.stability.variants import compare_variants
from reseed.stage import run_stage


def compare(study_file: str, name: str) -> dict[str, Any]:
    asked = lookup(load_study(Path(study_file)).comparisons, name, f"{study_file}: comparisons")
    evidence = {
        variant: read_json(metrics_dir(asked.subject, variant) / "stability.json")
        for variant in dict.fromkeys(asked.variants)
    }
    table = compare_variants(
        evidence,
        asked.baseline,
        asked.gain,
        asked.explained_variance_drop,
        load_params().stability.confidence,
        asked.l0_tolerance,
    )
    write_json(Path("metrics") / "comparisons" / f"{name}.json", table)
    return {"comparison": asked}


if __name__ == "__main__":
    run_stage(compare)
