"""replicate: published figures by their own recipe on a quarantined subject, beside the corrected ones."""

from pathlib import Path
from typing import Any

from reseed import ReseedError
from reseed.activations.store import read_activations, read_truth
from reseed.artifacts import activations_dir, metrics_dir, read_json, write_json, writing
from reseed.params import TRAINED, load_params
from reseed.replication.husai import published_figures
from reseed.replication.song import song_l1
from reseed.replication.table import CORRECTED, SYNTHETIC, Table, husai_rows, song_rows
from reseed.stage import run_stage


def replicate(quarantined: str, subject: str, synthetic: str) -> dict[str, Any]:
    confidence = load_params().stability.confidence
    folder = activations_dir(quarantined, TRAINED)
    activations = read_activations(folder)
    if "quarantine" not in activations.index:
        raise ReseedError(
            f"{folder}/index.json: found no key 'quarantine', allowed: the activations of a leaky subject"
        )
    stability = {
        variant: read_json(metrics_dir(name, variant) / "stability.json")
        for name, variants in ((subject, CORRECTED), (synthetic, SYNTHETIC))
        for variant in variants
    }
    world = activations_dir(synthetic, TRAINED)
    truth = read_truth(world)
    if truth is None:
        raise ReseedError(f"{world}/index.json: found no key 'features_sha256', allowed: a world of known features")
    measured = published_figures(activations.splits["train"])
    l1 = song_l1(read_activations(world).splits["train"], truth.directions.double().numpy())
    table = Table(
        rows=husai_rows(measured, stability, confidence) + song_rows(stability, l1),
        measured=measured,
        l1=l1,
        leak=read_json(folder / "leak.json"),
        d_in=activations.d_in,
        confidence=confidence,
    )
    write_json(Path("metrics") / "replication.json", table.content())
    with writing(Path("docs") / "replication.md") as page:
        page.write_text(table.page())
    return {"confidence": confidence}


if __name__ == "__main__":
    run_stage(replicate)
