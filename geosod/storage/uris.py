"""Names of files, here and on the network: pure functions on text."""

from __future__ import annotations

import posixpath
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from requests.utils import requote_uri

from geosod.errors import ConfigError

#: Endings of files that are scenes by their name.
SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".jpg", ".jpeg", ".png")
#: Endings of documents that name scenes.
DOCUMENTS = (".json", ".geojson")

_WEB = ("http://", "https://")
_S3 = "s3://"


def is_s3(uri: str) -> bool:
    """Whether `uri` names an object or a prefix in a bucket."""
    return uri.startswith(_S3)


def is_web(uri: str) -> bool:
    """Whether `uri` is an http or https URL."""
    return uri.startswith(_WEB)


def is_remote(uri: str) -> bool:
    """Whether `uri` is read over the network."""
    return is_web(uri) or is_s3(uri)


def plain(name: str) -> str:
    """`name` with GDAL's ``/vsicurl/`` and ``/vsis3/`` undone, and the scheme in lower case.

    Raises:
        ConfigError: it has another scheme, or is another of GDAL's virtual file systems.
    """
    for prefix, scheme in (("/vsicurl/", ""), ("/vsis3/", _S3)):
        if name.startswith(prefix):
            name = scheme + name.removeprefix(prefix)
    scheme, separator, rest = name.partition("://")
    lowered = scheme.lower() + separator + rest if separator else name
    if name.startswith("/vsi") or (separator and not is_remote(lowered)):
        raise ConfigError(f"{name}: cannot be read; give a local path, or an https:// or s3:// address")
    if is_remote(lowered) and not urlsplit(lowered).netloc:
        raise ConfigError(f"{name}: names no host or bucket; write https://HOST/PATH or s3://BUCKET/KEY")
    return lowered


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The bucket and the key of an ``s3://`` address; the key is taken as it is written."""
    bucket, _, key = uri.removeprefix(_S3).partition("/")
    return bucket, key


def gdal_name(uri: str) -> str:
    """What GDAL calls a file: ``/vsis3/…`` and ``/vsicurl/…`` for those on the network, else the path.

    Characters that a URL cannot hold are percent-encoded, escapes and the query string are kept, a fragment goes.
    """
    if is_s3(uri):
        return "/vsis3/" + uri.removeprefix(_S3)
    return "/vsicurl/" + web_address(uri) if is_web(uri) else uri


def web_address(uri: str) -> str:
    """A URL as it is sent: what it cannot hold percent-encoded, without fragment."""
    return str(requote_uri(urlunsplit(urlsplit(uri)._replace(fragment=""))))


def path_of(uri: str) -> str:
    """The path of a file without query string; escapes of URLs are undone."""
    if is_web(uri):
        return unquote(urlsplit(uri).path)
    return "/" + bucket_and_key(uri)[1] if is_s3(uri) else uri


def suffix(uri: str) -> str:
    """Lower-case ending such as ``.tif``, or "" where there is none."""
    return PurePosixPath(path_of(uri)).suffix.lower() if is_remote(uri) else Path(uri).suffix.lower()


def stem(uri: str) -> str:
    """The file name without ending."""
    return PurePosixPath(path_of(uri)).stem if is_remote(uri) else Path(uri).stem


def origin(uri: str) -> tuple[str, str]:
    """What tells who answers for a file: scheme and host with port, or the bucket; ("", "") for local files."""
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


def joined(base: str, name: str) -> str:
    """The file that `name` means in a document at `base`: itself where it is whole, else beside the document.

    Args:
        base: path or address of the document.
        name: a path or address, as the document has it.

    Raises:
        ConfigError: it has a scheme other than http, https and s3, or is one of GDAL's virtual file systems.
    """
    if name.startswith("/vsi") or "://" in name.split("?", 1)[0]:
        return plain(name)
    if is_web(base):
        return urljoin(base, name)
    if is_s3(base):
        bucket, key = bucket_and_key(base)
        # A path is resolved as a URL's would be, so that `..` ends at the bucket.
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(key), name))
        return f"{_S3}{bucket}/{path.lstrip('/')}"
    beside = Path(base).parent
    return str(beside / (name if "%" not in name or (beside / name).exists() else unquote(name)))
