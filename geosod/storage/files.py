"""What a file is without GDAL: its version, first bytes and text, local or remote, and the objects of a bucket."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import requests

from geosod.errors import GeosodError, SceneError, redacted
from geosod.storage.retry import ATTEMPTS, http_status, with_retries
from geosod.storage.s3 import CONNECT_SECONDS, READ_SECONDS, access
from geosod.storage.uris import bucket_and_key, is_s3, is_web, origin, web_address

#: Documents (STAC, VRT) with more bytes than this are refused.
MAX_DOCUMENT = 16 << 20
#: Seconds within which a document must arrive.
DOCUMENT_SECONDS = 120.0
MAX_REDIRECTS = 5

_SIZE = re.compile(r"/(\d+)\s*$")
_FIXES = {
    401: "needs a login; add one for its host to ~/.netrc",
    403: "may not be read; its link or the credentials may have expired",
    404: "is not there; check the address",
}
#: Bytes that are read at a time.
_PIECE = 1 << 20
_T = TypeVar("_T")


def file_stamp(path: str | Path) -> tuple[int, int] | None:
    """Size in bytes and modification time in ns of a local file; None where it cannot be read."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def version(uri: str, *, attempts: int = ATTEMPTS) -> str:
    """A text that changes when a file changes: its ETag, or size and modification time.

    Reads one byte instead of sending HEAD, since signed links are often valid for GET only.

    Raises:
        SceneError: the file does not exist or may not be read, or its server does not support range requests.
        ConfigError: boto3 is missing.
    """
    return probe(uri, 1, attempts=attempts)[0]


def probe(uri: str, count: int = 512, *, attempts: int = ATTEMPTS) -> tuple[str, bytes]:
    """The version and the first `count` bytes of a file; raises as `version`."""
    if is_s3(uri):
        return _request(uri, lambda: _probe_s3(uri, count), attempts)
    if is_web(uri):
        return _request(uri, lambda: _probe_web(uri, count), attempts)
    try:
        with open(uri, "rb") as file:  # noqa: PTH123
            head = file.read(count) if count > 1 else b""
    except OSError as error:
        raise SceneError(f"{uri}: cannot be read: {error.strerror or error}") from error
    stamps = [stamp for file in (uri, *_sidecars(uri)) if (stamp := file_stamp(file)) is not None]
    return "+".join(f"{size}-{modified}" for size, modified in stamps), head


def file_size(uri: str) -> int | None:
    """Size of a file in bytes; None where its server does not state it. Raises as `version`."""
    if is_s3(uri):
        stated = _request(uri, lambda: str(_get_object(uri, Range="bytes=0-0").get("ContentRange")), ATTEMPTS)
    elif is_web(uri):
        stated = _request(uri, lambda: _content_range(uri), ATTEMPTS)
    else:
        stamp = file_stamp(uri)
        return None if stamp is None else stamp[0]
    found = _SIZE.search(stated)
    return int(found[1]) if found else None


def _sidecars(path: str) -> list[str]:
    """Files next to a local one that GDAL reads with it: mask, overviews, metadata, header, world file, RPCs."""
    # Paths as text: as objects they took a third of the time of reading a small scene.
    stem, suffix = os.path.splitext(path)  # noqa: PTH122
    names = [path + end for end in (".msk", ".ovr", ".aux.xml", ".hdr")]
    if len(suffix) > 1:
        names += [stem + end for end in (".wld", ".hdr", ".RPB", ".rpb", ".IMD", f"{suffix[:2]}{suffix[-1]}w")]
    return names + [stem + end for end in ("_RPC.TXT", "_rpc.txt")]


def document(uri: str) -> bytes:
    """The content of a small remote file.

    Redirects are followed within the host only, since the files that a document names are checked against its host.
    SceneError as `version`, or where it is larger than 16 MiB or redirected to another host.
    """
    return _request(uri, lambda: _read_s3(uri) if is_s3(uri) else _read_web(uri), ATTEMPTS)


def chunks(uri: str) -> Iterator[bytes]:
    """The whole content of a file, local or remote, in pieces; SceneError as `version`."""
    try:
        if is_s3(uri):
            with _get_object(uri)["Body"] as body:
                yield from body.iter_chunks(_PIECE)
        elif is_web(uri):
            with _get(web_address(uri), {}, redirects=True) as response:
                yield from response.iter_content(_PIECE)
        else:
            with open(uri, "rb") as file:  # noqa: PTH123
                while piece := file.read(_PIECE):
                    yield piece
    except Exception as error:
        raise SceneError(f"{uri}: cannot be read whole: {' '.join(redacted(str(error)).split())[:300]}") from None


def listing(prefix: str) -> dict[str, str]:
    """The addresses and versions of the objects below ``s3://bucket/prefix``, in order; SceneError as `version`."""
    bucket, key = bucket_and_key(prefix)

    def pages() -> dict[str, str]:
        s3 = access()
        found = s3.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key, **s3.request())
        return {f"s3://{bucket}/{o['Key']}": _etag(o) for page in found for o in page.get("Contents", ())}

    return _request(prefix, pages, ATTEMPTS)


def _request(uri: str, action: Callable[[], _T], attempts: int) -> _T:
    """Call `action` with retries; errors of requests and boto3 become a SceneError without secrets."""
    try:
        return with_retries(action, attempts=attempts)
    except GeosodError:
        raise
    except Exception as error:
        line = " ".join(redacted(str(error)).split())
        status = http_status(error)
        code = f"HTTP response code: {status}"
        reason = (
            f"{_FIXES[status]} ({code})" if status in _FIXES else f"cannot be reached: {line or type(error).__name__}"
        )
        if status == 403 and is_s3(uri):
            reason += "; a bucket whose reader pays needs AWS_REQUEST_PAYER=requester"
        # The original error holds the signed address, and a traceback would print it.
        cause = OSError(f"{code + '; ' if status else ''}{type(error).__name__}: {line}")
        raise SceneError(f"{uri}: {reason}") from cause


class _Connections(threading.local):
    """A session for each thread; requests does not guarantee that sessions are thread-safe."""

    def __init__(self) -> None:
        self.session = requests.Session()
        self.session.max_redirects = MAX_REDIRECTS


_connections = _Connections()


def session() -> requests.Session:
    """The connections of this thread."""
    return _connections.session


def _get(url: str, headers: dict[str, str], *, redirects: bool) -> requests.Response:
    headers = {"Accept-Encoding": "identity"} | headers
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    response = _connections.session.get(url, headers=headers, stream=True, timeout=timeout, allow_redirects=redirects)
    if response.status_code >= 400:
        response.close()
        response.raise_for_status()
    return response


def _probe_web(uri: str, count: int) -> tuple[str, bytes]:
    with _get(web_address(uri), {"Range": f"bytes=0-{count - 1}"}, redirects=True) as response:
        if response.status_code != 206:
            raise SceneError(
                f"{uri}: its server answers no range requests (status {response.status_code}), so parts of the file "
                "cannot be read; download it first, or use a server with range requests"
            )
        head = _body(response, count, time.monotonic() + READ_SECONDS)
        headers = response.headers
        size = _SIZE.search(headers.get("Content-Range", ""))
        tag = headers.get("ETag") or f"{size[1] if size else '?'} {headers.get('Last-Modified', '')}"
    return tag.strip(), head[:count]


def _content_range(uri: str) -> str:
    with _get(web_address(uri), {"Range": "bytes=0-0"}, redirects=True) as response:
        return str(response.headers.get("Content-Range", ""))


def _read_web(uri: str) -> bytes:
    url = web_address(uri)
    for _ in range(MAX_REDIRECTS):
        with _get(url, {}, redirects=False) as response:
            if response.is_redirect:
                url = requests.compat.urljoin(url, response.headers["Location"])
                if origin(url) != origin(uri):
                    raise SceneError(
                        f"{uri}: is redirected to another host, {redacted(url)}; give that if you trust it"
                    )
                continue
            content = _body(response, MAX_DOCUMENT + 1, time.monotonic() + DOCUMENT_SECONDS)
            expected = response.headers.get("Content-Length")
            _check_size(uri, content)
            if expected is not None and expected != str(len(content)):
                raise ConnectionError(f"incomplete read: {len(content)} of {expected} bytes")
            return content
    raise SceneError(f"{uri}: is redirected more than {MAX_REDIRECTS} times; give its final address")


def _body(response: requests.Response, count: int, deadline: float) -> bytes:
    """At least `count` bytes of a body, which may be endless or slow, or all of it."""
    content = bytearray()
    for chunk in response.iter_content(min(count, 1 << 16)):
        content += chunk
        if len(content) >= count:
            break
        if time.monotonic() > deadline:
            raise TimeoutError("the response arrives too slowly")
    return bytes(content)


def _probe_s3(uri: str, count: int) -> tuple[str, bytes]:
    response = _get_object(uri, Range=f"bytes=0-{count - 1}")
    with response["Body"] as body:
        return _etag(response), body.read(count)


def _read_s3(uri: str) -> bytes:
    with _get_object(uri)["Body"] as body:
        content: bytes = body.read(MAX_DOCUMENT + 1)
    _check_size(uri, content)
    return content


def _get_object(uri: str, **options: str) -> Any:
    s3, (bucket, key) = access(), bucket_and_key(uri)
    return s3.client.get_object(Bucket=bucket, Key=key, **options, **s3.request())


def _etag(entry: dict[str, Any]) -> str:
    return str(entry.get("ETag") or f"{entry.get('Size', '?')} {entry.get('LastModified', '')}")


def _check_size(uri: str, content: bytes) -> None:
    if len(content) > MAX_DOCUMENT:
        raise SceneError(f"{uri}: is over {MAX_DOCUMENT >> 20} MiB, too large for a STAC document or VRT; split it")


class _Redacting(logging.Filter):
    """Removes signatures and credentials from log records of libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


_REDACTING = _Redacting()
_LOGGERS = [f"rasterio.{name}" for name in ("_env", "_err", "_io", "_base", "_filepath", "env", "session")]
_LOGGERS += [f"urllib3.{name}" for name in ("connectionpool", "util.retry")]
_LOGGERS += [f"botocore.{name}" for name in ("httpsession", "endpoint", "auth")]
for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_REDACTING)
