"""Which network errors are transient, and how long to wait before the next attempt."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

#: Attempts before an operation on the network counts as failed.
ATTEMPTS = 4
#: HTTP statuses after which the same request may succeed later.
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

_STATUS = re.compile(
    r"(?i)(?:response[ _]code|error code|HTTP error|\bstatus|ClientError[^()]*|error occurred)\D{0,12}(\d{3})\b"
)
_PERMANENT = re.compile(
    r"(?i)access ?denied|forbidden|unauthorized|expired|invalid ?access ?key|signature ?does ?not ?match|"
    r"no ?such ?(?:key|bucket|file)|invalid ?token|not recognized as being in a supported|decoding error|decode|"
    r"corrupt|not a (?:tiff|jpeg|png)|checksum|certificate|too many redirects|credentials"
)
_TRANSIENT = re.compile(
    r"(?i)time[d]?[- ]?out|reset|refused|aborted|broken pipe|empty reply|closed connection|closed without|resolve|"
    r"got \d+ bytes,? expected|read error|could ?n.t connect|failed to connect|slow ?down|too slow|"
    r"unexpected (?:eof|end)|incomplete ?read|partial file|transfer closed|unreachable|temporar|throttl|IO error|"
    r"connection|curl error|cannot read tiff header|internal ?error|service ?unavailable"
)

_T = TypeVar("_T")


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed: overloaded servers, broken connections, incomplete responses.

    Not transient are refusals (401, 403, expired links and tokens), missing files (404) and data that cannot be
    decoded. The first HTTP status in the chain of causes decides; without a status, the messages of rasterio, requests
    or boto3 do.
    """
    for link in _chain(error):
        status = _status(link)
        if status is not None:
            return status in _TRANSIENT_STATUS
    text = " ".join(f"{type(link).__name__}: {link}" for link in _chain(error))
    return not _PERMANENT.search(text) and bool(_TRANSIENT.search(text))


def is_permanent(error: BaseException) -> bool:
    """Whether a retry is known to be useless. Many errors of GDAL are neither transient nor permanent by their text."""
    statuses = [status for link in _chain(error) if (status := _status(link)) is not None]
    if statuses:
        return statuses[0] not in _TRANSIENT_STATUS
    return any(_PERMANENT.search(str(link)) for link in _chain(error))


def backoff(attempt: int) -> float:
    """Seconds to wait after the failed attempt number `attempt`, counted from 0: about 0.5, 1, 2, …, at most 8.

    Up to half of it is left to chance, so that workers that failed together do not come back together.
    """
    return float(min(0.5 * 2**attempt, 8.0) * random.uniform(0.5, 1.0))


def with_retries(action: Callable[[], _T], *, attempts: int = ATTEMPTS, errors: type[Exception] = Exception) -> _T:
    """Call `action` until it succeeds, fails with an error that is not transient, or `attempts` are used up.

    Raises the error of the last attempt; errors of other types than `errors` are raised at once.
    """
    for attempt in range(attempts - 1):
        try:
            return action()
        except errors as error:
            if not is_transient(error):
                raise
        time.sleep(backoff(attempt))
    return action()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an error of requests or boto3 carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _status(error: BaseException) -> int | None:
    status = http_status(error)
    match = _STATUS.search(str(error)) if status is None else None
    return int(match[1]) if match and 300 <= int(match[1]) < 600 else status
