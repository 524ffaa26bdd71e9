"""Requests to web services that answer JSON: with retries, bounded sizes, and the waits that the service asks for."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from geosod.errors import GeosodError, SceneError, redacted
from geosod.storage.files import MAX_DOCUMENT, MAX_REDIRECTS, session
from geosod.storage.retry import ATTEMPTS, backoff, http_status, is_transient
from geosod.storage.s3 import CONNECT_SECONDS, READ_SECONDS
from geosod.storage.uris import origin, web_address

#: Seconds of a wait that a service asks for (Retry-After), at most.
MAX_WAIT = 120.0
#: Answers with more bytes than this are refused.
MAX_ANSWER = 4 * MAX_DOCUMENT
#: Seconds within which an answer must arrive.
ANSWER_SECONDS = 120.0
#: Bytes of what a service says of an error that are shown.
_REASON_BYTES = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON document of a service.

    Attributes:
        value: the document.
        date: seconds since 1970 by the service's clock; None where it does not say.
    """

    value: Any
    date: float | None


def ask(
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    attempts: int = ATTEMPTS,
    wait: Callable[[float], object] = time.sleep,
) -> Answer:
    """A JSON document: by GET, or by POST with a body.

    Args:
        url: http or https address. Redirects are followed within its host only.
        body: JSON to be sent.
        headers: of the request.
        attempts: how often it is tried while errors are transient; an answer that is cut off is one.
        wait: sleeps.

    Raises:
        SceneError: there is no such answer; its cause carries the status. Its text holds no secret.
    """
    for attempt in range(attempts):
        try:
            return _answer(url, body, headers or {})
        except GeosodError:
            raise
        except Exception as error:
            last = attempt + 1 == attempts
            if last or not (is_transient(error) or isinstance(error, ValueError)):
                raise _readable(url, error) from None
            wait(max(backoff(attempt), _asked_wait(error)))
    raise AssertionError("the last attempt returns or raises")


class ServiceError(SceneError):
    """A service does not answer as it should; `http_status` is what it said."""

    http_status: int | None = None


def _readable(url: str, error: Exception) -> ServiceError:
    status = http_status(error)
    line = " ".join(redacted(str(error)).split())[:300]
    reason = f"does not answer: {line or type(error).__name__}"
    if status:
        reason = f"answers with status {status}" + (f": {line}" if line else "")
    found = ServiceError(f"{url}: {reason}")
    found.http_status = status
    return found


def _answer(url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Answer:
    deadline = time.monotonic() + ANSWER_SECONDS
    for _ in range(MAX_REDIRECTS):
        with session().request(
            "GET" if body is None else "POST",
            web_address(url),
            json=body,
            headers={"Accept": "application/geo+json, application/json", "Accept-Encoding": "identity", **headers},
            stream=True,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            allow_redirects=False,
        ) as response:
            if response.is_redirect:
                target = str(requests.compat.urljoin(url, response.headers["Location"]))
                if origin(target) != origin(url):
                    raise SceneError(f"{url}: is redirected to another host, {redacted(target)}; give that address")
                url = target
                continue
            if response.status_code >= 400:
                said = next(response.iter_content(_REASON_BYTES), b"").decode("utf-8", "replace")
                raise requests.HTTPError(said, response=response)
            content = _content(url, response, deadline)
            return Answer(json.loads(content), _date(response.headers.get("Date")))
    raise SceneError(f"{url}: is redirected more than {MAX_REDIRECTS} times; give its final address")


def _content(url: str, response: requests.Response, deadline: float) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(1 << 16):
        content += chunk
        if len(content) > MAX_ANSWER:
            raise SceneError(f"{url}: its answer is over {MAX_ANSWER >> 20} MiB; lower --page-size")
        if time.monotonic() > deadline:
            raise TimeoutError("the response arrives too slowly")
    expected = response.headers.get("Content-Length")
    if expected is not None and expected.isdigit() and int(expected) != len(content):
        raise ConnectionError(f"incomplete read: {len(content)} of {expected} bytes")
    return bytes(content)


def _date(text: str | None) -> float | None:
    try:
        return None if text is None else email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None


def _asked_wait(error: Exception) -> float:
    """Seconds that the service asks to wait for: a number, or until an instant by its own clock."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return min(float(text), MAX_WAIT)
    until, now = _date(text or None), _date(headers.get("Date"))
    return 0.0 if until is None or now is None else min(max(until - now, 0.0), MAX_WAIT)
