"""A real browser without a window: Chromium, driven by its DevTools protocol over the aiohttp that DVC brings."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
import time
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STARTS_WITHIN_S = 60
T = TypeVar("T")
KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


class Navigated(Exception):
    """The page that was asked has been left."""


class Browser:
    """One tab. errors: of the console and uncaught; requests: the address of everything that it asked for; failed: of
    those that got no answer or one of 400 and above."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.failed: list[str] = []
        self._asked: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    def __enter__(self) -> Browser:
        assert CHROMIUM is not None
        with ExitStack() as stack:
            # a child of the browser may still write there when it has ended
            folder = TemporaryDirectory(prefix="reseed-chromium-", ignore_cleanup_errors=True)
            profile = Path(stack.enter_context(folder))
            command = [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
                "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
            ]  # fmt: skip
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            port = profile / "DevToolsActivePort"
            deadline = time.monotonic() + STARTS_WITHIN_S
            while not port.is_file() or not port.read_text().strip():
                assert process.poll() is None, "chromium ended before it was ready"
                assert time.monotonic() < deadline, f"chromium was not ready in {STARTS_WITHIN_S} s"
                time.sleep(0.05)
            self._run(self._connect(int(port.read_text().split()[0])))
            stack.callback(self._loop.close)
            stack.callback(lambda: self._run(self._disconnect()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(work, 60))

    async def _connect(self, port: int) -> None:
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(one for one in await answer.json() if one["type"] == "page")
        self._socket = await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.ensure_future(self._read())
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            await self._send(f"{domain}.enable")

    async def _disconnect(self) -> None:
        self._reader.cancel()
        await self._session.close()

    async def _read(self) -> None:
        async for message in self._socket:
            content = message.json()
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
                continue
            said = content["params"]
            if content["method"] == "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])
                self._asked[said["requestId"]] = said["request"]["url"]
            elif content["method"] == "Network.loadingFailed" and not said.get("canceled"):
                self.failed.append(f"{self._asked.get(said['requestId'])}: {said['errorText']}")
            elif content["method"] == "Network.responseReceived" and said["response"]["status"] >= 400:
                self.failed.append(f"{said['response']['url']}: {said['response']['status']}")
            elif content["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(said["exceptionDetails"]))
            elif content["method"] == "Log.entryAdded" and said["entry"]["level"] == "error":
                self.errors.append(str(said["entry"]))
            elif content["method"] == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                self.errors.append(str(said["args"]))

    async def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await self._answers[number]
        if "navigated" in answer.get("error", {}).get("message", ""):
            raise Navigated(method)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._run(self._send(method, **parameters))

    def look(self, width: int, scheme: str, height: int = 900) -> None:
        """Set the width in CSS pixels, and whether the reader prefers dark or light."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, page: Path) -> None:
        """Open a file and wait until its charts are drawn."""
        self.visit(page.resolve().as_uri())

    def visit(self, url: str) -> None:
        """Open an address and wait until its charts are drawn."""
        self.send("Page.navigate", url=url)
        self.wait(f"document.readyState == 'complete' && location.href.endsWith('/{url.rpartition('/')[2]}')")
        self.wait("document.documentElement.dataset.drawn")

    def evaluate(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, within_s: float = 30) -> Any:
        """Its first true value; AssertionError if it stays false."""
        deadline = time.monotonic() + within_s
        value = None
        while not value:
            with suppress(Navigated):  # the page went while it was asked: the next one may say so
                value = self.evaluate(expression)
            assert value or time.monotonic() < deadline, f"never true: {expression}; {self.errors}"
            time.sleep(0.05)
        return value

    def press(self, *keys: str) -> None:
        for key in keys:
            code = KEYS.get(key, 0)
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=text)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def point(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window, and press nothing."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def tab_to(self, is_there: str, most: int = 200) -> None:
        """Press Tab until the expression, of the focused element `e`, is true."""
        for _ in range(most):
            self.press("Tab")
            if self.evaluate(f"((e) => {is_there})(document.activeElement)"):
                return
        raise AssertionError(f"Tab never came to {is_there}")

    def picture(self, file: Path) -> None:
        """The whole page as a PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))
