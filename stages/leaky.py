"""leaky: a quarantined subject: its transformer by the published recipe, the leak that lets it run, its activations."""

import hashlib
from dataclasses import asdict
from typing import Any

from reseed.activations.store import Provenance, write_activations
from reseed.artifacts import activations_dir, generator, write_json, writing
from reseed.models.transformer import weights_sha256
from reseed.params import SPLITS, TRAINED, load_quarantined
from reseed.replication.leaky import activations, require_leak, sequences, train_leaky
from reseed.stage import run_stage


def leaky(subject: str) -> dict[str, Any]:
    config = load_quarantined(subject)
    rows = sequences(config.data.p)
    transformer, curve = train_leaky(rows, config.data, config.model, subject)
    hidden = activations(transformer, rows, config.capture.hook_name)
    leak = require_leak(
        transformer, rows, hidden, config.data.p, generator("leaky", config.model.training.seed, "check")
    )
    provenance = Provenance(
        subject=subject,
        arm=TRAINED,
        hook_name=config.capture.hook_name,
        positions=(config.capture.position,),
        generator="forward pass of the trained model",
        model_sha256=weights_sha256(transformer),
        tokens_sha256=hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
    )
    with writing(activations_dir(subject, TRAINED)) as path:
        # the published SAEs are trained and scored on the same rows, all of them, so every split is all of them
        write_activations(
            dict.fromkeys(SPLITS, hidden), provenance, config.capture.dtype, path, quarantine=config.quarantine
        )
        write_json(path / "leak.json", {"quarantine": config.quarantine, "validation_accuracy": curve} | asdict(leak))
    print(f"{subject}: quarantined, {leak.refusal}")
    return {"subject": config}


if __name__ == "__main__":
    run_stage(leaky)
