"""What a VRT may refer to: files on this machine, and nothing that makes GDAL reach out."""

from __future__ import annotations

import html
import re
from pathlib import Path

from geosod.errors import SceneError

#: A VRT is text; one larger than this is read no further for its sources, and refused.
MAX_BYTES = 64 << 20
MAX_DEPTH = 8
_SOURCE = re.compile(
    r"<(SourceFilename|SourceDataset|DstFilename|SourceVRT)\b([^>]*)>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE
)
_RELATIVE = re.compile(r"relativeToVRT\s*=\s*[\"']?1", re.IGNORECASE)


def check_sources(uri: str, *, depth: int = 0) -> None:
    """Refuse a VRT that names anything but local files, in whatever VRT below it.

    Files that are not VRTs pass unread but for their first bytes.

    Raises:
        SceneError: a source is a URL, a virtual file system, inline XML or a connection string; or VRTs are nested
            too deeply.
    """
    path = Path(uri)
    if not _is_vrt(path):
        return
    if depth == MAX_DEPTH or path.stat().st_size > MAX_BYTES:
        raise SceneError(f"{uri}: this VRT is nested over {MAX_DEPTH} deep or over {MAX_BYTES >> 20} MiB; flatten it")
    for _, attributes, text in _SOURCE.findall(path.read_text("utf-8", "replace")):
        name = html.unescape(text).strip()
        source = path.parent / name if _RELATIVE.search(attributes) else Path(name)
        if name.startswith(("/vsi", "<")) or "://" in name or not _local(source):
            raise SceneError(
                f"{uri}: this VRT refers to {name[:120]!r}, which is not a file here; name local files only"
            )
        check_sources(str(source), depth=depth + 1)


def _local(source: Path) -> bool:
    """A plain path; with a colon it could be a connection string such as ``WMS:...``, unless there is such a file."""
    return ":" not in str(source) or source.exists()


def _is_vrt(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<VRTDataset" in file.read(4096)
    except OSError:
        return False
