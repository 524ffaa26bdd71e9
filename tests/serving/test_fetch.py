"""Fetching: off by default, and only ever from the address that was checked."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from geosod.errors import ConfigError, LimitError
from geosod.serving.allowed import check_address, parse_allowed, target_of
from geosod.serving.fetch import fetch
from geosod.serving.refused import RefusedError
from tests.serving.running import check_envelope, drawn, file_of, running

IMAGE = file_of(drawn())


class _Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers['Host']} {self.path}")
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/slow":
            for _ in range(40):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        self.wfile.write(IMAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()


def got(url: str, *allowed: str, max_bytes: int = 1 << 20, seconds: float = 5, **options: object) -> bytes:
    entries = [parse_allowed(text) for text in allowed]
    return b"".join(fetch(url, entries, max_bytes=max_bytes, seconds=seconds, **options))  # type: ignore[arg-type]


def test_an_allowed_host_is_fetched_from(host: int) -> None:
    allowed = f"localhost:{host}=127.0.0.0/8"
    addresses = {"resolve": lambda *_: [ipaddress.ip_address("127.0.0.1")]}
    assert got(f"http://localhost:{host}/a.png?x=1", allowed, **addresses) == IMAGE
    assert _Handler.asked[-1] == f"localhost:{host} /a.png?x=1"


def test_a_host_in_a_private_network_needs_to_be_allowed_as_such(host: int) -> None:
    before = len(_Handler.asked)
    with pytest.raises(RefusedError, match="=NETWORK"):
        got(f"http://localhost:{host}/a.png", f"localhost:{host}")
    with pytest.raises(RefusedError, match="=NETWORK"):
        got(f"http://localhost:{host}/a.png", f"localhost:{host}=10.0.0.0/8")
    assert len(_Handler.asked) == before


def test_a_name_that_is_bound_anew_leads_nowhere_else(host: int) -> None:
    """It is resolved once, every address is checked, and the connection goes to the first of these."""
    public, private = ipaddress.ip_address("93.184.216.34"), ipaddress.ip_address("127.0.0.1")
    calls: list[str] = []

    def resolve(name: str, _: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        calls.append(name)
        return [public, private]

    before = len(_Handler.asked)
    with pytest.raises(RefusedError) as refused:
        got(f"http://rebound.example:{host}/a.png", f"rebound.example:{host}", resolve=resolve)
    assert refused.value.status == 403 and calls == ["rebound.example"] and len(_Handler.asked) == before


def test_redirects_are_not_followed(host: int) -> None:
    with pytest.raises(RefusedError, match="not followed") as refused:
        got(f"http://127.0.0.1:{host}/redirect", f"127.0.0.1:{host}=127.0.0.1/32")
    assert refused.value.status == 403 and _Handler.asked[-1].endswith("/redirect")


def test_bounds(host: int) -> None:
    allowed = f"127.0.0.1:{host}=127.0.0.1/32"
    with pytest.raises(LimitError):
        got(f"http://127.0.0.1:{host}/a.png", allowed, max_bytes=1000)
    with pytest.raises(RefusedError) as refused:
        got(f"http://127.0.0.1:{host}/slow", allowed, seconds=0.5)
    assert refused.value.status in (422, 504)
    with pytest.raises(RefusedError, match="404"):
        got(f"http://127.0.0.1:{host}/missing", allowed)


SPELLINGS = [
    "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://[::1]/",
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://127.0.0.1.nip.io/", "http://169.254.169.254/",
    "http://example.com@127.0.0.1/", "http://127.0.0.1#@example.com/", "http://example.com:80@127.0.0.1/",
    "http://127.0.0.1\\@example.com/", "http://example.com%2f@127.0.0.1/", "http://example.com./", "http://EXAMPLE.COM.evil/",
    "http://example.com:22/", "http://example.com\t.evil/", "http://exämple.com/", "//example.com/", "http:example.com",
    "file:///etc/passwd", "file://example.com/etc/passwd", "ftp://example.com/", "gopher://example.com/", "data:,x",
    "/vsicurl/http://example.com/", "/vsizip//etc/passwd", "/vsis3/bucket/key", "s3://example.com/a", "HTTP://127.0.0.1/",
    "http://", "http:///a", "http://example.com:99999/", "http://example.com:x/", "http://\u2488.example.com/",
]  # fmt: skip


@pytest.mark.parametrize("url", SPELLINGS)
def test_other_spellings_are_not_allowed(url: str) -> None:
    with pytest.raises(RefusedError) as refused:
        target_of(url, [parse_allowed("example.com")])
    assert refused.value.status in (403, 422)


def test_the_host_itself_is_allowed_in_any_case() -> None:
    for url in ("http://example.com/a", "HTTPS://EXAMPLE.com:443/a?b", "http://example.com:443/"):
        assert target_of(url, [parse_allowed("Example.com")]).host == "example.com"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "255.255.255.255", "::ffff:10.0.0.1", "fe80::1", "fc00::1", "2002:7f00:1::", "64:ff9b::7f00:1", "ff02::1",
     "::"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    target = target_of("https://example.com/", [parse_allowed("example.com")])
    with pytest.raises(RefusedError) as refused:
        check_address(target, ipaddress.ip_address(address))
    assert refused.value.status == 403 and address not in str(refused.value)
    check_address(target, ipaddress.ip_address("93.184.216.34"))
    check_address(target, ipaddress.ip_address("2606:2800:220:1::1"))


@pytest.mark.parametrize(
    "text", ["", "a b", "https://example.com", "host:0", "host:x", "host=x", "*.example.com", "[::1]"]
)
def test_malformed_entries(text: str) -> None:
    with pytest.raises(ConfigError, match="--allow-host"):
        parse_allowed(text)


def test_the_service_fetches_from_allowed_hosts_only(host: int, rgb_bundle: Path) -> None:
    allowed = (parse_allowed(f"127.0.0.1:{host}=127.0.0.1/32"),)
    with running(rgb_bundle, allowed_hosts=allowed) as service:
        assert (
            service.infer(f"http://127.0.0.1:{host}/a.png").json()["result"] == service.infer(drawn()).json()["result"]
        )
        check_envelope(service.infer(f"http://127.0.0.1:{host}/redirect"), 403)
        check_envelope(service.infer(f"http://127.0.0.1:{host}/missing"), 422)
        check_envelope(service.infer(f"http://localhost:{host}/a.png"), 403)
