"""The site below a path of a web server, as a page of a project has it: https://OWNER.github.io/reseed/."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.reports.browser import CHROMIUM, Browser
from tests.reports.builders import WITH_TABLES
from tests.reports.test_site_in_a_browser import PAGES, PANEL, click

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium"),
]
PREFIX = "/reseed/"


@dataclass
class Served:
    address: str
    """Of the site, with the slash at its end."""
    answers: list[tuple[str, int]] = field(default_factory=list)
    """Path and status of every request, in order."""


@pytest.fixture
def served(site: Path) -> Iterator[Served]:
    """Below PREFIX, and nowhere else on its server."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(site))

        def send_head(self) -> Any:
            if not self.path.startswith(PREFIX):
                self.send_error(404)
                return None
            self.path = self.path.removeprefix(PREFIX.rstrip("/"))
            return super().send_head()

        def log_request(self, code: Any = "-", size: Any = "-") -> None:  # noqa: ARG002
            found.answers.append((self.requestline.split()[1], int(code)))

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Served(f"http://127.0.0.1:{server.server_port}{PREFIX}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def test_every_page_works_below_a_path_of_a_server(served: Served) -> None:
    with Browser() as browser:
        browser.look(1000, "light")
        browser.visit(served.address)  # without index.html, as it is linked to
        title = browser.evaluate("document.querySelector('h1').textContent")
        for page in PAGES:
            browser.visit(served.address + page)
            charts = "document.querySelectorAll('[data-chart]').length"
            drawn = "document.querySelectorAll('[data-chart] :is(svg, canvas)').length"
            assert browser.evaluate(drawn) == browser.evaluate(charts)
        # data that a page asks for only when a latent is chosen, and links from page to page
        browser.visit(served.address + PANEL)
        click(browser, "latents")
        browser.wait("document.querySelectorAll('#latent .example').length == 3")
        browser.visit(served.address + "frontier.html")
        click(browser, "superposition-l0")
        browser.wait("location.pathname.endsWith('variants/superposition/even-topk-12.html')")
        browser.wait("document.documentElement.dataset.drawn")
        browser.evaluate("document.querySelector('header .name').click()")
        browser.wait("location.pathname.endsWith('/index.html')")
        browser.wait(f"document.querySelector('h1')?.textContent == {title!r}")
        browser.wait("document.documentElement.dataset.drawn")
        assert browser.errors == []
        assert browser.failed == []
        assert [url[:100] for url in browser.requests if not url.startswith((served.address, "data:"))] == []
    paths = {path for path, _ in served.answers}
    assert {PREFIX, PREFIX + PANEL, f"{PREFIX}data/latents/{WITH_TABLES}-0.js", f"{PREFIX}assets/vega.js"} <= paths
    assert [answer for answer in served.answers if answer[1] not in (200, 304)] == []
