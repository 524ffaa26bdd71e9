"""Where pixels lie, by formulas written out here: cameras, splines and satellites to hold the package against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Geod
from rasterio.control import GroundControlPoint

from geosod.scene import GroundControl, RationalPolynomials, Scene, SceneRef


def make_scene(
    crs: str | None,
    transform: Affine | None = None,
    *,
    size: tuple[int, int] = (10_000, 10_000),
    locator: GroundControl | RationalPolynomials | None = None,
    scale: float = 1.0,
) -> Scene:
    wkt = None if crs is None else CRS.from_user_input(crs).to_wkt()
    return Scene(
        SceneRef("scene.tif", "scene"), *size, 3, "uint8", wkt, transform, (None,) * 3, (False,) * 3, None,
        ("",) * 3, (512, 512), (), None, locator=locator, scale=scale,
    )  # fmt: skip


def write_control(path: Path, points: np.ndarray, crs: str | None, *, size: tuple[int, int], **more: object) -> Path:
    """A small GeoTIFF of noise with (N, 4) ``x, y, X, Y`` ground control points, whose heights are nonsense."""
    rng = np.random.default_rng(0)
    place: dict[str, object] = {"gcps": [GroundControlPoint(y, x, a, b, z=1e5 + x) for x, y, a, b in points]}
    place |= {} if crs is None else {"crs": crs}
    with rasterio.open(
        path, "w", driver="GTiff", width=size[0], height=size[1], count=3, dtype="uint8", tiled=True,
        blockxsize=64, blockysize=64, photometric="RGB", **(place | more),
    ) as dataset:  # fmt: skip
        dataset.write(rng.integers(1, 255, (3, size[1], size[0])).astype(np.uint8))
    return path


def thin_plate(points: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The thin-plate spline from pixel to ground through (N, 4) ``x, y, X, Y`` (Bookstein 1989)."""
    pixel, ground = points[:, :2], points[:, 2:]
    middle, size = pixel.mean(axis=0), np.ptp(pixel)

    def kernel(xy: np.ndarray) -> np.ndarray:
        r = np.linalg.norm(((xy - middle) / size)[:, None] - ((pixel - middle) / size)[None], axis=2)
        return np.where(r > 0, r**2 * np.log(np.maximum(r, 1e-300)), 0.0)

    def plane(xy: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(xy)), (xy - middle) / size])

    n = len(points)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n], system[:n, n:], system[n:, :n] = kernel(pixel), plane(pixel), plane(pixel).T
    weights = np.linalg.solve(system, np.vstack([ground - ground.mean(axis=0), np.zeros((3, 2))]))
    return lambda xy: kernel(xy) @ weights[:n] + plane(xy) @ weights[n:] + ground.mean(axis=0)


@dataclass(frozen=True)
class Camera:
    """A camera after the RPC00B convention: 20 terms in longitude L, latitude P and height H, each scaled to ±1."""

    lon: float = 7.0
    lat: float = 45.0
    height: float = 500.0
    size: tuple[int, int] = (1600, 1200)
    degrees: tuple[float, float] = (0.012, 0.007)
    seed: int = 1

    def coefficients(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        out = {name: rng.normal(0, 2e-4, 20) for name in ("LINE_NUM", "SAMP_NUM")}
        out |= {name: np.zeros(20) for name in ("LINE_DEN", "SAMP_DEN")}
        out["LINE_NUM"][:4], out["SAMP_NUM"][:4] = (0.001, 0.02, -1.0, 0.06), (0.002, 1.0, 0.03, -0.09)
        out["LINE_DEN"][:4], out["SAMP_DEN"][:4] = (1, 1e-3, 2e-3, 1e-3), (1, 2e-3, -1e-3, 1e-3)
        return out

    def tags(self) -> dict[str, str]:
        w, h = self.size
        values = {"HEIGHT_OFF": self.height, "HEIGHT_SCALE": 500, "LAT_OFF": self.lat, "LONG_OFF": self.lon}
        values |= {"LAT_SCALE": self.degrees[1], "LONG_SCALE": self.degrees[0]}
        values |= {"LINE_OFF": h / 2, "LINE_SCALE": h / 2, "SAMP_OFF": w / 2, "SAMP_SCALE": w / 2}
        lists = {f"{name}_COEFF": " ".join(repr(float(v)) for v in c) for name, c in self.coefficients().items()}
        return {name: repr(float(value)) for name, value in values.items()} | lists

    def pixels(self, lon: np.ndarray, lat: np.ndarray, height: np.ndarray | float) -> np.ndarray:
        """(N, 2) pixels whose (0, 0) is the corner; RPC00B counts from the middle of the first pixel."""
        L, P = (lon - self.lon) / self.degrees[0], (lat - self.lat) / self.degrees[1]
        H = (height - self.height) / 500 + 0 * L
        one = np.ones_like(L)
        terms = np.stack(
            [one, L, P, H, L * P, L * H, P * H, L * L, P * P, H * H, P * L * H, L**3, L * P * P, L * H * H, L * L * P,
             P**3, P * H * H, L * L * H, P * P * H, H**3], axis=1
        )  # fmt: skip
        c, (w, h) = self.coefficients(), self.size
        x = terms @ c["SAMP_NUM"] / (terms @ c["SAMP_DEN"]) * w / 2 + w / 2
        y = terms @ c["LINE_NUM"] / (terms @ c["LINE_DEN"]) * h / 2 + h / 2
        return np.stack([x, y], axis=1) + 0.5

    def ground(self, xy: np.ndarray, height: Callable[[np.ndarray, np.ndarray], np.ndarray] | float) -> np.ndarray:
        """(N, 2) longitude and latitude where the ray of a pixel meets the ground, by Newton's method."""
        at = np.tile([self.lon, self.lat], (len(xy), 1)).astype(float)
        relief = height if callable(height) else lambda lon, lat: np.full(len(lon), float(height))
        for _ in range(60):
            heights = relief(*at.T)
            miss = self.pixels(*at.T, heights) - xy
            step = 1e-7
            right = (self.pixels(at[:, 0] + step, at[:, 1], heights) - miss - xy) / step
            up = (self.pixels(at[:, 0], at[:, 1] + step, heights) - miss - xy) / step
            at -= np.linalg.solve(np.stack([right, up], axis=2), miss[..., None])[..., 0]
        return at


@dataclass(frozen=True)
class Dem:
    """Heights on a grid of longitude and latitude, bilinear between the middles of its cells."""

    west: float = 6.96
    north: float = 45.02
    step: float = 0.0005
    shape: tuple[int, int] = (80, 160)

    def heights(self) -> np.ndarray:
        row, col = np.indices(self.shape)
        return (600 + 250 * np.sin(col / 23) * np.cos(row / 17)).astype(np.float32)

    def at(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        col, row = (lon - self.west) / self.step - 0.5, (self.north - lat) / self.step - 0.5
        j = np.clip(np.floor(col).astype(int), 0, self.shape[1] - 2)
        i = np.clip(np.floor(row).astype(int), 0, self.shape[0] - 2)
        a, b, z = row - i, col - j, self.heights().astype(float)
        top, foot = (1 - b) * z[i, j] + b * z[i, j + 1], (1 - b) * z[i + 1, j] + b * z[i + 1, j + 1]
        return (1 - a) * top + a * foot

    def write(self, path: Path, *, hole: slice | None = None, crs: str | None = "EPSG:4326") -> Path:
        heights = self.heights()
        if hole is not None:
            heights[:, hole] = -9999
        place = {} if crs is None else {"crs": crs}
        with rasterio.open(
            path, "w", driver="GTiff", width=self.shape[1], height=self.shape[0], count=1, dtype="float32",
            nodata=-9999, transform=Affine(self.step, 0, self.west, 0, -self.step, self.north), **place,
        ) as dataset:  # fmt: skip
            dataset.write(heights, 1)
        return path


@dataclass(frozen=True)
class Satellite:
    """A geostationary imager: scan angles to longitude and latitude (GOES-R PUG volume 3, 5.1.2.8.1; CGMS 03, 4.4)."""

    lon: float
    sweep: str
    height: float = 35_786_023.0
    equator: float = 6_378_137.0
    pole: float = 6_356_752.31414

    @property
    def crs(self) -> str:
        where = f"+lon_0={self.lon} +h={self.height} +sweep={self.sweep}"
        return f"+proj=geos {where} +a={self.equator} +b={self.pole} +units=m +no_defs"

    def transform(self, side: int) -> Affine:
        """Full disk with some space around."""
        reach = 5_450_000.0
        return Affine(2 * reach / side, 0, -reach, 0, -2 * reach / side, reach)

    def ground(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N, 2) degrees for the map's metres; NaN past the limb."""
        x, y = np.asarray(x, float) / self.height, np.asarray(y, float) / self.height
        if self.sweep == "x":
            look = np.stack([np.cos(x) * np.cos(y), np.sin(x), np.cos(x) * np.sin(y)])
        else:
            look = np.stack([np.cos(x) * np.cos(y), np.sin(x) * np.cos(y), np.sin(y)])
        far, k = self.height + self.equator, (self.equator / self.pole) ** 2
        a = look[0] ** 2 + look[1] ** 2 + k * look[2] ** 2
        b, c = -2 * far * look[0], far**2 - self.equator**2
        with np.errstate(invalid="ignore"):
            reach = (-b - np.sqrt(b * b - 4 * a * c)) / (2 * a)
        point = reach * look
        lon = self.lon + np.degrees(np.arctan2(point[1], far - point[0]))
        lat = np.degrees(np.arctan(k * point[2] / np.hypot(far - point[0], point[1])))
        return np.stack([lon, lat], axis=1)

    def horizon(self, pieces: int = 4000) -> np.ndarray:
        """(N, 3) points where the sight just touches the ellipsoid, from its centre, x towards the satellite."""
        far, k = self.height + self.equator, (self.equator / self.pole) ** 2
        t = np.linspace(0, 2 * np.pi, pieces, endpoint=False)
        # They lie in the plane of contact of the cone from the satellite.
        x = self.equator**2 / far
        rim = np.sqrt(self.equator**2 - x**2)
        return np.stack([np.full(pieces, x), rim * np.cos(t), rim * np.sin(t) / np.sqrt(k)], axis=1)

    def visible_area(self) -> float:
        """Square metres within the horizon."""
        (x, y, z), k = self.horizon().T, (self.equator / self.pole) ** 2
        lon, lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(k * z, np.hypot(x, y)))
        return float(abs(Geod(a=self.equator, b=self.pole).polygon_area_perimeter(lon, lat)[0]))

    def disk_area(self) -> float:
        """Square metres of the map within the horizon."""
        x, y, z = (self.horizon() - (self.height + self.equator, 0, 0)).T
        far = np.sqrt(x**2 + y**2 + z**2)
        flat, steep = (y, z) if self.sweep == "x" else (z, y)
        angles = np.stack([np.arcsin(flat / far), np.arctan(steep / -x)], axis=1)
        return float(shapely.Polygon(angles * self.height).area)


GOES_EAST = Satellite(-75.0, "x")
METEOSAT = Satellite(0.0, "y", 35_785_831.0, 6_378_169.0, 6_356_583.8)
HIMAWARI = Satellite(140.7, "y", 35_785_863.0, 6_378_137.0, 6_356_752.3)
