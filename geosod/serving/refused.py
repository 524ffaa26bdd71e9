"""What the service refuses, and which HTTP status an error becomes."""

from __future__ import annotations

from collections.abc import Mapping

from geosod.errors import EngineError, GeosodError, LimitError, UsageError, one_line, printable

#: Status → what it means here; the OpenAPI document lists those of each operation.
MEANINGS: dict[int, str] = {
    400: "The request is not well-formed: its body is not JSON, or its HTTP is broken.",
    401: "The bearer token is missing or wrong.",
    403: "What the request names is not allowed, or it comes from a page of another site.",
    404: "There is no such path, job or file.",
    405: "The path has no such method.",
    406: "None of the accepted media types can be produced.",
    408: "The request did not arrive in time.",
    409: "The job is in another state.",
    413: "The body, or the image in it, is larger than is allowed.",
    415: "The body has an encoding or a media type that is not read.",
    422: "The request is well-formed, but cannot be carried out as it is.",
    429: "The queue is full; try again after the seconds in `Retry-After`.",
    500: "A bug; the log of the service has the error under this `logId`.",
    503: "The service is starting, shutting down, or out of memory.",
    504: "The request took longer than is allowed.",
}


class RefusedError(UsageError):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


def busy(seconds: float) -> RefusedError:
    """A full queue, which should have room after some seconds."""
    wait = str(max(1, min(60, round(seconds))))
    return RefusedError(429, f"the queue is full; try again after {wait} s", {"Retry-After": wait})


def refusal_of(error: Exception) -> RefusedError | None:
    """What an error is answered with; None where it is a bug."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, MemoryError):
        return RefusedError(503, "memory does not hold this request; send a smaller image")
    return RefusedError(status_of(error), printable(one_line(error))) if isinstance(error, GeosodError) else None


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, LimitError):
        return 413
    if isinstance(error, EngineError | MemoryError):
        return 503
    return 422 if isinstance(error, UsageError | GeosodError) else 500
