"""Fetch a file from an allowed host: from the address that was checked, without redirects, within bounds."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import certifi
import urllib3

from geosod.errors import LimitError
from geosod.serving.allowed import Address, AllowedHost, Target, check_address, target_of
from geosod.serving.refused import RefusedError

CHUNK = 1 << 16
_CONNECT_SECONDS = 10.0

Resolve = Callable[[str, int], list[Address]]


def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a host; OSError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def fetch(
    url: str, allowed: Sequence[AllowedHost], *, max_bytes: int, seconds: float, resolve: Resolve = resolve
) -> Iterator[bytes]:
    """The content of a file, in parts.

    Args:
        url: as a client named it.
        allowed: the hosts that may be asked.
        max_bytes: a longer file is refused.
        seconds: in which all must have arrived.
        resolve: finds the addresses of a host.

    Raises:
        RefusedError: the host is not allowed, or does not send the file.
        LimitError: the file is too large.
    """
    target, end = target_of(url, allowed), time.monotonic() + seconds
    try:
        addresses = resolve(target.host, target.port)
        for address in addresses:
            check_address(target, address)
        with _pool(target, addresses[0]) as pool:
            answer = pool.urlopen(
                "GET",
                target.path,
                headers={"Host": _host_header(target), "Accept-Encoding": "identity", "User-Agent": "geosod"},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=min(seconds, _CONNECT_SECONDS)),
            )
            try:
                _check_status(url, answer.status)
                yield from _parts(url, answer, max_bytes, end)
            finally:
                answer.close()
    except (OSError, UnicodeError, urllib3.exceptions.HTTPError) as error:
        raise RefusedError(422, f"{_plain(url)}: cannot be fetched: {_reason(error)}; check the address") from error


def _pool(target: Target, address: Address) -> Any:
    """Connections to the address itself: a name that is resolved once more could lead elsewhere."""
    if target.scheme == "http":
        return urllib3.HTTPConnectionPool(str(address), target.port, maxsize=1)
    context = ssl.create_default_context(cafile=certifi.where())
    return urllib3.HTTPSConnectionPool(
        str(address), target.port, maxsize=1, ssl_context=context, server_hostname=target.host,
        assert_hostname=target.host,
    )  # fmt: skip


def _host_header(target: Target) -> str:
    return target.host if target.is_usual_port else f"{target.host}:{target.port}"


def _check_status(url: str, status: int) -> None:
    if 300 <= status < 400:
        raise RefusedError(
            403, f"{_plain(url)}: leads to another address, which is not followed; give the final address"
        )
    if status != 200:
        raise RefusedError(422, f"{_plain(url)}: its host answers with status {status}; check the address")


def _parts(url: str, answer: Any, max_bytes: int, end: float) -> Iterator[bytes]:
    size = 0
    while part := answer.read1(CHUNK):
        size += len(part)
        if size > max_bytes:
            raise LimitError(f"{_plain(url)}: is over the limit of {max_bytes:,} bytes; use a smaller file")
        if time.monotonic() > end:
            raise RefusedError(504, f"{_plain(url)}: did not arrive in time; send the content of the file instead")
        yield part


def _plain(url: str) -> str:
    return url.partition("?")[0][:200]


def _reason(error: Exception) -> str:
    """Without the address, which is nobody's business."""
    kinds = {socket.gaierror: "its host has no address", TimeoutError: "no answer in time", ssl.SSLError: "TLS failed"}
    for kind, text in kinds.items():
        if isinstance(error, kind):
            return text
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return type(error).__name__
