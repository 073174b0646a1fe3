"""DVC's plots as pictures, drawn here: the HTML page of `dvc plots show` fetches its drawing library from the web."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import vl_convert
import yaml

from reseed import ReseedError
from reseed.artifacts import writing

VEGA_LITE = "5.20"


def render(out: Path = Path("dvc_plots"), revisions: tuple[str, ...] = ()) -> list[Path]:
    """Draw every plot of the pipeline as SVG and PNG into `out`; several git revisions are drawn into one picture.

    Raises ReseedError if DVC cannot make the plots.
    """
    paths = []
    for name, spec in specifications(revisions).items():
        stem = out / re.sub(r"[^\w.@-]+", "_", name.removeprefix("dvc.yaml::").removesuffix(".csv"))
        svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
        with writing(stem.with_name(stem.name + ".svg")) as partial:
            partial.write_text(svg)
        with writing(stem.with_name(stem.name + ".png")) as partial:
            partial.write_bytes(vl_convert.svg_to_png(svg, scale=2))
        paths += [stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")]
    return paths


def specifications(revisions: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The filled Vega-Lite specification of every plot by DVC's name for it."""
    command = ["dvc", "plots", "diff", *revisions, "--json"] if revisions else ["dvc", "plots", "show", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReseedError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    answer = json.loads(done.stdout)
    made = _made()
    if errors := [error for error in answer.get("errors", []) if Path(error["source"]) in made]:
        raise ReseedError(f"{' '.join(command)}: {errors[0]}")
    return {name: plots[0]["content"] for name, plots in answer["data"].items() if plots}


def _made() -> set[Path]:
    """What the studies that were run have made: only there does a missing file mean a fault."""
    locks = [Path("dvc.lock"), *sorted(Path("studies").glob("*/dvc.lock"))]
    read = [yaml.load(lock.read_text(), yaml.CSafeLoader) for lock in locks if lock.is_file()]
    stages = [stage for lock in read for stage in lock.get("stages", {}).values()]
    return {Path(out["path"]) for stage in stages for out in stage.get("outs", [])}
