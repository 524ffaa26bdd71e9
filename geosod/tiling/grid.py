"""Which windows cover a scene: a regular grid of overlapping tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geosod.arrays import IntArray
from geosod.errors import ConfigError
from geosod.scene import Window
from geosod.tile_size import Overlap, TileSize, overlap_pixels


@dataclass(frozen=True, slots=True)
class Grid:
    """Overlapping tiles that cover a scene, in rows and columns.

    Attributes:
        width, height: size of the scene in pixels of level 0.
        tile: (width, height) of a tile in pixels. Where the scene is smaller than that, so are the windows.
        x_starts: first column of each column of tiles, strictly ascending, scene frame.
        y_starts: first row of each row of tiles, strictly ascending, scene frame.
    """

    width: int
    height: int
    tile: TileSize
    x_starts: tuple[int, ...]
    y_starts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return len(self.y_starts)

    @property
    def cols(self) -> int:
        """Number of columns of tiles."""
        return len(self.x_starts)

    @property
    def tile_width(self) -> int:
        """Width of every window, at most the scene's."""
        return min(self.tile[0], self.width)

    @property
    def tile_height(self) -> int:
        """Height of every window, at most the scene's."""
        return min(self.tile[1], self.height)

    def window(self, i_row: int, j_col: int) -> Window:
        """The window of the tile in row `i_row` and column `j_col`, scene frame."""
        return Window(self.x_starts[j_col], self.y_starts[i_row], self.tile_width, self.tile_height)

    def windows_array(self) -> IntArray:
        """(rows * cols, 4) int64 ``[col, row, width, height]``, all windows in reading order, scene frame."""
        rows, cols = np.meshgrid(self.y_starts, self.x_starts, indexing="ij")
        sizes = np.full((self.rows * self.cols, 2), (self.tile_width, self.tile_height), np.int64)
        return np.column_stack([cols.ravel(), rows.ravel(), sizes]).astype(np.int64, copy=False)

    def interior_edges(self) -> tuple[IntArray, IntArray]:
        """Where tiles end inside the scene.

        Returns:
            ``(x_edges, y_edges)``, int64, ascending, scene frame: the coordinates of left or right, and of
            top or bottom, edges of tiles that are not edges of the scene.
        """
        return (
            _interior(self.x_starts, self.tile_width, self.width),
            _interior(self.y_starts, self.tile_height, self.height),
        )


def make_grid(width: int, height: int, *, tile: int | TileSize, overlap: int | Overlap) -> Grid:
    """Cover a scene with tiles that overlap their neighbours by at least `overlap`.

    Tiles step by ``tile - overlap`` from the origin; the last one of a row or column is shifted back so that it ends at
    the scene's edge, and overlaps more. A scene smaller than a tile has one window of the scene's own size along that
    axis.

    Args:
        width, height: size of the scene in pixels, at least 1.
        tile: side of a tile in pixels, or (width, height), at least 1.
        overlap: of neighbouring tiles, in pixels, or (x, y) in pixels or as a ratio of the tile's side below 1.

    Raises:
        ConfigError: a size is less than 1, or the overlap is out of range.
    """
    if width < 1 or height < 1:
        raise ConfigError(f"A grid needs a scene of at least 1 x 1 pixels, got width={width}, height={height}.")
    size = (tile, tile) if isinstance(tile, int) else tile
    if min(size) < 1:
        raise ConfigError(f"tile={tile}: a tile must be at least 1 pixel wide; usual sides are 256 to 1024.")
    shared = overlap_pixels((overlap, overlap) if isinstance(overlap, int) else overlap, size)
    return Grid(width, height, size, _starts(width, size[0], shared[0]), _starts(height, size[1], shared[1]))


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    last = max(length - tile, 0)
    return (*range(0, last, tile - overlap), last)


def _interior(starts: tuple[int, ...], side: int, length: int) -> IntArray:
    edges = np.unique(np.array([*starts, *(s + side for s in starts)], np.int64))
    return edges[(edges > 0) & (edges < length)]
