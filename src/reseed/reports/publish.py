"""`reseed publish`: a seed set as the folder of a Hugging Face repository; nothing is sent unless asked for.

The folder is made from files that DVC's locks vouch for: the SAEs on disk are those that the stability stage read, and
every metric is the one that its stage wrote from them. It lies outside models/, whose hashes it would change.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from reseed import ReseedError, artifacts
from reseed.artifacts import metrics_dir, read_json, sae_dir, writing
from reseed.claims.registry import Registry
from reseed.params import load, load_params, read_yaml
from reseed.reports.card import Said, SeedSet, card
from reseed.reports.standing import Standings, checked, is_clone
from reseed.secrets import ENV_FILE, secret, without_secret
from reseed.stage import RUNS
from reseed.sweeps.locks import LOCK, PIPELINE, Stage, foreign_parameters
from reseed.sweeps.objects import directory_md5, hashes, one_line

TOKEN = "HF_TOKEN"
SAE_FILES = ("cfg.json", "sae_weights.safetensors")
README, MANIFEST = "README.md", "manifest.json"
KEYS = re.compile(
    rb"\b(?:hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|AKIA[0-9A-Z]{16})|-----BEGIN [A-Z ]*PRIVATE KEY"
)
PLACES = re.compile(rb"(?<![\w.])/(?:home|root|work|Users|mnt|opt|tmp)/")

Content = Path | bytes


def seed_set(name: str, repo_id: str | None = None) -> SeedSet:
    """What is known of the seed set SUBJECT/VARIANT of the project in the working directory.

    Raises ReseedError for a subject or variant that is unknown, quarantined or was never compared, SAEs that are not
    here, and SAEs, metrics, verdicts or run facts that do not belong together.
    """
    subject, _, variant = name.partition("/")
    _check_names(subject, variant)
    stages = _recorded()
    maker = {path: stage for stage in stages for path in stage.locked("outs")}
    folder, saes = metrics_dir(subject, variant), sae_dir(subject, variant)
    stability, train = maker.get(str(folder / "stability.json")), maker.get(str(saes))
    if stability is None or train is None:
        compared = sorted(
            path.split("/")[2] for path in maker if path.endswith("/stability.json") and path.split("/")[1] == subject
        )
        raise ReseedError(
            f"{name}: no {LOCK} records both its train and its stability stage; compared variants of {subject}: "
            f"{', '.join(compared) or 'none'}; list it in a study.yaml and run `dvc repro`"
        )
    evidence = folder / "stability.json"
    metrics = {path.name: _metric(path, maker) for path in sorted({evidence, *folder.glob("*.json")})}
    if reason := metrics[evidence.name].get("quarantined"):
        raise ReseedError(f"{evidence}: the subject is quarantined ({reason}), and is never published")
    rows = next(path for path in train.locked("deps") if path.startswith("data/"))
    _check_read_what_was_made(stability, maker, f"models/{subject}/", rows)
    _check_saes(saes, stability, train)
    for file in metrics:
        _check_read_what_was_made(maker[str(folder / file)], maker, f"models/{subject}/{variant}")
    trained, measured = _facts(train), _facts(stability)
    seeds = sorted(trained["parameters"]["train"]["seeds"])
    upstream = _upstream(train, maker)
    claims, looked_back = _claims(evidence, maker)
    hashes_of = {path: md5 for stage in upstream for path, md5 in stage.locked("outs").items()}
    return SeedSet(
        subject=subject,
        variant=variant,
        about={
            key: value
            for stage in upstream
            for (where, key), value in stage.locked_params().items()
            if where == f"subjects/{subject}.yaml"
        },
        train=trained,
        stability=measured,
        target=stability.address,
        configs={f"seed_{seed}": read_json(saes / f"seed_{seed}" / SAE_FILES[0]) for seed in seeds},
        metrics=metrics,
        claims=claims,
        looked_back=looked_back,
        hashes=dict(sorted((hashes_of | {str(evidence): stability.locked("outs")[str(evidence)]}).items())),
        repo_id=repo_id,
    )


def contents(of: SeedSet) -> dict[str, Content]:
    """Every file of the repository by its path there: a file to copy, or the text itself.

    Raises ReseedError if one of them holds a secret or names a place on this machine.
    """
    saes, metrics = sae_dir(of.subject, of.variant), metrics_dir(of.subject, of.variant)
    files: dict[str, Content] = {f"{seed}/{name}": saes / seed / name for seed in of.configs for name in SAE_FILES}
    files |= {f"metrics/{name}": metrics / name for name in of.metrics}
    files |= {f"metrics/claims/{name}.json": Path("metrics/claims") / f"{name}.json" for name in of.claims}
    files[README] = card(of).encode()
    for name, content in files.items():
        _check_clean(name, content)
    listed = {name: {"sha256": _sha256(content), "bytes": size(content)} for name, content in files.items()}
    manifest = {"seed_set": f"{of.subject}/{of.variant}", "files": listed}
    files[MANIFEST] = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    return dict(sorted(files.items()))


def size(content: Content) -> int:
    """Bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def write(files: Mapping[str, Content], path: Path) -> None:
    """Write the repository folder, whole or not at all.

    Raises ReseedError if what is there was not written by this command.
    """
    if path.exists() and not _is_published(path):
        raise ReseedError(
            f"{path}: found something that `reseed publish` did not write, allowed: a new folder or one of its own"
        )
    with writing(path) as folder:
        for name, content in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)


def hub(repo_id: str | None) -> HfApi:
    """The hub, ready to take a repository; raises ReseedError before anything is sent if it is not."""
    if repo_id is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ReseedError(f"--repo-id: found {repo_id}, needed to upload: USER/NAME of a repository on the hub")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ReseedError("HF_HUB_OFFLINE is set, and an upload needs the hub; nothing was sent")
    token = secret(TOKEN)
    if token is None:
        raise ReseedError(f"{TOKEN}: found none in the environment or .env, needed to upload; nothing was sent")
    api = HfApi(token=token)
    try:
        api.whoami()
        there = set(api.list_repo_files(repo_id))
    except RepositoryNotFoundError:
        there = set()
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise ReseedError(
            f"{repo_id}: the hub did not answer as it should ({_said(error)}); nothing was sent"
        ) from error
    foreign = sorted(there - {".gitattributes", README})
    if foreign and MANIFEST not in there:
        raise ReseedError(
            f"{repo_id}: found {foreign[0]}, allowed: no repository, an empty one or one of `reseed publish`"
        )
    return api


def upload(api: HfApi, folder: Path, of: SeedSet) -> str:
    """Send the folder as one commit, which also deletes what else is there; the address of the commit.

    A new repository is private, until its owner has read the card and opens it. Raises ReseedError if it breaks off.
    """
    assert of.repo_id is not None
    message = f"{of.subject}/{of.variant}, revision {of.stability['revision'][:7]}"
    try:
        api.create_repo(of.repo_id, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=of.repo_id, folder_path=folder, commit_message=message, delete_patterns="*")
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise ReseedError(
            f"{of.repo_id}: the upload broke off before its commit ({_said(error)}); run it again"
        ) from error
    return str(done.commit_url)


def _said(error: Exception) -> str:
    return without_secret(one_line(error), TOKEN)[:200]


def _check_names(subject: str, variant: str) -> None:
    known = sorted(path.stem for path in Path("subjects").glob("*.yaml"))
    if subject not in known or not variant:
        raise ReseedError(
            f"{subject}/{variant}: found no such subject, allowed: SUBJECT/VARIANT with one of {', '.join(known)}"
        )
    load_params().variant(variant)
    if reason := read_yaml(Path("subjects") / f"{subject}.yaml").get("quarantine"):
        raise ReseedError(f"subjects/{subject}.yaml: the subject is quarantined ({reason}), and is never published")


def _recorded() -> list[Stage]:
    """The stages of all locks, only as recorded: what their pipelines would now do does not matter here."""
    found = []
    for lock in (Path(LOCK), *sorted(Path("studies").glob(f"*/{LOCK}"))):
        entries = (read_yaml(lock).get("stages") or {}) if lock.is_file() else {}
        pipeline = str(lock.with_name(PIPELINE))
        found += [Stage(pipeline, name, False, e["cmd"], frozenset(), {}, {}, e) for name, e in entries.items()]
    return found


def _metric(path: Path, maker: Mapping[str, Stage]) -> dict[str, Any]:
    """The content of a metrics file, which must be the one that its stage wrote."""
    stage = maker.get(str(path))
    if stage is None:
        raise ReseedError(f"{path}: no {LOCK} records it; remove it, or run the stage that makes it")
    if not path.is_file():
        raise ReseedError(f"{path}: the file does not exist; run `git checkout {path}` or `dvc repro {stage.address}`")
    md5 = stage.locked("outs")[str(path)]
    if read_json(RUNS / f"{stage.name}.json").get("wrote", {}).get(str(path), md5) != md5:
        raise ReseedError(
            f"{path}: its lock says that {stage.address} made it, and the facts of its run do not; run "
            f"`dvc repro --force --single-item {stage.address}`"
        )
    if _md5s(path.parent, [path])[path.name] != md5:
        raise ReseedError(
            f"{path}: it is not the file that {stage.address} wrote; run `git checkout {path}` or "
            f"`dvc repro {stage.address}`"
        )
    return read_json(path)


def _check_read_what_was_made(stage: Stage, maker: Mapping[str, Stage], *begin: str) -> None:
    """Raise ReseedError if what a stage read of the paths that begin so has been made anew since."""
    for path, md5 in stage.locked("deps").items():
        if path.startswith(begin) and path in maker and maker[path].locked("outs")[path] != md5:
            raise ReseedError(
                f"{path}: {maker[path].address} has made it anew since {stage.address} read it, so the metrics are "
                f"stale; run `dvc repro {stage.address}`"
            )


def _check_saes(saes: Path, stability: Stage, train: Stage) -> None:
    recorded = stability.locked("deps").get(str(saes))
    if not saes.is_dir():
        raise ReseedError(
            f"{saes}: the SAEs are not in the workspace; run `dvc pull {saes}` or `dvc repro {train.address}`"
        )
    found = directory_md5(_md5s(saes, [path for path in saes.rglob("*") if path.is_file()]).items())
    if found != recorded:
        raise ReseedError(
            f"{saes}: these are not the SAEs that {stability.address} read (md5 {found[:12]}…, its lock has "
            f"{str(recorded)[:12]}…); run `dvc checkout --force {saes}` or `dvc repro {stability.address}`"
        )


def _md5s(folder: Path, paths: list[Path]) -> dict[str, str]:
    """The md5 of files by their path below a folder."""
    names = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    found = hashes(names, lambda name: (folder / name).open("rb"), f"md5 of {folder}")
    for name, md5 in found.items():
        if isinstance(md5, Exception):
            raise ReseedError(f"{folder / name}: could not be read: {one_line(md5)}") from md5
    return {name: str(md5) for name, md5 in found.items()}


def _facts(stage: Stage) -> dict[str, Any]:
    """The run facts of a stage, which must be of the run that the lock records and of committed code."""
    path = RUNS / f"{stage.name}.json"
    facts = read_json(path)
    if names := foreign_parameters(stage, facts):
        raise ReseedError(
            f"{path}: its {names[0]} is not that of the lock, so it is of another run; run "
            f"`dvc repro --force {stage.address}`"
        )
    if facts["uncommitted_code"] or facts["revision"] == "unknown":
        raise ReseedError(
            f"{path}: the run had uncommitted code, allowed: a revision that others can have; commit, then "
            f"`dvc repro --force {stage.address}`"
        )
    return facts


def _upstream(train: Stage, maker: Mapping[str, Stage]) -> list[Stage]:
    """A train stage and those whose results it was trained on, each of which must have read what the next one made."""
    found: dict[str, Stage] = {}
    left = [train]
    while left:
        stage = left.pop()
        found[stage.address] = stage
        _check_read_what_was_made(stage, maker, "")
        left += [maker[path] for path in stage.locked("deps") if path in maker]
    return list(found.values())


def _claims(evidence: Path, maker: Mapping[str, Stage]) -> tuple[dict[str, Said], bool]:
    """The claims that rest on a metrics file, as they stand now; and whether their history was looked at, too.

    Raises ReseedError for one that may not be said, and for a clone whose history cannot be read.
    """
    root = Path()
    registered = {
        path: [(name, claim) for name, claim in load(Registry, path).claims.items() if str(evidence) in claim.sources]
        for path in (Path("claims.yaml"), *sorted(Path("studies").glob("*/claims.yaml")))
        if path.is_file()
    }
    # nothing rests on most seed sets, and a check takes a minute
    checks = checked(root) if any(registered.values()) and is_clone(root) else None
    standings, found = Standings(root, maker, checks), {}
    for path, claims in registered.items():
        for name, claim in claims:
            verdict = Path("metrics/claims") / f"{name}.json"
            content = read_json(verdict) if verdict.is_file() else {}
            standing = standings.of(name, claim.sources, content)
            if standing.faults:
                raise ReseedError(f"{path}: claims.{name} may not stand in the card: {standing.faults[0]}")
            found[name] = Said(claim.statement, standing, tuple(content["reasons"]))
    return found, checks is not None


def _is_published(path: Path) -> bool:
    return (path / MANIFEST).is_file() and "seed_set" in read_json(path / MANIFEST)


def _check_clean(name: str, content: Content) -> None:
    text = _text(content)
    for key, value in _secrets().items():
        if value.encode() in text:
            raise ReseedError(f"{name}: it holds the value of {key}; nothing was written")
    if KEYS.search(text):
        raise ReseedError(f"{name}: it holds what looks like an access key; nothing was written")
    places = [str(place) for place in (Path.cwd(), Path.home()) if len(place.parts) > 2 and str(place).encode() in text]
    if place := PLACES.search(text):
        places.append(place.group().decode())
    if places:
        raise ReseedError(f"{name}: it names a place on this machine ({places[0]}); nothing was written")


def _text(content: Content) -> bytes:
    """What of a file is text: all of it, and of safetensors the header."""
    if isinstance(content, bytes):
        return content
    with content.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little")) if content.suffix == ".safetensors" else file.read()


def _secrets() -> dict[str, str]:
    """The values that must not get out, by their name: of .env, and what the environment calls a key or token."""
    lines = ENV_FILE.read_text().splitlines() if ENV_FILE.is_file() else []
    names = [line.strip().removeprefix("export ").partition("=")[0].strip() for line in lines if "=" in line]
    names += [name for name in os.environ if re.search(r"(TOKEN|KEY|SECRET|PASSWORD)$", name)]
    return {name: value for name in names if (value := secret(name)) and len(value) >= 8}


def _sha256(content: Content) -> str:
    return sha256(content).hexdigest() if isinstance(content, bytes) else artifacts.sha256(content)
