"""A card says what the metrics say, never without the null and interval, and the unpleasant part first."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from reseed import ReseedError
from reseed.reports.card import SeedSet, agreement, beyond, card, limits
from reseed.reports.standing import Standing
from tests.reports.published import COMPARED, committed

NUMBER = r"-?\d+\.\d{3}"
WITH_INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
SHOWN_ALONE = {"null", "untrained SAE", "random SAE", "soft-frozen decoder", "SAE of the random model"} | {
    "k of the model's dimensions"
}


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a Markdown text: rows by the names of their columns."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        header, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def floats(value: Any) -> set[str]:
    """Every number of a metrics file as a card would print it."""
    if isinstance(value, dict):
        return set().union(*map(floats, value.values()))
    if isinstance(value, list):
        return set().union(*map(floats, value))
    return {f"{value:.3f}"} if isinstance(value, int | float) else set(re.findall(NUMBER, str(value)))


def planted(of: SeedSet, change: dict[str, Any], file: str = "stability.json") -> SeedSet:
    """The seed set with some figures, named by their dotted path, replaced."""
    metrics = copy.deepcopy(dict(of.metrics))
    for path, value in change.items():
        *parts, last = path.split(".")
        place = metrics[file]
        for part in parts:
            place = place[part]
        place[last] = value
    return replace(of, metrics=metrics)


def with_kappas(of: SeedSet, arm: str, kappas: dict[str, tuple[float, list[float]]]) -> SeedSet:
    """The seed set with another kappa of pw_mcc in an arm, over alive and over all latents, converged."""
    metrics = copy.deepcopy(dict(of.metrics))
    for record in metrics["stability.json"]["records"]:
        if record["arm"] == arm and record["statistic"] == "pw_mcc":
            record["kappa"], record["kappa_deleted"] = kappas[record["latents"]]
    return replace(of, metrics=metrics)


@pytest.mark.parametrize("name", COMPARED)
def test_every_number_is_one_of_the_metrics_and_has_its_interval_and_null(name: str) -> None:
    of = committed(name)
    text = card(of)
    known = floats(dict(of.metrics)) | floats([list(one.reasons) for one in of.claims.values()])
    said = text.replace(section(text, "What they are"), "")
    assert set(re.findall(rf"(?<![\d.]){NUMBER}(?!\d)", said)) <= known
    counted = 0
    for table in tables(section(text, "Results")):
        for row in table:
            for column, cell in row.items():
                if (
                    column not in SHOWN_ALONE | {"agreement", "of", "figure", "converged", "SAEBench", "benchmark"}
                    and cell
                ):
                    counted += 1
                    assert WITH_INTERVAL.fullmatch(cell) or cell.startswith("none: the null is too high"), (row, column)
            # what it would be by chance, or in an arm or an SAE that learned nothing, stands in the same row
            assert any(row.get(column) for column in SHOWN_ALONE) or len(row) >= 3, row
    assert counted > 12


def test_the_table_of_agreement_is_the_stability_file() -> None:
    of = committed("modular/topk-k8")
    agreements, shares, bench = tables(section(card(of), "Results"))
    arms = {"these SAEs": "trained", "SAEs of random weights": "random_model", "SAEs of Gaussian noise": "gaussian"}
    assert len(agreements) == 9
    for row in agreements:
        one = of.found[arms[row["of"]]][row["agreement"].strip("`")]
        assert row["value"] == f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        assert row["null"] == f"{one['null']:.3f} ({one['strictest_null']})"
        assert row["κ"] == f"{one['kappa']:.3f} [{one['kappa_low']:.3f}, {one['kappa_high']:.3f}]"
        assert row["converged"].startswith("yes" if one["converged"] else "no: changed by ")
    explained, alive = shares[0], shares[2]
    assert explained["these SAEs"].startswith(f"{of.found['trained']['explained_variance']['value']:.3f} [")
    assert explained["SAEs of Gaussian noise"].startswith(
        f"{of.found['gaussian']['explained_variance']['value']:.3f} ["
    )
    assert (
        explained["untrained SAE"] == f"{of.metrics['saebench.json']['core']['random_sae']['explained_variance']:.3f}"
    )
    assert alive["SAEs of random weights"].startswith(f"{of.found['random_model']['alive_fraction']['value']:.3f} [")
    top = of.metrics["saebench.json"]["sparse_probing"]["top_1"]
    (probe,) = [row for row in bench if row["SAEBench"] == "test accuracy of a probe, k = 1"]
    assert probe["untrained SAE"] == f"{top['random_sae']:.3f}"
    assert probe["less the untrained"].startswith(f"{top['over_random_sae']['value']:.3f} [")


LOW, HIGH = (0.01, [0.0, 0.01, 0.02, 0.01, 0.01]), (0.9, [0.9, 0.91, 0.89, 0.9, 0.9])
NEAR = (0.89, [0.95, 0.85, 0.91, 0.84, 0.9])
ARM = "that of SAEs of the same model with random weights"


def against(ours: dict[str, Any], theirs: dict[str, Any]) -> SeedSet:
    """A seed set, converged, with these kappas of the trained and of the random-weights arm."""
    of = committed("modular/topk-k4")
    settled = planted(of, {"trained.pw_mcc.converged": 1, "random_model.pw_mcc.converged": 1})
    return with_kappas(with_kappas(settled, "trained", ours), "random_model", theirs)


CASES = {
    "above": (HIGH, HIGH, LOW, LOW),
    "below": (LOW, LOW, HIGH, HIGH),
    "not apart": (HIGH, HIGH, NEAR, NEAR),
    "depends": (HIGH, HIGH, LOW, HIGH),
}
"""Kappas over alive and over all latents: of the trained arm, of the random-weights arm."""
SAID = {
    "below": f"**Agreement is below {ARM}**",
    "not apart": f"**Agreement does not exceed {ARM}**",
    "depends": f"**Agreement exceeds {ARM} or not, as dead latents count or not**",
    "unsettled": f"**Agreement is not shown to exceed {ARM}**",
}
LEARNED = "That these latents come back because of what the model has learned"


def case(answer: str) -> SeedSet:
    alive, every, their_alive, their_every = CASES.get(answer, CASES["above"])
    of = against({"alive": alive, "all": every}, {"alive": their_alive, "all": their_every})
    return of if answer in CASES else planted(of, {"random_model.pw_mcc.converged": 0})


@pytest.mark.parametrize("answer", SAID)
def test_agreement_that_is_not_above_that_of_random_weights_is_said_in_the_first_lines(answer: str) -> None:
    of = case(answer)
    assert beyond(of, "random_model") == answer
    text = card(of)
    assert 0 < text.index(SAID[answer]) < text.index("## Load")
    assert "By itself it says nothing about what the model has learned." in text
    assert f"- {LEARNED}" in section(text, "What may not be said")


def test_agreement_above_that_of_random_weights() -> None:
    of = case("above")
    assert beyond(of, "random_model") == "above"
    assert "More than SAEs of the same model with random weights by the same recipe: κ there is " in card(of)
    assert not [sentence for sentence in limits(of) if sentence.startswith(LEARNED)]
    assert beyond(planted(of, {"trained.pw_mcc.converged": 0}), "random_model") == "unsettled"


def test_without_a_random_weights_arm_nothing_is_shown_of_the_model() -> None:
    assert (
        "**No SAEs of the model with random weights were trained beside these**"
        in agreement(committed("modular/even-gated-8"))[-1]
    )
    world = committed("superposition/even-topk-12")  # it has no model that could have learned anything
    assert not [sentence for sentence in agreement(world) + limits(world) if "learned" in sentence]
    assert f"correctness together: **{world.found['verdict']}**" in card(world)


def test_what_may_not_be_said_follows_from_the_metrics() -> None:
    of = committed("modular/topk-k4")
    assert "How large `pw_mcc` is: it is not converged." in limits(planted(of, {"trained.pw_mcc.converged": 0}))
    assert "How large `pw_mcc` is: it is not converged." not in limits(planted(of, {"trained.pw_mcc.converged": 1}))
    no_kappa = {key: value for key, value in of.found["trained"]["pw_mcc"].items() if not key.startswith("kappa")}
    over = {"value": 0.02, "low": -0.47, "high": 0.52}
    found = {
        "interval of its κ is not above 0": planted(of, {"trained.pw_mcc.kappa_low": -0.1}),
        "That `pw_mcc` is above chance: its null leaves no room": planted(of, {"trained.pw_mcc": no_kappa}),
        "a finished one: 2 of 5 seeds settled by their own loss": planted(of, {"trained.seeds_converged": 2}),
        "an objective pulled 2 seeds together": committed("modular/consistency-v1"),
        "four times as many steps were tried, verdict broken": planted(
            committed("modular-mlp/transcoder-8"), {"verdict": "broken"}, "certificate.json"
        ),
        "the verdict is: stable and wrong": planted(
            committed("superposition/even-topk-12"), {"verdict": "stable and wrong"}
        ),
        "no benchmark was run on them": committed("modular/plain-k8"),
        "(SAEBench, k = 1: 0.020 [-0.470, 0.520] better)": planted(
            of, {"sparse_probing.top_1.over_random_sae": over}, "saebench.json"
        ),
        "(113 data sets, k = 16: 0.020 [-0.470, 0.520] better)": planted(
            committed("gsm8k-gpt/gpt-topk-16"), {"normal.top_16.auc.over_random_sae": over}, "sae_probes.json"
        ),
    }
    for sentence, one in found.items():
        assert [said for said in limits(one) if sentence in said], sentence


def test_the_claims_that_rest_on_the_seed_set_stand_with_their_verdicts() -> None:
    of = committed("modular/topk-k4")
    (rows,) = tables(section(card(of), "Claims"))
    assert len(rows) == 3
    for row, one in zip(rows, of.claims.values(), strict=True):
        assert row["claim"] == one.statement
        assert row["verdict"] == f"**{one.standing.verdict}**"
        assert len(row["because"].split("; ")) >= len(one.reasons)
        assert "stability.json" not in row["because"]
    assert (
        section(card(committed("modular/plain-k8")), "Claims").strip() == "No registered claim speaks of this seed set."
    )


def test_a_claim_that_is_exploratory_says_why_and_the_card_by_what_its_verdicts_stand() -> None:
    of = committed("modular/topk-k4")
    one = of.claims["low-l0-agreement"]
    found = {
        why: replace(of, claims={"it": replace(one, standing=Standing("supported", "exploratory", (), why))})
        for why in (("its bound was moved", "k was chosen"), ())
    }
    for why, said in ((*found,)[0], "its bound was moved; k was chosen"), ((), "it was written down when its evidence"):
        ((row,),) = tables(section(card(found[why]), "Claims"))
        assert row["verdict"].startswith(f"**supported** (exploratory: {said}")
    assert "This card was made outside a git clone: verdicts were held against files" in section(card(of), "Claims")
    looked = section(card(replace(of, looked_back=True)), "Claims")
    assert "Verdicts are those of `reseed claims check` when this card was made." in looked
    assert "outside a git clone" not in looked


def test_the_front_matter_is_what_the_hub_reads() -> None:
    data = ModelCard(card(committed("minilm-gsm8k/minilm-topk-16"))).data
    assert (data.license, data.library_name) == ("mit", "saelens")
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.datasets == ["openai/gsm8k"]
    assert {"saelens", "sparse-autoencoder"} <= set(data.tags)
    assert data.eval_results is None  # a figure there would have neither null nor interval
    made_here = ModelCard(card(committed("modular/topk-k4"))).data.to_dict()
    assert not {"base_model", "datasets"} & made_here.keys()


def test_terms_of_the_text_and_of_the_model_are_named() -> None:
    of = committed("minilm-gsm8k/minilm-topk-16")
    data = dict(of.about["data"])
    reveal = card(replace(of, about={**of.about, "data": data | {"corpus": "reveal"}}))
    assert ModelCard(reveal).data.license == "other"
    assert "The text is of reveal, whose licence (CC-BY-ND-4.0) does not let" in section(reveal, "Licence and citation")
    assert "These files: MIT." not in reveal
    gemma = card(replace(of, about={**of.about, "model": {"kind": "registered", "name": "gemma-2-2b"}}))
    assert ModelCard(gemma).data.license == "other"
    assert "google/gemma-2-2b, whose terms (Gemma terms of use)" in section(gemma, "Licence and citation")
    folder = card(replace(of, about={**of.about, "model": {"kind": "folder", "path": "somewhere/private"}}))
    assert "its licence is not known" in section(folder, "Licence and citation")
    assert "somewhere/private" not in folder
    with pytest.raises(ReseedError, match=r"data\.corpus: found no 'unheard'"):
        card(replace(of, about={**of.about, "data": data | {"corpus": "unheard"}}))


def test_what_they_are_and_how_to_make_them_again() -> None:
    of = committed("modular-mlp/transcoder-8")
    text = card(of)
    assert "`transcoder`, saved for SAELens as `jumprelu_transcoder`" in text
    assert "`blocks.0.ln2.hook_normalized → blocks.0.hook_mlp_out`, positions: equals" in text
    assert f"sha256 `{'m' * 64}`" in text
    again = section(text, "Make them again")
    assert f"git checkout {of.stability['revision']} " in again
    assert "dvc repro stability@modular-mlp-transcoder-8" in again
    assert of.train["revision"] in again
    assert f"`{'a' * 64}`" in again
    assert "`" + "1" * 32 + ".dir`" in again


def test_a_seed_that_did_not_settle_is_named() -> None:
    of = committed("modular/topk-k8")
    configs = copy.deepcopy(dict(of.configs))
    configs["seed_3"]["metadata"] |= {"reseed_steps": 2000, "reseed_converged": 0}
    assert "| steps | 1000 (every seed) |" in card(of)
    assert "seed_2 1000; seed_3 2000, not converged; seed_4 1000 |" in card(replace(of, configs=configs))


@pytest.mark.parametrize("name", COMPARED)
def test_what_is_said_of_an_arm_is_what_the_stability_stage_found(name: str) -> None:
    of = committed(name)
    for arm in {"random_model", "gaussian"} & of.found.keys():
        found = of.found[f"trained - {arm}"]["pw_mcc"]
        alive = "above" if found["kappa_low"] > 0 else "below" if found["kappa_high"] < 0 else "not apart"
        settled = of.found["trained"]["pw_mcc"]["converged"] and of.found[arm]["pw_mcc"]["converged"]
        allowed = {"above": {"above", "depends"}, "below": {"below", "not apart", "depends"}}
        assert beyond(of, arm) in (allowed.get(alive, {"not apart", "depends"}) if settled else {"unsettled"})


def test_an_architecture_of_the_project_says_what_to_import() -> None:
    of = committed("modular/even-hierarchical-8")
    assert "```python\nimport reseed  # registers the architecture with SAELens\nfrom sae_lens import SAE\n" in card(of)
    assert "import reseed" not in card(committed("modular/even-gated-8"))
    assert 'SAE.load_from_disk("seed_0")' in card(replace(of, repo_id=None))
    assert "from_pretrained" not in card(replace(of, repo_id=None))
