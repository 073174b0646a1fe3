"""What is published loads and is what was measured; whatever does not belong together is refused, and nothing leaks."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError
from sae_lens import SAE
from typer.testing import CliRunner

from reseed import ReseedError
from reseed.artifacts import read_json, write_json
from reseed.cli import app
from reseed.reports import publish
from tests.reports import hub as fake
from tests.reports.published import md5_of, project, relock

NAME = "modular/topk-k8"
SAES, STABILITY = Path("models") / NAME, Path("metrics") / NAME / "stability.json"
TOKEN = "hf_PlantedTokenValue0123456789"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("published") / "project")


@pytest.fixture(autouse=True)
def _here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of the project, with no token."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("HF_TOKEN", raising=False)


def published(repo_id: str | None = None) -> Path:
    of = publish.seed_set(NAME, repo_id)
    publish.write(publish.contents(of), Path("publish") / NAME)
    return Path("publish") / NAME


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["publish", NAME, *arguments])
    return done.exit_code, done.output + (f"error: {done.exception}" if done.exception else "")


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows() -> torch.Tensor:
    return torch.randn(32, 128, generator=torch.Generator().manual_seed(9))


def test_the_folder_holds_what_a_repository_needs_and_nothing_else() -> None:
    files = tree(published())
    assert sorted(files) == [
        "README.md", "manifest.json", "metrics/claims/above-random-weights.json",
        "metrics/claims/agreement-falls-with-k.json", "metrics/coverage.json", "metrics/saebench.json",
        "metrics/stability.json",
        *(f"seed_{seed}/{name}" for seed in range(5) for name in ("cfg.json", "sae_weights.safetensors")),
    ]  # fmt: skip
    assert files["metrics/stability.json"] == STABILITY.read_bytes()
    listed = json.loads(files.pop("manifest.json"))
    assert listed["seed_set"] == NAME
    assert listed["files"] == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()
    }


def test_every_seed_loads_by_saelens_from_the_folder_and_from_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = published("some-one/some-saes")

    def download(repo_id: str, filename: str, **_: Any) -> str:
        """What huggingface_hub gives for a repository that holds the folder."""
        assert repo_id == "some-one/some-saes"
        if not (folder / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(folder / filename)

    monkeypatch.setattr("sae_lens.loading.pretrained_sae_loaders.hf_hub_download", download)
    for seed in range(5):
        ours = SAE.load_from_disk(SAES / f"seed_{seed}").encode(rows())
        assert torch.count_nonzero(ours) > 0
        assert torch.equal(SAE.load_from_disk(folder / f"seed_{seed}").encode(rows()), ours)
        assert torch.equal(SAE.from_pretrained("some-one/some-saes", f"seed_{seed}").encode(rows()), ours)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    said: dict[str, Any] = {"x": rows()}
    exec(code, said)
    assert torch.equal(said["latents"], SAE.load_from_disk(SAES / "seed_0").encode(rows()))


def test_a_card_without_a_repository_loads_from_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = published()
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(folder)
    said: dict[str, Any] = {"x": rows()}
    exec(code, said)
    assert said["latents"].shape == (32, 128)


def test_the_card_has_the_model_and_the_hashes_of_the_lock() -> None:
    card = (published() / "README.md").read_text()
    lock = Path("dvc.lock").read_text()
    hashes = re.findall(r"\| `(\S+)` \(DVC, md5\) \| `(\S+)` \|", card)
    assert [path for path, _ in hashes] == [
        "data/modular/activations/trained", "data/modular/raw", "data/modular/tokens", str(STABILITY),
        "models/modular/lm", str(SAES),
    ]  # fmt: skip
    for path, md5 in hashes:
        assert re.search(rf"path: {path}\n\s+hash: md5\n\s+md5: {re.escape(md5)}\n", lock)
    assert "modular_addition, p 113" in card
    assert "d_model 128" in card


def test_the_same_again_and_only_as_a_whole() -> None:
    before = tree(published())
    (Path("publish") / NAME / "left.txt").write_text("over")
    assert tree(published()) == before
    assert [path.name for path in Path("publish/modular").iterdir()] == ["topk-k8"]


def test_a_folder_of_something_else_is_not_replaced() -> None:
    code, said = run("--out", "models")
    assert code
    assert "models/modular/topk-k8: found something that `reseed publish` did not write" in said
    assert (SAES / "seed_0" / "snapshots.safetensors").is_file()


def test_an_interrupted_write_leaves_the_old_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(published())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reseed.reports.publish.shutil.copyfile", full)
    with pytest.raises(ReseedError, match="the disk is full"):
        published()
    assert tree(Path("publish")) == {f"{NAME}/{name}": content for name, content in before.items()}


def test_the_command_writes_and_sends_nothing() -> None:
    code, said = run()
    assert code == 0, said
    assert said.rstrip().endswith(f"written: publish/{NAME}; nothing was sent")


def test_a_dry_run_lists_files_sizes_total_and_target_and_writes_nothing() -> None:
    code, said = run("--dry-run", "--upload", "--repo-id", "some-one/some-saes")
    assert code == 0, said
    assert not Path("publish").exists()
    *lines, total, last = said.splitlines()
    assert last == "dry run: nothing was written or sent"
    files = tree(published("some-one/some-saes"))
    assert {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines} == {
        name: len(content) for name, content in files.items()
    }
    size = sum(map(len, files.values()))
    assert total.strip() == f"{size:,}  bytes in {len(files)} files, for some-one/some-saes"


def edit_facts(change: dict[str, Any], stage: str = "train") -> None:
    path = Path(f"runs/{stage}@modular-topk-k8.json")
    write_json(path, read_json(path) | change)


def quarantine() -> None:
    write_json(STABILITY, read_json(STABILITY) | {"quarantined": "a leak"})
    relock(Path(), str(STABILITY))
    edit_facts({"wrote": {str(STABILITY): md5_of(STABILITY)}}, "stability")


def remade(path: str, maker: str, reader: str) -> str:
    """The lock in which a stage has read another md5 of a path than the one that its maker has left there since."""
    content = yaml.safe_load(Path("dvc.lock").read_text())
    (made,) = [out for out in content["stages"][maker]["outs"] if out["path"] == path]
    reads = [dep for dep in content["stages"][reader]["deps"] if dep["path"] == path]
    assert reads
    assert {dep["md5"] for dep in reads} == {made["md5"]}
    made["md5"] = "0" * 32 + ".dir"
    return yaml.safe_dump(content, sort_keys=False)


def other_claim() -> None:
    path = Path("claims.yaml")
    path.write_text(path.read_text().replace("is above that of the random-weights arm", "is near that of the arm"))


REFUSALS: dict[str, tuple[Any, str]] = {
    "another data set": (
        lambda: Path("dvc.lock").write_text(
            remade("data/modular/tokens", "tokenize@modular", "capture@modular-trained")
        ),
        r"data/modular/tokens: tokenize@modular has made it anew since capture@modular-trained read it",
    ),
    "no SAEs": (
        lambda: shutil.rmtree(SAES),
        r"models/modular/topk-k8: the SAEs are not in the workspace; run `dvc pull models/modular/topk-k8` or "
        r"`dvc repro train@modular-topk-k8`$",
    ),
    "other SAEs": (
        lambda: (SAES / "seed_3" / "cfg.json").write_text("{}"),
        r"models/modular/topk-k8: these are not the SAEs that stability@modular-topk-k8 read \(md5 .*dvc checkout",
    ),
    "a seed is missing": (
        lambda: shutil.rmtree(SAES / "seed_4"),
        r"models/modular/topk-k8: these are not the SAEs that stability@modular-topk-k8 read",
    ),
    "a control trained anew": (
        lambda: Path("dvc.lock").write_text(
            remade(f"{SAES}@random_model", "train@modular-topk-k8-random_model", "stability@modular-topk-k8")
        ),
        r"models/modular/topk-k8@random_model: train@modular-topk-k8-random_model has made it anew since stability@",
    ),
    "trained anew": (
        lambda: Path("dvc.lock").write_text(remade(str(SAES), "train@modular-topk-k8", "stability@modular-topk-k8")),
        r"models/modular/topk-k8: train@modular-topk-k8 has made it anew since stability@modular-topk-k8 read it, so "
        r"the metrics are stale; run `dvc repro stability@modular-topk-k8`$",
    ),
    "no metrics": (
        lambda: STABILITY.unlink(),
        r"metrics/modular/topk-k8/stability.json: the file does not exist; run `git checkout .*` or `dvc repro stab",
    ),
    "edited metrics": (
        lambda: write_json(STABILITY, read_json(STABILITY) | {"seeds": 50}),
        r"metrics/modular/topk-k8/stability.json: it is not the file that stability@modular-topk-k8 wrote",
    ),
    "metrics of no stage": (
        lambda: write_json(STABILITY.with_name("mine.json"), {"score": 1.0}),
        r"metrics/modular/topk-k8/mine.json: no dvc.lock records it",
    ),
    "quarantined": (quarantine, r"the subject is quarantined \(a leak\), and is never published$"),
    "a claim that was edited": (
        other_claim,
        r"claims.yaml: claims.above-random-weights may not stand in the card: claims.yaml: claims.above-random-weights "
        r"says something else now than when it was judged; run `dvc repro claims@above-random-weights`$",
    ),
    "a verdict on older evidence": (
        lambda: Path("dvc.lock").write_text(
            remade(
                "metrics/modular/topk-k16/stability.json", "stability@modular-topk-k16", "claims@above-random-weights"
            )
        ),
        r"may not stand in the card: metrics/modular/topk-k16/stability.json: it is not what stability@modular-"
        r"topk-k16 made \(edited, merged or restored\)",
    ),
    "an edited verdict": (
        lambda: write_json(Path("metrics/claims/above-random-weights.json"), {"verdict": "supported", "reasons": []}),
        r"may not stand in the card: metrics/claims/above-random-weights.json: it is not what claims@above-random-"
        r"weights made \(edited, merged or restored\)",
    ),
    "uncommitted code": (
        lambda: edit_facts({"uncommitted_code": 2}, "stability"),
        r"runs/stability@modular-topk-k8.json: the run had uncommitted code",
    ),
    "facts of another run": (
        lambda: edit_facts({"parameters": {"train": {"seeds": [7, 8, 9]}}}),
        r"runs/train@modular-topk-k8.json: its train is not that of the lock",
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_does_not_belong_together_is_refused_in_one_sentence(why: str) -> None:
    fault, sentence = REFUSALS[why]
    fault()
    with pytest.raises(ReseedError, match=sentence) as refused:
        published()
    assert "\n" not in str(refused.value)
    assert not Path("publish").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nobody/topk-k8", r"nobody/topk-k8: found no such subject, allowed: SUBJECT/VARIANT with one of gemma-2-2b, "),
        ("modular", r"modular/: found no such subject, allowed: SUBJECT/VARIANT"),
        ("modular/topk-k5", r"params.yaml: variants: found no 'topk-k5'; known: topk-k4, "),
        (
            "modular/song-topk",
            r"modular/song-topk: no dvc.lock records .*; compared variants of modular: batchtopk-k4, ",
        ),
        ("modular-leaky/topk-k8", r"subjects/modular-leaky.yaml: the subject is quarantined \(the answer stands in"),
    ],
)
def test_an_unknown_seed_set_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(ReseedError, match=sentence):
        publish.seed_set(name)


def test_a_study_has_its_own_commands() -> None:
    Path("studies/small").mkdir(parents=True)
    Path("dvc.lock").rename("studies/small/dvc.lock")
    assert "\ndvc repro studies/small/dvc.yaml:stability@modular-topk-k8\n" in (published() / "README.md").read_text()
    shutil.rmtree(SAES)
    with pytest.raises(ReseedError, match=r"or `dvc repro studies/small/dvc\.yaml:train@modular-topk-k8`"):
        published()


def plant(text: str) -> None:
    """Put a text into a file that would be published, as if the train stage had written it."""
    path = SAES / "seed_2" / "cfg.json"
    content = read_json(path)
    content["metadata"]["note"] = text
    write_json(path, content)
    relock(Path(), str(SAES))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("my password is opensesame1", "seed_2/cfg.json: it holds the value of SITE; nothing was written"),
        (TOKEN, "seed_2/cfg.json: it holds what looks like an access key; nothing was written"),
        (
            lambda: str(Path.cwd()),
            r"seed_2/cfg.json: it names a place on this machine \(.*/project\); nothing was written",
        ),
        ("/" + "home/me/models", r"seed_2/cfg.json: it names a place on this machine \(.home.\); nothing was written"),
    ],
)
def test_secrets_and_places_of_this_machine_are_not_published(text: Any, sentence: str) -> None:
    Path(".env").write_text("SITE=opensesame1\n")
    published()
    plant(text() if callable(text) else text)
    with pytest.raises(ReseedError, match=f"^{sentence}$") as refused:
        published()
    assert "opensesame1" not in str(refused.value)


def test_a_secret_of_the_environment_in_the_header_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.setenv("SOME_API_KEY", "a-value-of-the-environment")
    path = SAES / "seed_1" / "sae_weights.safetensors"
    save_file(load_file(path), path, {"note": "a-value-of-the-environment"})
    relock(Path(), str(SAES))
    with pytest.raises(ReseedError, match=r"^seed_1/sae_weights\.safetensors: it holds the value of SOME_API_KEY;"):
        published()


def test_an_upload_needs_a_name_a_token_and_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "--repo-id: found None, needed to upload: USER/NAME" in run("--upload")[1]
    assert "--repo-id: found saes, needed" in run("--upload", "--repo-id", "saes")[1]
    asked = ("--upload", "--repo-id", "some-one/some-saes")
    assert "HF_TOKEN: found none in the environment or .env, needed to upload; nothing was sent" in run(*asked)[1]
    Path(".env").write_text(f"HF_TOKEN={TOKEN}\n")
    monkeypatch.setattr(publish, "HfApi", partial(HfApi, endpoint="http://127.0.0.1:9"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    code, said = run(*asked)
    assert code
    assert re.search(r"some-one/some-saes: the hub did not answer as it should \(.*\); nothing was sent", said)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set, and an upload needs the hub; nothing was sent" in run(*asked)[1]
    assert TOKEN not in said
    assert not Path("publish").exists()


def test_an_upload_is_one_commit_of_exactly_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = ("--upload", "--repo-id", "some-one/some-saes")
    with fake.running(TOKEN) as hub:
        monkeypatch.setattr(publish, "HfApi", partial(HfApi, endpoint=hub.endpoint))
        monkeypatch.setenv("HF_TOKEN", "hf_of-somebody-else")
        assert "the hub did not answer as it should" in run(*asked)[1]
        assert not hub.repositories
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        code, said = run(*asked)
        assert code == 0, said
        assert said.rstrip().endswith(f"uploaded: {hub.endpoint}/some-one/some-saes/commit/{'c' * 40}")
        held = hub.repositories["some-one/some-saes"]
        assert held == tree(Path("publish") / NAME) | {".gitattributes": b""}
        assert hub.private == {"some-one/some-saes": True}
        assert sum("/commit/" in request for request in hub.requests) == 1

        held["seed_9/cfg.json"] = b"of an earlier set"
        assert run(*asked)[0] == 0
        assert hub.repositories["some-one/some-saes"] == tree(Path("publish") / NAME) | {".gitattributes": b""}

        hub.repositories["some-one/some-saes"] = {"model.bin": b"not ours", "README.md": b""}
        code, said = run(*asked)
        assert code
        assert "some-one/some-saes: found model.bin, allowed: no repository, an empty one or one of" in said
        assert hub.repositories["some-one/some-saes"] == {"model.bin": b"not ours", "README.md": b""}
