"""The exceptions geosod raises, in one tree.

    GeosodError
    ├── UsageError            the request cannot be carried out as written        (exit code 2)
    │   ├── ConfigError       an option, a config file or an AOI is wrong
    │   ├── LabelError        labels are missing, malformed or do not fit their images
    │   ├── ModelError        a bundle is missing, malformed or does not fit the scene
    │   ├── OutputError       the output cannot be written or is not ours to replace
    │   │   └── IdentifierTakenError  a run at the same time has committed another scene of that name
    │   ├── ClusterError      Ray cannot be reached or started
    │   └── LimitError        what was sent is larger than whoever runs the service allows
    ├── SceneError            one scene cannot be processed; the others go on    (exit code 3)
    │   ├── LeaseLostError    another ingester has taken it
    │   └── ReadError         some pixels of a scene cannot be read
    │       └── LostError     … however often they are asked for
    │           └── ChangedError  the file is not the one the scene was planned with
    ├── SourceError           what is ingested from cannot be asked            (exit code 3)
    ├── LedgerError           the ledger of an ingestion cannot be used          (exit code 3)
    ├── TrainingError         training cannot go on                              (exit code 3)
    └── EngineError           an actor, a worker or the cluster was lost in mid-run (exit code 3)

Every message says what was wrong, with the value seen, and how to fix it. Exceptions of rasterio,
pyarrow, pydantic and ray are mapped to these where they are caught, at the edge of each room.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from urllib.parse import parse_qs

#: Folder of GDAL's files in memory that hold arrays.
MEMORY = "/vsimem/geosod-arrays/"
_ARRAY = re.compile(rf"{MEMORY}(?:\d+/)?")

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#\s@]*@)*(?P<path>[^?#\s\"'}<>]*)(?:[?#][^\s\"'}<>]*)?"
)
_VSICURL_OPTIONS = re.compile(r"/vsicurl\?(?P<options>[^\s\"'}]*)")
#: The end of a URL without its beginning: GDAL and urllib3 report file names and paths alone.
_QUERY = re.compile(
    r"\?[\w.~%-]+=[^\s\"'}<>]*|(?i:(?<=\.tif)|(?<=\.tiff)|(?<=\.vrt)|(?<=\.jp2)|(?<=\.png)|(?<=json))\?[^\s\"'}<>]*"
)
_SECRET = re.compile(
    r"(?i)(?<![\w-])(x-(?:amz|goog)-[\w-]+|[\w-]*(?:password|passwd|pwd|token|secret|signature|api_?key|access_?key|"
    r"access_?key_?id)|sig)=('[^']*'|\"[^\"]*\"|[^\s&,;'\"]+)"
)
_AUTHORIZATION = re.compile(
    r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic|aws4-hmac-sha256)\s+)?[^'\"\n]+"
)


def redacted(text: str) -> str:
    """`text` without user names, passwords, query strings and fragments of the URLs in it, and without tokens.

    Works on URLs wherever they stand: ``https://…``, ``s3://…``, ``/vsicurl/https://…``,
    ``/vsizip/{/vsicurl/https://…}/a.tif``, on GDAL's ``/vsicurl?url=…&…`` form, and on query strings that have lost
    their URL. ``password=…`` and the like are blanked. Local paths are left as they are, but for bytes that are not
    UTF-8, which become ``\\xe9`` and the like, so that every message can be printed and written.
    """

    def plain(match: re.Match[str]) -> str:
        urls: list[str] = parse_qs(match["options"]).get("url", [""])
        return "/vsicurl/" + urls[0]

    text = _ARRAY.sub("array ", _VSICURL_OPTIONS.sub(plain, text))
    text = _QUERY.sub("", _URL.sub(r"\g<scheme>\g<path>", text))
    return printable(_AUTHORIZATION.sub(r"\1***", _SECRET.sub(r"\1=***", text)))


def printable(text: str) -> str:
    """`text` with bytes that are not UTF-8, which Python keeps in file names as lone surrogates, as ``\\xe9``."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(error: object) -> str:
    """The message of an error of another library, which may have several lines, in one."""
    return " ".join(str(error).split())


def reason(error: Exception) -> str:
    """Why a file could not be used, in the system's words and without its name: one cause reads the same for all."""
    words = error.strerror if isinstance(error, OSError) else None
    return one_line(words or error) or type(error).__name__


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """The end of a message about an unknown name: which known one is closest to it; "" where none is close."""
    names = {str(one).lower(): str(one) for one in known}
    close = get_close_matches(str(name).lower(), names, n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def identity(uri: str) -> str:
    """The identity of a file: its address without credentials and query, so that a new signature is the same file."""
    return redacted(uri)


class GeosodError(Exception):
    """Base of every error that geosod raises on purpose. No message holds a credential."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(arg) if isinstance(arg, str) else arg for arg in args))


class UsageError(GeosodError):
    """The request cannot be carried out as written."""


class ConfigError(UsageError):
    """An option, a config file, an AOI or an argument has an unusable value."""


class LabelError(UsageError):
    """A file of labels is missing or malformed, or does not fit the images that it is about."""


class ModelError(UsageError):
    """A model bundle is missing, malformed, untrusted, or does not fit the scene's bands, dtype or GSD."""


class OutputError(UsageError):
    """The output place cannot be written, or holds something that must not be replaced."""


class IdentifierTakenError(OutputError):
    """Another run has committed another scene under the same identifier."""


class ClusterError(UsageError):
    """Ray cannot be reached or started, so that nothing was begun."""


class LimitError(UsageError):
    """What a client of the service sent is larger than the service allows."""


class SceneError(GeosodError):
    """One scene cannot be processed. Other scenes of the same call are unharmed."""


class LeaseLostError(SceneError):
    """Another ingester has taken over the scene, or a newer version of it has come."""


class ReadError(SceneError):
    """Pixels of a scene cannot be read."""


class LostError(ReadError):
    """Pixels that cannot be read, however often it is tried."""


class ChangedError(LostError):
    """The file is not the one that the scene was planned with; pixels read so far do not belong together."""


class SourceError(GeosodError):
    """What is ingested from cannot be asked, or answers nonsense. What is known already is not affected."""


class LedgerError(GeosodError):
    """The ledger of an ingestion cannot be reached, read or written."""


class TrainingError(GeosodError):
    """Training cannot go on, such as with a loss that is no number. What was reached before is kept."""


class EngineError(GeosodError):
    """What runs the stages failed: an actor, a worker, the cluster."""
