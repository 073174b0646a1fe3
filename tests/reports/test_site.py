"""The site: every number is the metrics', every panel says what it lacks, and the pages are whole HTML."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from markupsafe import Markup
from typer.testing import CliRunner

from reseed import ReseedError
from reseed.artifacts import read_json, write_json
from reseed.cli import app
from reseed.reports.readme import claims
from reseed.reports.site.collect import Workspace
from reseed.reports.site.figures import Table, figure, shown
from reseed.reports.site.pages import ASSETS, _index, build, on_frontier
from tests.conftest import ROOT
from tests.reports.builders import (
    CACHED,
    CLAIM,
    EDITED,
    LATENTS,
    SEEDS,
    VARIANTS,
    WITH_TABLES,
    planted_tables,
    with_p_correct,
)

VOID = {"meta", "link", "br", "input", "img"}


class Element:
    """A node of a parsed page."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Element | str] = []

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str, **attributes: str) -> list[Element]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [e for e in self.walk() if e.tag == tag and wanted.items() <= e.attributes.items()]

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Parser(HTMLParser):
    """Refuses what is not well nested."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: Path) -> Element:
    parser = Parser()
    parser.feed(page.read_text())
    assert parser.open == [parser.root], page
    return parser.root


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[str, Element]:
    return {str(path.relative_to(site)): parse(path) for path in sorted(site.rglob("*.html"))}


def sources(page: Element) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(page.all("script", id="sources")[0].text)
    return found


def test_every_number_shown_is_the_one_in_its_file(project: Path, pages: dict[str, Element]) -> None:
    seen = 0
    for name, page in pages.items():
        files = [source["file"] for source in sources(page)]
        for number in page.all("span", class_="num"):
            content: Any = read_json(project / files[int(number.attributes["data-file"])])
            for key in number.attributes["data-key"].split("/"):
                content = content[int(key)] if isinstance(content, list) else content[key]
            form = number.attributes.get("data-form")
            if form is None:  # a word, such as a verdict
                assert number.text == content, name
                continue
            keys = ("kappa", "kappa_low", "kappa_high") if form == "kappa" else ("value", "low", "high")
            expected = [content[key] for key in keys if key in content] if isinstance(content, dict) else [content]
            parts = re.findall(r"-?[\d,.]*\d", number.text)
            assert len(parts) in (1, len(expected)), (name, number.text)
            for part, value in zip(parts, expected, strict=False):
                half = 0.5 * 10.0 ** -len(part.partition(".")[2]) if "." in part else 0.0
                assert abs(float(part.replace(",", "")) - value) <= half * 1.0001, (name, number.attributes)
            seen += 1
    assert seen > 500


def test_numbers_of_one_interval_have_equal_decimals_and_small_ones_enough() -> None:
    assert shown(0.0261, 0.00722, 0.05) == ["0.026", "0.007", "0.050"]
    assert shown(-0.00722, -0.0094) == ["-0.00722", "-0.00940"]
    assert shown(0.0) == ["0.000"]
    assert shown(3.4e-7) == ["0.000000340"]
    assert shown(10000) == ["10,000"]
    assert figure({"value": 1.0, "low": 0.9999, "high": 1.0001}) == "1.000 [1.000, 1.000]"
    assert figure({"value": 0.5}) == "0.500"


def test_what_is_not_converged_says_so(project: Path, pages: dict[str, Element]) -> None:
    for variant in VARIANTS:
        stability = read_json(project / "metrics" / variant / "stability.json")
        page = pages[f"variants/{variant}.html"]
        table = next(t for t in page.all("table") if t.all("caption")[0].text.startswith("Each statistic"))
        marked = [row for row in table.all("tr") if row.all("span", class_="badge unsettled")]
        records = [record for record in stability["records"] if record["latents"] == "alive"]
        assert len(table.all("tr")) == 1 + len(records)
        assert len(marked) == sum(not record["converged"] for record in records)
        index = next(
            t for t in pages["index.html"].all("tr") if t.all("a") and t.all("a")[0].text == variant.split("/")[1]
        )
        assert bool(index.all("span", class_="badge unsettled")) == any(
            not stability[arm]["pw_mcc"]["converged"] for arm in {record["arm"] for record in records}
        )


def test_claims_show_verdicts_gates_and_whether_their_evidence_is_still_that(
    project: Path, pages: dict[str, Element]
) -> None:
    table = next(t for t in pages["index.html"].all("table") if "claims" in t.all("caption")[0].text)
    rows = {row.all("code")[0].text: row for row in table.all("tr")[1:]}
    verdicts = {name: row.all("td")[0].text for name, row in rows.items()}
    assert verdicts == {
        "low-l0-agreement": "supported", "agreement-falls-with-k": "not testable", "above-random-weights": "not judged",
        EDITED: "not testable",
    }  # fmt: skip
    said = " ".join(rows[CLAIM].text.split())
    test = read_json(project / "metrics/claims" / f"{CLAIM}.json")["tests"][0]
    expected = f"{test['value']:.3f} [{test['low']:.3f}, {test['high']:.3f}]"
    assert f"κ of trained, modular/topk-k4: {expected}, to be above 0: holds" in said
    of_directions = " ".join(rows[EDITED].text.split())  # its figure is a cosine, and its path begins with an arm
    assert "trained/recovery/gt_mcc, superposition/known-12: " in of_directions
    assert "κ" not in of_directions
    assert "Gates: 1 of 2 passed" in said
    assert "failed alive of modular/topk-k4: the verdict <flips>" in said
    assert "models/modular/topk-k4sha256" in said.replace(" ", "")
    artefacts = rows[CLAIM].all("details")[1].all("li")
    assert {item.all("code")[0].text: item.text.rpartition(": ")[2] for item in artefacts} == {
        "data/modular/activations/trained": "not in this workspace",
        "data/superposition/activations/trained": "as judged",
        "models/modular/topk-k4": "as judged",
        "models/modular/topk-k8": "changed since it was judged",
        "models/superposition/even-topk-12": "as judged",
    }
    assert "is not converged" in rows["agreement-falls-with-k"].text


LOW = f"metrics/{VARIANTS[0]}/stability.json"


def _edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def _promise_less(root: Path) -> None:
    _edit(root / "claims.yaml", "above: 0\n", "above: -1\n")


def _judge_by_less(root: Path) -> None:
    """The parameters of its stage, which had read 0.95."""
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"][f"claims@{CLAIM}"]["params"]["params.yaml"] = {"stability.confidence": 0.95}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    (root / "params.yaml").write_text("stability: {confidence: 0.5}\n")


def _make_anew(root: Path) -> None:
    """As a run of the stage stability would, which the claim has not read."""
    write_json(root / LOW, read_json(root / LOW) | {"seeds": 7})
    md5 = hashlib.md5((root / LOW).read_bytes()).hexdigest()
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    (out,) = (one for one in lock["stages"]["stability@modular-topk-k4"]["outs"] if one["path"] == LOW)
    out["md5"] = md5
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    facts = root / "runs/stability@modular-topk-k4.json"
    write_json(facts, read_json(facts) | {"wrote": {LOW: md5}})


def _commit_the_edit(root: Path) -> None:
    """The lock says what the edited verdict is, as after `dvc commit`; the facts of the run do not."""
    verdict = f"metrics/claims/{CLAIM}.json"
    _edit(root / verdict, '"holds"', '"held"')
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"][f"claims@{CLAIM}"]["outs"][0]["md5"] = hashlib.md5((root / verdict).read_bytes()).hexdigest()
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))


FAULTS = {
    "the verdict was edited": (
        lambda root: _edit(root / f"metrics/claims/{CLAIM}.json", '"holds"', '"held"'),
        rf"metrics/claims/{CLAIM}\.json: it is not what claims@{CLAIM} made \(edited, merged or restored\)",
    ),
    "and committed": (_commit_the_edit, rf"claims/{CLAIM}\.json: its lock says .* and the facts of its run do not"),
    "its evidence was edited": (
        lambda root: write_json(root / LOW, read_json(root / LOW) | {"seeds": 7}),
        r"topk-k4/stability\.json: it is not what stability@modular-topk-k4 made",
    ),
    "its evidence is gone": (lambda root: (root / LOW).unlink(), r"topk-k4/stability\.json: the file does not exist"),
    "its evidence was made anew": (
        _make_anew, r"topk-k4/stability\.json: stability@modular-topk-k4 has made it anew since the claim was judged",
    ),
    "its bound was moved": (_promise_less, rf"claims\.yaml: claims\.{CLAIM} says something else now than when it was"),
    "the level was moved": (_judge_by_less, r"params\.yaml: stability\.confidence says something else now than when"),
    "no lock has it": (
        lambda root: _edit(root / "dvc.lock", f"metrics/claims/{CLAIM}.json", "metrics/claims/another.json"),
        rf"metrics/claims/{CLAIM}\.json: no dvc\.lock records it",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def bare(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the claims of the project rest on, and no more."""
    root = tmp_path_factory.mktemp("bare") / "project"
    kept = (*(f"metrics/{one}/stability.json" for one in VARIANTS), "claims.yaml", "study.yaml", "dvc.lock")
    for name in (*kept, *(str(path.relative_to(project)) for path in project.glob("metrics/claims/*.json"))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, root / name)
    shutil.copytree(project / "runs", root / "runs")
    return root


def said_of(root: Path, name: str) -> tuple[str, str]:
    """Verdict and reasons of a claim in the table of the site."""
    table = _index(Workspace(root), [], "").sections[0].blocks[1]
    assert isinstance(table, Table)
    verdict, reasons = next(row[1:] for row in table.rows if f"<code>{name}</code>" in row[0])
    return Markup(verdict).striptags(), Markup(reasons).striptags()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_claim_that_must_be_judged_again_is_supported_neither_by_the_site_nor_by_the_readme(
    fault: str, bare: Path, tmp_path: Path
) -> None:
    plant, because = FAULTS[fault]
    root = shutil.copytree(bare, tmp_path / "project")
    assert said_of(root, CLAIM)[0] == "supported"
    plant(root)
    verdict, reasons = said_of(root, CLAIM)
    assert verdict == "not testable"
    assert re.match(rf"To be judged again: .*{because}", reasons), reasons
    with pytest.raises(ReseedError, match=rf"claims\.yaml: claims\.{CLAIM} may not stand in the README: .*{because}"):
        claims("claims.yaml", root)


def test_an_origin_is_that_of_the_locks_and_the_run_facts(project: Path) -> None:
    workspace, file = Workspace(project), "metrics/modular/topk-k8/stability.json"
    found, facts = workspace.origin(file), read_json(project / "runs" / "stability@modular-topk-k8.json")
    assert (found.stage, found.studies) == ("stability@modular-topk-k8", ("default",))
    assert (found.revision, found.started) == (facts["revision"], facts["started"])
    assert found.md5 == hashlib.md5((project / file).read_bytes()).hexdigest()
    assert found.as_locked
    # the verdict was edited after its stage ran
    edited = workspace.origin(f"metrics/claims/{EDITED}.json")
    assert edited.md5
    assert not edited.as_locked
    assert workspace.origin("metrics/modular/topk-k4/tables/latents.parquet").md5.endswith(".dir")
    assert workspace.origin("metrics/elsewhere.json").stage == ""
    assert workspace.origin("metrics/gsm8k-gpt/gpt-topk-16/stability.json").studies == ("gsm8k-gpt",)


def test_a_panel_without_its_table_names_the_command(pages: dict[str, Element]) -> None:
    said = pages["variants/modular/topk-k8.html"].text
    assert "dvc pull metrics/modular/topk-k8/tables" in said
    assert "dvc repro stability@modular-topk-k8;" in said
    language = pages["variants/gsm8k-gpt/gpt-topk-16.html"].text
    assert "dvc repro studies/gsm8k-gpt/dvc.yaml:stability@gsm8k-gpt-topk-16;" in language
    assert not pages["variants/modular/topk-k8.html"].all("form")
    whole = pages[f"variants/{WITH_TABLES}.html"]
    assert "dvc pull" not in whole.text
    assert "in one pass over 8,936 of them" in whole.text
    assert whole.all("form")


def test_a_panel_says_how_to_get_its_examples_and_what_its_p_correct_is_worth(tmp_path: Path) -> None:
    for variant in ("modular/topk-k4", "modular/other"):
        shutil.copytree(ROOT / "metrics/modular/topk-k4", tmp_path / "metrics" / variant, ignore=CACHED)
        planted_tables(tmp_path / "metrics" / variant)
        shutil.rmtree(tmp_path / "metrics" / variant / "examples")
    shutil.copy(ROOT / "study.yaml", tmp_path / "study.yaml")
    other = tmp_path / "metrics/modular/other"
    with_p_correct(other)
    worst = {"name": "logic", "brier": 0.21, "ece": 0.1}
    told = {
        "transfer": {"brier": {"value": 0.125, "low": -0.1, "high": 0.35}, "worst_family": worst},
        "verdict": "told more",
        "mean_p_correct": {"value": 0.05, "low": 0.04, "high": 0.06, "random_model": 0.07, "gaussian": 0.2}
        | {"margin": {"value": -0.15, "low": -0.17, "high": -0.13, "over": "gaussian"}},
    }
    write_json(other / "stability.json", read_json(other / "stability.json") | {"reliability": told})
    build(tmp_path / "site", tmp_path)
    asked, not_asked = (
        " ".join(parse(tmp_path / "site/variants/modular" / f"{name}.html").text.split())
        for name in ("topk-k4", "other")
    )
    assert "dvc pull metrics/modular/topk-k4/examples, or make them with dvc repro examples@modular-topk-k4;" in asked
    assert "No study asks for examples of these latents" in not_asked
    # P(correct) stands beside what it is worth; where no model filled the column there is none
    score = "Brier score is 0.125 [-0.100, 0.350] on families of worlds that it never saw (on logic, the worst, 0.210)"
    mean = "Its mean over these latents is 0.050 [0.040, 0.060], less that of the gaussian arm -0.150 [-0.170, -0.130]."
    assert f"{score}; told more. {mean}" in not_asked
    (panel,) = parse(tmp_path / "site/variants/modular/topk-k4.html").all("div", id="explorer")
    assert panel.attributes["data-more"] == ""
    assert "P(correct)" not in asked
    # nothing is known of files that no lock names, and nothing was claimed
    assert sources(parse(tmp_path / "site/variants/modular/other.html"))[0]["stage"] == ""
    assert "Subject modular" in parse(tmp_path / "site/index.html").text


def test_the_data_of_latents_are_those_of_the_tables(site: Path) -> None:
    def data(name: str) -> Any:
        return json.loads((site / "data/latents" / name).read_text().partition(" = ")[2].rstrip(";\n"))

    table = data(f"{WITH_TABLES}.js")
    assert len(table["seed"]) == 3 * len(SEEDS) * LATENTS
    assert table["firing_count"][:3] == [100, 200, 300]
    assert table["reappearance"][48:51] == [0, 0.5, None]  # 50 is dead
    of_seed = data(f"{WITH_TABLES}-1.js")
    assert of_seed["rows"]["of"]["7"] == [[70, 3.5], [71, 2.5], [72, 1.5]]
    assert of_seed["rows"]["text"]["71"] == ["7 + 1 ", "=", " 8 <&>"]
    assert of_seed["partners"]["7"] == [[0, 42, 0.875, 0.625], [2, 42, 0.875, 0.625]]


def test_the_list_of_latents_has_p_correct_where_the_table_has_it(site: Path, pages: dict[str, Element]) -> None:
    page = pages[f"variants/{WITH_TABLES}.html"]
    (panel,) = page.all("div", id="explorer")
    assert panel.attributes["data-more"] == "c_dec p_correct"
    heads = [cell.text for cell in page.all("table", id="list")[0].all("th")]
    assert heads == ["seed / latent", "fires on", "reappears", "partner cosine", "c_dec", "P(correct)"]
    data = json.loads((site / f"data/latents/{WITH_TABLES}.js").read_text().partition(" = ")[2].rstrip(";\n"))
    assert (data["p_correct"][49], data["c_dec"][49]) == (0.49, 0.049)
    assert data["p_correct"][50] is None  # dead


def rows_of(page: Element, caption: str) -> dict[str, list[str]]:
    """Heading -> cells of the rows of a table."""
    (table,) = (t for t in page.all("table") if t.all("caption")[0].text == caption)
    rows = (
        [" ".join(cell.text.split()) for cell in row.children if isinstance(cell, Element)] for row in table.all("tr")
    )
    return {row[0]: row[1:] for row in rows}


def test_a_no_go_reads_as_no_go_and_without_rules_there_is_no_verdict(pages: dict[str, Element]) -> None:
    page = pages["truth.html"]
    decided = rows_of(page, "Every SAE of a subject with rules")
    assert {head.split("Do ")[0].split("Are ")[0]: row[-1] for head, row in decided.items()} == {
        "SAE": "verdict", "modular/topk-k4": "no-go", "stack/made-up": "no-go", "superposition/known-12": "go",
    }  # fmt: skip
    rules, sparse, _ = next(row for head, row in decided.items() if head.startswith("stack/made-up"))
    assert rules == (
        "coverage ≥ 0.750: 0.800 [0.700, 0.900], above its nulls: not metgt_mcc ≥ 0.900: not measured: not met"
    )
    assert sparse == "1.125: not below 1"
    planes, _, _ = next(row for head, row in decided.items() if head.startswith("modular/topk-k4"))
    assert planes.endswith("planes ≥ 0.800: 0.000 [0.000, 0.000], not above its nulls: not met")
    assert [badge.text for badge in page.all("span", class_="badge verdict go")] == ["go"]
    assert "superposition/unruled" in rows_of(page, "SAEs of superposition: how faithful, how sparse")
    links = [a.attributes["href"] for a in page.all("a") if a.text == "modular/topk-k4"]
    assert set(links) == {"variants/modular/topk-k4.html"}
    assert "no evidence: L0 ≥ d_in" in rows_of(page, "SAEs of stack: how faithful, how sparse")["stack/made-up"][1]


def test_scores_stand_beside_nulls_and_peers_on_the_page_and_all_of_them_at_the_variant(
    project: Path, pages: dict[str, Element]
) -> None:
    scores = rows_of(pages["truth.html"], "Scores of stack beside the strictest null and peers")
    assert scores["coverage made-up"] == [
        "0.800 [0.700, 0.900]", "0.250 untrained", "yes", "0.500", "0.562", "0.438", "0.938 linear probe",
    ]  # fmt: skip
    assert "absorption made-up" not in scores
    truth = read_json(project / "metrics" / WITH_TABLES / "truth.json")
    found = truth["figures"]["plane_cosine"]
    null = max(found["nulls"].values())
    shown = rows_of(pages["truth.html"], "Scores of modular beside the strictest null and peers")
    assert null > found["value"]
    assert shown["plane_cosine topk-k4"][1:3] == [f"{null:.3f} random_model arm", "no"]
    every = rows_of(pages[f"variants/{WITH_TABLES}.html"], f"Against {len(truth['frequencies'])} planes")
    assert every["plane_cosine"][2] == ", ".join(
        f"{name.replace('control', 'random_model arm')} {value:.3f}" for name, value in found["nulls"].items()
    )
    assert f"planes of held-out rows {found['peers']['held_out_planes']:.3f}" in every["plane_cosine"][3]
    # the interval of the model's accuracy is not over seeds, which is said where it stands
    faithful = rows_of(pages["truth.html"], "SAEs of stack: how faithful, how sparse")
    assert faithful["stack/made-up"][-1] == "0.875 [0.812, 0.938]"
    said = "That of the model's accuracy is the exact one over its predictions."
    for page in ("truth.html", f"variants/{WITH_TABLES}.html"):
        assert said in pages[page].text


def test_parts_of_the_domain_and_what_is_kept_when_it_is_put_another_way(pages: dict[str, Element]) -> None:
    page = pages[f"variants/{WITH_TABLES}.html"]
    parts = rows_of(page, "Explained variance by part")
    assert parts["frontier 1"] == ["0.750 [0.688, 0.812]", "0.125 [0.062, 0.188]"]
    assert parts["the value explained worst"] == ["0.625 [0.562, 0.688]", "0.000 [-0.062, 0.062]"]
    told = rows_of(page, "Put another way: the edges listed in another order")
    assert told["correlation of a latent with itself"] == [
        "0.500 [0.438, 0.562]", "0.375 [0.312, 0.438]", "0.938", "0.000 [-0.062, 0.062]",
    ]  # fmt: skip
    assert told["share of brittle latents"][:2] == ["0.312 [0.250, 0.375]", "0.188 [0.125, 0.250]"]
    assert "Parts of the domain" not in pages["variants/superposition/even-topk-12.html"].text


def test_other_text_stands_beside_untrained_saes(pages: dict[str, Element]) -> None:
    page = pages[f"variants/{WITH_TABLES}.html"]
    rows = rows_of(page, "Explained variance where the model reads other text")
    assert rows["its own subject"] == ["0.750 [0.688, 0.812]", "0.250 [0.188, 0.312]", "2,000"]
    assert rows["another subject"] == ["0.375 [0.312, 0.438]", "0.125 [0.062, 0.188]", "1,000"]
    assert "share of the gain in distribution that is kept there: 0.500 [0.438, 0.562]." in page.text
    assert "Other text" not in pages["variants/superposition/even-topk-12.html"].text


def test_causal_tests_and_their_charts_are_those_of_the_metrics(
    project: Path, site: Path, pages: dict[str, Element]
) -> None:
    passed = rows_of(pages["truth.html"], "Concepts that an edit of a latent moves more than every control")
    assert passed["modular/topk-k4"] == [
        "2", "1", "1", "1.250 [1.230, 1.270]principal component -0.900 [-0.900, -0.900]",
        "1.250 [1.230, 1.270]soft-frozen SAE -0.700 [-0.700, -0.700]", "1", "0", "0", "1",
    ]  # fmt: skip
    concepts = rows_of(pages[f"variants/{WITH_TABLES}.html"], "Each concept: its latents beside controls")
    assert {name: row[-1] for name, row in concepts.items()} == {"concept": "passes", "digit=1": "yes", "digit=2": "no"}
    edits = rows_of(
        pages[f"variants/{WITH_TABLES}.html"], "Each concept: its latents ablated, clamped and interchanged"
    )
    assert edits["digit=1"][0] == "2.020 [2.000, 2.040]"
    assert float(edits["digit=1"][1]) < 0.001  # beyond 0.5 in every seed
    assert edits["digit=2"][2:] == [
        "\N{EN DASH}",
        "\N{EN DASH}",
        "0.250 [0.250, 0.250]",
        "1.000",
    ]  # no clamp; below its controls
    assert concepts["digit=2"][3].endswith("untrained SAE 1.200 [1.180, 1.220]")
    assert "Untold: digit=3." in pages[f"variants/{WITH_TABLES}.html"].text
    charts = json.loads((site / "data/truth.js").read_text().partition(" = ")[2].rstrip(";\n"))
    for name, file in (
        ("calibration-modular-topk-k4", f"{WITH_TABLES}/causal_calibration.csv"),
        ("doses-modular-topk-k4", f"{WITH_TABLES}/causal_doses.csv"),
        ("reliability-worlds", "reliability/worlds.csv"),
    ):
        header, *lines = (project / "metrics" / file).read_text().splitlines()
        assert charts[name]["columns"] == header.split(",")
        assert len(charts[name]["rows"]) == len(lines) > 3
        for row, text in zip(charts[name]["rows"], lines, strict=True):
            for value, part in zip(row, text.split(","), strict=True):
                assert value == (part if isinstance(value, str) else float(part))
        assert sources(pages["truth.html"])[charts[name]["file"]]["file"] == f"metrics/{file}"


def test_the_detector_stands_with_its_false_alarms_and_what_it_let_pass(
    project: Path, pages: dict[str, Element]
) -> None:
    rows = rows_of(pages["truth.html"], "The detector of what is stable and wrong, on families that it never saw")
    assert rows["planted"] == ["12", "0", "0.000 [0.000, 0.265]", "12"]
    assert rows["honest (false alarms)"] == ["15", "3", "0.200 [0.043, 0.481]", "\N{EN DASH}"]
    made = read_json(project / "metrics/reliability/worlds.json")
    assert f"Verdict: {made['verdict']}." in pages["truth.html"].text
    skill = made["transfer"]["signals"]["skill_above_reappearance"]
    models = rows_of(pages["truth.html"], "P(correct) of a latent, on families that the model never saw")
    assert models["all signals (shipped)"][3].startswith(
        f"{skill['value']:.3f} [{skill['low']:.3f}, {skill['high']:.3f}]over seeds {skill['seeds_low']:.3f} to"
    )


def test_a_workspace_without_known_truth_says_what_would_measure_it(tmp_path: Path) -> None:
    build(tmp_path / "site", tmp_path)
    page = parse(tmp_path / "site/truth.html")
    assert "No stage truth, causal or reliability has run in this workspace" in page.text
    assert not page.all("table")


def test_the_frontier_holds_what_no_converged_variant_beats() -> None:
    def point(name: str, l0: float, ev: float, kappa: float, settled: str = "converged") -> dict[str, Any]:
        return {"name": name, "l0": l0, "ev": ev, "kappa": kappa, "settled": settled}

    points = [
        point("sparse", 2, 0.7, 0.9), point("faithful", 8, 0.9, 0.5), point("beaten", 8, 0.8, 0.5),
        point("unsettled", 1, 1.0, 1.0, "not converged"), point("between", 4, 0.8, 0.6),
    ]  # fmt: skip
    assert on_frontier(points) == {"sparse", "faithful", "between"}
    assert on_frontier([point("a", 2, 0.7, 0.9), point("b", 2, 0.7, 0.9)]) == {"a", "b"}


def test_pages_are_whole_and_every_link_leads_somewhere(site: Path, pages: dict[str, Element]) -> None:
    assert len(pages) == 5 + len(VARIANTS)
    for name, page in pages.items():
        ids = [e.attributes["id"] for e in page.walk() if "id" in e.attributes]
        assert len(ids) == len(set(ids)), name
        assert page.all("html")[0].attributes["lang"] == "en"
        assert len(page.all("h1")) == 1
        assert len(page.all("main")) == 1
        for table in page.all("table"):
            assert table.all("caption"), name
            assert all("scope" in cell.attributes for cell in table.all("th")), name
        for figure_ in page.all("figure"):
            assert figure_.all("figcaption")[0].text.strip()
        for place, attribute in (("a", "href"), ("link", "href"), ("script", "src")):
            for element in page.all(place):
                url = element.attributes.get(attribute, "")
                if not url or url.startswith("data:"):
                    continue
                assert "://" not in url, (name, url)
                path, _, anchor = url.partition("#")
                target = (site / name).parent / path if path else site / name
                assert target.is_file(), (name, url)
                if anchor:
                    of_target = pages[str(target.resolve().relative_to(site.resolve()))]
                    assert any(e.attributes.get("id") == anchor for e in of_target.walk()), (name, url)
        assert page.all("a", class_="skip")[0].attributes["href"] == "#main"


def test_no_page_is_large(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert page.stat().st_size < 150_000, page


def test_an_installed_package_finds_templates_and_assets() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "src/reseed/reports/site"
    packaged = {path for pattern in patterns["reseed.reports.site"] for path in folder.glob(pattern)}
    other = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert packaged == other
    assert {path.name for path in other if path.parent.name == "assets"} == set(ASSETS)


def test_the_command_makes_the_same_bytes_again_and_leaves_nothing_of_an_older_site(
    project: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "made"
    out.mkdir()
    (out / "old.html").write_text("old")
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, ["report", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f"{out / 'index.html'}: open it in a browser" in done.output.replace("\n", "")
    found, expected = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (out, site)
    )
    assert found == expected
