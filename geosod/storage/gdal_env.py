"""How GDAL reads files on the network: their names, its settings, and the credentials of this process."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import rasterio
from rasterio.session import Session

from geosod.storage.files import version
from geosod.storage.retry import ATTEMPTS, backoff, is_permanent, is_transient
from geosod.storage.s3 import CONNECT_SECONDS, access
from geosod.storage.uris import gdal_name, is_remote, is_web

__all__ = [
    "ATTEMPTS",
    "backoff",
    "environment",
    "forget",
    "gdal_name",
    "is_permanent",
    "is_transient",
    "name_of_version",
    "settings",
    "version",
]

#: Seconds for which fewer than 1000 bytes a second may come before a request counts as failed.
SLOW_SECONDS = 20

_GDAL: Mapping[str, Any] = {
    # Looking for sidecars costs a listing or several requests a file, and finds what nobody has checked.
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
    # Pixels come once, in large ranges; a cache of each file would only copy them. Headers stay in the common one.
    "VSI_CACHE": False,
}

#: How often reading a file has failed in this process.
_failures: Counter[str] = Counter()


def settings(names: Iterable[str]) -> dict[str, Any]:
    """GDAL's settings for files on the network; none where `names` are all local.

    Args:
        names: addresses, GDAL names, or texts of VRTs that hold such names.
    """
    text = list(names)
    remote = [name for name in text if is_remote(name) or "/vsicurl/" in name or "/vsis3/" in name]
    if not remote:
        return {}
    # A name that carries its version may stay in GDAL's cache; another could show what a file once was.
    versioned = all(name.startswith("/vsicurl/") and "#" in name for name in remote)
    kept = {} if versioned else {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/"}
    # A link that is signed is signed for GET.
    head = {"CPL_VSIL_CURL_USE_HEAD": "NO"} if any("?" in name for name in remote) else {}
    return dict(_GDAL) | kept | head


class _Options(Session):  # type: ignore[misc]
    """Credentials as options of GDAL, for rasterio to hand over; none for files that need none."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.credentials = dict(options)

    def get_credential_options(self) -> dict[str, str]:
        return self.credentials


@contextmanager
def environment(names: Iterable[str], options: Mapping[str, Any]) -> Iterator[None]:
    """GDAL set up in this thread for some files, with credentials that this process finds for itself.

    Args:
        names: as `settings`.
        options: further settings.

    Raises:
        ConfigError: boto3 is missing.
        SceneError: a bucket is to be read and there are no credentials.
    """
    text = list(names)
    buckets = any("s3://" in name or "/vsis3/" in name for name in text)
    credentials = access().gdal_options() if buckets else {}
    with rasterio.Env(session=_Options(credentials), **settings(text), **options):
        yield


def name_of_version(uri: str, known: str | None) -> str:
    """GDAL's name for one version of a file, so that no byte of another one comes out of its cache.

    Of web addresses the name ends in a fragment, which is not sent. It also tells how often reading failed here,
    since GDAL remembers failures, too.
    """
    name = gdal_name(uri)
    if known is None or not is_web(uri):
        return name
    digest = hashlib.blake2b(known.encode(), digest_size=6).hexdigest()
    return f"{name}#{digest}-{_failures[uri]}"


def forget(uri: str) -> None:
    """Ask for everything anew from now on: reading this file has failed."""
    _failures[uri] += 1
