"""Which files a VRT may refer to.

A local VRT may refer to local files, https:// and s3://. A remote VRT may refer to files of its own host or bucket
only, and may contain only plain bands with plain sources. It is checked element by element and passed to GDAL as text.
GDAL never opens other virtual file systems, databases or services.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

from geosod.errors import ConfigError, SceneError
from geosod.storage.files import document, probe
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


def gdal_source(uri: str) -> str:
    """The name under which GDAL opens a file, or the text of a VRT that is remote or refers to remote files.

    SceneError where a VRT refers to a forbidden file or cannot be read, or a remote file is not a raster.
    """
    if is_remote(uri):
        if suffix(uri) == ".vrt" or _is_vrt_text(_head(uri, None)):
            return _remote_source(uri, 0)
        return gdal_name(uri)
    return _local_source(uri, 0)


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


def _local_source(uri: str, depth: int) -> str:
    """The name of a local file, or the text of a local VRT that needs rewriting."""
    path = Path(uri)
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if not _is_vrt_text(head):
            return uri
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
        target = _local_target(uri, element, name)
        if is_remote(target):
            remote.append((element, target))
            continue
        source = _local_source(target, depth + 1)
        changed |= source != target
        _set_source(element, source)
    _set_remote_sources(remote, depth)
    return ElementTree.tostring(root, "unicode") if changed or remote else uri


def _local_target(uri: str, element: ElementTree.Element, name: str) -> str:
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


def _parse(uri: str, content: bytes) -> ElementTree.Element:
    """The XML of a VRT; entity declarations, which can expand without bounds, are refused."""
    if b"<!doctype" in content.lower() or b"<!entity" in content.lower():
        raise SceneError(f"{uri}: this VRT declares a document type; remove that")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise SceneError(f"{uri}: this VRT is not well-formed XML: {error}; rebuild it (gdalbuildvrt)") from error
    if root.tag.lower() != "vrtdataset":
        raise SceneError(f"{uri}: is XML but not a VRT: its root is {root.tag[:60]!r}; check the address")
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
