"""A project whose seed set can be published: the committed metrics, locks and run facts, with small stand-in SAEs."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from sae_lens import SAE

from reseed.artifacts import read_json, write_json
from reseed.claims.registry import Registry
from reseed.params import load, read_yaml
from reseed.reports.card import Said, SeedSet
from reseed.reports.standing import Standing
from reseed.sweeps.objects import directory_md5
from tests.conftest import ROOT

SAVED_AS = {"batchtopk": "jumprelu", "matryoshka": "jumprelu", "transcoder": "jumprelu_transcoder"}
KEPT = ("download@", "tokenize@", "model@", "capture@", "stability@", "claims@")
"""Stages of the lock that the card of one seed set needs, beside those of the seed set itself."""
COMPARED = sorted(
    path.parent.relative_to(ROOT / "metrics").as_posix() for path in ROOT.glob("metrics/*/*/stability.json")
)


def config(subject: str, train: dict[str, Any], seed: int) -> dict[str, Any]:
    """cfg.json as the train stage writes it."""
    variant, about = train["parameters"]["variant"], read_yaml(ROOT / "subjects" / f"{subject}.yaml")
    capture = about.get("capture", {"hook_name": "synthetic"})
    architecture = variant["architecture"]
    return {
        "architecture": SAVED_AS.get(architecture, architecture),
        "d_in": about.get("model", {}).get("d_model") or about["data"].get("d_in") or 384,
        "d_sae": variant["d_sae"],
        **({"k": variant["k"]} if architecture == "topk" else {}),
        "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            **{key: capture[key] for key in ("hook_name", "hook_name_out") if key in capture},
            "model_name": subject, "prepend_bos": False, "model_from_pretrained_kwargs": {}, "reseed_arm": "trained",
            "reseed_seed": seed, "reseed_converged": 1, "reseed_steps": 1000, "reseed_model_sha256": "m" * 64,
            "reseed_activations_sha256": "a" * 64, "sae_lens_version": "6.54.12",
        },
    }  # fmt: skip


def committed(name: str, repo_id: str | None = "some-one/some-saes") -> SeedSet:
    """What publish would read of a seed set whose results are committed, without its SAEs."""
    subject, variant = name.split("/")
    runs = {one["command"]: one for one in map(read_json, sorted(ROOT.glob(f"runs/*@{subject}-*.json")))}
    train = runs[f"python stages/train.py {subject} {variant} trained"]
    begin = f"python stages/stability.py {subject} {variant} "
    stability = next(facts for command, facts in runs.items() if command.startswith(begin))
    about = read_yaml(ROOT / "subjects" / f"{subject}.yaml")
    claims = {
        key: Said(claim.statement, Standing(verdict["verdict"], verdict["standing"]), tuple(verdict["reasons"]))
        for key, claim in load(Registry, ROOT / "claims.yaml").claims.items()
        if f"metrics/{name}/stability.json" in claim.sources
        for verdict in (read_json(ROOT / f"metrics/claims/{key}.json"),)
    }
    return SeedSet(
        subject, variant, {key: about[key] for key in ("data", "model", "capture") if key in about}, train, stability,
        f"stability@{subject}-{variant}",
        {f"seed_{seed}": config(subject, train, seed) for seed in train["parameters"]["train"]["seeds"]},
        {path.name: read_json(path) for path in sorted((ROOT / "metrics" / name).glob("*.json"))},
        claims, {f"models/{name}": "1" * 32 + ".dir"}, repo_id,
    )  # fmt: skip


def project(folder: Path, name: str = "modular/topk-k8") -> Path:
    """A copy of what is committed about one seed set, whose lock has the md5 of stand-in SAEs of its shape."""
    stages = {
        stage: entry | {"deps": [dep for dep in entry["deps"] if not dep["path"].startswith(("src/", "stages/"))]}
        for stage, entry in read_yaml(ROOT / "dvc.lock")["stages"].items()
        if stage.startswith(KEPT) or name.replace("/", "-") in stage
    }
    folder.mkdir(parents=True)
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    shutil.copytree(ROOT / "subjects", folder / "subjects")
    made = {out["path"] for entry in stages.values() for out in entry["outs"] if out["path"].endswith(".json")}
    for file in ("params.yaml", "claims.yaml", *made, *(f"runs/{stage}.json" for stage in stages)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    saes = folder / "models" / name
    for i, (seed, cfg) in enumerate(committed(name).configs.items()):
        sae, random = SAE.from_dict(dict(cfg)), torch.Generator().manual_seed(i)
        sae.load_state_dict({k: torch.randn(v.shape, generator=random) for k, v in sae.state_dict().items()})
        sae.save_model(saes / seed)
        write_json(saes / seed / "cfg.json", cfg)
        (saes / seed / "snapshots.safetensors").write_bytes(b"not to be published")
    relock(folder, f"models/{name}")
    return folder


def relock(folder: Path, path: str) -> None:
    """Make the lock speak of what a path now holds, wherever the path stands in it."""
    md5, lines, of = md5_of(folder / path), (folder / "dvc.lock").read_text().splitlines(), None
    for i, line in enumerate(lines):
        if line.strip().startswith("- path: "):
            of = line.strip().removeprefix("- path: ")
        elif line.strip().startswith("md5: ") and of == path:
            lines[i] = f"{line[: line.index('md5: ')]}md5: {md5}"
    (folder / "dvc.lock").write_text("\n".join(lines) + "\n")


def md5_of(path: Path) -> str:
    """DVC's hash of a file or folder."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = [file for file in path.rglob("*") if file.is_file()]
    return directory_md5((file.relative_to(path).as_posix(), md5_of(file)) for file in files)
