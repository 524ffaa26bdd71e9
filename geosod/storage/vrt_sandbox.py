"""What a VRT may refer to, and how it comes to GDAL.

A VRT here may name files here, and https:// and s3:// ones. One from the network may name only files of its own host
or bucket, and holds nothing but plain bands with plain sources; it is rebuilt from the parts that are known to be
harmless, and handed to GDAL as text. Nothing makes GDAL open other virtual file systems, databases or services.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

from geosod.errors import ConfigError, SceneError
from geosod.storage.files import document, probe
from geosod.storage.uris import gdal_name, is_remote, joined, origin, plain, suffix

#: A VRT is text; one larger than this is refused.
MAX_BYTES = 64 << 20
MAX_DEPTH = 8
#: Requests under way at a time.
THREADS = 16

_NAMING = ("sourcefilename", "sourcedataset", "dstfilename", "sourcevrt")
#: What rasters begin with: TIFF, BigTIFF, JPEG, PNG, JPEG 2000 with and without its box.
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\xd8\xff", b"\x89PNG", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
_HARMLESS = frozenset(
    {
        "vrtdataset",
        "srs",
        "geotransform",
        "gcplist",
        "gcp",
        "metadata",
        "mdi",
        "vrtrasterband",
        "colorinterp",
        "colortable",
        "entry",
        "nodatavalue",
        "hidenodatavalue",
        "description",
        "unittype",
        "offset",
        "scale",
        "categorynames",
        "category",
        "maskband",
        "simplesource",
        "complexsource",
        "averagedsource",
        "sourcefilename",
        "sourceband",
        "sourceproperties",
        "srcrect",
        "dstrect",
        "nodata",
        "usemaskband",
        "scaleoffset",
        "scaleratio",
        "exponent",
        "srcmin",
        "srcmax",
        "dstmin",
        "dstmax",
        "clamp",
        "colortablecomponent",
        "lut",
        "overviewlist",
    }
)


def gdal_source(uri: str) -> str:
    """What GDAL is handed for a file: its name, or the text of a VRT that names or is a file on the network.

    Raises:
        SceneError: a VRT refers to what it may not, or cannot be read; or what is on the network is no raster.
    """
    if is_remote(uri):
        if suffix(uri) == ".vrt" or _is_vrt_text(_head(uri, None)):
            return _from_network(uri, 0)
        return gdal_name(uri)
    return _from_here(uri, 0)


def check_sources(uri: str) -> None:
    """Refuse a VRT that refers to what it may not; errors as `gdal_source`."""
    gdal_source(uri)


def check_raster(uri: str, version: str | None = None) -> None:
    """Refuse a file on the network that does not begin as a raster does, whatever it is called.

    Args:
        uri: the file.
        version: its version; what is known of a version is not asked for again.

    Raises:
        SceneError: it is something else, such as a VRT or a page.
    """
    head = _head(uri, version)
    if not head.startswith(_MAGIC):
        raise SceneError(
            f"{uri}: is no GeoTIFF, JPEG, PNG or JPEG 2000 file, it begins with {head[:24]!r}; check the address"
        )


@lru_cache(maxsize=65536)
def _head(uri: str, _: str | None) -> bytes:
    return probe(uri).head


def _is_vrt_text(head: bytes) -> bool:
    return b"<vrtdataset" in head.lower()


def _from_here(uri: str, depth: int) -> str:
    """A file on this machine: its name, but for VRTs that need rebuilding."""
    path = Path(uri)
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if not _is_vrt_text(head):
            return uri
        if depth == MAX_DEPTH or path.stat().st_size > MAX_BYTES:
            raise SceneError(
                f"{uri}: this VRT is nested over {MAX_DEPTH} deep or over {MAX_BYTES >> 20} MiB; flatten it"
            )
        root = _parsed(uri, path.read_bytes())
    except OSError:
        return uri
    changed = False
    web: list[tuple[ElementTree.Element, str]] = []
    for element in _naming(uri, root):
        name = (element.text or "").strip()
        target = _named_here(uri, element, name)
        if is_remote(target):
            web.append((element, target))
            continue
        source = _from_here(target, depth + 1)
        changed |= source != target
        _put(element, source)
    _put_remote(web, depth)
    return ElementTree.tostring(root, "unicode") if changed or web else uri


def _named_here(uri: str, element: ElementTree.Element, name: str) -> str:
    """The file that a local VRT names."""
    try:
        target = plain(name)
        here = not is_remote(target)
        beside = here and any(k.lower() == "relativetovrt" and v.strip() == "1" for k, v in element.attrib.items())
        path = Path(uri).parent / target if beside else Path(target)
        # With a colon it could be a connection string such as WMS:…, unless there is such a file.
        if name and not name.startswith("<") and not (here and ":" in str(path) and not path.exists()):
            return str(path) if here else target
    except ConfigError:
        pass
    raise SceneError(
        f"{uri}: this VRT refers to {name[:120]!r}, which is not a file here; "
        "name local files, https:// or s3:// ones only"
    )


def _from_network(uri: str, depth: int) -> str:
    """A VRT on the network, rebuilt with whole names."""
    if depth == MAX_DEPTH:
        raise SceneError(f"{uri}: this VRT is nested over {MAX_DEPTH} deep; flatten it")
    root = _parsed(uri, document(uri))
    _only_harmless(uri, root)
    web = []
    for element in _naming(uri, root):
        name = (element.text or "").strip()
        try:
            target = joined(uri, name)
        except ConfigError:
            target = ""
        if not name or name.startswith("<") or origin(target) != origin(uri):
            raise SceneError(
                f"{uri}: this VRT refers to {name[:120]!r}; one from the network may name files of its own host "
                "or bucket only; download it if you trust it"
            )
        web.append((element, target))
    _put_remote(web, depth)
    return ElementTree.tostring(root, "unicode")


def _put_remote(web: list[tuple[ElementTree.Element, str]], depth: int) -> None:
    """Write what GDAL is handed for files on the network into the elements that name them."""
    targets = list(dict.fromkeys(target for _, target in web))

    def source(target: str) -> str:
        if suffix(target) == ".vrt" or _is_vrt_text(_head(target, None)):
            return _from_network(target, depth + 1)
        check_raster(target)
        return gdal_name(target)

    with ThreadPoolExecutor(min(THREADS, len(targets) or 1)) as pool:
        sources = dict(zip(targets, pool.map(source, targets), strict=True))
    for element, target in web:
        _put(element, sources[target])


def _put(element: ElementTree.Element, source: str) -> None:
    element.text = source
    for key in [k for k in element.attrib if k.lower() == "relativetovrt"]:
        del element.attrib[key]
    element.set("relativeToVRT", "0")


def _parsed(uri: str, content: bytes) -> ElementTree.Element:
    """The XML of a VRT; entities of its own, which can grow without bounds, are refused."""
    if b"<!doctype" in content.lower() or b"<!entity" in content.lower():
        raise SceneError(f"{uri}: this VRT declares a document type; take that out")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise SceneError(f"{uri}: this VRT is not well-formed XML: {error}; write it anew (gdalbuildvrt)") from error
    if root.tag.lower() != "vrtdataset":
        raise SceneError(f"{uri}: is XML, but no VRT: its root is {root.tag[:60]!r}")
    return root


def _naming(uri: str, root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """The elements that name files. GDAL takes attributes for elements, and minds no case."""
    for element in root.iter():
        if any(key.lower() in _NAMING for key in element.attrib):
            raise SceneError(f"{uri}: this VRT names a file in an attribute; write it anew (gdalbuildvrt)")
        if str(element.tag).lower() in _NAMING:
            if len(element):
                raise SceneError(f"{uri}: this VRT names a file by elements; write it anew (gdalbuildvrt)")
            yield element


def _only_harmless(uri: str, root: ElementTree.Element) -> None:
    """Refuse everything that GDAL could take for more than plain bands, numbers and descriptions."""
    for element in root.iter():
        tag = str(element.tag).lower()
        keys = {key.lower(): value for key, value in element.attrib.items()}
        kind = keys.get("subclass", "").lower()
        harmless = tag in _HARMLESS and kind in ("", "vrtsourcedrasterband")
        # Beside the default domain, metadata can name files: GEOLOCATION, xml:…, vrt_sources.
        harmless &= tag != "metadata" or keys.get("domain", "").upper() in ("", "IMAGE_STRUCTURE", "RPC", "IMAGERY")
        if not harmless:
            raise SceneError(
                f"{uri}: this VRT holds <{tag[:60]} {kind[:60]}>, which is not taken from the network; download it if "
                "you trust it"
            )
