"""An S3 server on the loopback address, real but for its faults: slow, busy, or cutting its connections."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest

BUCKET = "bucket"
logging.getLogger("werkzeug").setLevel(logging.ERROR)


class Store:
    """An S3 server that is up, with one bucket.

    Attributes:
        url: where it listens.
        gets: how often each object was sent.
        trouble: called with the path of an object that is asked for and how often that was; gives `""`, `"busy"` (503),
            `"cut"` (the connection breaks half way) or `"gone"` (404).
        slow: seconds that each object takes.
        denied: whether everything is answered by 403.
        before: called with the path of each request, before it is answered.
        most: the most objects that were on their way at a time.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self.gets, self._asked = Counter[str](), Counter[str]()
        self.trouble: Callable[[str, int], str] = lambda path, times: ""
        self.slow, self.denied = 0.0, False
        self.before: Callable[[str], None] = lambda path: None
        self.most = self._now = 0
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """No faults any more, nothing counted."""
        self.reset_counts()
        self.trouble, self.slow, self.denied, self.before = (lambda path, times: ""), 0.0, False, lambda path: None

    def reset_counts(self) -> None:
        """Nothing counted."""
        self.gets.clear()
        self._asked.clear()
        self.most = 0

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] != "PUT":
            self.before(path)
            if self.denied:
                body = self._refused(start, "AccessDenied", "403 Forbidden")
                return [] if environ["REQUEST_METHOD"] == "HEAD" else body
        if environ["REQUEST_METHOD"] != "GET" or not path.endswith((".tar", ".safetensors")):
            if environ["REQUEST_METHOD"] == "HEAD" and self.trouble(path, 0) == "gone":
                start("404 Not Found", [("Content-Length", "0")])
                return []
            return self._app(environ, start)  # type: ignore[no-any-return]
        with self._lock:
            self._asked[path] += 1
            trouble = self.trouble(path, self._asked[path])
        if trouble in ("busy", "gone"):
            how = ("SlowDown", "503 Slow Down") if trouble == "busy" else ("NoSuchKey", "404 Not Found")
            return self._refused(start, *how)
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.gets[path] += trouble == ""
        return self._sent(self._app(environ, start), cut=trouble == "cut")

    def _refused(self, start: Callable[..., Any], code: str, status: str) -> list[bytes]:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def _sent(self, body: Iterable[bytes], *, cut: bool) -> Iterator[bytes]:
        try:
            whole = b"".join(body)
            if cut:
                yield whole[: len(whole) // 2]
                raise ConnectionResetError("cut")
            time.sleep(self.slow)
            yield whole
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def s3_store() -> Iterator[Store]:
    """A server, the credentials for it in the environment, and an empty bucket."""
    store = Store()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": store.url,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "a secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        clients = fsspec.get_filesystem_class("s3")
        clients.clear_instance_cache()  # they know another server
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield store
        fsspec.filesystem("s3").rm(BUCKET, recursive=True)
        clients.clear_instance_cache()
    store.close()


def put(key: str, content: bytes) -> None:
    """Write an object into the bucket."""
    fsspec.filesystem("s3").pipe(f"{BUCKET}/{key}", content)
