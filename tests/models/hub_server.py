"""A hub on the loopback address, as far as its client asks: files of repositories, their lists, and faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What the server has and what it was asked.

    Attributes:
        address: of the server.
        repos: files by repository and name.
        gated, private: repositories that refuse; `gated` ones take the token "let me in".
        cut: of these files the last byte never comes.
        short: these files are a byte shorter than the hub says.
        changed: these files have another content than the hub says.
        failing: every answer is this status.
        asked: method and path of every request.
        tokens: that were sent along.
    """

    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    short: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    failing: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def fetched(self, name: str) -> int:
        """How often the content of a file was asked for."""
        return sum(method == "GET" and path.endswith(f"/{name}") for method, path in self.asked)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path))
        token = str(self.headers.get("Authorization") or "").removeprefix("Bearer ")
        hub.tokens.append(token)
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if listing else parts[:2])
        if hub.failing:
            self._refuse(hub.failing, "")
        elif repo not in hub.repos or repo in hub.private:
            self._refuse(401, "RepoNotFound")
        elif repo in hub.gated and token != "let me in":
            self._refuse(403 if token else 401, "GatedRepo")
        elif listing:
            self._list(repo, parts[4])
        elif parts[3] not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif "/".join(parts[4:]) not in hub.repos[repo]:
            self._refuse(404, "EntryNotFound")
        else:
            self._file("/".join(parts[4:]), hub.repos[repo]["/".join(parts[4:])], with_body=with_body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if code == "EntryNotFound":
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _list(self, repo: str, what: str) -> None:
        files = self.hub.repos[repo]
        answer: Any = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        if what == "tree":
            answer = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, name: str, content: bytes, *, with_body: bool) -> None:
        large = not name.endswith((".json", ".txt"))
        etag = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        size = len(content)
        if name in self.hub.short:
            content = content[:-1]
        if name in self.hub.changed:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(size))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextmanager
def running() -> Iterator[Hub]:
    """The server, while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
