"""The walls of the house: what a stage depends on is what it imports, and a room imports only from rooms before it."""

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("subjects", "text", "models", "activations", "saes", "stability", "coverage", "truth"),
    *("interventions", "replication", "benchmarks", "claims"),
)
GROUND = ("_saelens_hook", "artifacts", "assignment", "matching", "params", "secrets", "stage")
ON_TOP = ("cli", "reports", "review", "sweeps")
DATA = ("reliability",)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported(path: Path) -> set[str]:
    """The modules of reseed that a file imports, from its syntax tree."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reseed":
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "reseed"}
    return {module for module in found if module_file(module)}


def module_file(module: str) -> Path | None:
    base = ROOT / "src" / Path(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def closure(module: str) -> frozenset[str]:
    found, left = {module}, [module]
    while left:  # not by recursion: types may be imported in a circle
        path = module_file(left.pop())
        assert path is not None
        new = imported(path) - found
        found |= new
        left += new
    return frozenset(found)


def code_dependencies(script: Path) -> set[str]:
    """The paths that dvc.yaml should list: single files of the shared ground, whole directories of rooms."""
    modules = {"reseed"}.union(*(closure(module) for module in imported(script)))
    places = {module.split(".")[1] for module in modules if module != "reseed"}
    return {"src/reseed/__init__.py", f"stages/{script.name}"} | {
        f"src/reseed/{place}.py" if place in GROUND else f"src/reseed/{place}" for place in places
    }


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_code_dependencies_of_a_stage_are_its_import_closure(stage: str) -> None:
    """And the artefact of P(correct), which lies beside the rooms, where the script asks for it."""
    declared, script = (
        {d for d in STAGES[stage]["do"]["deps"] if d.startswith(("src/", "stages/"))},
        ROOT / "stages" / f"{stage}.py",
    )
    artefact = {"src/reseed/reliability.json"} if "shipped()" in script.read_text() else set()
    assert declared == code_dependencies(script) | artefact


def test_the_artefact_of_p_correct_is_read_by_stability_alone() -> None:
    reads = [name for name, stage in STAGES.items() if "src/reseed/reliability.json" in stage["do"]["deps"]]
    assert reads == ["stability"]


def test_every_script_is_a_stage_and_runs_the_code_of_its_own_checkout() -> None:
    assert sorted(STAGES) == sorted(path.stem for path in (ROOT / "stages").glob("*.py"))
    for name, stage in STAGES.items():
        assert stage["do"]["cmd"].startswith(f"PYTHONPATH=src python -P stages/{name}.py")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(room: str) -> None:
    before = {"reseed", *GROUND, *ROOMS[: ROOMS.index(room) + 1]}
    for path in sorted((ROOT / "src/reseed" / room).rglob("*.py")):
        places = {module.split(".")[1] for module in imported(path) if module != "reseed"}
        assert places <= before, path


def test_the_shared_ground_stands_below_the_rooms() -> None:
    for name in GROUND:
        assert closure(f"reseed.{name}") <= {"reseed", *(f"reseed.{ground}" for ground in GROUND)}


def test_every_place_in_the_package_is_known_here() -> None:
    found = {path.stem for path in (ROOT / "src/reseed").iterdir() if not path.name.startswith(("__", "."))}
    assert found == {*ROOMS, *GROUND, *ON_TOP, *DATA}


def test_a_missing_import_edge_would_be_noticed(tmp_path: Path) -> None:
    script = tmp_path / "describe.py"
    script.write_text("import reseed.stability.arms\nfrom reseed.text import tokens\n")
    assert {"src/reseed/stability", "src/reseed/text", "src/reseed/matching.py"} <= code_dependencies(script)


def test_parameters_that_a_stage_depends_on_are_in_the_files_that_it_names() -> None:
    for name, stage in STAGES.items():
        for entry in stage["do"]["params"]:
            for file, keys in entry.items():
                if file != "params.yaml":
                    continue
                known = yaml.safe_load((ROOT / file).read_text())
                for key in keys:
                    head, _, tail = key.partition(".")
                    assert head in known, (name, key)
                    assert tail.startswith("${") or not tail or tail in known[head], (name, key)


def test_every_pair_of_the_study_has_all_that_its_stages_read() -> None:
    study = yaml.safe_load((ROOT / "study.yaml").read_text())
    trained = {(run["subject"], run["variant"], run["arm"]): run["out"] for run in study["runs"].values()}
    captured = {(capture["subject"], capture["arm"]) for capture in study["captures"].values()}
    for pair in study["pairs"].values():
        assert trained[pair["subject"], pair["variant"], "trained"] == pair["variant"]
        for control in pair["controls"]:
            assert trained[pair["subject"], pair["variant"], control] == f"{pair['variant']}@{control}"
    made = captured | {(subject, "gaussian") for subject in study["gaussians"]}
    made |= {(subject, "trained") for subject in study["worlds"]}
    assert {(subject, arm) for subject, _, arm in trained} == made
    assert {subject for subject, _ in captured} == set(study["subjects"])
    pairs = {(pair["subject"], pair["variant"]) for pair in study["pairs"].values()}
    of_models = {pair for pair in pairs if pair[0] in study["subjects"]}  # a world has no text to cover or to show
    for table in ("covered", "exemplified", "benches"):
        assert {(entry["subject"], entry["variant"]) for entry in study[table].values()} == of_models
    for comparison in study["comparisons"].values():
        assert {(comparison["subject"], variant) for variant in comparison["variants"]} <= pairs
    bars = {f"metrics/{pair['subject']}/{pair['variant']}/stability.json": "kappa" for pair in study["pairs"].values()}
    assert study["bars"] == bars


def test_no_study_trains_on_text_that_is_for_evaluation_only() -> None:
    subjects = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "subjects").glob("*.yaml")}
    evaluated = {name for name, content in subjects.items() if content["data"].get("use") == "evaluation"}
    assert "probe-prompts" in evaluated
    for path in (ROOT / "study.yaml", *(ROOT / "studies").glob("*/study.yaml")):
        runs = yaml.safe_load(path.read_text())["runs"].values()
        assert not evaluated & {run["subject"] for run in runs}, path
