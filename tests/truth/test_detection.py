"""Detectors against scikit-learn, planted ones against what they are, random ones against chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, matthews_corrcoef, precision_recall_curve, precision_score
from sklearn.preprocessing import StandardScaler

from reseed import ReseedError
from reseed.params import TruthRows
from reseed.text.traces import Traces
from reseed.truth.concepts import Concepts, concepts_of
from reseed.truth.detection import Firing, detect, f1_of, permutation_null, phi_of, probe, sparse_probes
from reseed.truth.peers import explained_by_components, peers
from tests.truth.builders import POSITIONS, activity_of, world

ROWS = TruthRows(train=1600, test=800)


@pytest.fixture(scope="module")
def traces() -> Traces:
    return world()


@pytest.fixture(scope="module")
def concepts(traces: Traces) -> Concepts:
    return concepts_of(traces, ROWS, "toy")


def test_concepts_are_values_turned_to_their_rarer_side(traces: Traces, concepts: Concepts) -> None:
    assert concepts.names == (
        "depth=0", "depth=1", "depth=2", "depth=3", "top=a", "top=b", "top=c", "overflow=yes"
    )  # fmt: skip
    states = traces.rows("test")[concepts.test_places]
    assert (concepts.test[:, 2] == (states[:, 0] == 2).numpy()).all()
    assert (concepts.test[:, 7] == (states[:, 2] == 1).numpy()).all()
    assert (concepts.train[:, 4] == (traces.rows("train")[concepts.train_places][:, 1] == 0).numpy()).all()
    assert concepts.untested == 0
    # common values are turned round, what never happens is counted, and nothing at all is refused
    dull = {split: torch.zeros_like(found) for split, found in traces.states.items()}
    with pytest.raises(ReseedError, match="data/toy/tokens: found no value on 1% or more of the training rows"):
        concepts_of(replace(traces, states=dull), ROWS, "toy")
    for found in dull.values():
        found[::5, :, 2] = 1
        found[::4, :, 0] = 1
    common = concepts_of(replace(traces, states=dull), ROWS, "toy")
    assert common.names == ("depth!=0", "depth=1", "overflow=yes")
    assert common.untested == 4 - 2 + 3  # no depth above 1; top is always a
    assert common.test.mean(axis=0).max() <= 0.5


def test_a_variable_of_two_values_that_some_rows_lack_gives_two_concepts(traces: Traces) -> None:
    states = {split: found.clone() for split, found in traces.states.items()}
    for found in states.values():
        found[::2, :, 2] = -1
        found[1::4, :, 2] = 1
    assert concepts_of(replace(traces, states=states), ROWS, "toy").names[-2:] == ("overflow=no", "overflow=yes")


def test_f1_phi_and_precision_are_those_of_scikit_learn(concepts: Concepts) -> None:
    random = np.random.default_rng(0)
    fires = random.random((len(concepts.test), 6)) < np.array([0, 0.1, 0.3, 0.5, 0.9, 1])
    fires[:, 2] |= concepts.test[:, 3]
    f1, phi = f1_of(fires, concepts.test), phi_of(fires, concepts.test)
    for i in range(fires.shape[1]):
        for j in range(len(concepts)):
            truth = concepts.test[:, j]
            assert f1[i, j] == pytest.approx(f1_score(truth, fires[:, i], zero_division=0.0))
            assert phi[i, j] == pytest.approx(matthews_corrcoef(truth, fires[:, i]), abs=1e-9)
    planted = detect(Firing(fires, fires), replace(concepts, train=concepts.test))
    for i in range(1, 6):
        truth = concepts.test[:, planted.own[i]]
        assert planted.precision[i] == pytest.approx(precision_score(truth, fires[:, i]))
        assert planted.base[i] == pytest.approx(truth.mean())
    assert np.isnan(planted.precision[0])
    assert planted.own[2] == 3


def test_the_states_themselves_are_perfect_detectors_and_a_union_of_two_is_not_monosemantic(concepts: Concepts) -> None:
    perfect = detect(Firing(concepts.train, concepts.test), concepts)
    assert perfect.figures() == pytest.approx(
        {"coverage": 1, "recall": 1, "purity": 1, "enrichment": 1, "monosemanticity": 1, "correct": 1}
    )
    assert (perfect.best == np.arange(8)).all()
    # a latent that fires on two unrelated values, and one that fires on a half of one value
    random = np.random.default_rng(1)
    two = [
        np.column_stack([x[:, 0] | x[:, 4], x[:, 7] & (random.random(len(x)) < 0.5)])
        for x in (concepts.train, concepts.test)
    ]
    found = detect(Firing(*two), concepts)
    assert found.monosemantic.tolist() == [False, True]
    assert found.precision[1] == 1
    assert found.own_f1[1] == pytest.approx(2 / 3, abs=0.1)
    assert found.figures()["correct"] == 0


def test_detection_falls_as_latents_are_degraded(concepts: Concepts) -> None:
    random = np.random.default_rng(2)
    coverages, purities = [], []
    for share in (0, 0.1, 0.3, 0.5):
        wrong = [x ^ (random.random(x.shape) < share) for x in (concepts.train, concepts.test)]
        found = detect(Firing(*wrong), concepts).figures()
        coverages.append(found["coverage"])
        purities.append(found["enrichment"])
    assert coverages[0] == 1
    assert (np.diff(coverages) < -0.05).all()
    assert (np.diff(purities) < -0.05).all()
    assert abs(purities[-1]) < 0.05


def test_what_is_chosen_on_training_rows_is_scored_on_test_rows(concepts: Concepts) -> None:
    """A latent that is perfect on training rows and silent on test rows is chosen, and scores nothing."""
    train = np.column_stack([concepts.train[:, 1], concepts.train[:, 1] & (np.arange(len(concepts.train)) % 2 == 0)])
    test = np.column_stack([np.zeros(len(concepts.test), dtype=bool), concepts.test[:, 1]])
    found = detect(Firing(train, test), concepts)
    assert found.best[1] == 0
    assert (found.f1[1], found.train_f1[1]) == (0, 1)
    assert found.own_f1.tolist() == [0, 1]
    assert found.figures()["purity"] == 1  # of the one that fires


def test_the_permutation_null_is_calibrated_and_keeps_sequences_together(concepts: Concepts) -> None:
    random = np.random.default_rng(3)
    # latents that are on for whole sequences: rows are no independent observations, sequences are
    fires = [
        np.repeat(random.random((len(x) // POSITIONS, 300)) < 0.2, POSITIONS, axis=0)
        for x in (concepts.train, concepts.test)
    ]
    firing = Firing(*fires)
    null = permutation_null(firing, concepts, detect(firing, concepts), 19, random)
    assert kstest(null.p, "uniform").pvalue > 0.001
    assert (null.p <= 0.05).mean() == pytest.approx(0.05, abs=0.04)
    perfect = Firing(concepts.train, concepts.test)
    found = permutation_null(perfect, concepts, detect(perfect, concepts), 19, random)
    assert (found.p == 1 / 20).all()
    assert found.figures["enrichment"] < 0.1
    moved = concepts.permuted(random)
    blocks, before = (x.test.reshape(-1, POSITIONS, len(concepts)) for x in (moved, concepts))
    assert not (blocks == before).all()
    assert sorted(map(bytes, blocks)) == sorted(map(bytes, before))


@pytest.mark.parametrize(("columns", "constant"), [(1, False), (5, False), (5, True), (40, False)])
def test_a_probe_is_that_of_scikit_learn_with_all_its_checks(columns: int, constant: bool) -> None:
    random = np.random.default_rng(columns)
    train, test = (np.maximum(random.normal(size=(500, columns)) - 0.4, 0) for _ in range(2))
    if constant:
        train[:, 0] = test[:, 0] = 0.3
    on, wanted = (x[:, -1] + 0.5 * random.normal(size=500) > 0.6 for x in (train, test))
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(solver="lbfgs" if columns > 32 else "newton-cholesky", max_iter=300, tol=1e-3)
    at = [model.fit(scaler.transform(train), on).decision_function(scaler.transform(x)) for x in (train, test)]
    precision, recall, cuts = precision_recall_curve(on, at[0])
    f1 = np.divide(2 * precision * recall, precision + recall, out=np.zeros_like(recall), where=recall > 0)
    says = at[1] >= cuts[f1[:-1].argmax()]
    found = probe(train, test, on, wanted)
    assert (found.says == says).all()
    assert found.f1 == pytest.approx(f1_score(wanted, says), abs=1e-12)
    np.testing.assert_allclose(found.direction, model.coef_[0] / scaler.scale_)


def test_probes_know_a_linear_state_and_two_latents_a_split_one(traces: Traces, concepts: Concepts) -> None:
    train, test = (
        activity_of(traces, split)[places].double().numpy()
        for split, places in (("train", concepts.train_places), ("test", concepts.test_places))
    )
    found = [probe(train, test, concepts.train[:, c], concepts.test[:, c]) for c in range(len(concepts))]
    assert min(one.f1 for one in found) > 0.95
    assert found[3].f1 == pytest.approx(f1_score(concepts.test[:, 3], found[3].says))
    random = np.random.default_rng(4)
    halves = []
    for holds in (concepts.train, concepts.test):
        first = random.random(len(holds)) < 0.6
        halves.append(np.column_stack([holds[:, 1] & first, holds[:, 1] & ~first, holds[:, 7]]).astype(float))
    sparse = sparse_probes(*halves, concepts)
    assert sparse.splits[[1, 7]].tolist() == [2, 1]
    assert sparse.best(1)[1] == pytest.approx(0.75, abs=0.06)  # 0.6 of it found, nothing else
    assert sparse.best(2)[[1, 7]] == pytest.approx([1, 1])
    assert sparse.best(5)[7] == sparse.best(3)[7]


def test_peers_find_what_lies_along_them(concepts: Concepts) -> None:
    random = np.random.default_rng(5)
    holds = [random.random((n, 8)) < 0.15 for n in (1600, 800)]  # independent, as ICA wants it
    independent = replace(concepts, train=holds[0], test=holds[1])
    train, test = (x.astype(float) + 0.02 * random.standard_normal(x.shape) for x in holds)
    turned = hadamard(8) / np.sqrt(8)  # every dimension holds a bit of every source
    for rotation, along in ((np.eye(8), {"neurons", "ica"}), (turned, {"ica"})):
        found = peers(train @ rotation, test @ rotation, "toy")
        for name, peer in found.items():
            coverage = detect(peer.firing(), independent).figures()["coverage"]
            assert (coverage > 0.9) == (name in along), (name, coverage)
            assert np.linalg.norm(peer.atoms, axis=1) == pytest.approx(np.ones(8))
    low = train @ turned[:, :3] @ turned[:, :3].T
    assert len(peers(low, low, "toy")["ica"].atoms) == 3
    assert explained_by_components(low, low, 3) == pytest.approx(1)
    assert explained_by_components(low, low, 2) < 0.99
