"""A hub on this machine: as much of the API of huggingface.co as creating a repository and one commit take."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What it holds by repository and path, and every request that it was sent."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()


@contextmanager
def running(token: str) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (_Handler,), {"token": token}))
    hub = server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    token = ""
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self._arrived()
        if path == "/api/whoami-v2":
            return self._answer({"type": "user", "name": "some-one", "auth": {}})
        name = path.removeprefix("/api/models/").split("/tree/")[0]
        if name not in hub.repositories:
            return self._answer({"error": "Repository not found"}, 404, "RepoNotFound")
        files = hub.repositories[name].items()
        return self._answer([{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in files])

    def do_POST(self) -> None:
        hub, path = self._arrived()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'some-one'}/{asked['name']}"
            if name in hub.repositories:
                return self._answer({"error": "exists", "url": f"{hub.endpoint}/{name}"}, 409)
            hub.repositories[name] = {".gitattributes": b""}
            hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return self._answer({"url": f"{hub.endpoint}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        name, _, what = path.removeprefix("/api/models/").partition("/preupload/")
        if what:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        name = path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del hub.repositories[name][value["path"]]
        commit = {"commitUrl": f"{hub.endpoint}/{name}/commit/{'c' * 40}", "commitOid": "c" * 40, "hookOutput": ""}
        return self._answer(commit)

    def _arrived(self) -> tuple[Hub, str]:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("authorization"))
        return hub, path

    def _answer(self, content: Any, status: int = 200, code: str = "") -> None:
        if self.headers.get("authorization") != f"Bearer {self.token}":
            content, status = {"error": "Invalid user token"}, 401
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)
