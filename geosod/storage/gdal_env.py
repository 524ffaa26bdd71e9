"""Which GDAL options and credentials apply to remote files, and under which names GDAL opens them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import rasterio
from rasterio.session import Session

from geosod.storage.s3 import CONNECT_SECONDS, access
from geosod.storage.uris import gdal_name, is_remote, is_web

#: A request fails when fewer than 1000 bytes a second arrive for this many seconds.
SLOW_SECONDS = 20

_GDAL: Mapping[str, Any] = {
    # Searching for sidecars costs a listing or several requests for each file, and would open unchecked files.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "2TLS",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": 2,
    "GDAL_HTTP_RETRY_DELAY": 0.25,
    "GDAL_HTTP_RETRY_CODES": "408,425,429,500,502,503,504",
    "GDAL_HTTP_CONNECTTIMEOUT": CONNECT_SECONDS,
    "GDAL_HTTP_LOW_SPEED_TIME": SLOW_SECONDS,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    "GDAL_HTTP_NETRC": "YES",
    # Pixels are read once, in large ranges; a cache for each file would only copy them. GDAL caches headers anyway.
    "VSI_CACHE": False,
}

#: How often reading a file has failed in this process.
_failures: Counter[str] = Counter()


def settings(names: Iterable[str]) -> dict[str, Any]:
    """GDAL options for addresses, GDAL names, or texts of VRTs that contain these."""
    remote = [name for name in names if is_remote(name) or "/vsicurl/" in name or "/vsis3/" in name]
    if not remote:
        # Masks, overviews and georeference of local files may lie beside them, whatever the user's environment says.
        # GDAL looks for each, instead of listing the folder first, which may hold a thousand other scenes.
        return {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
    # A name with a version may stay in GDAL's cache; any other could return outdated bytes.
    versioned = all(name.startswith("/vsicurl/") and "#" in name for name in remote)
    cache = {} if versioned else {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/"}
    # A signed link is valid for GET only.
    head = {"CPL_VSIL_CURL_USE_HEAD": "NO"} if any("?" in name for name in remote) else {}
    return dict(_GDAL) | cache | head


class _Options(Session):  # type: ignore[misc]
    """A rasterio session that hands over fixed credential options."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.credentials = dict(options)

    def get_credential_options(self) -> dict[str, str]:
        return self.credentials


@contextmanager
def environment(names: Iterable[str], options: Mapping[str, Any]) -> Iterator[None]:
    """Configure GDAL in this thread for files named as in `settings`, with the credentials of this process.

    ConfigError or SceneError where a file is in a bucket, and boto3 or the credentials are missing.
    """
    text = list(names)
    buckets = any("s3://" in name or "/vsis3/" in name for name in text)
    credentials = access().gdal_options() if buckets else {}
    with rasterio.Env(session=_Options(credentials), **settings(text), **options):
        yield


def versioned_name(uri: str, version: str | None) -> str:
    """GDAL's name for one version of a file, so that GDAL's cache never returns bytes of another version.

    The name of a web address ends in a fragment, which is not sent. The fragment also holds the number of failed
    reads, since GDAL caches failures too.
    """
    name = gdal_name(uri)
    if version is None or not is_web(uri):
        return name
    digest = hashlib.blake2b(version.encode(), digest_size=6).hexdigest()
    return f"{name}#{digest}-{_failures[uri]}"


def forget(uri: str) -> None:
    """Make GDAL request a file anew after a failed read."""
    _failures[uri] += 1
