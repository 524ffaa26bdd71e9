"""Which asset of a STAC item is the scene, or which assets are its bands."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from geosod.errors import ConfigError, SceneError
from geosod.scene import BandFile, SceneRef
from geosod.storage.files import document
from geosod.storage.uris import DOCUMENTS, SUFFIXES, is_remote, origin, resolved, suffix

#: Further items of a collection are ignored.
MAX_ITEMS = 100_000
#: Local documents with more bytes than this are refused.
MAX_LOCAL = 1 << 30
#: Roles of assets that illustrate or describe a scene.
_AUXILIARY = frozenset({"thumbnail", "overview", "metadata", "iso-19115", "graphic"})
_WHOLE = frozenset({"data", "visual"})

_Json = Mapping[str, Any]


def load(uri: str) -> _Json:
    """The STAC document at a path or address; SceneError where it cannot be read, is too large or something else."""
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
        raise SceneError(f"{uri}: is JSON but not a STAC item or collection; it has no `type`")
    return found


def items(uri: str, found: _Json) -> Iterator[_Json | str]:
    """The items of a document, or the addresses of those that it links to; SceneError where there are none."""
    match found["type"]:
        case "Feature":
            yield found
        case "FeatureCollection":
            features = _mappings(found.get("features"))
            if not features:
                raise SceneError(f"{uri}: this item collection has no item; give another")
            yield from features[:MAX_ITEMS]
        case "Collection" | "Catalog":
            links = [link.get("href") for link in _mappings(found.get("links")) if link.get("rel") == "item"]
            hrefs = [href for href in links if isinstance(href, str)]
            if not hrefs:
                raise SceneError(f"{uri}: this {str(found['type']).lower()} links to no item; give its items instead")
            yield from (_target(uri, href, "item", (*DOCUMENTS, "")) for href in hrefs[:MAX_ITEMS])
        case other:
            raise SceneError(f"{uri}: is of type {str(other)[:60]!r}; expected a STAC Feature or Collection")


def resolved_link(uri: str, href: str) -> str:
    """The document that another one links to.

    Raises:
        SceneError: it may not link there.
    """
    return _target(uri, href, "document", (*DOCUMENTS, ""))


def has_more_pages(found: _Json) -> bool:
    """Whether a document is one page of several; the others are not followed."""
    links = _mappings(found.get("links"))
    return found["type"] == "FeatureCollection" and any(link.get("rel") == "next" for link in links)


def scene_of(
    uri: str, item: _Json, *, asset: str | None, alone: bool = True, hosts: Collection[tuple[str, str]] = ()
) -> SceneRef:
    """The scene that an item describes, with the item's identifier and without a version.

    Args:
        uri: path or address of the document that contains the item.
        item: a STAC 1.0 or 1.1 item.
        asset: the requested asset, by name or role; None takes the only raster asset with the role "data" or
            "visual", or the only raster asset, else every raster asset as a band.
        alone: whether the document is this item only.
        hosts: further origins (`geosod.storage.uris.origin`) whose files a remote document may refer to.

    Raises:
        SceneError: no asset fits, or it refers to a file that the document may not refer to.
    """
    found = _mapping(item.get("assets"))
    assets = {k: a for k, a in found.items() if isinstance(a, Mapping) and a.get("href")}
    chosen = {key: _bands(assets[key]) for key in _chosen(uri, assets, asset)}
    files = tuple(
        _file(uri, key, assets[key], bands, i, hosts) for key, bands in chosen.items() for i in range(len(bands))
    )
    name, time = str(item.get("id") or "scene"), _datetime(uri, _mapping(item.get("properties")))
    if len(chosen) == 1 and all(f.scale in (None, 1) and f.offset in (None, 0) for f in files):
        return SceneRef(files[0].uri, name, time)
    return SceneRef(uri if alone else files[0].uri, name, time, files=files)


def _chosen(uri: str, assets: Mapping[str, _Json], wanted: str | None) -> list[str]:
    if wanted in assets:
        return [str(wanted)]
    rasters = [key for key, a in assets.items() if _is_raster(a) and not (wanted is None and _AUXILIARY & _roles(a))]
    if wanted is not None:
        rasters = [key for key in rasters if wanted in _roles(assets[key])]
    if not rasters:
        listed = ", ".join(
            f"{key} ({'/'.join(sorted(_roles(a))) or 'no role'})" for key, a in list(assets.items())[:30]
        )
        if wanted is not None:
            raise SceneError(f"{uri}: has no asset named or with the role {wanted!r}; it has {listed or 'none'}")
        raise SceneError(f"{uri}: has no raster asset; it has {listed or 'none'}; choose one with --asset")
    whole = [key for key in rasters if _WHOLE & _roles(assets[key])]
    if wanted is not None or len(rasters) == 1:
        return rasters
    return whole if len(whole) == 1 else _single_bands(rasters, assets)


def _single_bands(rasters: list[str], assets: Mapping[str, _Json]) -> list[str]:
    """The assets that hold one band each; of several files with the same band, in other formats, the first."""
    chosen: dict[tuple[str, ...], str] = {}
    single = [key for key in rasters if len(_named_bands(assets[key])) <= 1 and "visual" not in _roles(assets[key])]
    for key in single or rasters:
        names = tuple(_names(band)[0] for band in _named_bands(assets[key]) if _names(band))
        gsd = str(assets[key].get("gsd") or "")
        chosen.setdefault((*names, gsd) if names else (key,), key)
    return list(chosen.values())


def _file(
    uri: str, key: str, asset: _Json, bands: list[dict[str, Any]], index: int, hosts: Collection[tuple[str, str]]
) -> BandFile:
    names = tuple(dict.fromkeys(_names(bands[index])))
    name = key if len(bands) == 1 else (names[0] if names else f"{key}_{index + 1}")
    target = _target(uri, str(asset["href"]), "asset", SUFFIXES, hosts)
    scale, offset = (_number(bands[index][word]) for word in ("scale", "offset"))
    return BandFile(name, target, index + 1, tuple(n for n in names if n != name), scale, offset)


def _named_bands(asset: _Json) -> list[_Json]:
    return _mappings(asset.get("bands") or asset.get("eo:bands"))


def _bands(asset: _Json) -> list[dict[str, Any]]:
    """The metadata of each band of an asset, from the two lists of STAC 1.0 or the one of 1.1."""
    named, valued = _named_bands(asset), _mappings(asset.get("raster:bands"))
    bands = []
    for i in range(max(len(named), len(valued), 1)):
        band = dict(named[i]) if i < len(named) else {}
        values = valued[i] if i < len(valued) else {}
        for word in ("scale", "offset"):
            # In STAC 1.1, values that all bands share are in the asset.
            sources = (values.get(word), band.get(f"raster:{word}"), asset.get(f"raster:{word}"))
            band[word] = next((v for v in sources if v is not None), None)
        bands.append(band)
    return bands


def _names(band: _Json) -> list[str]:
    words = (band.get("name"), band.get("common_name"), band.get("eo:common_name"))
    return [str(word) for word in words if word]


def _is_raster(asset: _Json) -> bool:
    kind = str(asset.get("type") or "").lower()
    ending = suffix(str(asset["href"]).split("?", 1)[0])
    return kind.startswith("image/") or (kind in ("", "application/octet-stream") and ending in SUFFIXES)


def _roles(asset: _Json) -> frozenset[str]:
    return frozenset(str(role) for role in asset.get("roles") or ())


def _target(uri: str, href: str, what: str, endings: tuple[str, ...], hosts: Collection[tuple[str, str]] = ()) -> str:
    """The file that a document refers to; SceneError where it may not refer to it."""
    name = href
    if href.startswith("file://") and not is_remote(uri):
        parts = urlsplit(href)
        name = unquote(parts.path) if parts.netloc in ("", "localhost") else href
    try:
        target = resolved(uri, name)
    except ConfigError:
        target = ""
    if is_remote(uri) and origin(target) not in (origin(uri), *hosts):
        raise SceneError(
            f"{uri}: refers to the {what} {href[:200]!r}; a remote document may refer to files of its own host or "
            "bucket only; download the document if you trust it"
        )
    if not (is_remote(target) or (suffix(target) in endings and ":" not in target)):
        raise SceneError(f"{uri}: refers to the {what} {href[:200]!r}; only raster files, https:// and s3:// are read")
    return target


def _datetime(uri: str, properties: _Json) -> dt.datetime | None:
    text = properties.get("datetime") or properties.get("start_datetime")
    if text is None:
        return None
    try:
        time = dt.datetime.fromisoformat(str(text))
    except ValueError:
        raise SceneError(f"{uri}: its datetime {str(text)[:60]!r} is not ISO 8601; fix the item") from None
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def _mapping(value: Any) -> _Json:
    return value if isinstance(value, Mapping) else {}


def _mappings(values: Any) -> list[_Json]:
    return [value for value in values or () if isinstance(value, Mapping)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
