"""Which files a file may refer to that names others: a VRT, an MRF, a tile index (GTI).

A local VRT may refer to local files, https:// and s3://. A remote VRT may refer to files of its own host or bucket
only, and may contain only plain bands with plain sources. It is checked element by element and passed to GDAL as text.
An MRF or a tile index must be local, and may refer to local files only. GDAL never opens other virtual file systems,
databases or services.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from geosod.errors import ConfigError, SceneError, one_line
from geosod.storage.files import document, probe
from geosod.storage.formats import is_tile_index
from geosod.storage.uris import gdal_name, is_remote, normalized, origin, resolved, suffix

#: Local VRTs with more bytes than this are refused.
MAX_BYTES = 64 << 20
MAX_DEPTH = 8
#: Concurrent requests.
THREADS = 16

_FILE_TAGS = ("sourcefilename", "sourcedataset", "dstfilename", "sourcevrt")
#: First bytes of rasters: TIFF, BigTIFF, JPEG, PNG, JPEG 2000 with and without box.
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\xd8\xff", b"\x89PNG", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
#: Elements that a remote VRT may contain, in lower case.
_HARMLESS_TAGS = (
    "vrtdataset srs geotransform gcplist gcp metadata mdi vrtrasterband colorinterp colortable entry nodatavalue "
    "hidenodatavalue description unittype offset scale categorynames category maskband simplesource complexsource "
    "averagedsource sourcefilename sourceband sourceproperties srcrect dstrect nodata usemaskband scaleoffset "
    "scaleratio exponent srcmin srcmax dstmin dstmax clamp colortablecomponent lut overviewlist"
)
_HARMLESS = frozenset(_HARMLESS_TAGS.split())


def gdal_source(uri: str, image: str = "") -> str:
    """The name under which GDAL opens a file, or the text of a VRT that is remote or refers to remote files.

    Args:
        uri: the file.
        image: what GDAL puts in front of the name for another image of the file than the first.

    Raises:
        SceneError: the file refers to a forbidden file or cannot be read, or a remote file is not a raster.
    """
    if is_remote(uri):
        is_vrt = suffix(uri) == ".vrt" or _is_vrt_text(_head(uri, None))
        return image + (_remote_source(uri, 0) if is_vrt else gdal_name(uri))
    return image + _local_source(uri, 0)


def local_parts(uri: str, depth: int = 0) -> Iterator[str]:
    """The local files that a local VRT or tile index is made of, also those of VRTs within it; each maybe repeatedly.

    SceneError where a file is malformed.
    """
    text = _local_head(uri).lower()
    if depth == MAX_DEPTH:
        return
    if is_tile_index(uri) or b"<gdaltileindexdataset" in text:
        index, tiles = read_tile_index(uri)
        names = [index, *(str(Path(index).parent / name) for name in tiles["location"].astype(str))]
    elif b"<vrtdataset" in text and Path(uri).stat().st_size <= MAX_BYTES:
        root = _parse(uri, Path(uri).read_bytes())
        names = [local_target(uri, element, name) for element, name in _file_elements(uri, root)]
    else:
        return
    for name in names:
        if name != uri and not is_remote(name):
            yield name
            yield from local_parts(name, depth + 1)


def check_raster(uri: str, version: str | None = None) -> None:
    """Refuse (SceneError) a remote file that does not start like a raster; cached for each version of the file."""
    head = _head(uri, version)
    if not head.startswith(_MAGIC):
        raise SceneError(
            f"{uri}: is no GeoTIFF, JPEG, PNG or JPEG 2000, it starts with {head[:24]!r}; check the address"
        )


@lru_cache(maxsize=65536)
def _head(uri: str, _: str | None) -> bytes:
    return probe(uri)[1]


def _is_vrt_text(head: bytes) -> bool:
    return b"<vrtdataset" in head.lower()


def _local_head(uri: str) -> bytes:
    try:
        with Path(uri).open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def _local_source(uri: str, depth: int) -> str:
    """The name of a local file, or the text of a local VRT that needs rewriting."""
    path, head = Path(uri), _local_head(uri)
    text = head.lower()
    if is_tile_index(uri) or b"<gdaltileindexdataset" in text:
        _check_tile_index(uri, depth)
    elif b"<mrf_meta" in text:
        _check_mrf(uri)
    elif depth and not _is_vrt_text(head) and text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"{")):
        # GDAL opens descriptions of services, too, when another file names them.
        raise SceneError(f"{uri}: is XML or JSON but no VRT, MRF or tile index, which may name services; use a raster")
    if not _is_vrt_text(head):
        return uri
    try:
        if depth == MAX_DEPTH or path.stat().st_size > MAX_BYTES:
            raise SceneError(
                f"{uri}: this VRT is nested over {MAX_DEPTH} deep, or over {MAX_BYTES >> 20} MiB; flatten it"
            )
        root = _parse(uri, path.read_bytes())
    except OSError:
        return uri
    changed = False
    remote: list[tuple[ElementTree.Element, str]] = []
    for element, name in _file_elements(uri, root):
        target = local_target(uri, element, name)
        if is_remote(target):
            remote.append((element, target))
            continue
        source = _local_source(target, depth + 1)
        changed |= source != target
        _set_source(element, source)
    _set_remote_sources(remote, depth)
    return ElementTree.tostring(root, "unicode") if changed or remote else uri


def local_target(uri: str, element: ElementTree.Element, name: str) -> str:
    """The file that a local VRT refers to."""
    try:
        target = normalized(name)
        local = not is_remote(target)
        relative = local and any(k.lower() == "relativetovrt" and v.strip() == "1" for k, v in element.attrib.items())
        path = Path(uri).parent / target if relative else Path(target)
        # With a colon it may be a connection string such as WMS:…, unless a file of that name exists.
        if name and not name.startswith("<") and not (local and ":" in str(path) and not path.exists()):
            return str(path) if local else target
    except ConfigError:
        pass
    raise SceneError(
        f"{uri}: this VRT refers to {name[:120]!r}, which is not a file here; use local files, https:// or s3:// only"
    )


def _check_mrf(uri: str) -> None:
    """Refuse an MRF that refers to anything but local files, or copies another raster into files as it is read."""
    root = _parse(uri, Path(uri).read_bytes(), "mrf_meta")
    for element in root.iter():
        tag, name = str(element.tag).lower(), (element.text or "").strip()
        if tag == "cachedsource":
            raise SceneError(f"{uri}: is an MRF that fetches its pixels from elsewhere; convert it (gdal_translate)")
        if tag in ("datafile", "indexfile") and name and not (Path(uri).parent / name).is_file():
            raise SceneError(f"{uri}: this MRF refers to {name[:120]!r}, which is not a file here; put it beside it")


def read_tile_index(uri: str) -> tuple[str, Any]:
    """The vector file of a tile index, and its tiles: a GeoDataFrame with the column ``location``.

    SceneError where it cannot be read, or has parts that are not checked.
    """
    import geopandas

    index, field, layer = uri, "location", None
    if b"<gdaltileindexdataset" in _local_head(uri).lower():
        root = _parse(uri, Path(uri).read_bytes(), "gdaltileindexdataset")
        named = {str(element.tag).lower(): (element.text or "").strip() for element in root}
        if any(tag in named for tag in ("sql", "overview", "maskband")) or "indexdataset" not in named:
            raise SceneError(f"{uri}: this tile index has SQL, overviews or masks of its own, or no index; simplify it")
        index, field, layer = named["indexdataset"], named.get("locationfield", field), named.get("indexlayer")
    if not Path(index).is_file():
        raise SceneError(f"{uri}: the index {index[:120]!r} of its tiles is not a file here; give its absolute path")
    try:
        frame = geopandas.read_file(index, layer=layer, columns=[field])
        return index, frame.rename(columns={field: "location"})[["location", "geometry"]]
    except Exception as error:
        line = one_line(error)
        raise SceneError(f"{uri}: this tile index cannot be read: {line}; make it with gdaltindex") from error


def _check_tile_index(uri: str, depth: int) -> None:
    """Refuse a tile index that refers to anything but local files."""
    if depth == MAX_DEPTH:
        raise SceneError(f"{uri}: this tile index is nested over {MAX_DEPTH} deep; flatten it")
    index, tiles = read_tile_index(uri)
    for name in tiles["location"].astype(str):
        target = Path(index).parent / name
        if not target.is_file() or _local_source(str(target), depth + 1) != str(target):
            raise SceneError(
                f"{uri}: this tile index refers to {name[:120]!r}, which is not a local raster; use local files only, "
                "or a VRT (gdalbuildvrt)"
            )


def _remote_source(uri: str, depth: int) -> str:
    """A remote VRT, rebuilt with absolute names."""
    if depth == MAX_DEPTH:
        raise SceneError(f"{uri}: this VRT is nested over {MAX_DEPTH} deep; flatten it")
    root = _parse(uri, document(uri))
    _check_harmless(uri, root)
    remote = []
    for element, name in _file_elements(uri, root):
        try:
            target = resolved(uri, name)
        except ConfigError:
            target = ""
        if not name or name.startswith("<") or origin(target) != origin(uri):
            raise SceneError(
                f"{uri}: this VRT refers to {name[:120]!r}; a remote VRT may refer to files of its own host or bucket "
                "only; download it if you trust it"
            )
        remote.append((element, target))
    _set_remote_sources(remote, depth)
    return ElementTree.tostring(root, "unicode")


def _set_remote_sources(remote: list[tuple[ElementTree.Element, str]], depth: int) -> None:
    """Write GDAL's names of remote files into the elements that refer to them."""
    targets = list(dict.fromkeys(target for _, target in remote))

    def source(target: str) -> str:
        if suffix(target) == ".vrt" or _is_vrt_text(_head(target, None)):
            return _remote_source(target, depth + 1)
        check_raster(target)
        return gdal_name(target)

    with ThreadPoolExecutor(min(THREADS, len(targets) or 1)) as pool:
        sources = dict(zip(targets, pool.map(source, targets), strict=True))
    for element, target in remote:
        _set_source(element, sources[target])


def _set_source(element: ElementTree.Element, source: str) -> None:
    element.text = source
    for key in [k for k in element.attrib if k.lower() == "relativetovrt"]:
        del element.attrib[key]
    element.set("relativeToVRT", "0")


def _parse(uri: str, content: bytes, kind: str = "vrtdataset") -> ElementTree.Element:
    """The XML with a root element of a kind; entity declarations, which can expand without bounds, are refused."""
    if b"<!doctype" in content.lower() or b"<!entity" in content.lower():
        raise SceneError(f"{uri}: declares a document type; remove that")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise SceneError(f"{uri}: is not well-formed XML: {error}; make it again (gdalbuildvrt)") from error
    if root.tag.lower() != kind:
        raise SceneError(f"{uri}: is XML with the root {root.tag[:60]!r}, expected {kind}; check the file")
    return root


def _file_elements(uri: str, root: ElementTree.Element) -> Iterator[tuple[ElementTree.Element, str]]:
    """The elements that refer to files, with the names. GDAL accepts attributes for elements, and ignores case."""
    for element in root.iter():
        if any(key.lower() in _FILE_TAGS for key in element.attrib):
            raise SceneError(f"{uri}: this VRT refers to a file in an attribute; rebuild it (gdalbuildvrt)")
        if str(element.tag).lower() in _FILE_TAGS:
            if len(element):
                raise SceneError(f"{uri}: this VRT refers to a file by nested elements; rebuild it (gdalbuildvrt)")
            yield element, (element.text or "").strip()


def _check_harmless(uri: str, root: ElementTree.Element) -> None:
    """Refuse everything but plain bands, numbers and descriptions."""
    for element in root.iter():
        tag = str(element.tag).lower()
        keys = {key.lower(): value for key, value in element.attrib.items()}
        kind = keys.get("subclass", "").lower()
        harmless = tag in _HARMLESS and kind in ("", "vrtsourcedrasterband")
        # Other metadata domains can refer to files: GEOLOCATION, xml:…, vrt_sources.
        harmless &= tag != "metadata" or keys.get("domain", "").upper() in ("", "IMAGE_STRUCTURE", "RPC", "IMAGERY")
        if not harmless:
            raise SceneError(
                f"{uri}: this VRT contains <{tag[:60]} {kind[:60]}>, which is not allowed in a remote VRT; download it "
                "if you trust it"
            )
