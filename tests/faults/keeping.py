"""Faults of what is kept: files, metrics, locks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from reseed import ReseedError
from reseed.artifacts import activations_dir, read_json, write_json
from reseed.models.language import store_checkpoint
from reseed.params import TRAINED, ModelFolder
from tests.faults import bases
from tests.faults.attempts import SUBJECT, audit, dvc, git, run
from tests.faults.museum import Exhibit, Fault
from tests.models.checkpoints import checkpoint
from tests.sweeps import toy

METRIC = Path("metrics") / "toy.json"
TRAIN = run("train", SUBJECT, "wide", TRAINED)


def _shard() -> Path:
    return activations_dir(SUBJECT, TRAINED) / "train-00000.safetensors"


def _flip_bits(_: Exhibit) -> None:
    content = bytearray(_shard().read_bytes())
    content[-4:] = b"\x00\x00\x80\x3f"
    _shard().write_bytes(content)


def _cut(_: Exhibit) -> None:
    _shard().write_bytes(_shard().read_bytes()[:-1000])


def figure() -> float | None:
    """What a stage computes."""
    return 0.0


def _write_figure() -> None:
    write_json(Path("metric.json"), {"kappa": figure()})
    assert read_json(Path("metric.json")) == {"kappa": 0.0}


def _computes(value: float | None) -> Callable[[Exhibit], object]:
    return lambda exhibit: exhibit.replace(sys.modules[__name__], "figure", lambda: value)


def _read_metric() -> None:
    if not Path("metric.json").is_file():
        write_json(Path("metric.json"), {"kappa": 0.0})
    read_json(Path("metric.json"))


def _pickle(_: Exhibit) -> None:
    weights = Path("hub") / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


def _stored() -> None:
    Path("stored").mkdir()
    store_checkpoint(ModelFolder(kind="folder", path="hub"), Path("stored"))


def hub(folder: Path) -> None:
    """A checkpoint with random weights in Hugging Face format."""
    checkpoint("gpt2", folder / "hub")


def _freeze(_: Exhibit) -> None:
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("  make:\n", "  make:\n    frozen: true\n"))


def _edit_metric(_: Exhibit) -> None:
    METRIC.write_text('{"size": 4096}')


def _commit_without_a_run(_: Exhibit) -> None:
    with Path("src/score.py").open("a") as file:
        file.write("# edited\n")
    dvc("commit", "--force", "score")


def _merge_by_line(_: Exhibit) -> None:
    """Two branches each run with a parameter of their own; git merges the metric as text, one line from each side."""
    git("checkout", "-q", "-b", "other")
    other = _result_of(5)
    git("checkout", "-q", "main")
    ours = _result_of(6)
    assert other != ours
    METRIC.write_text(other)


def _result_of(n: int) -> str:
    Path("params.yaml").write_text(f"toy:\n  n: {n}\n")
    git("commit", "-qam", f"n = {n}")
    dvc("repro")
    git("add", "-A")
    git("commit", "-qm", f"results of n = {n}")
    return METRIC.read_text()


def _stale_lock(_: Exhibit) -> None:
    lock = Path("dvc.lock").read_text()
    before, path, after = lock.partition("path: src/score.py\n      hash: md5\n      md5: ")
    Path("dvc.lock").write_text(f"{before}{path}{'f' * 32}{after[32:]}")


def _reproduced() -> None:
    """`dvc repro` with another parameter, as `reseed repro` runs it; its last line is the message if it fails."""
    Path("params.yaml").write_text("toy:\n  n: 5\n")
    done = toy.dvc(Path(), "repro")
    if done.returncode:
        raise ReseedError(done.stderr.strip().splitlines()[-1].removeprefix("ERROR: "))


def _pull_in_the_middle(_: Exhibit) -> None:
    """The stage stands for a queue: it pulls between its start and its end."""
    pulled = 'pathlib.Path("src/score.py").open("a").write("# another line of code\\n")\nsize ='
    Path("src/score.py").write_text(Path("src/score.py").read_text().replace("size =", pulled))


def _audited_by_a_stranger() -> None:
    """`reseed audit` in a clone of what is committed."""
    git("clone", "-q", ".", "clone")
    with contextlib.chdir("clone"):
        audit()


def _ignore_code(_: Exhibit) -> None:
    Path(".gitignore").write_text("/data/\n/src/\n")
    git("rm", "-rq", "--cached", "src")
    git("commit", "-qam", "src is ignored")


def _of_one_machine(_: Exhibit) -> None:
    rows = Path("scratch/rows.txt").resolve()
    rows.parent.mkdir()
    rows.write_text("rows of this machine\n")
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text().replace("[src/score.py,", f"[src/score.py, {rows},"))
    dvc("repro")


def _rot(_: Exhibit) -> None:
    shard = Path("data/toy/train-00000.bin")
    inode = shard.stat().st_ino
    (cached,) = [file for file in Path(".dvc/cache/files").rglob("*") if file.stat().st_ino == inode]
    content = cached.read_bytes()
    toy.overwrite(cached, content[:100] + b"corrupt" + content[107:])


FAULTS = (
    Fault(
        "nan_in_json", "HUSAI 1.4", "NaN in a metric",
        "Nothing kept NaN out of the figures. It is no JSON, and every comparison with it is false, so that a gate "
        "says whatever its code happens to say.",
        "a stage computes NaN.",
        bases.nothing, _computes(float("nan")), _write_figure,
        r"metric\.json: kappa: found #, allowed: finite numbers \(a missing value is left out\)",
    ),
    Fault(
        "null_in_json", "HUSAI 1.4", "null in a manifest",
        "A manifest was written with nulls, because variables of the shell were not exported; elsewhere None fell "
        "out of rates. Zero is a number, and stays one: the twin writes 0.0 and reads 0.0.",
        "a stage has no value and writes None.",
        bases.nothing, _computes(None), _write_figure,
        r"metric\.json: kappa: found null, allowed: numbers and strings \(a missing value is left out\)",
    ),
    Fault(
        "infinity_read", "HUSAI 1.4", "Infinity in a file of somebody else",
        "The same, in a file that another tool wrote.",
        "the file holds Infinity.",
        bases.nothing, lambda _: Path("metric.json").write_text('{"kappa": Infinity}'), _read_metric,
        r"metric\.json: found Infinity, allowed: finite numbers",
    ),
    Fault(
        "corrupted_shard", "RL-Decoder 2.4.10", "A shard with other bytes",
        "Activations lay in a temporary folder, where nothing tied the files to what had been captured.",
        "the last number of a shard is another.",
        bases.modular, _flip_bits, TRAIN,
        r"train-00000\.safetensors: its sha256 is …, its index says …: the file was truncated or edited",
    ),
    Fault(
        "truncated_shard", "RL-Decoder 2.4.10", "A shard cut short",
        "The same, with a file cut short.",
        "a shard lacks its last thousand bytes.",
        bases.modular, _cut, TRAIN,
        r"train-00000\.safetensors: its sha256 is …, its index says …: the file was truncated or edited",
    ),
    Fault(
        "pickled_weights", "RL-Decoder 2.4.10", "Pickled weights",
        "Checkpoints were pickles read with weights_only=False, which run whatever code they hold.",
        "the model's folder has its weights as a pickle.",
        hub, _pickle, _stored,
        r"hub: found pickled weights \(pytorch_model\.bin\), which can run code when they are read",
    ),
    Fault(
        "edited_metric", "HUSAI 1.4", "A figure edited by hand",
        "A scan of the documents found 223 hits of false claims in 26 files: text and figures had drifted apart.",
        "a metric file is given another number.",
        bases.project, _edit_metric, audit,
        r"output dvc\.lock: the workspace has another: score \(metrics/toy\.json\)",
    ),
    Fault(
        "metric_of_another_run", "HUSAI 1.5.15", "Figures of two runs in one table",
        "One document had 0.309, the paper 0.300, and both stood beside an explained variance of a third run.",
        "two branches run with parameters of their own, and the merge keeps the lock of one and the metric of the "
        "other.",
        bases.project, _merge_by_line, audit,
        r"output dvc\.lock: the workspace has another: score \(metrics/toy\.json\)",
    ),
    Fault(
        "committed_without_a_run", "RL-Decoder 2.4.11", "A result that was declared",
        "A skeleton was marked 'infrastructure ready', and phases complete that had not run: `dvc commit --force` "
        "does the same for a stage.",
        "the code is edited and `dvc commit --force` writes its hash into the lock, without a run.",
        bases.project, _commit_without_a_run, audit,
        r"provenance dvc\.lock: not what the run facts say: score \(src/score\.py\)",
    ),
    Fault(
        "stale_lock", "HUSAI 1.4", "A result of code that nobody has",
        "The machine that made the figures was not mirrored: which code had made them could not be told.",
        "the lock names code that neither the workspace nor any revision has.",
        bases.project, _stale_lock, audit,
        r"lock dvc\.lock: of no known revision: score \(src/score\.py\)",
    ),
    Fault(
        "pulled_while_it_ran", "HUSAI 1.4, 1.5.16", "Code that changed while it ran",
        "The queues pulled new code between two of their steps: what had run was neither the old nor the new.",
        "the code of a stage is changed between its start and its end.",
        bases.project, _pull_in_the_middle, _reproduced,
        r"src/score\.py: changed while score ran, allowed: the same from its start to its end; run it again",
    ),
    Fault(
        "ignored_code", "HUSAI 1.4", "Code that nobody else has",
        "`.gitignore` left out src/data/, and with it the code that made the data: it ran where it had been written.",
        ".gitignore names the folder of the code, which is committed no more.",
        bases.project, _ignore_code, _audited_by_a_stranger,
        r"stale dvc\.lock: 2 of 2 stages are older than the workspace \(code 2\)",
    ),
    Fault(
        "path_of_one_machine", "HUSAI 1.4, RL-Decoder 2.4.10", "A path of one machine",
        "Models, activations and figures lay under absolute paths of one machine, in which no repository has a part.",
        "a stage also depends on a file by its absolute path.",
        bases.project, _of_one_machine, audit,
        r"provenance dvc\.lock: not what the run facts say: score \(scratch/rows\.txt\)",
    ),
    Fault(
        "frozen_stage", "HUSAI 1.5.6", "A step that never runs again",
        "A gate read a fixed bound of +6.2e-5 from an old file and passed for ever, whatever was released.",
        "a stage of dvc.yaml is frozen.",
        bases.project, _freeze, audit, r"frozen dvc\.yaml:make: frozen: true",
    ),
    Fault(
        "rotten_cache", "RL-Decoder 2.3", "A cache that is no longer what was put there",
        "An alignment cache was broken, and was read.",
        "seven bytes of an object in DVC's cache are others, which `dvc status` calls up to date.",
        bases.project, _rot, audit, r"corrupt cache files/md5/\S+: its 1024 bytes hash to …",
    ),
)  # fmt: skip
