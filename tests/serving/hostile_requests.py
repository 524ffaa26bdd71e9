"""Hostile requests without end, from a seed: what is sent on a connection, and how many answers it must get."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.serving.running import drawn, encoded, file_of

INFER, DETECT, JOBS = b"/small-object-detection", b"/detect", b"/jobs"
GOOD = {kind: file_of(drawn(40, 50), kind) for kind in ("PNG", "JPEG", "TIFF")}
_HOSTS = (
    "127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "169.254.169.254", "metadata.google.internal",
    "10.0.0.1",
    "[::ffff:127.0.0.1]", "example.com@127.0.0.1", "127.0.0.1.nip.io", "0", "[fd00::1]", "\u2460.\u2461", "",
    "a" * 300,
)  # fmt: skip
_SCHEMES = ("http", "https", "file", "ftp", "gopher", "s3", "gs", "data", "dict", "jar", "HTTP", "javascript", "ldap")
_VSI = ("/vsicurl/", "/vsis3/", "/vsizip/", "/vsigzip/", "/vsitar/", "/vsimem/", "/vsistdin/", "/vsisubfile/0_9,")
_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "9" * 4000,
    "0x10",
    "1e-999",
    "-0",
    "1_0",
    "true",
    "null",
)
_TYPES = (
    b"application/json", b"application/xml", b"text/html; charset=utf-7", b"multipart/form-data; boundary=x",
    b"image/png",
    b"application/json; charset=\xff", b"application/x-www-form-urlencoded", b"*/*", b";;;",
    b"application/octet-stream",
)  # fmt: skip
_METHODS = (b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PROPFIND", b"get", b"POST")
_PATHS = (
    b"/",
    b"/models",
    b"/metrics",
    b"/openapi.json",
    b"/healthz",
    INFER,
    DETECT,
    JOBS,
    b"/docs",
    b"/jobs/x/files/a",
)
_STEPS = (
    b"..",
    b"%2e%2e",
    b"%252e%252e",
    b"..%2f",
    b"..%5c",
    b"....//",
    b".",
    b"%00",
    b"%c0%ae%c0%ae",
    b"\xe2\x80\xa5",
    b"~",
)


@dataclass(frozen=True, slots=True)
class Hostile:
    """What is sent on one connection.

    Attributes:
        kind: of attack.
        content: the bytes.
        requests: in it, each of which must be answered.
        seconds: it waits for its rest, which does not come.
    """

    kind: str
    content: bytes
    requests: int = 1
    seconds: float = 0.0


def hostile(seed: int, count: int) -> Iterator[Hostile]:
    """So many requests, on as many connections or fewer."""
    rng = random.Random(seed)
    kinds = list(KINDS)
    while count > 0:
        kind = rng.choice(kinds)
        found = replace(KINDS[kind](rng), kind=kind)
        if found.requests <= count:
            yield found
            count -= found.requests


def request(method: bytes, path: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    """A request with a length that is right."""
    length = [b"Content-Length: %d" % len(body)] if body or method == b"POST" else []
    return (
        b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: localhost", *length, *headers]) + b"\r\n\r\n" + body
    )


def _image(content: bytes | str) -> bytes:
    return json.dumps({"image": encoded(content) if isinstance(content, bytes) else content}).encode()


def _sent(rng: random.Random, content: bytes) -> Hostile:
    """An image file, to either operation."""
    return Hostile(
        "", request(b"POST", DETECT, content) if rng.random() < 0.4 else request(b"POST", INFER, _image(content))
    )


def _bomb(rng: random.Random) -> Hostile:
    """A PNG, small to send, of many pixels; some have all of their data."""
    width, height = rng.choice([(2**31 - 1, 2**31 - 1), (100_000, 100_000), (1, 2**31 - 1), (3000, 3000), (1200, 900)])
    zeros = rng.choice([0, 1000, 3 * 1200 * 900 + 900, 8 << 20])
    return _sent(rng, _png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, rng.choice([0, 0, 1])), bytes(zeros)))


def _png(header: bytes, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _dimensions(rng: random.Random) -> Hostile:
    """An image whose stated size is another than its own."""
    kind = rng.choice(["JPEG", "TIFF"])
    content = bytearray(GOOD[kind])
    size = rng.choice([0, 1, 65_535, 30_000, 4096])
    if kind == "JPEG":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", size, rng.choice([size, 1, 65_535]))
    else:
        at = struct.unpack_from("<I", content, 4)[0]
        for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", content, at)[0], 12):
            if rng.random() < 0.5:
                struct.pack_into("<I", content, entry + 8, rng.choice([0, 1, size, 2**31, 2**32 - 1]))
    return _sent(rng, bytes(content))


def _damaged(rng: random.Random) -> Hostile:
    """An image with changed bytes, cut off, or doubled."""
    content = bytearray(GOOD[rng.choice(list(GOOD))])
    for _ in range(rng.choice([0, 1, 5, 50])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    if rng.random() < 0.4:
        content = content[: rng.randrange(len(content))]
    elif rng.random() < 0.2:
        content = content * 2
    return _sent(rng, bytes(content))


def _base64(rng: random.Random) -> Hostile:
    text = encoded(GOOD["PNG"])
    at = rng.randrange(len(text))
    changed = rng.choice(
        [text[:at] + "=" + text[at:], text[:at], text.replace("+", "-").replace("/", "_"),
         "data:image/png;base64," + text,
         text[:at] + rng.choice("\u00e9\0\ud800!*%") + text[at:], "=" * at, "A" * at, text + text, text[::-1],
         "%s" * 50]
    )  # fmt: skip
    return Hostile("", request(b"POST", INFER, _image(changed)))


def _address(rng: random.Random) -> Hostile:
    """A target that only the service reaches."""
    if rng.random() < 0.3:
        url = rng.choice(_VSI) + rng.choice(
            ["http://127.0.0.1/a.tif", "/etc/passwd", "bucket/key.tif", "{/etc/passwd}"]
        )
    else:
        port = rng.choice(["", ":80", ":22", ":6379", ":99999", ":-1", ":x"])
        tail = rng.choice(
            ["/", "/latest/meta-data/", "/a.tif", "/%2e%2e/x", "?x=@localhost", "#a", "\\..\\", "/a b.tif", "\r\nX: y"]
        )
        url = f"{rng.choice(_SCHEMES)}:{rng.choice(['//', '//', '/', ''])}{rng.choice(_HOSTS)}{port}{tail}"
    if rng.random() < 0.5:
        return Hostile("", request(b"POST", INFER, _image(url)))
    return Hostile("", request(b"POST", JOBS, json.dumps({"scenes": [url]}).encode()))


def _traversal(rng: random.Random) -> Hostile:
    path = b"/".join(
        [rng.choice([b"", b"/jobs", b"/jobs/x/files"]), *rng.choices(_STEPS, k=rng.randrange(1, 9)), b"etc/passwd"]
    )
    if rng.random() < 0.3:
        scene = json.dumps({"scenes": [path.decode("latin-1")]}).encode()
        return Hostile("", request(b"POST", JOBS, scene))
    return Hostile("", request(rng.choice([b"GET", b"DELETE", b"POST"]), b"/" + path.lstrip(b"/")))


def _headers(rng: random.Random) -> Hostile:
    """A request whose line or headers are broken; its head ends."""
    line, *fields = request(b"POST", INFER, b"{}").partition(b"\r\n\r\n")[0].split(b"\r\n")
    broken = rng.choice(
        [b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: " + b"9" * 400, b"Content-Length: 0x2",
         b"A", b": b",
         b"A: b\0", b"A : b", b" A: b", b"A: b\r\n\tc", b"Transfer-Encoding: chunked, chunked",
         b"Transfer-Encoding: gzip",
         b"Host: evil.example", b"Host: localhost", b"A: " + b"b" * rng.choice([10, 40_000]), b"\x80: \xff",
         b"Expect: x",
         b"Content-Encoding: gzip", b"Connection: " + b"a," * 50, b"Upgrade: websocket", b"X: \r", b"Origin: null",
         b"Origin: https://evil.example", b"\r\n".join([b"A: b"] * rng.choice([50, 20_000]))]
    )  # fmt: skip
    fields.insert(rng.randrange(len(fields) + 1), broken)
    if rng.random() < 0.2:
        line = rng.choice(
            [b"POST / HTTP/9.9", b"POST  /  HTTP/1.1", b"\x16\x03\x01", b"POST / HTTP/1.1 x", b"P\0ST / HTTP/1.1"]
        )
    return Hostile("", b"\r\n".join([line, *fields]) + b"\r\n\r\n{}")


def _content_type(rng: random.Random) -> Hostile:
    body = rng.choice([b"", b"{}", _image("x"), b"<x/>", b"--x\r\n\r\n--x--", bytes(100)])
    return Hostile(
        "", request(b"POST", rng.choice([INFER, DETECT, JOBS]), body, b"Content-Type: " + rng.choice(_TYPES))
    )


def _json(rng: random.Random) -> Hostile:
    """Deep, odd and huge JSON, and numbers that are none."""
    deep, number = rng.choice([10, 1000, 3000, 100_000]), rng.choice(_NUMBERS)
    nested = rng.choice(["[" * deep, '{"image":' * deep, '{"image":' + "[" * deep + "]" * deep + "}"])
    odd = rng.choice(
        [f'{{"image": {number}}}', number,
         f'{{"scenes": ["a"], "settings": {{"threshold": {number}}}}}', f'{{"scenes": {number}}}',
         '{"image": "a", "image": 1}',
         '"' + "\\ud800" * 100 + '"', '{"\\u0000": 1}', "\ufeff{}", "{'image': 'x'}", '{"image": "x"} {}',
         '{"scenes": [[]]}',
         f'{{"scenes": ["a.tif"], "settings": {{"tile": {number}, "bands": [{number}]}}}}',
         "{" + '"a":1,' * 2000 + '"b":2}']
    )  # fmt: skip
    body = nested if rng.random() < 0.6 else odd
    if rng.random() < 0.1:
        return Hostile("", request(b"POST", DETECT + b"?threshold=" + number[:50].encode(), GOOD["TIFF"]))
    return Hostile("", request(b"POST", rng.choice([INFER, JOBS]), body.encode("utf-8", "surrogatepass")))


def _method(rng: random.Random) -> Hostile:
    return Hostile(
        "",
        request(rng.choice(_METHODS), rng.choice(_PATHS) + rng.choice([b"", b"?", b"?a=" + b"b" * 5000, b"//", b";x"])),
    )


def _pipelined(rng: random.Random) -> Hostile:
    """Many requests at once, whose bodies are all read, so that each is answered."""
    parts = [
        rng.choice([request(b"GET", b"/healthz"), request(b"GET", b"/nothing"), request(b"POST", INFER, b"{"),
                    request(b"POST", INFER, _image("!")), request(b"POST", JOBS, b"[]"), request(b"PUT", b"/models")])
        for _ in range(rng.randrange(2, 20))
    ]  # fmt: skip
    return Hostile("", b"".join(parts), len(parts))


def _slow(rng: random.Random) -> Hostile:
    """A request that stops in the middle, for longer than it may take."""
    whole = request(b"POST", rng.choice([INFER, DETECT]), _image(GOOD["PNG"]))
    return Hostile("", whole[: rng.randrange(len(whole))], seconds=1.0)


KINDS: dict[str, Callable[[random.Random], Hostile]] = {
    "bomb": _bomb,
    "dimensions": _dimensions,
    "damaged": _damaged,
    "base64": _base64,
    "address": _address,
    "traversal": _traversal,
    "headers": _headers,
    "content type": _content_type,
    "json": _json,
    "method": _method,
    "pipelined": _pipelined,
    "slow": _slow,
}
