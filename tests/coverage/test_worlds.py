"""Histories told in another way against independent accounts of the same world; which rows count, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from reseed.activations.capture import capture_traces
from reseed.artifacts import metrics_dir, read_json, tokens_dir
from reseed.coverage.worlds import classes_of, retold, retold_by, same_token, world_domain
from reseed.models.transformer import build_transformer
from reseed.params import SPLITS, load_traced
from reseed.text.traces import Traces, read_traces
from tests.activations.builders import CPU
from tests.conftest import stage
from tests.models.test_worlds import project, write_subject  # noqa: F401
from tests.scratch import edit
from tests.subjects.test_worlds import CHECKS, WORLDS, Traced, data_of, traces_of


def told_otherwise(generator: str) -> tuple[Traced, Traced]:
    """Traces, and the same told in another way with their own states."""
    retell, _ = retold_by(data_of(generator))
    random = Random(2)
    pairs = [(one, retell(list(one[0].words), random)) for one in traces_of(generator)]
    before = [one for one, words in pairs if words is not None]
    after: Traced = []
    for (trace, states), words in pairs:
        if words is None:
            continue
        instance = trace.instance
        if generator == "logic":  # the one world in which a state is renamed with the words
            new = dict(zip(trace.words, words, strict=True))
            states = [state | {"digit": new[str(state["digit"])]} for state in states]
            instance = "".join(new[digit] for digit in instance)
        after.append((replace(trace, words=tuple(words), instance=instance), states))
    return before, after


@pytest.mark.parametrize("generator", WORLDS)
def test_a_history_told_in_another_way_has_the_same_states(generator: str) -> None:
    before, after = told_otherwise(generator)
    assert len(after) > 100
    assert all(old.words != new.words for (old, _), (new, _) in zip(before, after, strict=True))
    CHECKS[generator](after)


def test_what_is_told_otherwise() -> None:
    stack = retold_by(data_of("stack"))[0]
    ran = "pop empty push/2 2 dup 2 push/2 2 push/1 2 pop 2 push/0 0 pop 2".replace("/", "\0").split()
    words = [word.replace("\0", " ") for word in ran]
    may = [
        {"dup", "add", "swap"},
        set(),
        {"push 2"},
        {"dup"},
        {"push 0", "push 2", "push 3", "dup"},
        set(),
        set(),
        {"add"},
    ]
    seen: list[set[str]] = [set() for _ in may]
    for seed in range(200):
        told = stack(words, Random(seed))
        if told is not None:
            assert told[1::2] == words[1::2]
            for found, word in zip(seen, told[::2], strict=True):
                found.add(word)
    # each instruction is told in every way that does the same, and often as it was
    assert seen == [others | {word} for others, word in zip(may, words[::2], strict=True)]
    assert stack(["push 2", "2", "pop", "empty"], Random(0)) is None

    walk = ["wall 0,0", "wall 0,1", "wall 3,3", "0,2", "right", "0,3"]
    told = retold_by(data_of("walker"))[0](walk, Random(0))
    assert told is not None
    assert told[3:] == walk[3:]
    assert told[:3] == sorted(told[:3])
    assert "wall 0,1" in told  # beside the walk; the others may go wherever it does not come near
    near = {"wall 0,2", "wall 0,3", "wall 1,2", "wall 1,3"}
    assert not (set(told[:3]) - {"wall 0,1"}) & (near | {"wall 0,0", "wall 3,3"})
    everywhere = [*walk[:3], "1,1", "right", "1,2", "down", "2,2", "left", "2,1", "left", "2,0"]
    assert (
        retold_by(data_of("walker", walls=3, size=3))[0]([*everywhere[:2], "wall 2,2", *everywhere[3:]], Random(0))
        is None
    )

    assert sorted(retold_by(data_of("graph"))[0]([*list("abcdefgh"), "bfs"], Random(0)) or []) == sorted(
        [*"abcdefgh", "bfs"]
    )


def test_rows_that_keep_their_token_behind_something_that_changed() -> None:
    before = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]])
    now = torch.tensor([[9, 2, 3, 9, 5, 6], [1, 2, 9, 4, 9, 6]])
    kept = same_token(before, now, (0, 2, 3, 4))
    assert kept.tolist() == [[False, True, False, True], [False, False, True, False]]


def test_values_without_rows_are_not_tested() -> None:
    states = torch.tensor([[[0, -1], [1, 2]], [[0, 2], [0, -1]]], dtype=torch.int16)
    trained = torch.tensor([[[0, 1], [1, 2]]], dtype=torch.int16)  # the value 0 of b occurs nowhere
    variables = {"a": ("0", "1"), "b": ("0", "1", "2")}
    sequences = {"train": torch.zeros(1, 3), "test": torch.zeros(2, 3)}
    found, tested = classes_of(Traces(sequences, ("x",), (0, 1), variables, {"train": trained, "test": states}))
    assert tested == 3 / 4
    assert [mask.tolist() for mask in found["a"]] == [[True, False, True, True], [False, True, False, False]]
    assert [mask.tolist() for mask in found["b"]] == [[False, True, True, False]]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("world", ["walker", "stack"])
def test_a_domain_has_the_rows_of_a_capture_and_of_one_that_is_told_otherwise(world: str) -> None:
    changes = {"walker": {"size": 3, "walls": 1, "moves": 3}, "stack": {}}[world]
    write_subject("tiny", world, **changes)
    stage("download")("tiny")
    stage("tokenize")("tiny")
    config, traces = load_traced("tiny"), read_traces(tokens_dir("tiny"))
    model = build_transformer(config.model, len(traces.vocabulary), traces.n_ctx, "tiny").eval()
    hook = config.capture.hook_name
    domain = world_domain(model, traces, hook, config.data, CPU, "tiny")
    assert torch.equal(domain.rows, capture_traces(model, traces, hook, CPU)["test"])
    told, places = retold(traces, retold_by(config.data)[0], "tiny")
    others = dict.fromkeys(SPLITS, told)
    rows = capture_traces(model, replace(traces, splits=others), hook, CPU)["test"].unflatten(0, (*told.shape[:1], -1))
    own = domain.rows.unflatten(0, (len(traces.splits["test"]), -1))[places]
    chosen = same_token(traces.splits["test"][places], told, traces.predicted)
    assert chosen.sum() >= 4
    torch.testing.assert_close(domain.own, own[chosen])
    torch.testing.assert_close(domain.relabelled, rows[chosen])
    assert (domain.own - domain.relabelled).abs().max() > 1e-3  # the model does see what changed


def test_the_stage_on_a_world(project: Path) -> None:  # noqa: F811
    write_subject("tiny", "stack")
    variant = {"architecture": "topk", "d_sae": 24, "k": 3}
    edit(project / "params.yaml", lambda content: content.update(variants={"small": variant}))
    edit(project / "params.yaml", lambda content: content["train"].update(seeds=[0, 1, 2]))
    for name in ("download", "tokenize", "model"):
        stage(name)("tiny")
    stage("capture")("tiny", "trained")
    stage("train")("tiny", "small", "trained")
    stage("coverage")("tiny", "small")
    found = read_json(metrics_dir("tiny", "small") / "coverage.json")
    assert set(found["parts"]) == {"all", "depth", "top", "second", "overflow"}
    seeds = [read_json(Path(f"models/tiny/small/seed_{seed}/metrics.json")) for seed in (0, 1, 2)]
    mean = sum(one["explained_variance"] for one in seeds) / 3
    assert found["parts"]["all"]["value"] == pytest.approx(mean, abs=1e-5)
    assert found["worst_value"]["value"] <= min(part["value"] for part in found["parts"].values()) + 1e-6
    # rows of one instruction at one place have much in common already
    assert 0 < found["relabelling"]["null"]["high"] < found["relabelling"]["low"]
    assert found["relabelled_by"] == "instructions replaced by others with the same outcome"
