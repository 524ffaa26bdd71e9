"""Around every request: the token, the site that it comes from, the count of its answer, and a bound on sending."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from fastapi import Response

from geosod.serving.answers import error_answer, new_log_id
from geosod.serving.metrics import Metrics
from geosod.serving.options import ServeOptions

log = logging.getLogger("geosod.serving")
#: Answered without a token, for those that watch over the service.
OPEN_PATHS = ("/healthz", "/readyz")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Guard:
    """The outermost ASGI application.

    Args:
        app: the application inside.
        options: token, host and limits.
        metrics: where answers are counted.
    """

    def __init__(self, app: Any, options: ServeOptions, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics
        self._token = None if options.token is None else hashlib.sha256(options.token).digest()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        log_id = scope.setdefault("state", {})["log_id"] = new_log_id()
        app: Any = self._refusal(scope, log_id) or self._app

        headers = dict(scope["headers"])
        unread = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers

        async def watched() -> Any:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def bounded(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            if unread and message["type"] == "http.response.start":
                # What the client still sends would have to be read before its next request.
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            # A client that does not read would keep its answer in memory.
            async with asyncio.timeout(self._options.limits.seconds):
                await send(message)

        try:
            await app(scope, watched, bounded)
        except TimeoutError:
            log.info("%s: the client does not read its answer", log_id)
            raise
        except Exception:
            # It has been answered and logged where it was caught.
            log.debug("%s: failed", log_id)
        finally:
            operation = getattr(scope.get("route"), "operation_id", None) or "none"
            self._metrics.answered(operation, status, time.perf_counter() - started)

    def _refusal(self, scope: Any, log_id: str) -> Response | None:
        headers = dict(scope["headers"])
        if self._token is not None:
            return None if scope["path"] in OPEN_PATHS else self._without_token(headers, log_id)
        if self._options.is_local and not _from_here(headers):
            # Pages of other sites reach a service on this machine through its user's browser.
            message = "requests from pages of other sites, or under another host name, are refused; use a token"
            return error_answer(log_id, 403, message)
        return None

    def _without_token(self, headers: dict[bytes, bytes], log_id: str) -> Response | None:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Digests have one length, so that the comparison takes the same time whatever was sent.
        same = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self._token or b"")
        if same and scheme.lower() == b"bearer":
            return None
        message = "the bearer token is missing or wrong; send the header Authorization: Bearer TOKEN"
        return error_answer(log_id, 401, message, {"WWW-Authenticate": "Bearer"})


def _from_here(headers: dict[bytes, bytes]) -> bool:
    host = _host(b"//" + headers.get(b"host", b"localhost"))
    origin = headers.get(b"origin")
    return host in _LOCAL_NAMES and (origin is None or _host(origin) in _LOCAL_NAMES)


def _host(address: bytes) -> str:
    try:
        return (urlsplit(address.decode("ascii")).hostname or "").lower()
    except ValueError:
        return ""
