"""Whole scores of SAEs that are known to be right, wrong or random, and the go/no-go table over them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import normalize

from reseed import ReseedError
from reseed.activations.store import Activations, read_activations, write_activations
from reseed.artifacts import activations_dir, write_json
from reseed.matching import Array, unit_rows
from reseed.params import SPLITS, Truth, TruthRows
from reseed.stability.arms import Activity
from reseed.stability.jackknife import Estimate, Groups
from reseed.text.traces import Traces
from reseed.truth.concepts import Concepts, concepts_of
from reseed.truth.directions import score_directions
from reseed.truth.edits import clamped
from reseed.truth.figures import Figure, constant, decide, figure
from reseed.truth.peers import peers
from reseed.truth.planes import Waves, plane_cosines, recover_planes, score_planes
from reseed.truth.states import absorption, detect_by_arm, linear_probes, look, rows_of, score_states, sparse_probes
from reseed.truth.subject import Scores, attention, control_rows, fidelity, over_predictions
from tests.conftest import provenance
from tests.stability.builders import stability_options
from tests.truth.builders import features, indicators, judged, linear_sae, oracle, random_sae, world, write_world

ROWS = TruthRows(train=1600, test=800)
SETTINGS = Truth(rows=ROWS, permutations=19, min_fourier_r2=0.5)
OPTIONS = stability_options(null_draws=4)
RULES = {"fidelity": 0.8, "coverage": 0.9, "recall": 0.9, "purity": 0.9, "monosemanticity": 0.9}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Activations, Activations, Concepts]:
    monkeypatch.chdir(tmp_path)
    write_world("toy", world())
    trained, control = (read_activations(activations_dir("toy", arm)) for arm in ("trained", "random_model"))
    return trained, control_rows(trained, control), concepts_of(world(), ROWS, "toy")


def scored(toy: tuple[Activations, Activations, Concepts], **saes: Any) -> tuple[Scores, dict[str, Any]]:
    trained, control, concepts = toy
    train, test = (rows.double().numpy() for rows in rows_of(trained, concepts).values())
    subject = judged(**saes)
    scores = score_states(subject, trained, control, concepts, peers(train, test, "toy"), SETTINGS, OPTIONS, "toy")
    explained, density = fidelity(subject, trained, control, train, test)
    return scores, decide(RULES, scores.figures | explained, density, 0.95)


def test_a_perfect_sae_is_go_and_its_untrained_start_is_no_go(toy: tuple[Activations, Activations, Concepts]) -> None:
    scores, table = scored(toy, saes=[oracle()] * 5)
    assert table["go"] == 1
    assert all(row["met"] for row in table["rules"].values())
    for name in ("coverage", "recall", "gt_mcc", "f1_best_2"):
        assert scores.figures[name].value.value == pytest.approx(1, abs=0.2 if name == "gt_mcc" else 0.01), name
    assert scores.figures["absorption"].value.value == 0
    assert scores.figures["coverage"].peers["linear_probe"] > 0.95
    latents, concepts = scores.latents, scores.concepts
    assert len(latents) == 40
    assert latents["correct"].all()
    assert latents.set_index(["seed", "latent"]).loc[(0, 5), "concept"] == "top=b"
    assert concepts.set_index(["seed", "concept"]).loc[(2, "depth=3"), "best_latent"] == 3
    assert scores.facts["variables"]["overflow"]["best"]["value"] == pytest.approx(1, abs=0.01)

    null = [random_sae(seed) for seed in range(5)]
    scores, table = scored(toy, saes=null, untrained=null)
    assert table["go"] == 0
    assert not any(row["met"] for row in table["rules"].values())
    for name in ("coverage", "purity", "monosemanticity"):
        assert scores.figures[name].nulls["untrained"] == scores.figures[name].value


def test_peers_are_asked_what_latents_are(toy: tuple[Activations, Activations, Concepts]) -> None:
    trained, _, concepts = toy
    figures = scored(toy, saes=[oracle()] * 5)[0].figures
    rows = {split: x.double().numpy() for split, x in rows_of(trained, concepts).items()}
    directions = unit_rows(np.array([
        rows["train"][on].mean(0) - rows["train"][~on].mean(0) for on in concepts.train.T
    ]))  # fmt: skip
    both = np.vstack([directions.T, -directions.T])  # the cosines of every neuron, in either sign, to every direction
    assert figures["gt_mcc"].peers["neurons"] == pytest.approx(both[linear_sum_assignment(-both)].mean())
    assert figures["gt_mcc"].peers["linear_probe"] > 0.5
    for k in (2, 5):
        peers_of = figures[f"f1_best_{k}"].peers
        assert peers_of["linear_probe"] == figures["coverage"].peers["linear_probe"]
        # the F1 of a probe on the very neurons that differ most, fitted anew
        every = []
        for concept in range(len(concepts)):
            on, wanted = concepts.train[:, concept], concepts.test[:, concept]
            apart = np.abs(rows["train"][on].mean(0) - rows["train"][~on].mean(0)) / rows["train"].std(0)
            columns = np.argsort(-apart)[:k]
            fitted = [x[:, columns] for x in rows.values()]
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(fitted[0], on)
            at = model.decision_function(fitted[0])
            cuts = np.quantile(at, np.linspace(0, 1, 200))
            cut = cuts[np.argmax([f1_score(on, at >= one) for one in cuts])]
            every.append(f1_score(wanted, model.decision_function(fitted[1]) >= cut))
        assert peers_of["neurons"] == pytest.approx(np.mean(every), abs=0.01)
    assert {"neurons", "pca", "ica"} <= set(figures["latents_per_concept"].peers)


def test_a_control_is_asked_for_absorption_by_the_probes_of_its_own_rows(
    toy: tuple[Activations, Activations, Concepts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reseed.truth.detection.SPLIT_GAIN", 1.0)  # the latent of both counts as no part of depth=1
    trained, _, concepts = toy
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(3))).Q
    shards = {
        split: [{"activations": shard["activations"].float() @ turn} for shard in files]
        for split, files in trained.shards.items()
    }
    encoder, bias, decoder = absorbing()
    sae, same = linear_sae(encoder, bias, decoder), linear_sae(encoder @ turn, bias, decoder @ turn)
    subject = judged([sae] * 5, control=[same] * 5)
    train, test = (rows.double().numpy() for rows in rows_of(trained, concepts).values())
    elsewhere = Activations(shards, trained.index)
    found = score_states(subject, trained, elsewhere, concepts, peers(train, test, "toy"), SETTINGS, OPTIONS, "toy")
    figure = found.figures["absorption"]
    assert figure.value.value > 0.02
    assert figure.nulls["control"].value == pytest.approx(figure.value.value, abs=0.005)


def test_an_sae_with_exchanged_decoder_rows_detects_and_explains_nothing(
    toy: tuple[Activations, Activations, Concepts],
) -> None:
    right = oracle()
    exchanged = linear_sae(right.W_enc.T, -0.4, right.W_dec.roll(1, 0))
    scores, table = scored(toy, saes=[exchanged] * 5)
    assert scores.figures["coverage"].value.value > 0.99  # its encoder is right
    met = {rule: row["met"] for rule, row in table["rules"].items()}
    assert (met["coverage"], met["fidelity"], table["go"]) == (1, 0, 0)


def absorbing() -> tuple[Tensor, Tensor, Tensor]:
    """Encoder, bias, decoder: the latent of depth=1 is silent where top=b, whose latent writes depth=1 as well."""
    keep = [i for i in range(9) if i != 7]
    decoder = features()[keep]
    encoder, bias = decoder * 1.4, torch.full((8,), -0.4)
    encoder[1] -= 2.8 * decoder[5]
    encoder[5], bias[5] = 2 * (decoder[1] + decoder[5]), -2.6  # both together, and never one of them
    decoder[5] = normalize(decoder[1] + decoder[5], dim=0)
    return encoder, bias, decoder


def test_absorbed_rows_are_counted(toy: tuple[Activations, Activations, Concepts]) -> None:
    """Rows of both depth=1 and top=b are absorbed."""
    trained, _, concepts = toy
    sae = linear_sae(*absorbing())
    rows = rows_of(trained, concepts)
    train, test = (x.double().numpy() for x in rows.values())
    probes = linear_probes(train, test, concepts)
    for one, wanted in ((sae, True), (oracle(), False)):
        seen = look(one, np.ones(8, dtype=bool), rows)
        sparse = sparse_probes(seen.train, seen.test, concepts)
        sparse.splits[:] = 1
        shares = absorption(seen, sparse, probes, test - train.mean(axis=0), concepts)
        place = concepts.names.index("depth=1")
        rate = (concepts.test[:, place] & concepts.test[:, concepts.names.index("top=b")]).sum()
        expected = rate / concepts.test[:, place].sum() if wanted else 0
        assert shares[place] == pytest.approx(expected, abs=0.05)


def test_a_control_of_other_tokens_is_refused(toy: tuple[Activations, Activations, Concepts]) -> None:
    trained, control, _ = toy
    other = Activations(control.shards, control.index | {"tokens_sha256": "x" * 64})
    with pytest.raises(ReseedError, match=r"activations/random_model: tokens_sha256: found x+…, allowed: "):
        control_rows(trained, other)
    noise = Activations(control.shards, control.index | {"arm": "gaussian", "tokens_sha256": "x" * 64})
    assert control_rows(trained, noise) is trained


def near(value: float, spread: float = 0.0) -> Estimate:
    return Estimate(value, (value - spread, value, value + spread))


def test_a_rule_wants_the_whole_interval_its_nulls_exceeded_and_fewer_latents_than_dimensions() -> None:
    good = Figure(near(0.9), {"untrained": near(0.1)})
    assert decide({"purity": 0.8}, {"purity": good}, 0.5, 0.95)["go"] == 1
    assert decide({"purity": 0.8}, {"purity": good}, 1.0, 0.95)["go"] == 0
    assert decide({"purity": 0.8}, {"purity": good}, 0.5, 0.95, supervised=True)["go"] == 0
    assert decide({}, {"purity": good}, 0.5, 0.95)["go"] == 0
    assert decide({"purity": 0.95}, {"purity": good}, 0.5, 0.95)["go"] == 0
    missing = decide({"purity": 0.8, "recall": 0.1}, {"purity": good}, 0.5, 0.95)
    assert missing["go"] == 0
    assert missing["rules"]["recall"] == {"bound": 0.1, "met": 0}
    for figure_of in (
        Figure(near(0.9, 0.1), {"untrained": near(0.1)}),  # its interval reaches below the bound
        Figure(near(0.9), {"untrained": near(0.1), "control": near(0.95)}),  # a null is above it
        Figure(near(0.9), {"untrained": near(0.9)}),  # or equal
        Figure(near(0.9)),  # no null
    ):
        assert decide({"purity": 0.8}, {"purity": figure_of}, 0.5, 0.95)["go"] == 0


def test_seeds_are_left_out_of_a_figure_and_its_null_together() -> None:
    found = figure([0.5, 0.6, 0.7], Groups(3), {"untrained": [0.4, 0.5, 0.6]})
    assert found.exceeds_nulls(0.95)  # by 0.1 in every seed, though both intervals overlap
    # t(2) at 0.975 times the deviation of a mean of three
    assert found.shown(0.95)["low"] == pytest.approx(0.6 - 4.302653 * 0.1 / math.sqrt(3))
    assert not figure([0.5, 0.6, 0.7], Groups(3), {"untrained": [0.4, 0.9, 0.3]}).exceeds_nulls(0.95)


def test_of_faults_fewer_is_better() -> None:
    seeds = {"untrained": [5.0, 6.0, 7.0], "control": [9.0, 9.0, 10.0]}
    found = figure([2.0, 3.0, 4.0], Groups(3), seeds, more_is_better=False)
    shown = found.shown(0.95)
    assert shown["margin"] == {"value": 3, "low": 3, "high": 3, "over": "untrained"}
    assert (shown["exceeds_nulls"], shown["fewer_is_better"]) == (1, 1)
    assert "fewer_is_better" not in figure([2.0, 3.0, 4.0], Groups(3), seeds).shown(0.95)
    more = figure([5.0, 6.0, 7.0], Groups(3), {"untrained": [5.0, 6.0, 6.0]}, more_is_better=False)
    assert more.shown(0.95)["exceeds_nulls"] == 0
    assert more.shown(0.95)["margin"]["value"] == pytest.approx(-1 / 3)


P, WAVES = 23, (3, 7)


def waves_and_rows(noise: float = 0.05) -> tuple[Array, Array, np.ndarray]:
    """Rows of two planted planes in eight dimensions, and the answers of the rows."""
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.standard_normal((8, 8)))[0][:4].reshape(2, 2, 8)
    answers = random.integers(0, P, 3000)
    rows = noise * random.standard_normal((len(answers), 8)) + 0.5
    for plane, frequency in zip(basis, WAVES, strict=True):
        phase = 2 * math.pi * frequency * answers / P
        rows = rows + np.stack([np.cos(phase), np.sin(phase)], axis=1) @ plane
    return basis, rows, answers


def test_planes_come_from_the_mean_rows_of_the_answers() -> None:
    basis, rows, answers = waves_and_rows()
    found = Waves.of(rows, answers, P, WAVES)
    for plane, true in zip(found.planes(), basis, strict=True):
        assert np.cos(subspace_angles(plane.T, true.T)).min() > 0.999
    means = np.array([rows[answers == answer].mean(axis=0) for answer in range(P)])
    transform = np.fft.fft(means, axis=0)[WAVES[0]] * 2 / P
    assert found.cosine[0] == pytest.approx(transform.real)
    assert found.sine[0] == pytest.approx(-transform.imag)
    assert found.r2(rows, answers) > 0.98
    assert found.roundness() == pytest.approx([1, 1], abs=0.05)
    shuffled = np.random.default_rng(1).permutation(answers)
    assert Waves.of(rows[:1500], shuffled[:1500], P, WAVES).r2(rows[1500:], shuffled[1500:]) < 0.02


def in_planes(basis: Array, n: int, tilt: float = 0.0) -> Array:
    """n unit rows in each plane at even phases, tilted out of it by so many radians."""
    random, rows = np.random.default_rng(2), []
    for plane in basis:
        phases = 2 * math.pi * np.arange(n) / n
        own = np.stack([np.cos(phases), np.sin(phases)], axis=1) @ plane
        away = random.standard_normal(own.shape)
        away -= away @ plane.T @ plane
        rows.append(math.cos(tilt) * own + math.sin(tilt) * unit_rows(away))
    return np.vstack(rows)


def test_plane_scores_by_hand() -> None:
    basis, _, _ = waves_and_rows()
    assert plane_cosines(in_planes(basis, 5, 0.4), basis).max(axis=1) == pytest.approx(np.full(10, math.cos(0.4)))
    exact = recover_planes(in_planes(basis, 5), basis)
    assert exact.figures() == pytest.approx({"plane_cosine": 1, "planes": 1, "correct": 1, "latents_per_plane": 5})
    assert exact.nearest.tolist() == [0] * 5 + [1] * 5
    # two rows of one direction and its opposite are within the plane, and span a line
    line = recover_planes(np.vstack([basis[0][0], -basis[0][0], basis[1]]), basis)
    assert line.cosines[0, 0] == pytest.approx(1)
    assert line.cosines[0, 1] < 0.9
    assert line.figures()["correct"] == 1
    # so that of what splits planes only the two rows of the other one count
    assert line.latents.tolist() == [2, 2]
    three = recover_planes(np.vstack([in_planes(basis[:1], 5), basis[1][0], -basis[1][0], basis[1][0]]), basis)
    assert (three.latents.tolist(), three.figures()["latents_per_plane"]) == ([5, 3], 5)
    # a row between the planes has half of its energy in each, and is in neither
    between = recover_planes(np.vstack([basis[0] + basis[1], basis[0] - basis[1]]) / math.sqrt(2), basis)
    assert between.figures()["correct"] == 0
    assert "latents_per_plane" not in between.figures()


def score_of_planes(
    decoders: list[Array], tmp_path: Path, untrained: list[Any] | None = None, noise: float = 0.05
) -> Scores:
    _, rows, answers = waves_and_rows(noise)
    tensor = torch.from_numpy(rows).float()
    write_activations(dict.fromkeys(SPLITS, tensor), provenance(), "float32", tmp_path / "a")
    activations = read_activations(tmp_path / "a")
    states = torch.from_numpy(answers).to(torch.int16)[:, None, None]
    traces = Traces(
        {split: torch.zeros(len(rows), 2) for split in SPLITS}, ("x",), (0,),
        {"answer": tuple(str(c) for c in range(P))}, dict.fromkeys(SPLITS, states),
    )  # fmt: skip
    saes = [linear_sae(t, -1.0, t) for t in (torch.from_numpy(one).float() for one in decoders)]
    subject = judged(saes, untrained)
    concepts = concepts_of(traces, ROWS, "addition", least=0.5 / P)
    beside = peers(rows[concepts.train_places.numpy()], rows[concepts.test_places.numpy()], "addition")
    waves = Waves.of(rows, answers, P, WAVES)
    read = rows_of(activations, concepts)
    probes = linear_probes(*(one.double().numpy() for one in read.values()), concepts)
    detected = detect_by_arm(subject, read, read, concepts, beside, 19, "addition")
    r2 = (waves.r2(rows, answers), 0.0)
    return score_planes(
        subject, waves, waves, r2, 0.5, waves, detected, concepts, probes, (read, read), beside, OPTIONS, "addition"
    )


def test_a_dictionary_of_planes_is_right_and_one_that_agrees_across_them_is_wrong(tmp_path: Path) -> None:
    basis, _, _ = waves_and_rows()
    right = score_of_planes([in_planes(basis, 6)] * 5, tmp_path / "right")
    for name in ("plane_cosine", "planes", "correct"):
        assert right.figures[name].value.value == pytest.approx(1, abs=1e-4), name
        assert right.figures[name].exceeds_nulls(0.95), name
        assert set(right.figures[name].nulls) == {"untrained", "control", "isotropic", "covariance"}
    assert right.latents["correct"].all()
    assert right.figures["planes"].peers["held_out_planes"] == 1
    # splitting is of the answers, each of which no six latents tell alone
    assert right.figures["latents_per_concept"].value.value >= 1
    assert set(right.figures["split_concepts"].nulls) == {"untrained", "control"}
    assert right.figures["f1_best_5"].peers["linear_probe"] > right.figures["f1_best_5"].value.value - 0.05
    rules = {"fourier_r2": 0.9, "planes": 0.9, "correct": 0.9}
    assert decide(rules, right.figures, 0.5, 0.95)["go"] == 1
    across = unit_rows(np.vstack([basis[0] + basis[1], basis[0] - basis[1]] * 3))
    wrong = score_of_planes([across] * 5, tmp_path / "wrong")  # the same in every seed
    assert wrong.figures["correct"].value.value == 0
    assert not wrong.latents["correct"].any()
    assert decide(rules, wrong.figures, 0.5, 0.95)["go"] == 0


def test_planes_are_split_beside_the_nulls_that_find_them(tmp_path: Path) -> None:
    basis, _, _ = waves_and_rows()
    # an untrained SAE that has the planes in three latents each, and three that lie across them
    across = unit_rows(np.vstack([basis[0] + basis[1], basis[0][:1] - basis[1][:1]]))
    few = torch.from_numpy(np.vstack([in_planes(basis, 3), across])).float()
    many = np.vstack([in_planes(basis, 4), across[:1]])
    found = score_of_planes([many] * 5, tmp_path / "split", [linear_sae(few, -1.0, few)] * 5)
    split = found.figures["latents_per_plane"].shown(0.95)
    assert (split["value"], split["nulls"]) == (4, {"untrained": 3})
    assert split["margin"] == {"value": -1, "low": -1, "high": -1, "over": "untrained"}
    assert (split["fewer_is_better"], split["exceeds_nulls"]) == (1, 0)
    per_seed = found.concepts.groupby("seed")["latents"].mean()
    assert per_seed.tolist() == [4] * 5
    # where one of five seeds finds no plane, its planes are not split, and nothing is said
    none = np.vstack([across] * 3)
    assert "latents_per_plane" not in score_of_planes([many] * 4 + [none], tmp_path / "some").figures


def test_a_model_without_planes_is_not_testable(tmp_path: Path) -> None:
    basis, _, _ = waves_and_rows()
    found = score_of_planes([in_planes(basis, 6)] * 5, tmp_path, noise=3.0)
    assert found.facts["testable"] == 0
    assert set(found.figures) == {"fourier_r2"}
    assert decide({"planes": 0.5}, found.figures, 0.5, 0.95)["go"] == 0


def test_known_directions_by_latent() -> None:
    random = np.random.default_rng(3)
    truth = unit_rows(random.standard_normal((10, 12)))
    codes = (random.random((400, 10)) < 0.2) * (0.5 + random.random((400, 10)))
    rows = codes @ truth
    half = truth.copy()
    half[5:] = unit_rows(random.standard_normal((5, 12)))
    saes = [linear_sae(t, -0.2, t) for t in [torch.from_numpy(half).float()] * 3]
    subject = judged(saes)
    activity = Activity([codes] * 3, [rows @ random.standard_normal((12, 10)) for _ in range(3)])
    found = score_directions(subject, truth, codes, activity, rows, peers(rows, rows, "d"), 9, OPTIONS, "d")
    similarity = (half @ truth.T).max(axis=1)
    assert found.figures["correct"].value.value == pytest.approx((similarity > 0.8).mean())
    assert found.latents[found.latents["seed"] == 0]["correct"].tolist() == (similarity > 0.8).astype(int).tolist()
    assert found.figures["recall"].value.value == pytest.approx(0.5, abs=0.1)
    assert set(found.figures["gt_mcc"].nulls) == {"isotropic", "covariance", "untrained", "control"}
    assert found.figures["f1"].peers["linear_probe"] > 0.9
    # half of the latents fire where their feature is on, the others at random; a latent and no other tells of each
    coverage = found.figures["coverage"]
    assert 0.5 < coverage.value.value < 0.95
    assert coverage.nulls["permuted"].value < coverage.value.value - 0.1
    assert set(coverage.nulls) == {"untrained", "control", "permuted"}
    assert coverage.peers["linear_probe"] > 0.9 > coverage.peers["neurons"] > 0.3
    assert found.figures["purity"].peers["linear_probe"] > 0.9
    assert found.figures["absorption"].value.value < 0.05
    assert found.facts["features_untested"] == 0


def test_a_feature_that_another_latent_writes_beside_its_own_is_absorbed() -> None:
    """A parent is on wherever its child is; the latent of the parent is silent there, and the child's writes both.

    Were the child on more often, a probe would gain by its latent: the parent would be split, and not absorbed.
    """
    random = np.random.default_rng(5)
    parent = random.random(1200) < 0.4
    child = parent & (random.random(1200) < 0.05)
    others = random.random((1200, 4)) < 0.3
    codes = np.column_stack([parent, child, others]) * 1.0
    truth = np.eye(6, 8)
    rows = codes @ truth + 0.01 * random.standard_normal((1200, 8))
    encoder, decoder = np.eye(6, 8), np.eye(6, 8)
    encoder[0, 1] = -2  # no parent where the child is
    decoder[1] = unit_rows(truth[:1] + truth[1:2])[0]
    whole, lost = (
        linear_sae(torch.from_numpy(of).float(), -0.3, torch.from_numpy(by).float())
        for of, by in ((np.eye(6, 8), np.eye(6, 8)), (encoder, decoder))
    )
    shares = []
    for sae in (whole, lost):
        activity = Activity([codes] * 3, [codes] * 3)
        found = score_directions(
            judged([sae] * 3), truth, codes, activity, rows, peers(rows, rows, "a"), 9, OPTIONS, "a"
        )
        shares.append(found.figures["absorption"].value.value)
        assert found.figures["absorption"].more_is_better is False
    # of the five features that a linear probe knows, which the rare child is not, one, where the child is on as well
    assert shares == [0, pytest.approx(np.mean(child[600:][parent[600:]]) / 5)]
    assert shares[1] > 0.005


def test_clamping_the_latents_of_exact_states_writes_the_state_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One-hot rows: an SAE whose latents are the entries writes each value alone, one with other rows does not."""
    monkeypatch.chdir(tmp_path)
    traces = world()
    rows = {split: indicators(traces.rows(split)) for split in SPLITS}
    write_activations(rows, provenance(), "float32", activations_dir("toy", "trained"))
    exact, concepts = read_activations(activations_dir("toy", "trained")), concepts_of(traces, ROWS, "toy")
    best = pd.DataFrame(
        [
            {"seed": seed, "concept": name, "best_latent": [*names_of(traces.variables)].index(name)}
            for seed in range(3)
            for name in concepts.names
        ]
    )
    right = linear_sae(torch.eye(9), 0.0, torch.eye(9))
    turned = linear_sae(torch.eye(9), 0.0, torch.eye(9).roll(3, 0))  # often of another variable
    found = {
        name: clamped(judged(saes=[sae] * 3), exact, concepts, best, traces.variables)
        for name, sae in (("right", right), ("turned", turned))
    }
    assert found["right"]["reached"].value.value == found["right"]["spared"].value.value == 1
    assert found["right"]["reached"].nulls["shuffled"].value == 0
    assert found["turned"]["reached"].value.value == 0
    assert found["turned"]["spared"].value.value < 0.95


def names_of(variables: dict[str, tuple[str, ...]]) -> list[str]:
    """`variable=value` of every entry of a one-hot row."""
    return [f"{variable}={value}" for variable, values in variables.items() for value in values]


def test_attention_stands_beside_even_attention_and_the_untrained_model(tmp_path: Path) -> None:
    looks = {"head": 2, "layer": 0, "pattern": "the cell before the move"}
    write_json(tmp_path / "metrics.json", {"attention": looks | {"trained": 0.9, "uniform": 0.1, "untrained": 0.95}})
    found = attention(tmp_path, Groups(5))
    assert found is not None
    shown = found.shown(0.95)
    assert shown["nulls"] == {"uniform": 0.1, "untrained": 0.95}
    assert (shown["value"], shown["exceeds_nulls"], shown["margin"]["over"]) == (0.9, 0, "untrained")
    write_json(tmp_path / "metrics.json", {"accuracy": 1.0})
    assert attention(tmp_path, Groups(5)) is None
    assert attention(tmp_path / "absent", Groups(5)) is None


def test_the_accuracy_of_one_model_has_an_interval_over_its_predictions() -> None:
    """Clopper and Pearson 1934 by quantiles of the beta distribution."""

    def of(share: float, predictions: int) -> dict[str, Any]:
        groups = Groups(3)
        return over_predictions(Figure(constant(share, groups), {"chance": constant(0.5, groups)}), predictions, 0.95)

    low, high = beta.ppf(0.025, 995, 6), beta.ppf(0.975, 996, 5)
    found = of(0.995, 1000)
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.995, low, high))
    assert found["margin"] == pytest.approx({"value": 0.495, "low": low - 0.5, "high": high - 0.5, "over": "chance"})
    assert found["exceeds_nulls"] == 1
    every = of(1.0, 100)
    assert (every["low"], every["high"]) == (pytest.approx(0.025**0.01), 1.0)
    # six of ten are more than half, and no more than what a coin gives
    assert (of(0.6, 10)["exceeds_nulls"], of(0.6, 1000)["exceeds_nulls"]) == (0, 1)
