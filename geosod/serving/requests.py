"""Reading requests: bodies within bounds, and work that ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from geosod.errors import one_line
from geosod.serving.budget import Share
from geosod.serving.options import Limits
from geosod.serving.refused import RefusedError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
#: Of a client that has gone; it is never sent.
GONE = 499


async def read_body(request: Request, limits: Limits, share: Share) -> bytes:
    """The body of a request.

    Raises:
        RefusedError: it is encoded (415), too large (413), slow (408), or there is no room (429).
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RefusedError(415, f"a body with Content-Encoding {encoding[:40]!r} is not read; send it as it is")
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and (len(stated) > 15 or int(stated) > limits.body_bytes):
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _read(request, limits, share)
    except TimeoutError as error:
        raise RefusedError(408, f"the body did not arrive within {limits.body_seconds:g} s; send it faster") from error


async def _read(request: Request, limits: Limits, share: Share) -> bytes:
    parts, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(GONE, "the client has closed the connection")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limits.body_bytes:
            raise _too_large(limits)
        share.add(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(413, f"the body is over the limit of {limits.body_bytes:,} bytes; send a smaller file")


def parsed(body: bytes, model: type[M]) -> M:
    """A JSON body as what it should be.

    Raises:
        RefusedError: it is not JSON (400), or not that (422).
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(
            400, f"the body is not JSON ({ascii(one_line(error))[1:-1][:120]}); send a JSON object"
        ) from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RefusedError(422, invalid(error.errors())) from error


def invalid(errors: object) -> str:
    """What pydantic and FastAPI found wrong, as one line."""
    first = errors[0] if isinstance(errors, list | tuple) and errors else {}
    place = ".".join(str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path"))
    message, value = first.get("msg", "is not valid"), first.get("input")
    seen = "" if isinstance(value, dict | list) or value is None else f" (it is {ascii(value)[:60]})"
    return f"{ascii(place)[1:-1][:80] or 'the body'}: {ascii(message)[1:-1][:200]}{seen}; see /openapi.json"


async def while_connected(request: Request, work: Awaitable[T], seconds: float) -> T:
    """The result of work that is given up when the client goes, or after some seconds.

    Raises:
        RefusedError: it took too long (504).
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        done, _ = await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise RefusedError(GONE, "the client has closed the connection")
        raise RefusedError(504, f"the request took longer than {seconds:g} s; send a smaller image, or submit a job")
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
