"""Every bad value gets one sentence that names the file, the key, what was found and what is allowed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from reseed import ReseedError
from reseed.params import (
    LanguageSubject,
    Params,
    Quarantined,
    Study,
    Subject,
    World,
    checked,
    kind_of,
    load_params,
    load_study,
    load_subject,
    lookup,
    read_yaml,
)
from tests.conftest import ROOT


def edited(source: str, key: str, value: Any, folder: Path) -> Path:
    """A copy of a project file with one dotted key set (or, for None, removed)."""
    content = yaml.safe_load((ROOT / source).read_text())
    *parents, last = key.split(".")
    place = content
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    path = folder / Path(source).name
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_parameter_file_has_its_type_and_is_valid_by_it() -> None:
    files = [Path("params.yaml"), *(path.relative_to(ROOT) for path in ROOT.glob("subjects/*.yaml"))]
    kinds = {}
    for file in [*files, Path("study.yaml"), *(path.relative_to(ROOT) for path in ROOT.glob("studies/*/study.yaml"))]:
        content = read_yaml(ROOT / file)
        kind = kind_of(str(file), content)
        assert kind is not None
        kinds[str(file)] = type(checked(kind, content, file))
    assert kinds["params.yaml"] is Params
    assert kinds["studies/sweep/study.yaml"] is Study
    of = {Path(file).stem: kind for file, kind in kinds.items() if file.startswith("subjects/")}
    assert (of["modular"], of["gsm8k-gpt"], of["song"], of["modular-leaky"]) == (
        Subject, LanguageSubject, World, Quarantined,
    )  # fmt: skip
    assert kind_of("claims.yaml", {}) is None


def test_the_committed_files_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.train.seeds == (0, 1, 2, 3, 4)
    assert params.variant("topk-k4").k == 4
    assert load_subject("modular", ROOT / "subjects").data.p == 113
    assert len(load_study(ROOT / "study.yaml").pairs) == 6


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("train.seeds", [0, 1], "train.seeds: found [0, 1], allowed: at least 3 seeds"),
        ("train.seeds", [0, 1, 1], "train.seeds: found [0, 1, 1], allowed: every seed once"),
        ("train.seeds", [0, 1, -2], "train.seeds: found [0, 1, -2], allowed: seeds of 0 or more"),
        ("train.seeds", [0, 1, 1.5], "train.seeds.2: found 1.5, allowed: a valid integer"),
        ("variants.topk-k4.k", 129, "k: found 129, allowed: at most d_sae (128)"),
        ("variants.topk-k4.k", 0, "variants.topk-k4.k: found 0, allowed: greater than or equal to 1"),
        ("variants.topk-k4.architecture", "relu", "does not match any of the expected tags: 'standard', 'topk', "),
        ("variants.topk-k4.dsae", 3, "unknown key 'variants.topk-k4.dsae'"),
        ("stability.null_draws", 0, "stability.null_draws: found 0, allowed: greater than or equal to 1"),
        ("stability.confidence", 1.0, "stability.confidence: found 1.0, allowed: less than 1"),
        ("saebench.shuffles", 5, "saebench.shuffles: found 5, allowed: greater than or equal to 19"),
        ("train.convergence.loss_tolerance", float("inf"), "train.convergence.loss_tolerance: found inf"),
        ("compute.device", "tpu", "compute.device: found 'tpu', allowed: 'auto', 'cpu' or 'cuda'"),
        ("compute", None, "the key 'compute' is missing"),
    ],
)
def test_a_bad_value_in_params_is_one_sentence(key: str, value: Any, sentence: str, tmp_path: Path) -> None:
    path = edited("params.yaml", key, value, tmp_path)
    with pytest.raises(ReseedError) as caught:
        load_params(path)
    text = str(caught.value)
    assert sentence in text
    assert text.startswith(f"{path}: ")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("data.train_fraction", 1.0, "data.train_fraction: found 1.0, allowed: less than 1"),
        ("data.train_fraction", 0.9, "data.validation_fraction: found 0.15, allowed: at most 0.99 with train_fraction"),
        ("data.p", 4, "data.p: found 4, allowed: greater than or equal to 5"),
        ("data.generator", "sub", "data.generator: found 'sub', allowed: 'modular_addition'"),
        ("model.n_heads", 3, "model.n_heads: found 3, allowed: a divisor of d_model (128)"),
        ("capture.arms", ["gaussian"], "capture.arms.0: found 'gaussian', allowed: 'trained' or 'random_model'"),
        ("capture.dtype", "int8", "capture.dtype: found 'int8', allowed: 'float32', 'bfloat16' or 'float16'"),
        ("sae.max_steps", 100, "allowed: as many as leave min_steps (8000)"),
        ("sae.min_steps", 40000, "allowed: as many as leave min_steps (40000)"),
        ("capture.positions", [], "capture.positions: found [], allowed: "),
        ("sae.lr", 0, "sae.lr: found 0, allowed: greater than 0"),
        ("sae.l1", 0.1, "unknown key 'sae.l1'"),
    ],
)
def test_a_bad_value_in_a_subject_is_one_sentence(key: str, value: Any, sentence: str, tmp_path: Path) -> None:
    path = edited("subjects/modular.yaml", key, value, tmp_path)
    with pytest.raises(ReseedError) as caught:
        load_subject("modular", tmp_path)
    text = str(caught.value)
    assert sentence in text
    assert text.startswith(f"{path}: ")
    assert "\n" not in text


def test_an_unknown_subject_or_variant_names_the_known_ones() -> None:
    with pytest.raises(ReseedError, match=r"'modulr'.*does not exist; known subjects: gemma-2-2b, gpt2-small,"):
        load_subject("modulr", ROOT / "subjects")
    with pytest.raises(ReseedError, match=r"params\.yaml: variants: found no 'topk-k5'; known: topk-k4, topk-k8"):
        load_params(ROOT / "params.yaml").variant("topk-k5")
    with pytest.raises(ReseedError, match="known: none"):
        lookup({}, "x", "here")


def test_a_file_that_is_missing_broken_or_a_list(tmp_path: Path) -> None:
    with pytest.raises(ReseedError, match=r"params\.yaml: the file does not exist"):
        load_params(tmp_path / "params.yaml")
    broken = tmp_path / "params.yaml"
    broken.write_text("train: [0, 1\n")
    with pytest.raises(ReseedError, match="not valid YAML") as caught:
        load_params(broken)
    assert "\n" not in str(caught.value)
    broken.write_text("- 1\n")
    with pytest.raises(ReseedError, match="found list, allowed: a mapping"):
        load_params(broken)


def test_numbers_that_hydra_writes_without_a_dot_are_numbers(tmp_path: Path) -> None:
    path = edited("params.yaml", "stability.plateau_tolerance", 0.03, tmp_path)
    path.write_text(path.read_text().replace("plateau_tolerance: 0.03", "plateau_tolerance: 3e-2"))
    assert load_params(path).stability.plateau_tolerance == 0.03


def test_a_variant_of_so_many_steps_takes_them_whatever_converges() -> None:
    training = load_subject("modular", ROOT / "subjects").sae
    asked = training.at_steps(5000)
    assert (asked.min_steps, asked.last_constant_step) == (5000, 5000)
    assert asked.max_steps == 5000 + 1300  # a quarter, in whole checks of 100 steps
    assert training.at_steps(4901).last_constant_step == 5000
    assert training.at_steps(None) is training
    assert asked.lr == training.lr
