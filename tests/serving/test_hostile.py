"""Hundreds of hostile requests: each is answered in the envelope, and the service lives on, within its memory."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.serving.running import Running, drawn, encoded, file_of
from tests.serving.test_fetch import SPELLINGS
from tests.serving.test_uploads import BOMBS, NAMING

BODY = json.dumps({"image": encoded(drawn())}).encode()


def raw(served: Running, content: bytes, *, count: int = 1) -> bytes:
    """What the service answers to bytes on a connection: so many answers, or all until it closes the connection."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        with suppress(ConnectionError):  # it may have answered, and read no more
            connection.sendall(content)
        return received(connection, count)


def received(connection: socket.socket, count: int = 1) -> bytes:
    found = b""
    with suppress(ConnectionError):
        while len(split(found)) < count and (part := connection.recv(1 << 16)):
            found += part
    return found


def split(answers: bytes) -> list[tuple[int, bytes]]:
    """Status and body of every whole answer."""
    found = []
    while answers:
        head, separator, rest = answers.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        length = int(fields.get(b"content-length", 0))
        if not separator or len(rest) < length:
            break
        found.append((int(head.split(b" ")[1]), rest[:length]))
        answers = rest[length:]
    return found


def post(body: bytes, path: bytes = b"/small-object-detection", *headers: bytes) -> bytes:
    head = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def statuses(answers: bytes) -> list[int]:
    """The status of every answer on a connection; each error must be an envelope."""
    for status, body in split(answers):
        if status >= 400:
            error = json.loads(body)
            assert error.keys() == {"logId", "errorCode", "errorMsg"} and error["errorCode"] == status, error
            uuid.UUID(error["logId"])
    return [status for status, _ in split(answers)]


def hostile() -> Iterator[tuple[str, bytes]]:
    for name, content in (BOMBS | NAMING).items():
        yield name, post(json.dumps({"image": encoded(content)}).encode())
        yield f"{name} to detect", post(content, b"/detect")
    for url in SPELLINGS:
        yield url, post(json.dumps({"image": url}).encode())
        yield f"{url} as a scene", post(json.dumps({"scenes": [url]}).encode(), b"/jobs")
    for path in (b"/../etc/passwd", b"/%2e%2e/etc/passwd", b"//etc/passwd", b"/jobs/..%2f..", b"/%00", b"/\xc3\xa9",
                 b"/" * 3000, b"/jobs/x/files/../../../etc/passwd",
                 b"/detect?threshold=1e999", b"/detect?threshold=%00"):  # fmt: skip
        yield f"path {path[:40]!r}", post(b"", path)
        yield f"get {path[:40]!r}", b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for method in (b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"FOO"):
        yield method.decode(), method + b" /small-object-detection HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "length beyond the limit", post(b"", b"/small-object-detection").replace(b"Length: 0", b"Length: 99999999999")
    yield "absurd length", post(b"").replace(b"Length: 0", b"Length: " + b"9" * 400)
    yield "negative length", post(b"").replace(b"Length: 0", b"Length: -1")
    yield "two lengths", post(b"xx").replace(b"Length: 2", b"Length: 2\r\nContent-Length: 3")
    yield "length and chunks", post(b"0\r\n\r\n", b"/small-object-detection", b"Transfer-Encoding: chunked")
    yield "bad chunk", b"POST /detect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
    yield "no host", b"GET /healthz HTTP/1.1\r\n\r\n"
    yield "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "HTTP/0.9", b"GET /\r\n\r\n"
    yield "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)
    yield "many headers", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n"
    yield "long header", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 200_000 + b"\r\n\r\n"
    yield "line folding", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\r\n\tc\r\n\r\n"
    yield "null in header", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\0\r\n\r\n"
    for encoding in (b"gzip", b"br", b"deflate, gzip"):
        yield f"encoding {encoding!r}", post(BODY, b"/small-object-detection", b"Content-Encoding: " + encoding)
    deep = b'{"image": ' * 50_000
    for body in (deep, b"[" * 500_000, b'"' + b"\\ud800" * 1000 + b'"', b'{"image": 1e400}',
                 b'{"image": NaN}', b"\0" * 100_000, b'{"image": "' + b"A" * 900_000 + b'"}',
                 b'{"image": "' + b"=" * 1000 + b'"}', b"\xef\xbb\xbf{}"):  # fmt: skip
        yield f"body {body[:12]!r}", post(body)
        yield f"job {body[:12]!r}", post(body, b"/jobs")
    rng = random.Random(0)
    for kind in ("PNG", "JPEG", "TIFF"):
        good = file_of(drawn(), kind)
        for i in range(30):
            bad = bytearray(good)
            for _ in range(rng.randrange(1, 40)):
                bad[rng.randrange(len(bad) if i % 2 else min(400, len(bad)))] = rng.randrange(256)
            yield f"damaged {kind} {i}", post(json.dumps({"image": encoded(bytes(bad))}).encode())
            yield f"damaged {kind} {i} to detect", post(bytes(bad), b"/detect")


def test_each_is_answered_and_the_service_lives(served: Running) -> None:
    cases = list(hostile())
    assert len(cases) > 300
    assert served.infer(drawn()).status_code == 200
    before, peak, ended = psutil.Process().memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            peak = max(peak, psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda case: raw(served, case[1]), cases))
    ended.set()
    watcher.join()
    for (name, _), answer in zip(cases, answers, strict=True):
        found = statuses(answer)
        assert found, f"{name}: no answer"
        assert all(status < 500 for status in found), (name, found)
        assert not name.startswith(tuple(BOMBS)) or found[0] == 413, (name, found)
        assert not name.startswith(("http", "file", "/vsi", "s3")) or found[0] in (403, 422), (name, found)
    assert peak - before < 400 << 20
    assert served.infer(drawn()).status_code == 200
    assert served.service.budget.requests == served.service.budget.bytes == 0


def test_slow_bodies_and_headers_end(served: Running) -> None:
    slow = [
        (b"POST /small-object-detection HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{", 408),
        (b"GET /healthz HTTP/1.1\r\nHost: local", 408),
        (b"", 408),
    ]
    for start, status in slow:
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(start)
            began = time.monotonic()
            assert statuses(received(connection)) == [status]
            assert time.monotonic() - began < 5


def test_a_byte_now_and_then_does_not_keep_a_request_open(served: Running) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nA: ")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 8:
                connection.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - began < 6


def test_pipelined_requests_are_answered_in_order(served: Running) -> None:
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    content = health + post(BODY) + health + post(b"{") + post(BODY) + health * 50
    assert statuses(raw(served, content, count=55)) == [200, 200, 200, 400, 200] + [200] * 50


def test_too_many_connections(served: Running) -> None:
    with _connections(served, 64) as kept:
        last = socket.create_connection(("127.0.0.1", served.port), timeout=10)
        assert statuses(received(last)) == [503]
        last.close()
        assert len(kept) == 64
    end = time.monotonic() + 10
    while served.get("/healthz").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_clients_that_do_not_read_or_go_away(served: Running) -> None:
    for _ in range(30):
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=10)
        connection.sendall(post(BODY))
        connection.close()
    end = time.monotonic() + 30
    while served.service.budget.requests:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert served.infer(drawn()).status_code == 200


class _connections:  # noqa: N801
    def __init__(self, served: Running, count: int) -> None:
        self._kept = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(count)]
        time.sleep(0.2)

    def __enter__(self) -> list[socket.socket]:
        return self._kept

    def __exit__(self, *_: Any) -> None:
        for connection in self._kept:
            connection.close()
