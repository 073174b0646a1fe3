"""P(correct) against known probabilities, scikit-learn's own scores, and families on which it must fail."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import expit
from scipy.stats import t
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from reseed import ReseedError
from reseed.artifacts import read_json, write_json
from reseed.matching import cosines, unit_rows
from reseed.params import load_study
from reseed.stability.jackknife import Estimate, Groups
from reseed.stability.latents import c_dec
from reseed.stability.reliability import (
    ARTEFACT,
    MEASURED,
    SIGNALS,
    LatentSet,
    Logistic,
    brier,
    calibration,
    calibration_error,
    content,
    diagram,
    fit,
    fitted_on_sha256,
    held_out,
    judge,
    of_noise,
    shipped,
    signals_of,
    transfer,
    verdict,
    weights,
    with_correctness,
)
from tests.conftest import ROOT, stage

TRUE = {"reappearance": 1.0, "log_frequency": 0.5, "encoder_decoder_cosine": 1.5, "c_dec": -2.0, "converged": 0.0}
SEEDS = 5
DERIVED = ("log_frequency", "converged")


def latents(seed: int, coefficients: dict[str, float], n: int = 1000) -> pd.DataFrame:
    """Latents whose correctness is drawn with expit(coefficients @ signals), each signal standard normal."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame({name: random.standard_normal(n) for name in SIGNALS} | {"converged": 1.0})
    p = expit(sum(weight * table[name] for name, weight in coefficients.items()))
    table["correct"] = (random.random(n) < p).astype(int)
    return table.assign(seed=np.arange(n) % SEEDS)[["seed", *SIGNALS, "correct"]]


def family(name: str, seed: int, coefficients: dict[str, float] = TRUE, n: int = 1000) -> LatentSet:
    return LatentSet(name, f"{name}/k", latents(seed, coefficients, n))


FAMILIES = [family(name, i) for i, name in enumerate("abcd")]
ONLY_REAPPEARANCE = {"reappearance": 2.0}


def test_where_families_obey_one_law_it_is_found_and_travels() -> None:
    model = fit(FAMILIES, SIGNALS)
    found = {name: c / s for name, c, s in zip(SIGNALS, model.coefficients, model.scale, strict=True)}
    assert found == pytest.approx(TRUE, abs=0.2)
    moved = transfer(FAMILIES)
    p = expit(sum(TRUE[name] * FAMILIES[0].latents[name] for name in SIGNALS)).to_numpy()
    best = float(np.mean([(q * (1 - q)) for q in p]))  # the Brier score of the law itself
    assert moved.over_families["signals.brier"].value == pytest.approx(best, abs=0.01)
    assert moved.over_families["signals.ece"].value < 0.05
    for skill in ("signals.skill_above_constant", "signals.skill_above_reappearance"):
        assert moved.over_families[skill].interval(0.95)[0] > 0.2
        assert moved.over_seeds[skill].interval(0.95)[0] > 0.2
    assert len(moved.over_families["signals.brier"].deleted) == 4
    assert len(moved.over_seeds["signals.brier"].deleted) == SEEDS
    assert verdict(moved.skill, 0.95).endswith("more than reappearance alone")


def test_signals_that_add_nothing_are_said_to_add_nothing() -> None:
    sets = [family(name, i, ONLY_REAPPEARANCE, n=200) for i, name in enumerate("abcd")]
    assert abs(transfer(sets).skill.value) < 0.03
    assert content(sets, 1, 0.95)["verdict"].startswith("no skill above reappearance alone")
    assert verdict(Estimate(-0.1, (-0.1, -0.1, -0.1)), 0.95).endswith("the model is that of reappearance alone")
    assert "its interval holds 0" in verdict(Estimate(0.1, (-0.3, 0.5, 0.1)), 0.95)


def test_what_is_worse_than_reappearance_alone_is_not_shipped() -> None:
    """c_dec means the opposite in every other family: all signals together mislead where they were not fitted."""
    laws = [{"reappearance": 2.0, "c_dec": 3.0 if i % 2 else -3.0} for i in range(5)]
    sets = [family(name, i, law, n=400) for i, (name, law) in enumerate(zip("abcde", laws, strict=True))]
    made = content(sets, 1, 0.95)
    assert transfer(sets).skill.value < 0
    assert made["shipped"] == "reappearance"
    assert set(made["model"]["signals"]) == {"reappearance"}
    assert set(made["all_signals"]["signals"]) == set(SIGNALS)
    signals = latents(30, TRUE, 50).assign(latent=range(50))
    shown = judge(made, {"trained": signals}, Groups(SEEDS), 0.95).summary
    brier = made["transfer"]["reappearance"]["brier"]
    assert shown["transfer"]["brier"] == {of: brier[of] for of in ("low", "high", "value")}
    assert "skill_above_reappearance" not in shown["transfer"]  # it is reappearance
    assert "no skill above reappearance alone" in shown["verdict"]


def test_latents_of_noise_count_as_wrong_however_well_they_look() -> None:
    """Encoder and decoder of good latents agree in a world and in its noise; the others overlap in the world alone."""
    noise = {}
    for i, name in enumerate("abcd"):
        table = latents(40 + i, TRUE, 500)
        table["encoder_decoder_cosine"] = table["encoder_decoder_cosine"] + 4
        table["c_dec"] = table["c_dec"] - 3
        noise[name] = LatentSet(name, f"{name}/k@gaussian", of_noise(table))
        assert noise[name].latents["correct"].sum() == 0
        assert set(noise[name].latents) == {"seed", "correct", *SIGNALS}
    naive, warned = fit(FAMILIES, SIGNALS), fit([*FAMILIES, *noise.values()], SIGNALS)
    for one in FAMILIES:
        rates = [[float(m.probability(of.latents).mean()) for of in (one, noise[one.family])] for m in (naive, warned)]
        assert rates[0][1] > rates[0][0]
        assert rates[1][1] < rates[1][0] / 2


def test_a_family_of_another_law_is_the_worst_and_its_error_is_the_one_it_has_when_held_out() -> None:
    odd = family("odd", 9, {name: -weight for name, weight in TRUE.items()})
    moved = transfer([*FAMILIES, odd])
    worst = moved.worst("signals")
    score = worst.scores["signals"].brier
    assert worst.family == "odd"
    assert worst.scores["signals"].skill == pytest.approx(1 - score / worst.scores["constant"].brier)
    assert score > worst.scores["constant"].brier + 0.1
    alone = fit(FAMILIES, SIGNALS).probability(odd.latents)
    assert score == pytest.approx(brier_score_loss(odd.latents["correct"], alone))
    seen = fit([*FAMILIES, odd], SIGNALS).probability(odd.latents)
    assert brier_score_loss(odd.latents["correct"], seen) < score - 0.05  # having seen it would flatter


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    p = random.random(500)
    correct = (random.random(500) < p**2).astype(float)
    weight = random.random(500)
    assert brier(p, correct, weight) == pytest.approx(brier_score_loss(correct, p, sample_weight=weight))
    observed, predicted = calibration_curve(correct, p, n_bins=10)
    rows = calibration(p, correct, np.ones(500))
    assert [row["observed"] for row in rows] == pytest.approx(observed)
    assert [row["predicted"] for row in rows] == pytest.approx(predicted)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    by_hand = sum(abs(o - q) * row["latents"] / 500 for o, q, row in zip(observed, predicted, rows, strict=True))
    assert calibration_error(p, correct, np.ones(500)) == pytest.approx(by_hand)
    assert calibration_error(np.full(4, 0.25), np.array([1.0, 0, 0, 0]), np.ones(4)) == 0
    assert calibration_error(np.full(4, 1.0), np.zeros(4), np.ones(4)) == 1


def test_families_weigh_the_same_however_many_sets_and_latents_they_have() -> None:
    big, small = family("big", 0, n=900), family("small", 1, n=90)
    twice = LatentSet("small", "small/again", small.latents)
    assert weights([big, small, twice])[:900].sum() == pytest.approx(0.5)
    assert weights([big, small, twice])[900:].sum() == pytest.approx(0.5)
    assert fit([big, small, twice], SIGNALS).coefficients == pytest.approx(fit([big, small], SIGNALS).coefficients)
    constant = fit([big, small], ())
    rate = (big.latents["correct"].mean() + small.latents["correct"].mean()) / 2
    assert constant.probability(small.latents) == pytest.approx(np.full(90, rate))
    assert held_out([big, small], "small").scores["constant"].brier == pytest.approx(
        brier_score_loss(small.latents["correct"], np.full(90, big.latents["correct"].mean()))
    )


def test_a_seed_left_out_is_left_out_of_every_set() -> None:
    left = FAMILIES[0].without_seed(2, SEEDS)
    assert sorted(set(left.latents["seed"])) == [0, 1, 3, 4]
    sets = [one.without_seed(2, SEEDS) for one in FAMILIES]
    expected = np.mean([held_out(sets, name).scores["signals"].brier for name in "abcd"])
    assert transfer(FAMILIES).over_seeds["signals.brier"].deleted[2] == pytest.approx(expected)


def test_the_artefact_gives_back_the_model_and_knows_what_it_was_fitted_on(tmp_path: Path) -> None:
    write_json(tmp_path / "made.json", content(FAMILIES, 3, 0.95))
    made = read_json(tmp_path / "made.json")
    again = Logistic.of_json(made["model"])
    table = FAMILIES[0].latents
    np.testing.assert_allclose(again.probability(table), fit(FAMILIES, SIGNALS).probability(table), atol=1e-4)
    assert made["version"] == 3
    assert made["fitted_on"]["sha256"] == fitted_on_sha256(FAMILIES[::-1])
    assert set(made["held_out"]) == set("abcd")
    # of a family the skill, its interval from the same with a seed left out of every set
    skill = made["held_out"]["b"]["signals"]["skill_above_constant"]
    score = held_out(FAMILIES, "b").scores["signals"]
    assert skill["value"] == pytest.approx(score.skill, abs=1e-5)
    places = FAMILIES[0].latents["seed"].nunique()
    left = [
        held_out([one.without_seed(place, places) for one in FAMILIES], "b").scores["signals"].skill
        for place in range(places)
    ]
    half = t.ppf(0.975, places - 1) * np.std(left) * np.sqrt(places - 1)
    assert (skill["low"], skill["high"]) == pytest.approx((score.skill - half, score.skill + half), abs=1e-4)
    changed = LatentSet("a", "a/k", table.assign(correct=1 - table["correct"]))
    assert fitted_on_sha256([changed, *FAMILIES[1:]]) != made["fitted_on"]["sha256"]
    rows = diagram(FAMILIES)
    assert {row["family"] for row in rows} == set("abcd")
    assert sum(row["latents"] for row in rows if row["model"] == "signals") == 4000


def test_p_correct_stands_beside_its_error_and_the_controls() -> None:
    made = content(FAMILIES, 1, 0.95)
    model = fit(FAMILIES, SIGNALS)
    signals = {
        arm: latents(20 + i, TRUE, 100).assign(latent=range(100)).drop(columns="correct")
        for i, arm in enumerate(("trained", "gaussian"))
    }
    found = judge(made, signals, Groups(SEEDS), 0.95)
    p = pd.Series(model.probability(signals["trained"]))
    assert found.probabilities["trained"].to_numpy() == pytest.approx(p.to_numpy())
    shown = found.summary["mean_p_correct"]
    by_seed = [p[signals["trained"]["seed"] == seed].mean() for seed in range(SEEDS)]
    assert shown["value"] == pytest.approx(np.mean(by_seed))
    assert shown["low"] < shown["value"] < shown["high"]
    assert shown["gaussian"] == pytest.approx(
        np.mean([model.probability(signals["gaussian"][signals["gaussian"]["seed"] == s]).mean() for s in range(SEEDS)])
    )
    assert shown["margin"]["value"] == pytest.approx(shown["value"] - shown["gaussian"])
    assert shown["margin"]["over"] == "gaussian"
    assert shown["margin"]["low"] < 0 < shown["margin"]["high"]  # both arms obey one law here
    told = made["transfer"]["signals"]
    assert found.summary["transfer"]["worst_family"] == told["worst_family"]
    for figure in ("brier", "ece", "skill_above_constant", "skill_above_reappearance"):
        assert found.summary["transfer"][figure] == {of: told[figure][of] for of in ("low", "high", "value")}
    assert found.summary["fitted_on"] == made["fitted_on"]["sha256"]


def test_signals_are_read_from_the_table_of_latents() -> None:
    table = pd.DataFrame(
        {
            "seed": [0, 0, 1], "latent": [0, 1, 0], "firing_count": [100, 2, 1000], "alive": [True, False, True],
            "reappearance": [1.0, np.nan, 0.5], "encoder_decoder_cosine": [0.9, 0.1, 0.8], "c_dec": [0.1, np.nan, 0.2],
        }
    )  # fmt: skip
    found = signals_of(table, 1000, True, "here")
    assert list(found.index) == [0, 2]
    assert found[list(SIGNALS)].to_numpy() == pytest.approx(np.array([[1, -1, 0.9, 0.1, 1], [0.5, 0, 0.8, 0.2, 1]]))
    truth = pd.DataFrame({"seed": [1, 0, 0], "latent": [0, 0, 1], "correct": [0, 1, np.nan]})
    assert list(with_correctness(found, truth, "here")["correct"]) == [1, 0]
    with pytest.raises(ReseedError, match="there: correct: found no 0 or 1 for some alive latent"):
        with_correctness(found, truth[:1], "there")
    with pytest.raises(ReseedError, match="here: found no column 'c_dec', allowed: a table with reappearance"):
        signals_of(table.drop(columns="c_dec"), 1000, True, "here")
    with pytest.raises(ReseedError, match="here: reappearance: found a missing value"):
        signals_of(table.assign(alive=True, c_dec=0.1), 1000, True, "here")


def test_what_cannot_be_fitted_or_judged_is_refused() -> None:
    with pytest.raises(ReseedError, match=r"found 2 families \(a, b\), allowed: 3 or more"):
        transfer(FAMILIES[:2])
    right = [LatentSet(one.family, one.name, one.latents.assign(correct=1)) for one in FAMILIES]
    with pytest.raises(ReseedError, match="of the families b, c, d: found latents that are all correct, or all wrong"):
        transfer(right)
    with pytest.raises(ReseedError, match="found a set of 2 seeds with alive latents, allowed: 3 or more"):
        transfer([LatentSet(one.family, one.name, one.latents[one.latents["seed"] < 2]) for one in FAMILIES])


def test_c_dec_is_the_mean_absolute_cosine_to_the_others() -> None:
    rows = unit_rows(np.random.default_rng(0).standard_normal((7, 4)))
    by_hand = [np.mean([abs(float(rows[i] @ rows[j])) for j in range(7) if j != i]) for i in range(7)]
    assert c_dec(rows) == pytest.approx(by_hand)
    assert c_dec(rows).mean() == pytest.approx(np.abs(cosines(rows, rows)[np.triu_indices(7, 1)]).mean())
    assert c_dec(np.eye(3)) == pytest.approx([0, 0, 0])
    assert np.isnan(c_dec(np.eye(1))).all()


PLAIN = {
    "pw_mcc": 0.9, "kappa": 0.9, "c_dec": 0.1, "isotropic_c_dec": 0.1, "explained_variance": 0.9,
    "encoder_decoder_cosine": 0.0, "correct": 0.95,
}  # fmt: skip
FAULTY = PLAIN | {"pw_mcc": 0.99, "c_dec": 0.5, "explained_variance": 0.5, "correct": 0.1}


def seed_sets(folder: Path, names: dict[str, tuple[str, str]], noise: bool = False, **configuration: Any) -> None:
    """A study of one set a name, with what its stages have written: tables, truth and stability.json.

    noise: of a Gaussian arm, too, whose latents look as the trained ones do.
    """
    for name in ("params.yaml", "study.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for i, (subject, variant) in enumerate(names.values()):
        table = latents(i, TRUE, 200).assign(latent=np.arange(200) // SEEDS, alive=True, arm="trained")
        table["firing_count"] = np.round(10 ** (3 + 0.3 * table["log_frequency"])).astype(int)
        path = folder / "metrics" / subject / variant
        for place, columns in (("tables", ["arm", "firing_count", *SIGNALS]), ("truth", ["correct"])):
            (path / place).mkdir(parents=True)
            stored = table[["seed", "latent", "alive", *(c for c in columns if c in table and c not in DERIVED)]]
            stored.to_parquet(path / place / "latents.parquet", index=False)
        if noise:
            (path / "tables/latents.parquet").unlink()
            table = pd.concat([table, table.assign(arm="gaussian")])
            table[["seed", "latent", "alive", "arm", "firing_count", *MEASURED]].to_parquet(
                path / "tables/latents.parquet", index=False
            )
            configuration = configuration | {"gaussian": {"pw_mcc": {"converged": 0}}}
        figures = {"converged": 1, "value": 0.9 + 0.01 * i, "kappa": 0.9}
        overlap, explained = {"value": 0.1 + 0.01 * i, "null": 0.1}, {"value": 0.9}
        trained = {"pw_mcc": figures, "c_dec": overlap, "explained_variance": explained}
        write_json(path / "stability.json", {"trained": trained, "held_out": {"training_rows": 10**5}} | configuration)
        write_json(path / "planted.json", {"honest": PLAIN | {"pw_mcc": 0.88 + 0.01 * i}, "pulled": FAULTY})
    pairs = [{"subject": s, "variant": v, "family": name} for name, (s, v) in names.items()]
    study = yaml.safe_load((folder / "study.yaml").read_text())
    planted = [*pairs, *[pairs[-1]] * (4 - len(pairs))]
    asked = {"version": 1, "pairs": [*pairs, *[pairs[-1]] * (12 - len(pairs))], "planted": planted}
    study["reliabilities"] = {"worlds": asked}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def test_the_stage_sees_weights_and_activations_and_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other names, architectures, widths and k around the same latents: the same model, errors and probabilities."""
    made = []
    for place, names, configuration in (
        ("one", {f: (f"subject_{f}", "topk-k4") for f in "abc"}, {"architecture": "topk", "d_sae": 128, "k": 4}),
        ("other", {f: (f"x_{f}", "wide") for f in "abc"}, {"architecture": "jumprelu", "d_sae": 9999}),
    ):
        (tmp_path / place).mkdir()
        seed_sets(tmp_path / place, names, **configuration)
        monkeypatch.chdir(tmp_path / place)
        stage("reliability")("study.yaml", "worlds")
        made.append(read_json(Path("metrics/reliability/worlds.json")))
        assert (
            Path("metrics/reliability/worlds.csv")
            .read_text()
            .startswith("model,family,predicted,observed,share,latents")
        )
    for key in ("model", "all_signals", "shipped", "transfer", "held_out", "verdict"):
        assert made[0][key] == made[1][key]
    for key in ("model", "threshold", "detected", "false_alarms", "controls"):
        assert made[0]["detector"][key] == made[1]["detector"][key]
    found = made[0]["detector"]["detected"]
    assert {name: found[name] for name in ("sets", "alarms", "passed", "idle")} == {
        "sets": 3, "alarms": 3, "passed": 0, "idle": 0
    }  # fmt: skip
    honest = [made[0]["detector"][kind]["sets"] for kind in ("false_alarms", "wrong_without_a_plant")]
    assert sum(honest) == 6  # three pairs, of which some are mostly wrong by chance, and the three twins
    assert made[0]["transfer"]["signals"]["brier"]["value"] < 0.2
    assert set(made[0]["all_signals"]["signals"]) == set(SIGNALS)
    assert made[0]["fitted_on"]["sets"]["subject_a/topk-k4"] == {"family": "a", "latents": 200}


def test_the_stage_takes_the_latents_of_the_gaussian_arm_for_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_sets(tmp_path, {f: (f"subject_{f}", "topk-k4") for f in "abc"}, noise=True)
    monkeypatch.chdir(tmp_path)
    stage("reliability")("study.yaml", "worlds")
    made = read_json(Path("metrics/reliability/worlds.json"))
    sets = {name: one["latents"] for name, one in made["fitted_on"]["sets"].items()}
    assert sets == {f"subject_{f}/topk-k4{of}": 200 for f in "abc" for of in ("", "@gaussian")}
    for i, one in enumerate(made["held_out"].values()):
        assert one["latents"] == 400
        assert one["correct"] == pytest.approx(latents(i, TRUE, 200)["correct"].mean() / 2, abs=1e-5)
    assert sum(made["detector"][kind]["sets"] for kind in ("false_alarms", "wrong_without_a_plant")) == 6  # no noise


def test_the_shipped_artefact_is_the_tracked_metric_of_the_study_that_made_it() -> None:
    """`cp metrics/reliability/<name>.json src/reseed/reliability.json` after a study that makes one."""
    studies = [ROOT / "study.yaml", *ROOT.glob("studies/*/study.yaml")]
    asked = {name: one for path in studies for name, one in load_study(path).reliabilities.items()}
    tracked = {name: ROOT / f"metrics/reliability/{name}.json" for name in asked}
    made = {name: path.read_bytes() for name, path in tracked.items() if path.is_file()}
    artefact = shipped()
    assert (artefact is None) == (not made), "a study has made the artefact: copy its metric"
    if artefact is not None:
        (name,) = (name for name, content in made.items() if content == ARTEFACT.read_bytes())
        assert artefact["version"] == asked[name].version
        assert set(artefact["all_signals"]["signals"]) == set(SIGNALS)
