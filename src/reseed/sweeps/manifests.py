"""The manifests inside directory artefacts against the files that they list."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reseed.artifacts import read_json
from reseed.sweeps.findings import Finding
from reseed.sweeps.locks import Stage, Tree
from reseed.sweeps.objects import hashes

NAMES = ("index.json", "manifest.json", "cfg.json")
SINGLE = {
    "features_sha256": "features.safetensors",
    "tokenizer_sha256": "tokenizer.json",
    "weights_sha256": "model.safetensors",
}


@dataclass(frozen=True)
class Listed:
    """A file that a manifest lists, and the digest that it gives."""

    path: str
    manifest: str
    sha256: str


def listed(root: Path, stages: Iterable[Stage], tree: Tree) -> list[Listed]:
    """Every file that a manifest in an output of the workspace lists; raises ReseedError for one that is not JSON."""
    outputs = tuple(f"{path}/" for stage in stages for path in stage.outs)
    found = []
    for path in sorted(tree.md5s):
        folder, name = posixpath.split(path)
        if name in NAMES and path.startswith(outputs):
            files = files_of(read_json(root / path))
            # the prompts of a model name its tokenizer, and hold none
            files = {n: digest for n, digest in files.items() if n != "tokenizer.json" or f"{folder}/{n}" in tree.md5s}
            found += [Listed(f"{folder}/{file}", path, digest) for file, digest in files.items()]
    return found


def files_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 that a manifest gives for each file beside it, in every form that an artefact's manifest has."""
    splits = [split for split in manifest.get("splits", {}).values() if "shards" in split]
    found = {shard["file"]: shard["sha256"] for split in splits for shard in split["shards"]}
    for name, entry in manifest.get("files", {}).items():
        found[name] = entry if isinstance(entry, str) else entry["sha256"]
    found |= {f"{name}.safetensors": entry["sha256"] for name, entry in manifest.get("datasets", {}).items()}
    return found | {file: manifest[key] for key, file in SINGLE.items() if key in manifest}


def check(root: Path, files: Iterable[Listed]) -> list[Finding]:
    """A finding for each file that is missing or is not the one that its manifest lists."""
    files = list(files)
    sizes = {file.path: (root / file.path).stat().st_size for file in files if (root / file.path).is_file()}
    digests = hashes(sizes, lambda path: (root / path).open("rb"), "manifests", "sha256")
    findings = []
    for file in files:
        if (digest := digests.get(file.path)) != file.sha256:
            found = f"sha256 {str(digest)[:12]}…" if digest else "not there"
            found += f", {posixpath.basename(file.manifest)} says {file.sha256[:12]}…"
            todo = f"dvc checkout --force {posixpath.dirname(file.path)}, or run its stage"
            findings.append(Finding("shard", file.path, found, todo))
    return findings
