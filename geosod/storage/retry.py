"""Which failures of a network pass, and how long to wait for it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

#: How often something on the network is tried before it counts as failed.
ATTEMPTS = 4
#: Statuses that a server gives when it is asked at a bad moment.
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

_STATUS = re.compile(
    r"(?i)(?:response[ _]code|error code|HTTP error|\bstatus|ClientError[^()]*|error occurred)\D{0,12}(\d{3})\b"
)
_LASTING = re.compile(
    r"(?i)access ?denied|forbidden|unauthorized|expired|invalid ?access ?key|signature ?does ?not ?match|"
    r"no ?such ?(?:key|bucket|file)|invalid ?token|not recognized as being in a supported|decoding error|decode|"
    r"corrupt|not a (?:tiff|jpeg|png)|checksum|certificate|too many redirects|credentials"
)
_PASSING = re.compile(
    r"(?i)time[d]?[- ]?out|reset|refused|aborted|broken pipe|empty reply|closed connection|closed without|resolve|"
    r"got \d+ bytes,? expected|read error|could ?n.t connect|failed to connect|slow ?down|too slow|"
    r"unexpected (?:eof|end)|incomplete ?read|partial file|transfer closed|unreachable|temporar|throttl|IO error|"
    r"connection|curl error|cannot read tiff header|internal ?error|service ?unavailable"
)

_T = TypeVar("_T")


def is_transient(error: BaseException) -> bool:
    """Whether what failed may work when it is tried again: overloaded servers, broken connections, short answers.

    Refusals (401, 403, expired links and tokens), what is not there (404), and data that cannot be decoded stay as
    they are. What an error says first counts, then what it was raised from.

    Args:
        error: of GDAL (as rasterio raises it), requests or boto3.
    """
    for link in _chain(error):
        status = _status(link)
        if status is not None:
            return status in _PASSING_STATUS
    text = " ".join(f"{type(link).__name__}: {link}" for link in _chain(error))
    return not _LASTING.search(text) and bool(_PASSING.search(text))


def is_permanent(error: BaseException) -> bool:
    """Whether an error says outright that trying again is of no use; of many that GDAL raises nothing can be said."""
    statuses = [status for link in _chain(error) if (status := _status(link)) is not None]
    if statuses:
        return statuses[0] not in _PASSING_STATUS
    return any(_LASTING.search(str(link)) for link in _chain(error))


def backoff(attempt: int) -> float:
    """Seconds to wait after the failed attempt number `attempt`, counted from 0: half a second, doubled each time."""
    return float(min(0.5 * 2**attempt, 8.0))


def with_retries(action: Callable[[], _T], *, attempts: int = ATTEMPTS) -> _T:
    """What `action` returns, tried again as long as its failures are transient.

    Raises:
        Exception: what the last attempt raised.
    """
    for attempt in range(attempts - 1):
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(backoff(attempt))
    return action()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The status of an HTTP answer, from the error's fields or its text."""
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    if isinstance(answer, dict):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int):
        return status
    match = _STATUS.search(str(error))
    return int(match[1]) if match and 300 <= int(match[1]) < 600 else None
