"""The nulls and the parameters behind a claim, as `reseed claims show` lists them."""

from __future__ import annotations

from typing import Any

import pytest

from reseed.artifacts import read_json
from reseed.claims.registry import Claim
from reseed.review.behind import parameters
from reseed.review.nulls import beside, nulls, said
from reseed.sweeps.locks import Stage
from tests.conftest import ROOT
from tests.review.project import claim

PAIR = "modular/topk-k4"
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6}


def of(metric: str, pair: str = PAIR, **change: Any) -> Claim:
    """A claim that compares a figure of a metric file with a bound."""
    evidence = [f"metrics/{pair}/stability.json", f"metrics/{pair}/{metric.partition(':')[0]}.json"]
    content = claim("0" * 40, metric=metric, tests=[{"above": 0}], evidence=evidence + [evidence[-1]] * 6, **change)
    content |= {"speaks_of": {pair: {}}, "gates": ["converged", "alive", "held_out", "between_groups", "multiplicity"]}
    del content["statistic"]
    return Claim.model_validate(content, strict=False)


def test_a_benchmark_stands_beside_the_untrained_sae_of_its_table() -> None:
    core = read_json(ROOT / f"metrics/{PAIR}/saebench.json")["core"]
    ((path, name, value, others),) = nulls(ROOT, of("saebench:core/ce_loss_score", unit="score"))
    assert (path, name, value) == (f"metrics/{PAIR}/saebench.json", "core/ce_loss_score", core["ce_loss_score"])
    assert others == [("random_sae/ce_loss_score", core["random_sae"]["ce_loss_score"])]


def test_a_truth_stands_beside_its_nulls_and_what_others_reach() -> None:
    pair = "superposition/known-12"
    figure = read_json(ROOT / f"metrics/{pair}/truth.json")["figures"]["gt_mcc"]
    ((_, name, value, others),) = nulls(ROOT, of("truth:figures/gt_mcc", pair, unit="cosine"))
    assert (name, value) == ("figures/gt_mcc", figure)
    assert dict(others) == figure["nulls"] | {f"peers/{peer}": at for peer, at in figure["peers"].items()}
    assert {"untrained", "control"} <= dict(others).keys()


def test_a_margin_over_the_nulls_of_a_truth_stands_beside_them() -> None:
    pair = "superposition/known-12"
    figures = read_json(ROOT / f"metrics/{pair}/truth.json")["figures"]
    gates = ["converged", "alive", "held_out", "between_groups", "multiplicity", "correctness"]
    for metric, shown in (("truth:figures/recall/margin", "recall"), ("stability:trained/l0", "correct")):
        unit = "fraction" if shown == "recall" else "latents"
        claim = of(metric, pair, unit=unit).model_copy(update={"gates": tuple(gates)})
        claim = claim.model_copy(update={"evidence": (*claim.evidence[:7], f"metrics/{pair}/truth.json")})
        path, name, value, others = nulls(ROOT, claim)[-1]
        assert (path, name) == (f"metrics/{pair}/truth.json", f"figures/{shown}/margin")
        assert value == figures[shown]["margin"]
        assert others[0] == (f"figures/{shown}", figures[shown])
        assert figures[shown]["nulls"].items() <= dict(others[1:]).items()


def test_a_gain_over_a_null_stands_beside_that_null_of_each_domain() -> None:
    pair = "minilm-gsm8k/minilm-topk-16"
    null = read_json(ROOT / f"metrics/{pair}/ood.json")["null"]
    ((_, _, value, others),) = nulls(ROOT, of("ood:over_null", pair, unit="fraction"))
    assert said(value) == f"{value['value']:.6g} [{value['low']:.6g}, {value['high']:.6g}]"
    assert dict(others) == {"null/in": null["in"], "null/ood": null["ood"]}


def test_a_statistic_stands_beside_the_nulls_of_its_record_and_its_kappa() -> None:
    content = claim("0" * 40, speaks_of={PAIR: {"k": 4}}, evidence=[f"metrics/{PAIR}/stability.json"] * 8)
    found = {name: dict(others) for _, name, _, others in nulls(ROOT, Claim.model_validate(content, strict=False))}
    assert list(found) == ["trained/pw_mcc", "random_model/pw_mcc"]  # the gate random_model reads the second
    stability = read_json(ROOT / f"metrics/{PAIR}/stability.json")
    for arm in ("trained", "random_model"):
        figure = stability[arm]["pw_mcc"]
        kappa = found[f"{arm}/pw_mcc"].pop("kappa (above the strictest)")
        assert kappa == {"value": figure["kappa"], "low": figure["kappa_low"], "high": figure["kappa_high"]}
        assert found[f"{arm}/pw_mcc"].keys() == {"isotropic", "covariance", "untrained"}
        assert found[f"{arm}/pw_mcc"][figure["strictest_null"]] == figure["null"]


@pytest.mark.parametrize(
    ("content", "path", "expected"),
    [
        ({"a": FIGURE | {"null": 0.1, "strictest_null": "untrained"}}, "a", [("null (untrained)", 0.1)]),
        ({"t": {"a": FIGURE | {"frozen_sae": 0.2, "wins": 3}}}, "t/a", [("frozen_sae", 0.2)]),
        ({"t": {"over_pca": FIGURE, "pca": 0.3}}, "t/over_pca", [("pca", 0.3)]),
        ({"m": {"clamp": FIGURE, "clamp_random": 0.1, "slope": 1}}, "m/clamp", [("clamp_random", 0.1)]),
        ({"e": {"latent": FIGURE, "random_latent": 0.1}}, "e/latent", [("random_latent", 0.1)]),
        ({"n": {"dense": {"acc": 0.7}, "top": {"acc": {"x": FIGURE}}}}, "n/top/acc", [("dense/acc", 0.7)]),
        ({"trained": {"r": {"a": FIGURE}}, "gaussian": {"r": {"a": 0.2}}}, "trained/r/a", [("gaussian/r/a", 0.2)]),
        ({"t": {"a": FIGURE, "b": FIGURE}}, "t/a", []),
        ({"t": {"b": FIGURE}}, "t/a", []),
    ],
)
def test_what_stands_beside_a_figure(content: dict[str, Any], path: str, expected: list[tuple[str, Any]]) -> None:
    assert beside(content, path) == expected


def stage(name: str, **params: dict[str, Any]) -> Stage:
    files = {f"{file}.yaml": values for file, values in params.items()}
    return Stage("dvc.yaml", name, False, "", frozenset(), {}, {}, {"params": files})


def test_the_parameters_are_those_of_every_stage_each_once() -> None:
    stages = [
        stage("claims@it", params={"stability": {"draws": 10, "level": 0.95}}, claims={"claims.it": {"tried": 1}}),
        stage("stability@a", params={"stability": {"draws": 10, "level": 0.95}, "variants.a": {"k": 4}}),
        stage("ood@a", params={"stability.level": 0.95}),
        stage("train@a", params={"variants.a": {"k": 4}}),
        stage("train@a-random", params={"variants.a": {"k": 5}}),  # of an older run
        stage("tokenize@s", subject={"data": {"p": 113}}),
    ]
    assert parameters(stages, "it") == [
        ("params.yaml:stability", "{draws: 10, level: 0.95}", ["claims", "stability", "ood"]),
        ("params.yaml:variants.a", "{k: 4}", ["stability", "train"]),
        ("params.yaml:variants.a", "{k: 5}", ["train"]),
        ("subject.yaml:data", "{p: 113}", ["tokenize"]),
    ]
