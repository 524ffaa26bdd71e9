"""What the address of a local or remote file means; pure functions on text."""

from __future__ import annotations

import posixpath
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from requests.utils import requote_uri

from geosod.errors import ConfigError

#: Suffixes of raster files, local or remote.
SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".jpg", ".jpeg", ".png")
#: Suffixes of rasters that are opened as local files only.
LOCAL_SUFFIXES = (*SUFFIXES, ".ntf", ".nitf", ".nsf", ".img", ".mrf", ".gti")
#: Suffixes of documents that list scenes.
DOCUMENTS = (".json", ".geojson")

_WEB = ("http://", "https://")
_S3 = "s3://"


def is_s3(uri: str) -> bool:
    """Whether `uri` is the address of an S3 object or prefix."""
    return uri.startswith(_S3)


def is_web(uri: str) -> bool:
    """Whether `uri` is an http or https URL."""
    return uri.startswith(_WEB)


def is_remote(uri: str) -> bool:
    """Whether `uri` is read over the network."""
    return is_web(uri) or is_s3(uri)


def normalized(name: str) -> str:
    """`name` without GDAL's ``/vsicurl/`` and ``/vsis3/``, and with the scheme in lower case.

    ConfigError for another scheme or another of GDAL's virtual file systems.
    """
    for prefix, scheme in (("/vsicurl/", ""), ("/vsis3/", _S3)):
        if name.startswith(prefix):
            name = scheme + name.removeprefix(prefix)
    scheme, separator, rest = name.partition("://")
    lowered = scheme.lower() + separator + rest if separator else name
    if name.startswith("/vsi") or (separator and not is_remote(lowered)):
        raise ConfigError(f"{name}: cannot be read; give a local path, or an https:// or s3:// address")
    if is_remote(lowered) and not urlsplit(lowered).netloc:
        raise ConfigError(f"{name}: has no host or bucket; write https://HOST/PATH or s3://BUCKET/KEY")
    return lowered


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The bucket and the key of an ``s3://`` address; the key is not decoded."""
    bucket, _, key = uri.removeprefix(_S3).partition("/")
    return bucket, key


def gdal_name(uri: str) -> str:
    """GDAL's name of a file: ``/vsis3/…`` or ``/vsicurl/…`` for remote files, else the path.

    Web addresses are encoded as by `web_address`.
    """
    if is_s3(uri):
        return "/vsis3/" + uri.removeprefix(_S3)
    return "/vsicurl/" + web_address(uri) if is_web(uri) else uri


def web_address(uri: str) -> str:
    """A URL as it is sent: percent-encoded where needed, existing escapes and query kept, the fragment removed."""
    return str(requote_uri(urlunsplit(urlsplit(uri)._replace(fragment=""))))


def path_of(uri: str) -> str:
    """The path of a file without query string, with the escapes of URLs decoded."""
    if is_web(uri):
        return unquote(urlsplit(uri).path)
    return "/" + bucket_and_key(uri)[1] if is_s3(uri) else uri


def suffix(uri: str) -> str:
    """The suffix in lower case, such as ``.tif``, or "" where there is none."""
    return PurePosixPath(path_of(uri)).suffix.lower() if is_remote(uri) else Path(uri).suffix.lower()


def stem(uri: str) -> str:
    """The file name without suffix."""
    return PurePosixPath(path_of(uri)).stem if is_remote(uri) else Path(uri).stem


def origin(uri: str) -> tuple[str, str]:
    """Who serves a file: scheme and host with port, or "s3" and the bucket; ("", "") for local files."""
    if is_s3(uri):
        return "s3", bucket_and_key(uri)[0]
    if not is_web(uri):
        return "", ""
    parts = urlsplit(uri)
    try:
        port = parts.port
    except ValueError:
        port = -1
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, f"{(parts.hostname or '').lower()}:{port or default}"


def resolved(base: str, name: str) -> str:
    """The address of the file that a document at `base` calls `name`: absolute, or relative to the document.

    ConfigError as `normalized`.
    """
    if name.startswith("/vsi") or "://" in name.split("?", 1)[0]:
        return normalized(name)
    if is_web(base):
        return urljoin(base, name)
    if is_s3(base):
        bucket, key = bucket_and_key(base)
        # Resolved like the path of a URL, so that `..` never leaves the bucket.
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(key), name))
        return f"{_S3}{bucket}/{path.lstrip('/')}"
    folder = Path(base).parent
    return str(folder / (name if "%" not in name or (folder / name).exists() else unquote(name)))
