"""What happens to every file of a folder of odd rasters: ``python -m tests.formats FOLDER docs/formats.md``.

Each file is run through the pipeline with random weights for its own bands, scaled by percentiles so that any
pixel type will do. What is told is what became of the file, not what was found on it.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

import geosod
from geosod.errors import GeosodError
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_scene
from tests.rasters import random_bundle

SUFFIXES = {".tif", ".tiff", ".vrt"}
HEAD = """# What happens to odd rasters

Made by `python -m tests.formats FOLDER docs/formats.md` from public test files (rasterio, rio-tiler, rio-cogeo,
DeepForest, solaris and others), with random weights for the bands of each file. *Ground* is what the coverage file
says, in km² where the file has a place on the Earth.

| file | pixels | located by | masks | exit code | outcome | ground |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    name: str
    scene: Scene | None
    exit_code: int
    text: str
    ground: dict[str, float]


def run(path: Path, work: Path) -> Outcome:
    """Detect on one file."""
    try:
        scene = open_scene(SceneRef(str(path), path.stem))
    except GeosodError as error:
        return Outcome(path.name, None, 2, str(error).replace(str(path), path.name), {})
    colours = [i for i in range(1, scene.count + 1) if i != scene.alpha][:3]
    names = tuple(f"band{i}" for i in colours)
    limits = {"minimum": (2.0,) * len(names), "maximum": (98.0,) * len(names), "scaling": "percentile"}
    model = random_bundle(work / "model", bands=names, **limits)
    out = work / "out"
    settings = {"bands": colours, "engine": "serial", "tile": 512, "overlap": 64, "batch": 4}
    result = geosod.detect(path, model=model, out=out, **settings)
    if result.exit_code == 2:
        return Outcome(path.name, scene, 2, result.failures[0].message.replace(str(path), path.name), {})
    text = "; ".join(dict.fromkeys(failure.message for failure in result.failures)).replace(str(path), path.name)
    return Outcome(path.name, scene, result.exit_code, text or "done", ground(out, scene))


def ground(out: Path, scene: Scene) -> dict[str, float]:
    """Area by status: km², or pixels of a scene without a place."""
    table = pq.read_table(next((out / "coverage").glob("*.parquet")))
    if table["area_km2"].null_count:
        return {}
    sums = table.group_by("status").aggregate([("area_km2", "sum")])
    return dict(zip(sums["status"].to_pylist(), pc.round(sums["area_km2_sum"], 6).to_pylist(), strict=True))


def row(outcome: Outcome) -> str:
    """One line of the table."""
    scene = outcome.scene
    shape = located = masks = ""
    if scene is not None:
        shape = f"{scene.width} x {scene.height} x {scene.count} {scene.dtype}"
        located = type(scene.locator).__name__ if scene.locator else ("transform" if scene.transform else "nothing")
        masks = ", ".join(sorted(set(scene.masks) - {"none"}) + (["alpha"] if scene.alpha else []))
    told = ", ".join(f"{status} {area:.4g}" for status, area in sorted(outcome.ground.items()))
    cells = (outcome.name, shape, located, masks, str(outcome.exit_code), outcome.text, told)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def files(folder: Path) -> list[Path]:
    """The rasters of a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)


def main() -> None:
    """Read the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    args = parser.parse_args()
    rows = []
    for path in files(args.folder):
        with tempfile.TemporaryDirectory() as work:
            rows.append(row(run(path, Path(work))))
            print(rows[-1], end="", flush=True)
    args.table.write_text(HEAD + "".join(rows))


if __name__ == "__main__":
    main()
