"""PMTiles archives, of any number of tiles: the package ``pmtiles`` has an object for each of them in memory."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pmtiles.tile import Compression, Entry, TileType, serialize_directory, serialize_header

from geosod.arrays import IntArray

#: Bytes of the header, and of header and root directory at most.
_HEADER, _START = 127, 16384
#: Tiles of a directory at most, unless there are so many that the root directory would become too large.
_LEAF = 4096


class Archive:
    """The tiles of an archive on their way to it.

    Args:
        folder: where they are kept until then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids: dict[int, list[IntArray]] = {}
        self._sizes: dict[int, list[IntArray]] = {}

    def add(self, zoom: int, ids: IntArray, tiles: Sequence[bytes]) -> None:
        """Add tiles.

        Args:
            zoom: their level.
            ids: (T,) from `tile_ids`, ascending, and beyond those that the level has already.
            tiles: their contents, compressed with gzip.
        """
        self._ids.setdefault(zoom, []).append(ids)
        self._sizes.setdefault(zoom, []).append(np.array([len(tile) for tile in tiles], np.int64))
        with self._file(zoom).open("ab") as file:
            file.writelines(tiles)

    def finish(self, path: Path, *, bounds: tuple[float, float, float, float], metadata: Mapping[str, Any]) -> None:
        """Write the archive.

        Args:
            path: the file.
            bounds: minimum longitude and latitude, maximum longitude and latitude.
            metadata: of the tiles, as JSON.
        """
        levels = sorted(self._ids)
        ids = np.concatenate([np.empty(0, np.int64), *(part for zoom in levels for part in self._ids[zoom])])
        sizes = np.concatenate([np.empty(0, np.int64), *(part for zoom in levels for part in self._sizes[zoom])])
        root, leaves = _directories(ids, sizes)
        about = gzip.compress(json.dumps(metadata).encode(), mtime=0)
        data = _HEADER + len(root) + len(about) + len(leaves)
        header = _header(levels, bounds) | {
            "root_offset": _HEADER, "root_length": len(root),
            "metadata_offset": _HEADER + len(root), "metadata_length": len(about),
            "leaf_directory_offset": data - len(leaves), "leaf_directory_length": len(leaves),
            "tile_data_offset": data, "tile_data_length": int(sizes.sum()),
            "addressed_tiles_count": len(ids), "tile_entries_count": len(ids), "tile_contents_count": len(ids),
        }  # fmt: skip
        with path.open("wb") as out:
            out.writelines((serialize_header(header), root, about, leaves))  # type: ignore[arg-type]
            for zoom in levels:
                with self._file(zoom).open("rb") as file:
                    shutil.copyfileobj(file, out, 1 << 20)
                self._file(zoom).unlink()

    def _file(self, zoom: int) -> Path:
        return self._folder / f"tiles-{zoom}"


def _header(levels: Sequence[int], bounds: tuple[float, float, float, float]) -> dict[str, Any]:
    """The part of the header that says what the tiles are."""
    names = ("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7")
    west, south, east, north = bounds
    return {
        "clustered": True,
        "internal_compression": Compression.GZIP,
        "tile_compression": Compression.GZIP,
        "tile_type": TileType.MVT,
        "min_zoom": min(levels, default=0),
        "max_zoom": max(levels, default=0),
        **{name: round(value * 1e7) for name, value in zip(names, bounds, strict=True)},
        # Half the width of the map is about what there is.
        "center_zoom": int(np.clip(np.log2(360 / max(east - west, north - south, 1e-3)), 0, max(levels, default=0))),
    }


def _directories(ids: IntArray, sizes: IntArray) -> tuple[bytes, bytes]:
    """The root directory, and those below it."""
    starts = np.cumsum(sizes) - sizes
    leaf = max(_LEAF, len(ids) // 1000)
    if len(ids) <= _LEAF:
        root = _directory(ids, starts, sizes)
        if _HEADER + len(root) <= _START:
            return root, b""
    firsts = range(0, len(ids), leaf)
    leaves = [_directory(ids[k : k + leaf], starts[k : k + leaf], sizes[k : k + leaf]) for k in firsts]
    at, entries = 0, []
    for k, written in zip(firsts, leaves, strict=True):
        entries.append(Entry(int(ids[k]), at, len(written), 0))
        at += len(written)
    return serialize_directory(entries), b"".join(leaves)


def _directory(ids: IntArray, starts: IntArray, sizes: IntArray) -> bytes:
    rows = zip(ids.tolist(), starts.tolist(), sizes.tolist(), strict=True)
    return serialize_directory([Entry(tile, start, size, 1) for tile, start, size in rows])


def tile_ids(zoom: int, x: IntArray, y: IntArray) -> IntArray:
    """(T,) int64, the numbers of tiles in the order of PMTiles: level by level, along a Hilbert curve.

    Args:
        zoom: their level.
        x, y: (T,) int64, columns and rows.
    """
    x, y = x.copy(), y.copy()
    ids = np.full(len(x), (4**zoom - 1) // 3, np.int64)
    for bit in reversed(range(zoom)):
        side = 1 << bit
        right, low = x >> bit & 1, y >> bit & 1
        ids += (3 * right ^ low) << 2 * bit
        x, y = x & side - 1, y & side - 1
        flip, turn = (low == 0) & (right == 1), low == 0
        x, y = np.where(flip, side - 1 - x, x), np.where(flip, side - 1 - y, y)
        x, y = np.where(turn, y, x), np.where(turn, x, y)
    return ids
