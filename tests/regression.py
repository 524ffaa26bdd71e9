"""Do two versions of geosod find the same in the same scenes?

    python -m tests.regression inputs INPUTS          # seeded scenes and models
    python -m tests.regression run INPUTS OUT         # every case of `CASES`, with the version on the path
    python -m tests.regression compare BEFORE AFTER   # exit code 1 where they differ

Detections must be equal bit for bit, coverage after `shapely.normalize`, file metadata but for digests and the version.
`RENAMED` lists names that changed between the versions compared.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import shapely
from affine import Affine

import geosod
from geosod.config import RunConfig
from tests.rasters import NORTH_UP, UTM31, noise, random_bundle, write_tif

#: What a name of the earlier version is called in the later one: columns, keys and settings alike.
RENAMED = {"cut": "truncated", "merge": "merge_method"}
#: Differ between versions although the results are the same.
IGNORED = ("version", "model_digest", "config_digest")
PLAIN = {"engine": "serial", "device": "cpu", "backend": "eager", "precision": "fp32", "batch": 4, "unit": (2, 3)}

#: Case → scene, model and settings.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{m: ("plain", "rgb", {"merge": m, "merge_threshold": 0.4}) for m in ("nms", "soft_nms", "nmm", "greedy_nmm")},
    "wbf": ("plain", "rgb", {"merge": "wbf", "merge_threshold": 0.6}),
    "no-borders": ("plain", "rgb", {"borders": False, "class_agnostic": True, "metric": "ios"}),
    "overlap-0": ("plain", "rgb", {"overlap": 0}),
    "odd-overlap": ("masked", "rgb", {"tile": 96, "overlap": 37, "crs": "EPSG:3035"}),
    "masked": ("masked", "rgb", {}),
    "levels": ("plain", "rgb", {"levels": "1,0.5,full", "merge_threshold": 0.4}),
    "small": ("small", "rgb", {}),
    "rotated": ("rotated", "rgb", {}),
    "resampled": ("plain", "rgb", {"tile_gsd": 0.7}),
    "pixel": ("pixel", "rgb", {}),
    "aoi": ("plain", "rgb", {"aoi": "aoi.geojson", "mask": {"water": "mask.geojson"}}),
    "damaged": ("damaged", "rgb", {}),
    "sixteen-bit": ("sixteen", "four", {}),
    "harbour": ("harbour", "demo-harbour", {"batch": 1}),
}


def make_inputs(folder: Path) -> None:
    """Scenes and models, the same at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = noise(3, 700, 900)
    yy, xx = np.mgrid[:700, :900]
    mask = np.where((xx - 300) ** 2 + (yy - 300) ** 2 < 150**2, 0, 255).astype(np.uint8)
    write_tif(folder / "plain.tif", pixels)
    write_tif(folder / "masked.tif", pixels, mask=mask)
    write_tif(folder / "small.tif", noise(3, 90, 110, seed=1))
    write_tif(folder / "rotated.tif", pixels, transform=NORTH_UP * Affine.rotation(23))
    write_tif(folder / "pixel.tif", pixels, crs=None)
    write_tif(folder / "sixteen.tif", noise(4, 400, 500, dtype="uint16", seed=2), nodata=0, block=0)
    whole = write_tif(folder / "damaged.tif", pixels, block=128).read_bytes()
    (folder / "damaged.tif").write_bytes(whole[: len(whole) * 2 // 3])
    ring = [[500_050, 5_799_950], [500_400, 5_799_990], [500_330, 5_799_700], [500_050, 5_799_950]]
    for name, move in (("aoi", 0), ("mask", 120)):
        polygon = {"type": "Polygon", "coordinates": [[[x + move, y] for x, y in ring]]}
        crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{UTM31.replace(':', '::')}"}}
        feature = {"type": "Feature", "properties": {}, "geometry": polygon}
        layer = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
        (folder / f"{name}.geojson").write_text(json.dumps(layer))
    random_bundle(folder / "rgb", bands=("red", "green", "blue"))
    random_bundle(folder / "four", bands=("b", "g", "r", "n"), dtype="uint16", top=300.0)
    from geosod.demo.scene import write_scene

    write_scene(folder / "harbour.tif", size=2048, seed=3)


def run(inputs: Path, out: Path) -> None:
    """Every case, into its own folder."""
    known = RunConfig.model_fields
    for case, (scene, model, settings) in CASES.items():
        values = {n if n in known else RENAMED[n]: v for n, v in (PLAIN | settings).items()}
        for name, path in {"aoi": values.get("aoi"), **values.get("mask", {})}.items():
            if path and name == "aoi":
                values["aoi"] = str(inputs / path)
            elif path:
                values["mask"] = {name: str(inputs / path)}
        where = inputs / model if (inputs / model).is_dir() else model
        result = geosod.detect(str(inputs / f"{scene}.tif"), model=where, out=out / case, **values)
        print(f"{case}: {result.detections} detections, exit code {result.exit_code}", flush=True)


def compare(before: Path, after: Path) -> list[str]:
    """What differs, a line each; empty where nothing does."""
    names = [{p.relative_to(f).as_posix() for p in f.rglob("*.parquet")} for f in (before, after)]
    lines = [f"only in one: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        lines += [f"{name}: {what}" for what in _differences(before / name, after / name)]
    return lines


def _differences(before: Path, after: Path) -> list[str]:
    old, new = pq.read_table(before), pq.read_table(after)
    lines = [] if _footer(old) == _footer(new) else ["footer"]
    old = old.rename_columns([RENAMED.get(name, name) for name in old.column_names])
    if old.column_names != new.column_names:
        return [*lines, f"columns {old.column_names} and {new.column_names}"]
    if "coverage" in before.parts:
        return lines + ([] if _cover(old) == _cover(new) else ["coverage"])
    return lines + [f"column {name}" for name in old.column_names if not old[name].equals(new[name])]


def _cover(table: Any) -> list[tuple[Any, ...]]:
    """Rows without regard to their order, where rings begin, or the last bits of areas and covering boxes."""
    rows = table.to_pylist()
    shapes = [shapely.to_wkb(shapely.normalize(shapely.from_wkb(row["geometry"]))) for row in rows]
    areas = [None if row["area_km2"] is None else float(f"{row['area_km2']:.9g}") for row in rows]
    return sorted((r["status"], r["reason"] or "", s, str(a)) for r, s, a in zip(rows, shapes, areas, strict=True))


def _footer(table: Any) -> Any:
    found = json.loads((table.schema.metadata or {}).get(b"geosod", b"{}"))
    return _renamed({name: value for name, value in found.items() if name not in IGNORED})


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {RENAMED.get(name, name): _renamed(inner) for name, inner in value.items()}
    return value


def main(arguments: list[str]) -> int:
    """Carry out a command line."""
    match arguments:
        case ["inputs", folder]:
            make_inputs(Path(folder))
        case ["run", inputs, out]:
            run(Path(inputs), Path(out))
        case ["compare", before, after]:
            lines = compare(Path(before), Path(after))
            print("\n".join(lines) or "the same")
            return int(bool(lines))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
