"""The site as a reader has it: opened from disk in a real browser, wide and narrow, dark and light, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reseed.artifacts import read_json
from tests.reports.browser import CHROMIUM, Browser
from tests.reports.builders import LATENTS, SEEDS, WITH_TABLES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium"),
]

PANEL = f"variants/{WITH_TABLES}.html"
PAGES = (
    "index.html",
    "frontier.html",
    "benchmarks.html",
    "truth.html",
    "replication.html",
    PANEL,
    "variants/gsm8k-gpt/gpt-topk-16.html",
)
GROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}
# Text whose contrast with the nearest opaque ground behind it is below WCAG's 4.5 (3 for large text).
FAINT = """(() => {
  const parse = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (e) => {
    const colour = parse(getComputedStyle(e).backgroundColor);
    return colour.length === 3 || colour[3] === 1 ? colour : ground(e.parentElement);
  };
  const faint = [];
  for (const e of document.querySelectorAll("body *:not(script):not(option)")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), svg = e.closest("svg");
    const a = luminance(parse(svg ? style.fill : style.color)), b = luminance(ground(svg ?? e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) faint.push([e.outerHTML.slice(0, 80), ratio]);
  }
  return faint;
})()"""
DRAWN = """[...document.querySelectorAll("[data-chart]")].map((place) => {
  const drawn = place.querySelector("svg, canvas"), box = drawn.getBoundingClientRect();
  const words = place.getAttribute("aria-label").length;
  return [place.dataset.chart, place.getAttribute("role"), words, box.width, box.height, place.clientWidth];
})"""
CUT = """[...document.querySelectorAll("svg")].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  const outside = (t) => t.width && (t.right > box.right + 1 || t.left < box.left - 1);
  const texts = [...svg.querySelectorAll("text")].filter((text) => outside(text.getBoundingClientRect()));
  return texts.map((text) => text.textContent);
})"""
"""Words of a chart that reach out of it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_error_and_nothing_but_files(browser: Browser) -> Iterator[None]:
    browser.errors.clear()
    browser.requests.clear()
    browser.failed.clear()
    yield
    assert browser.errors == []
    assert browser.requests
    assert browser.failed == []
    assert [url[:100] for url in browser.requests if not url.startswith(("file://", "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_and_is_readable(page: str, scheme: str, site: Path, browser: Browser) -> None:
    for width in (400, 1600):
        browser.look(width, scheme)
        browser.open(site / page)
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == GROUND[scheme]
        assert browser.evaluate(FAINT) == []
        # every chart is drawn, within its place, and says in words what it shows
        places = browser.evaluate(DRAWN)
        assert bool(places) == (page not in ("index.html", "replication.html"))
        for name, role, words, wide, high, room in places:
            assert (role, words > 60) == ("img", True), name
            assert room / 2 < wide <= room + 1, name
            assert high > 60, name
        assert browser.evaluate(CUT) == []


def test_the_claims_are_one_below_the_other_where_a_page_is_narrow(site: Path, browser: Browser) -> None:
    left = """[...document.querySelectorAll(".claims tbody tr")].map((row) =>
      [...row.cells].map((cell) => Math.round(cell.getBoundingClientRect().left)))"""
    roles = set()
    for width in (400, 1000):
        browser.look(width, "light")
        browser.open(site / "index.html")
        rows = browser.evaluate(left)
        assert rows
        assert {len(set(row)) == 1 for row in rows} == {width == 400}
        nodes = [node for node in browser.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
        named = {"table", "row", "columnheader", "rowheader", "cell"}
        roles.add(tuple(node["role"]["value"] for node in nodes if node["role"]["value"] in named))
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # to a screen reader it is the same table
    (same,) = roles
    assert {"table", "row", "columnheader", "rowheader", "cell"} <= set(same)


def test_charts_change_with_the_preference_while_the_page_is_open(site: Path, browser: Browser) -> None:
    label = "getComputedStyle(document.querySelector('svg .role-axis-label text')).fill"
    browser.look(1000, "light")
    browser.open(site / "frontier.html")
    light = browser.evaluate(label)
    browser.look(1000, "dark")
    browser.wait("document.documentElement.dataset.drawn == 'dark'")
    assert (light, browser.evaluate(label)) == ("rgb(27, 31, 36)", "rgb(230, 234, 239)")


def test_everything_that_can_be_used_has_a_name(site: Path, browser: Browser) -> None:
    roles = {
        "textbox", "combobox", "button", "link", "img", "image", "spinbutton", "table", "region", "form", "navigation",
        "DisclosureTriangle", "columnheader", "rowheader",
    }  # fmt: skip
    browser.look(1000, "light")
    for page in PAGES:
        browser.open(site / page)
        nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
        used = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
        assert len(used) > 10
        nameless = [node for node in used if not node.get("name", {}).get("value", "").strip()]
        assert [node["role"]["value"] for node in nameless] == [], page


def test_the_keyboard_reaches_the_content_and_the_origin_of_a_number(
    project: Path, site: Path, browser: Browser
) -> None:
    browser.look(1000, "light")
    browser.open(site / PANEL)
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    browser.press("Enter")
    browser.wait("document.activeElement.id == 'main'")
    browser.tab_to("e.matches('td .num')")
    number = "document.activeElement"
    assert browser.evaluate(f"{number}.dataset.key") == "trained/pw_mcc"
    assert browser.evaluate(f"{number}.getAttribute('aria-describedby')") == "origin"
    assert browser.evaluate(f"getComputedStyle({number}).outlineStyle") == "solid"
    file = f"metrics/{WITH_TABLES}/stability.json"
    facts = read_json(project / "runs" / "stability@modular-topk-k4.json")
    said = browser.evaluate("document.getElementById('origin').innerText")
    for part in (file, "trained/pw_mcc", "stability@modular-topk-k4 (default)", facts["revision"][:12], "these bytes"):
        assert part in said, said
    assert facts["started"][:10] in said
    described = browser.send("Accessibility.getPartialAXTree", objectId=_object(browser, number), fetchRelatives=False)
    assert file in described["nodes"][0]["description"]["value"]
    # the arrows move on, Escape closes, and Tab leaves the table
    browser.press("ArrowDown")
    assert browser.evaluate(f"{number}.dataset.key") == "random_model/pw_mcc"
    browser.press("ArrowRight")
    assert browser.evaluate(f"{number}.dataset.key").startswith("records/")
    assert not browser.evaluate("document.getElementById('origin').hidden")
    browser.press("Escape")
    assert browser.evaluate("document.getElementById('origin').hidden")
    table = f"{number}.closest('table').caption.textContent"
    before = browser.evaluate(table)
    browser.press("Tab")
    assert browser.evaluate(f"{number}.closest('table')?.caption.textContent ?? ''") != before


@pytest.mark.parametrize("width", [400, 1600])
def test_the_mouse_over_a_number_shows_its_origin_beside_it(
    width: int, project: Path, site: Path, browser: Browser
) -> None:
    browser.look(width, "light")
    browser.open(site / PANEL)
    box = "document.getElementById('origin')"
    revision = read_json(project / "runs" / "stability@modular-topk-k4.json")["revision"]
    assert browser.evaluate(f"{box}.hidden")
    for key in ("trained/pw_mcc", "random_model/pw_mcc"):
        over(browser, "document.querySelector('h1')")  # else the box of the last one lies over the next
        browser.wait(f"{box}.hidden")
        number = f"document.querySelector('td .num[data-key=\"{key}\"]')"
        over(browser, number)
        said = browser.wait(f"!{box}.hidden && {box}.innerText.includes('{key}') && {box}.innerText")
        for part in (f"metrics/{WITH_TABLES}/stability.json", "stability@modular-topk-k4 (default)", revision[:12]):
            assert part in said, said
        assert browser.evaluate(f"{number}.getAttribute('aria-describedby')") == "origin"
        assert browser.evaluate("document.activeElement == document.body")  # nothing was focused for it
        # what a person sees: on top, whole, in the window, and not over the number that it is of
        shown, own = (browser.evaluate(f"{one}.getBoundingClientRect().toJSON()") for one in (box, number))
        assert 0 <= shown["left"] < shown["right"] <= width
        assert 0 <= shown["top"] < shown["bottom"] <= 900
        assert shown["top"] >= own["bottom"] or shown["bottom"] <= own["top"]
        x, y = (shown["left"] + shown["right"]) / 2, (shown["top"] + shown["bottom"]) / 2
        assert browser.evaluate(f"document.elementFromPoint({x}, {y}).closest('#origin') != null")
    # it can be pointed at, to be copied, and goes with the mouse
    browser.point(x, y)
    assert not browser.evaluate(f"{box}.hidden")
    over(browser, "document.querySelector('h1')")
    browser.wait(f"{box}.hidden")
    assert browser.evaluate("document.querySelector('[aria-describedby=origin]')") is None


PLACES = """[...document.querySelectorAll("[data-chart], main .scroll:not(.list)")].map((place) => {
  const closed = place.closest("details:not([open])"), box = closed ? { width: 0 } : place.getBoundingClientRect();
  return [place.dataset.chart ?? "a table", box.left + scrollX, box.top + scrollY, box.width, box.height];
}).filter(([, , , width, height]) => width && height)"""
"""Each chart and each table that is open, where it lies on the page."""


def painted(picture: Path, places: Sequence[tuple[str, float, float, float, float]]) -> dict[str, tuple[bool, bool]]:
    """Of each place that the picture holds: whether there is something on its ground, and whether that has a hue."""
    image = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    found = {}
    for i, (name, left, top, width, height) in enumerate(places):
        part = image[round(top) : round(top + height), round(left) : round(left + width)].reshape(-1, 3)
        if len(part) < round(width - 2) * round(height - 2):
            continue  # a picture ends at 8,000 pixels
        ground, colours = colours_of(part)
        marked = np.abs(part - ground).max(1) > 60
        hued = part.max(1) - part.min(1) > 60
        found[f"{i} {name}"] = bool(marked.mean() > 0.005 and colours >= 8), bool(hued.sum() >= 20)
    return found


def colours_of(pixels: Any) -> tuple[tuple[int, ...], int]:
    """The most frequent colour, and how many there are."""
    counts = np.bincount(pixels @ [1 << 16, 1 << 8, 1], minlength=1 << 24)
    most = int(counts.argmax())
    return (most >> 16, most >> 8 & 255, most & 255), int((counts > 0).sum())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("page", ["index.html", PANEL])
def test_charts_and_tables_are_painted(
    page: str, width: int, scheme: str, site: Path, browser: Browser, tmp_path: Path
) -> None:
    browser.look(width, scheme)
    browser.open(site / page)
    browser.picture(tmp_path / "page.png")
    image = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert image.shape[1] == width
    assert f"rgb{colours_of(image.reshape(-1, 3))[0]}" == GROUND[scheme]
    found = painted(tmp_path / "page.png", browser.evaluate(PLACES))
    charts = [name for name in found if "a table" not in name]
    assert (len(found) > len(charts), len(charts) > 3) == (True, page == PANEL)
    assert {name: one for name, one in found.items() if not one[0]} == {}
    assert {name: found[name] for name in charts if not found[name][1]} == {}
    # the same look at the same places sees when nothing is there
    browser.evaluate("document.querySelectorAll('main svg, main canvas, main table').forEach(e => e.style.opacity = 0)")
    browser.picture(tmp_path / "blank.png")
    assert not any(one[0] for one in painted(tmp_path / "blank.png", browser.evaluate(PLACES)).values())


def test_the_data_of_a_chart_open_as_a_table(project: Path, site: Path, browser: Browser) -> None:
    browser.look(1000, "light")
    browser.open(site / PANEL)
    browser.tab_to("e.matches('details[data-for=steps] > summary')")
    browser.press("Enter")
    rows = browser.wait("document.querySelectorAll('details[data-for=steps] tbody tr').length")
    lines = (project / "metrics" / WITH_TABLES / "steps.csv").read_text().splitlines()
    assert rows == len(lines) - 1
    shown = browser.evaluate(
        "[...document.querySelectorAll('details[data-for=steps] tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    for line, cells in zip(lines[1:], shown, strict=True):
        arm, step, statistic, value, null = line.split(",")
        assert (cells[0], cells[2]) == (arm, statistic)
        assert [float(cells[i]) for i in (1, 3, 4)] == [float(step), float(value), float(null)]


def test_the_histogram_has_every_bin_up_to_a_cosine_of_one(site: Path, browser: Browser) -> None:
    browser.look(1000, "light")
    browser.open(site / PANEL)
    right, edge = browser.evaluate("""(() => {
        const svg = document.querySelector("[data-chart=matches] svg");
        const bars = [...svg.querySelectorAll(".mark-rect.role-mark path")].map((bar) => bar.getBoundingClientRect());
        return [Math.max(...bars.filter((bar) => bar.width > 2 && bar.height > 2).map((bar) => bar.right)),
                svg.querySelector(".root .background").getBoundingClientRect().right];
    })()""")
    assert right == pytest.approx(edge, abs=2)  # seeds that agree have their mass in the last bin


def test_a_choice_changes_the_chart(site: Path, browser: Browser) -> None:
    browser.look(1000, "light")
    browser.open(site / PANEL)
    path = "[...document.querySelectorAll('[data-chart=steps] .mark-line path')].map((p) => p.getAttribute('d')).join()"
    before = browser.evaluate(path)
    browser.tab_to("e.matches('select[data-for=steps]')")
    browser.press("ArrowDown")
    browser.wait(f"{path} != {before!r}")


def test_a_concept_that_is_chosen_is_drawn_at_its_doses(site: Path, browser: Browser) -> None:
    browser.look(1000, "light")
    browser.open(site / "truth.html")
    chart = "document.querySelector('[data-chart=calibration-modular-topk-k4] svg')"
    drawn = (
        f"[...{chart}.querySelectorAll('.mark-symbol.role-mark path')].map((p) => p.getAttribute('transform')).join()"
    )
    before = browser.evaluate(drawn)
    assert before.count("translate") == 2  # the doses
    browser.tab_to("e.matches('select[data-for=calibration-modular-topk-k4]')")
    browser.press("ArrowDown")
    browser.wait(f"{drawn} != {before!r}")


def test_latents_are_found_and_shown_by_keyboard(site: Path, project: Path, browser: Browser) -> None:
    browser.look(1000, "light")
    browser.open(site / PANEL)
    found = "document.getElementById('found').textContent"
    total, alive = len(SEEDS) * LATENTS, len(SEEDS) * 50
    assert browser.evaluate(found) == f"{alive} of {total} latents of the arm trained"
    assert browser.evaluate("RESEED.views.latents.data('rows').length") == alive
    # seed 1, latents that fire on 1,000 to 3,000 rows and reappear in half of the seeds or more
    browser.tab_to("e.name == 'seed'")
    browser.press("ArrowDown", "ArrowDown")
    browser.tab_to("e.name == 'reappearance_from'")
    browser.press("0", ".", "5")
    browser.tab_to("e.name == 'count_from'")
    browser.press("1", "0", "0", "0")
    browser.tab_to("e.name == 'count_to'")
    browser.press("3", "0", "0", "0")
    expected = [latent for latent in range(50) if latent % 3 and 1000 <= 100 * (latent + 1) <= 3000]
    browser.wait(f"{found}.startsWith('{len(expected)} of {total}')")
    assert browser.evaluate("document.getElementById('found').getAttribute('role')") == "status"
    listed = browser.evaluate("[...document.querySelectorAll('#list tbody button')].map((b) => b.textContent)")
    order = sorted(expected, key=lambda latent: (-(latent % 3), -latent))
    assert listed == [f"1 / {latent}" for latent in order]
    first = browser.evaluate("[...document.querySelector('#list tbody tr').cells].map((cell) => cell.textContent)")
    assert first[-2:] == [f"{order[0] / 1000:.3f}", f"{order[0] / 100:.3f}"]  # c_dec and P(correct)
    # the first of them, by Enter
    browser.tab_to("e.closest('#list') && e.tagName == 'BUTTON'")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('#latent .example').length == 3")
    assert browser.evaluate("document.activeElement.id") == "latent"
    chosen = order[0]
    title = "document.getElementById('latent-title').textContent"
    assert browser.evaluate(title) == f"Seed 1, latent {chosen}, arm trained"
    rows = "[...document.querySelectorAll('#latent tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    figures = dict(browser.evaluate(f"{rows}.filter((row) => row.length == 2)"))
    assert figures["firing count"] == str(100 * (chosen + 1))
    assert figures["P(correct)"] == f"{chosen / 100:.3f}"
    training_rows = read_json(project / "metrics" / WITH_TABLES / "stability.json")["held_out"]["training_rows"]
    assert float(figures["firing frequency"]) == pytest.approx(100 * (chosen + 1) / training_rows, rel=5e-3)
    texts = browser.evaluate("[...document.querySelectorAll('#latent .example')].map((e) => e.textContent)")
    assert texts[1] == f"2.50  row {10 * chosen + 1}: {chosen} + 1 = {chosen + 1} <&>"
    assert browser.evaluate("document.querySelector('#latent mark').textContent") == "="
    # on to its partner in seed 0, although the filter leaves only seed 1
    browser.tab_to("e.getAttribute('aria-label')?.endsWith('partner in seed 0')")
    browser.press("Enter")
    browser.wait(f"{title} == 'Seed 0, latent {49 - chosen}, arm trained'")
    browser.wait("document.querySelectorAll('#latent .example').length == 3")


def test_a_latent_is_found_by_its_number_and_a_dead_one_says_that_it_has_no_figures(
    site: Path, browser: Browser
) -> None:
    browser.look(400, "dark")
    browser.open(site / PANEL)
    browser.tab_to("e.name == 'latent'")
    browser.press("5", "5")
    browser.wait("document.getElementById('found').textContent.startsWith('0 of')")
    browser.tab_to("e.name == 'alive'")
    browser.press("ArrowDown")
    browser.wait(f"document.getElementById('found').textContent.startsWith('{len(SEEDS)} of')")
    browser.tab_to("e.closest('#list') && e.tagName == 'BUTTON'")
    browser.press("Enter")
    browser.wait("document.getElementById('latent-title').textContent == 'Seed 0, latent 55, arm trained'")
    assert browser.evaluate("document.querySelector('#latent table').innerText.includes('firing count')")
    assert not browser.evaluate("document.querySelector('#latent table').innerText.includes('reappearance')")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400


def test_points_of_the_charts_choose_a_latent_and_a_variant(site: Path, browser: Browser) -> None:
    browser.look(1000, "light", height=1200)
    browser.open(site / PANEL)
    click(browser, "latents")
    browser.wait("document.getElementById('latent-title').textContent.startsWith('Seed ')")
    browser.open(site / "frontier.html")
    click(browser, "superposition-l0")
    browser.wait("location.pathname.endsWith('variants/superposition/even-topk-12.html')")
    browser.wait("document.documentElement.dataset.drawn")


def over(browser: Browser, element: str) -> None:
    """Move the mouse to the middle of an element, which is brought into the window."""
    browser.evaluate(f"{element}.scrollIntoView({{ block: 'center', behavior: 'instant' }})")
    box = browser.evaluate(f"{element}.getBoundingClientRect().toJSON()")
    browser.point(box["x"] + min(box["width"] / 2, 20), box["y"] + box["height"] / 2)


def click(browser: Browser, chart: str) -> None:
    """Click on the first point of a chart."""
    x, y = browser.evaluate(f"""(() => {{
        const mark = document.querySelector("[data-chart={chart}] .mark-symbol.role-mark path");
        mark.scrollIntoView({{ block: "center", behavior: "instant" }});
        const box = mark.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    }})()""")
    for kind in ("mousePressed", "mouseReleased"):
        browser.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def _object(browser: Browser, expression: str) -> str:
    answer = browser.send("Runtime.evaluate", expression=expression)
    found: str = answer["result"]["objectId"]
    return found
