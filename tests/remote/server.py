"""An HTTP/1.1 range server on loopback with scheduled faults, which records its requests."""

from __future__ import annotations

import email.utils
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.loopback import listening

_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass(frozen=True)
class Request:
    """One request as the server saw it."""

    method: str
    path: str
    query: str
    span: tuple[int, int] | None
    headers: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """A fault: a status, a broken connection, or a wrong body."""

    status: int = 200
    reset: bool = False
    truncate: bool = False
    endless: bool = False
    length: int | None = None
    location: str | None = None
    body: bytes | None = None
    delay: float = 0.0


@dataclass
class Server:
    """The served folder and the requests. `fault` is called for every request, in its thread."""

    root: Path
    latency: float = 0.0
    ranges: bool = True
    etags: bool = True
    keys: dict[str, str] = field(default_factory=dict)
    fault: Callable[[Request], Fault | None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset_counts(self) -> None:
        with self.lock:
            self.requests, self.sent = [], 0

    def data(self) -> list[Request]:
        """Requests for more than the first few bytes."""
        return [r for r in self.requests if r.span is None or r.span[1] - r.span[0] > 1024]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        state, parts = self.state, urlsplit(self.path)
        match = _RANGE.match(self.headers.get("Range", ""))
        span = (int(match[1]), int(match[2] or 1 << 62)) if match else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(parts.path), parts.query, span, headers)
        with state.lock:
            state.requests.append(request)
            fault = state.fault(request)
        time.sleep(state.latency + (fault.delay if fault else 0.0))
        try:
            self._respond(request, fault)
        except (BrokenPipeError, ConnectionError, TimeoutError):
            self.close_connection = True

    def _respond(self, request: Request, fault: Fault | None) -> None:
        state = self.state
        if fault and fault.reset:
            # A linger of zero makes close() send a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if fault and (fault.status >= 300):
            self._bare(fault.status, fault.location)
            return
        path = state.root / request.path.lstrip("/")
        allowed = state.keys.get(request.path)
        if allowed is not None and request.query != allowed:
            self._bare(403)
            return
        if fault and fault.body is not None:
            content = fault.body
        elif path.is_file():
            content = path.read_bytes() if path.stat().st_size < 1 << 20 else None
        else:
            self._bare(404)
            return
        size = len(content) if content is not None else path.stat().st_size
        start, stop = 0, size
        if state.ranges and request.span is not None:
            start, stop = request.span[0], min(size, request.span[1] + 1)
            if start >= size:
                self._bare(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes" if state.ranges else "none")
        length = stop - start if not fault or fault.length is None else fault.length
        if not (fault and fault.endless):
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Connection", "close")
        if state.etags:
            self.send_header("ETag", self._etag(path, content))
        if path.is_file():
            self.send_header("Last-Modified", email.utils.formatdate(path.stat().st_mtime, usegmt=True))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.endless:
            self._pour()
        elif fault and (fault.truncate or fault.length is not None):
            self._send(path, content, start, start + (stop - start) // 2)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self._send(path, content, start, stop)

    def _etag(self, path: Path, content: bytes | None) -> str:
        status = path.stat() if path.is_file() else None
        text = f"{status.st_size}-{status.st_mtime_ns}" if status else hashlib.sha256(content or b"").hexdigest()
        return f'"{text}"'

    def _send(self, path: Path, content: bytes | None, start: int, stop: int) -> None:
        if content is not None:
            self.wfile.write(content[start:stop])
        elif stop > start:
            self.wfile.flush()
            with path.open("rb") as file:
                self.connection.sendfile(file, start, stop - start)
        with self.state.lock:
            self.state.sent += stop - start

    def _pour(self) -> None:
        while True:
            self.wfile.write(b"II*\x00" * 4096)
            with self.state.lock:
                self.state.sent += 16384

    def _bare(self, status: int, location: str | None = None) -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(root: Path, **settings: Any) -> Iterator[Server]:
    """Serve the files below a folder on a free port of loopback."""
    state = Server(root, **settings)
    with listening(_Handler, state=state) as state.url:
        yield state
