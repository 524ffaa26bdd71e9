"""STAC items and collections → scene references: which asset is the scene, or which assets are its bands."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from geosod.errors import ConfigError, SceneError
from geosod.scene import BandFile, SceneRef
from geosod.storage.files import document
from geosod.storage.uris import DOCUMENTS, SUFFIXES, is_remote, joined, origin, suffix

#: Items of one collection beyond which the rest is refused.
MAX_ITEMS = 100_000
#: A document on this machine larger than this is refused.
MAX_LOCAL = 1 << 30
#: Roles of assets that show a scene, but are not it.
_ASIDE = frozenset({"thumbnail", "overview", "metadata", "iso-19115", "graphic"})
_WHOLE = frozenset({"data", "visual"})


def load(uri: str) -> Mapping[str, Any]:
    """The JSON object at a path or address.

    Raises:
        SceneError: it cannot be read, is too large, or is something else.
    """
    if is_remote(uri):
        content = document(uri)
    else:
        path = Path(uri)
        if path.stat().st_size > MAX_LOCAL:
            raise SceneError(f"{uri}: is over {MAX_LOCAL >> 30} GiB, too large for a STAC document; split it")
        content = path.read_bytes()
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{uri}: is not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, Mapping) or "type" not in found:
        raise SceneError(f"{uri}: is JSON, but no STAC item or collection; it has no `type`")
    return found


def items(uri: str, found: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | str]:
    """The items of a document, or where they are: the address of one that has yet to be loaded.

    Raises:
        SceneError: the document is of another type, names no item, or names one on another host.
    """
    match found["type"]:
        case "Feature":
            yield found
        case "FeatureCollection":
            features = [f for f in found.get("features") or () if isinstance(f, Mapping)]
            if not features:
                raise SceneError(f"{uri}: this item collection holds no item")
            yield from features[:MAX_ITEMS]
        case "Collection" | "Catalog":
            links = [link for link in found.get("links") or () if isinstance(link, Mapping)]
            hrefs = [link["href"] for link in links if link.get("rel") == "item" and isinstance(link.get("href"), str)]
            if not hrefs:
                raise SceneError(f"{uri}: this {str(found['type']).lower()} links to no item; name its items instead")
            yield from (_named(uri, href, "item", (*DOCUMENTS, "")) for href in hrefs[:MAX_ITEMS])
        case other:
            raise SceneError(f"{uri}: is of type {str(other)[:60]!r}; expected a STAC Feature or Collection")


def further_pages(found: Mapping[str, Any]) -> bool:
    """Whether a document is one page of several, which are not followed."""
    links = found.get("links") or ()
    return found["type"] == "FeatureCollection" and any(
        isinstance(link, Mapping) and link.get("rel") == "next" for link in links
    )


def scene_of(uri: str, item: Mapping[str, Any], *, asset: str | None, own: bool = True) -> SceneRef:
    """The scene that an item describes; its identifier is as the item has it, and no version is looked up.

    Args:
        uri: path or address of the document the item is in.
        item: a STAC 1.0 or 1.1 item.
        asset: the asset wanted, by name or role; None takes the one raster asset that has the role "data" or
            "visual", or the only raster asset, else every raster asset as a band.
        own: whether the document is this item alone.

    Raises:
        SceneError: no asset fits, or one is named that an item from there may not name.
    """
    assets = {k: a for k, a in _mapping(item.get("assets")).items() if isinstance(a, Mapping) and a.get("href")}
    chosen = {key: _bands(assets[key]) for key in _chosen(uri, assets, asset)}
    files = tuple(_file(uri, key, assets[key], bands, i) for key, bands in chosen.items() for i in range(len(bands)))
    name, time = str(item.get("id") or "scene"), _datetime(uri, _mapping(item.get("properties")))
    if len(chosen) == 1 and all(f.scale in (None, 1) and f.offset in (None, 0) for f in files):
        return SceneRef(files[0].uri, name, time)
    return SceneRef(uri if own else files[0].uri, name, time, files=files)


def _chosen(uri: str, assets: Mapping[str, Mapping[str, Any]], wanted: str | None) -> list[str]:
    listed = ", ".join(f"{key} ({'/'.join(_roles(a)) or 'no role'})" for key, a in list(assets.items())[:30])
    if wanted is not None:
        if wanted in assets:
            return [wanted]
        by_role = [key for key, a in assets.items() if wanted in _roles(a) and _is_raster(a)]
        if by_role:
            return by_role
        raise SceneError(f"{uri}: has no asset named or with the role {wanted!r}; it has {listed or 'none'}")
    rasters = [key for key, a in assets.items() if _is_raster(a) and not _ASIDE & set(_roles(a))]
    if not rasters:
        raise SceneError(f"{uri}: has no raster asset; it has {listed or 'none'}; choose one with --asset")
    whole = [key for key in rasters if _WHOLE & set(_roles(assets[key]))]
    if len(rasters) == 1 or len(whole) == 1:
        return whole if len(whole) == 1 else rasters
    return _separate(rasters, assets)


def _separate(rasters: list[str], assets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The assets that hold one band each, every band once: a second file of one is the same in another format."""
    chosen: dict[tuple[str, ...], str] = {}
    single = [key for key in rasters if len(_own_bands(assets[key])) <= 1 and "visual" not in _roles(assets[key])]
    for key in single or rasters:
        names = tuple(_names(band)[0] for band in _own_bands(assets[key]) if _names(band))
        gsd = str(assets[key].get("gsd") or "")
        chosen.setdefault((*names, gsd) if names else (key,), key)
    return list(chosen.values())


def _file(uri: str, key: str, asset: Mapping[str, Any], bands: list[dict[str, Any]], index: int) -> BandFile:
    names = tuple(dict.fromkeys(_names(bands[index])))
    name = key if len(bands) == 1 else (names[0] if names else f"{key}_{index + 1}")
    place = _named(uri, str(asset["href"]), "asset", SUFFIXES)
    scale, offset = (_number(bands[index][word]) for word in ("scale", "offset"))
    return BandFile(name, place, index + 1, tuple(n for n in names if n != name), scale, offset)


def _own_bands(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = asset.get("bands") or asset.get("eo:bands") or ()
    return [band for band in found if isinstance(band, Mapping)]


def _bands(asset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is said of each band of an asset, STAC 1.0's two lists and 1.1's one brought together."""
    named, valued = _own_bands(asset), [b for b in asset.get("raster:bands") or () if isinstance(b, Mapping)]
    count = max(len(named), len(valued), 1)
    told = []
    for i in range(count):
        band = dict(named[i]) if i < len(named) else {}
        values = dict(valued[i]) if i < len(valued) else {}
        for word in ("scale", "offset"):
            # In STAC 1.1, what holds for all bands stands with the asset.
            places = (values.get(word), band.get(f"raster:{word}"), asset.get(f"raster:{word}"))
            band[word] = next((v for v in places if v is not None), None)
        told.append(band)
    return told


def _names(band: Mapping[str, Any]) -> list[str]:
    words = (band.get("name"), band.get("common_name"), band.get("eo:common_name"))
    return [str(word) for word in words if word]


def _is_raster(asset: Mapping[str, Any]) -> bool:
    kind = str(asset.get("type") or "").lower()
    ending = suffix(str(asset["href"]).split("?", 1)[0])
    return kind.startswith("image/") or (kind in ("", "application/octet-stream") and ending in SUFFIXES)


def _roles(asset: Mapping[str, Any]) -> list[str]:
    return [str(role) for role in asset.get("roles") or ()]


def _named(uri: str, href: str, what: str, endings: tuple[str, ...]) -> str:
    """The file that a document names.

    Raises:
        SceneError: the document may not name it.
    """
    name = href
    if href.startswith("file://") and not is_remote(uri):
        parts = urlsplit(href)
        name = unquote(parts.path) if parts.netloc in ("", "localhost") else href
    try:
        target = joined(uri, name)
    except ConfigError:
        target = ""
    if is_remote(uri) and origin(target) != origin(uri):
        raise SceneError(
            f"{uri}: names the {what} {href[:200]!r}; what comes from the network may name files of its own host or "
            "bucket only; download the document if you trust it"
        )
    if not (is_remote(target) or (suffix(target) in endings and ":" not in target)):
        raise SceneError(f"{uri}: names the {what} {href[:200]!r}; only raster files, https:// and s3:// are read")
    return target


def _datetime(uri: str, properties: Mapping[str, Any]) -> dt.datetime | None:
    text = properties.get("datetime") or properties.get("start_datetime")
    if text is None:
        return None
    try:
        time = dt.datetime.fromisoformat(str(text))
    except ValueError:
        raise SceneError(f"{uri}: its datetime {str(text)[:60]!r} is not ISO 8601; mend the item") from None
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
