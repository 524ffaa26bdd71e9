"""What files on the network are: their versions, first bytes and text, asked for by plain requests of our own."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests

from geosod.errors import GeosodError, SceneError, redacted
from geosod.storage.memory import memory_version
from geosod.storage.retry import ATTEMPTS, with_retries
from geosod.storage.s3 import CONNECT_SECONDS, READ_SECONDS, access
from geosod.storage.uris import bucket_and_key, is_s3, is_web, origin, web_address

#: Documents (STAC, VRT) larger than this are not read.
MAX_DOCUMENT = 16 << 20
#: Seconds in which a document must have come.
DOCUMENT_SECONDS = 120.0
MAX_REDIRECTS = 5

_SIZE = re.compile(r"/(\d+)\s*$")
_T = TypeVar("_T")
_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Probe:
    """What the first bytes of a file say.

    Attributes:
        version: changes when the file does.
        head: its first bytes.
    """

    version: str
    head: bytes


@dataclass(frozen=True, slots=True)
class Listed:
    """An object of a bucket, as the listing has it."""

    uri: str
    version: str


def version(uri: str, *, attempts: int = ATTEMPTS) -> str:
    """What changes when a file does: ETag, or size and time of change; of local files size and time of change.

    Asks for one byte, since links are often signed for GET alone.

    Raises:
        SceneError: the file is not there, may not be read, or its server answers no range requests.
        ConfigError: boto3 is missing.
    """
    return probe(uri, 1, attempts=attempts).version


def probe(uri: str, count: int = 512, *, attempts: int = ATTEMPTS) -> Probe:
    """The version and the first `count` bytes of a file; errors as `version`."""
    if is_s3(uri):
        return _told(uri, lambda: _probe_s3(uri, count), attempts)
    if is_web(uri):
        return _told(uri, lambda: _probe_web(uri, count), attempts)
    if (known := memory_version(uri)) is not None:
        return Probe(known, b"")
    path = Path(uri)
    try:
        status = path.stat()
        with path.open("rb") as file:
            head = file.read(count) if count > 1 else b""
    except OSError as error:
        raise SceneError(f"{uri}: cannot be read: {error.strerror or error}") from error
    states = [f"{s.st_size}-{s.st_mtime_ns}" for s in (status, *_sidecars(path))]
    return Probe("+".join(states), head)


def _sidecars(path: Path) -> Iterator[os.stat_result]:
    """The states of the files beside a local one that GDAL reads with it: mask, overviews, metadata, world file."""
    beside = [path.with_name(path.name + end) for end in (".msk", ".ovr", ".aux.xml")]
    if path.suffix:
        beside += [path.with_suffix(".wld"), path.with_suffix(f"{path.suffix[:2]}{path.suffix[-1]}w")]
    for sidecar in beside:
        with suppress(OSError):
            yield sidecar.stat()


def document(uri: str) -> bytes:
    """The whole of a small file on the network.

    Redirects are followed on the file's own host only, so that what it names is held against the host it came from.

    Raises:
        SceneError: as `version`; it is larger than 16 MiB, or redirected to another host.
    """
    return _told(uri, lambda: _whole_s3(uri) if is_s3(uri) else _whole_web(uri), ATTEMPTS)


def listing(prefix: str) -> Iterator[Listed]:
    """The objects below ``s3://bucket/prefix``, in the bucket's order, with their versions.

    Raises:
        SceneError: the bucket is not there or may not be listed.
    """
    bucket, key = bucket_and_key(prefix)

    def pages() -> list[Listed]:
        reach = access()
        found = []
        for page in reach.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=key, **reach.request()
        ):
            found += [Listed(f"s3://{bucket}/{o['Key']}", _etag(o)) for o in page.get("Contents", ())]
        return found

    yield from _told(prefix, pages, ATTEMPTS)


def _told(uri: str, action: Callable[[], _T], attempts: int) -> _T:
    """`action`, tried with_retries, with the libraries' errors as ours."""
    try:
        return with_retries(action, attempts=attempts)
    except GeosodError:
        raise
    except Exception as error:
        line = " ".join(redacted(str(error)).split())
        # The library's own error holds the address with its signature, and would be printed with ours.
        raise SceneError(f"{uri}: {_mend(error, line)}") from _quiet(error)


def _quiet(error: Exception) -> Exception:
    """An error without secrets that says the same, status and all."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    code = f"HTTP response code: {status}; " if status else ""
    return OSError(code + type(error).__name__ + ": " + " ".join(redacted(str(error)).split()))


def _mend(error: Exception, line: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(getattr(error, "response", None), dict):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode")  # type: ignore[attr-defined]
    mends = {
        401: "wants a login; put one for its host into ~/.netrc",
        403: "may not be read; its link or the credentials may have expired",
        404: "is not there; check the address",
    }
    if status in mends:
        return f"{mends[status]} (HTTP response code: {status})"
    return f"cannot be reached: {line or type(error).__name__}"


def _session() -> requests.Session:
    """This thread's connections; requests does not promise that threads may share them."""
    if not hasattr(_thread, "session"):
        _thread.session = requests.Session()
        _thread.session.max_redirects = MAX_REDIRECTS
    session: requests.Session = _thread.session
    return session


def _get(url: str, headers: dict[str, str], *, redirects: bool) -> requests.Response:
    headers = {"Accept-Encoding": "identity"} | headers
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    answer = _session().get(url, headers=headers, stream=True, timeout=timeout, allow_redirects=redirects)
    if answer.status_code >= 400:
        answer.close()
        answer.raise_for_status()
    return answer


def _probe_web(uri: str, count: int) -> Probe:
    with _get(web_address(uri), {"Range": f"bytes=0-{count - 1}"}, redirects=True) as answer:
        if answer.status_code != 206:
            raise SceneError(
                f"{uri}: its server answers no range requests (status {answer.status_code}), so parts of it cannot be "
                "read; download it first, or put it on a server that does"
            )
        head = _take(answer, count, time.monotonic() + READ_SECONDS)
        size = _SIZE.search(answer.headers.get("Content-Range", ""))
        told = answer.headers.get("ETag") or f"{size[1] if size else '?'} {answer.headers.get('Last-Modified', '')}"
    return Probe(told.strip(), head[:count])


def _whole_web(uri: str) -> bytes:
    url = web_address(uri)
    for _ in range(MAX_REDIRECTS):
        with _get(url, {}, redirects=False) as answer:
            if answer.is_redirect:
                url = requests.compat.urljoin(url, answer.headers["Location"])
                if origin(url) != origin(uri):
                    raise SceneError(
                        f"{uri}: is redirected to another host, {redacted(url)}; name that if you trust it"
                    )
                continue
            content = _take(answer, MAX_DOCUMENT + 1, time.monotonic() + DOCUMENT_SECONDS)
            expected = answer.headers.get("Content-Length")
            if len(content) > MAX_DOCUMENT:
                raise _too_large(uri)
            if expected is not None and expected != str(len(content)):
                raise ConnectionError(f"incomplete read: {len(content)} of {expected} bytes")
            return content
    raise SceneError(f"{uri}: is redirected more than {MAX_REDIRECTS} times")


def _take(answer: requests.Response, count: int, deadline: float) -> bytes:
    """Up to `count` bytes of a body, which may be endless or slow."""
    content = bytearray()
    for chunk in answer.iter_content(min(count, 1 << 16)):
        content += chunk
        if len(content) >= count:
            break
        if time.monotonic() > deadline:
            raise TimeoutError("the answer comes too slowly")
    return bytes(content)


def _probe_s3(uri: str, count: int) -> Probe:
    reach, (bucket, key) = access(), bucket_and_key(uri)
    answer = reach.client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{count - 1}", **reach.request())
    with answer["Body"] as body:
        return Probe(_etag(answer), body.read(count))


def _whole_s3(uri: str) -> bytes:
    reach, (bucket, key) = access(), bucket_and_key(uri)
    answer = reach.client.get_object(Bucket=bucket, Key=key, **reach.request())
    with answer["Body"] as body:
        content: bytes = body.read(MAX_DOCUMENT + 1)
    if len(content) > MAX_DOCUMENT:
        raise _too_large(uri)
    return content


def _etag(told: dict[str, Any]) -> str:
    return str(told.get("ETag") or f"{told.get('Size', '?')} {told.get('LastModified', '')}")


def _too_large(uri: str) -> SceneError:
    return SceneError(f"{uri}: is over {MAX_DOCUMENT >> 20} MiB, too large for a document that names scenes")


class _Redacting(logging.Filter):
    """Takes signatures out of what the libraries log."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


_REDACTING = _Redacting()
_LOGGERS = [f"rasterio.{name}" for name in ("_env", "_err", "_io", "_base", "_filepath", "env", "session")]
_LOGGERS += [f"urllib3.{name}" for name in ("connectionpool", "util.retry")]
_LOGGERS += [f"botocore.{name}" for name in ("httpsession", "endpoint", "auth")]
for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_REDACTING)
