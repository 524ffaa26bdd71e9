"""A proxy on loopback in front of an HTTP service that loses requests and answers, at random but repeatably."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What happens to a request, and how often: it is answered with 503 at once, or carried out and answered with 500,
#: its connection is closed before or after it was carried out, or half of the answer is sent.
FAULTS = {"refused": 0.06, "error": 0.03, "closed": 0.03, "lost": 0.03, "half": 0.03}


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: tuple[str, int]
    choose: Any

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.choose()
        if fault == "refused":
            self._answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
            return
        if fault == "denied":
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>", {})
            return
        if fault == "conflict":
            self._answer(409, b"<Error><Code>ConditionalRequestConflict</Code></Error>", {})
            return
        if fault == "garbled":
            self._answer(200, b"<?xml version='1.0'?><ListBucketResult><Contents><Key>x</K", {})
            return
        if fault == "closed":
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection(*self.target, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "lost":
            self.close_connection = True
            return
        if fault == "error":
            self._answer(500, b"<Error><Code>InternalError</Code></Error>", {})
            return
        self._answer(answer.status, content, dict(answer.getheaders()), half=fault == "half")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815

    def _answer(self, status: int, content: bytes, headers: dict[str, str], *, half: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half and content else content)
        self.close_connection = half

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def flaky(target: tuple[str, int], seed: int) -> AbstractContextManager[str]:
    """The address of a proxy in front of a service, with faults at random."""
    chance, lock = random.Random(seed), threading.Lock()

    def choose(_request: BaseHTTPRequestHandler) -> str | None:
        with lock:
            value = chance.random()
        for name, share in FAULTS.items():
            value -= share
            if value < 0:
                return name
        return None

    return proxy(target, choose)


@contextmanager
def proxy(target: tuple[str, int], choose: Callable[[BaseHTTPRequestHandler], str | None]) -> Iterator[str]:
    """The address of a proxy in front of a service.

    Args:
        target: host and port of the service.
        choose: what happens to a request: one of `FAULTS`, "denied", "garbled", "conflict", or None for nothing.
    """
    handler = type("Handler", (_Proxy,), {"target": target, "choose": choose})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
