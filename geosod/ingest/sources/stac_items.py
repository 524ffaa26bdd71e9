"""What a STAC item says of itself, as a version and as a scene."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from geosod.errors import ConfigError, SceneError, identity
from geosod.ingest.config import IngestConfig
from geosod.ingest.found import Found, instant, version_of
from geosod.scene import SceneRef
from geosod.scenes.stac import scene_of
from geosod.storage.files import chunks, file_size
from geosod.storage.uris import origin

#: Codes of multihash → names of hashlib.
_HASHES = {0x11: "sha1", 0x12: "sha256", 0x13: "sha512", 0x14: "sha3_512", 0x16: "sha3_256", 0xD5: "md5"}


def hosts_of(config: IngestConfig) -> frozenset[tuple[str, str]]:
    """The origins that items may refer to besides their own.

    Raises:
        ConfigError: one is no host or bucket.
    """
    found = {one: origin(one if "://" in one else f"https://{one}") for one in config.asset_hosts}
    for one, where in found.items():
        if where == ("", "") or not where[1]:
            raise ConfigError(f"asset_hosts {one!r}: write https://HOST or s3://BUCKET")
    return frozenset(found.values())


def found_of(item: Mapping[str, Any], collection: str, address: str) -> Found:
    """The version that an item is."""
    properties = item.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    acquired = properties.get("datetime") or properties.get("start_datetime")
    return Found(
        collection,
        str(item.get("id")),
        version_of(item),
        identity(address),
        instant(properties.get("updated")),
        instant(acquired),
    )


def scene_ref(
    address: str,
    item: Mapping[str, Any],
    found: Found,
    *,
    asset: str | None,
    config: IngestConfig,
    hosts: Collection[tuple[str, str]],
) -> SceneRef:
    """The scene of an item.

    Raises:
        SceneError: no asset fits, it may not be read, or it is not what the item says.
    """
    ref = scene_of(address, item, asset=asset, hosts=hosts)
    for key, stated, uri in _read_assets(ref, item):
        _check_size(uri, key, stated)
        if config.verify_checksums and stated.get("file:checksum"):
            _verify(uri, key, str(stated["file:checksum"]))
    return replace(ref, id=found.scene_id)


def _read_assets(ref: SceneRef, item: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """The assets of an item that are read: name, what the item says of it, and address."""
    uris = [file.uri for file in ref.files] or [ref.uri]
    read = {identity(uri).rsplit("/", 1)[-1]: uri for uri in uris}
    for key, asset in item["assets"].items():
        uri = read.get(identity(str(asset.get("href"))).rsplit("/", 1)[-1]) if isinstance(asset, Mapping) else None
        if uri is not None:
            yield str(key), asset, uri


def _check_size(uri: str, key: str, stated: Mapping[str, Any]) -> None:
    """Compare the size of a file with what the item states, which costs a request and no download."""
    expected = stated.get("file:size")
    if not isinstance(expected, int) or isinstance(expected, bool):
        return
    actual = file_size(uri)
    if actual is not None and actual != expected:
        raise SceneError(
            f"{uri}: asset {key!r} has {actual} bytes, but its item states {expected}; it is not complete yet, or was "
            "replaced, so ask its provider if that stays"
        )


def _verify(uri: str, key: str, stated: str) -> None:
    """Read a file whole, and compare it with the checksum that the item states."""
    name, expected = _multihash(uri, stated)
    actual = hashlib.new(name)
    for chunk in chunks(uri):
        actual.update(chunk)
    if actual.hexdigest() != expected:
        raise SceneError(
            f"{uri}: asset {key!r} has the {name} {actual.hexdigest()[:16]}…, but its item states "
            f"{expected[:16]}…; the file was damaged or replaced, so ask its provider"
        )


def _multihash(uri: str, stated: str) -> tuple[str, str]:
    """The name of the hash and its hexadecimal digest, from a multihash: code, length and digest."""
    try:
        raw = bytes.fromhex(stated)
    except ValueError:
        raw = b""
    # A code from 0x80 on takes two bytes, seven bits in each.
    long = len(raw) > 2 and raw[0] >= 0x80
    code = (raw[0] & 0x7F) | raw[1] << 7 if long else raw[0] if raw else 0
    rest = raw[2:] if long else raw[1:]
    if code not in _HASHES or len(rest) != 1 + rest[0]:
        raise SceneError(
            f"{uri}: file:checksum {stated[:40]!r} is no multihash that can be verified; leave out --verify-checksums"
        )
    return _HASHES[code], rest[1:].hex()
