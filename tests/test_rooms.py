"""The rooms import each other in one direction only, and each framework has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import geosod
from tests.rasters import write_tif

ROOT = Path(__file__).parents[1] / "geosod"
#: What every room may import: the nouns, and the exception tree.
NOUNS = frozenset(
    {"version", "machine", "compiled", "arrays", "scene", "detections", "results", "errors", "tile_size", "device"}
    | {"html_repr", "palette"}
)
#: These stand side by side, and none imports another.
PEERS = ("scenes", "tiling", "detectors", "merging")
#: What each room may import besides itself and the nouns.
ALLOWED = {
    "storage": frozenset(),
    "georeference": frozenset({"storage"}),
    "tiling": frozenset(),
    "detectors": frozenset(),
    "merging": frozenset(),
    "scenes": frozenset({"storage", "georeference"}),
    "viewing": frozenset(),
    "output": frozenset({"storage", "georeference"}),
    "datasets": frozenset({"scenes", "storage", "georeference", "tiling", "viewing"}),
    "deduplication": frozenset(
        {"storage", "output", "georeference", "merging.graph", "merging.index", "merging.kernel"}
    ),
    "evaluation": frozenset(
        {"datasets", "deduplication.sources", "georeference", "merging.index", "merging.kernel", "output", "running"}
        | {"scenes", "settings", "tiling", "viewing", "storage"}
    ),
    "exporting": frozenset({"datasets", "deduplication", "georeference", "output", "storage"}),
    "summarizing": frozenset({"deduplication", "exporting", "georeference", "output", "storage"}),
    "map_page": frozenset(
        {"deduplication", "exporting.rows", "georeference", "output", "scenes", "storage", "viewing"}
    ),
    "training": frozenset(
        {
            "demo",
            "datasets",
            "evaluation",
            *PEERS,
            "georeference",
            "running",
            "config",
            "setting_types",
            "setting_errors",
        }
        | {"yaml_file", "viewing"}
    ),
    "mining": frozenset(
        {*PEERS, "running", "output.scene_outputs", "datasets", "viewing", "config"} | {"storage.uris"}
    ),
    "running": frozenset(
        {*PEERS, "storage", "georeference", "output", "config", "settings", "array_scene", "viewing", "map_page.run"}
    ),
    "predict": frozenset(
        {"scenes", "detectors", "storage", "georeference", "output", "viewing", "running", "datasets.write"}
        | {"array_scene", "setting_types", "yaml_file"}
    ),
    "serving": frozenset(
        {"array_scene", "config", "detectors", "georeference", "output", "running", "scenes", "storage", "viewing"}
    ),
    "ingest": frozenset({"scenes", "storage", "output", "running", "config", "setting_errors", "yaml_file"}),
    "demo": frozenset({*PEERS, "georeference", "output", "viewing", "running", "config", "evaluation"}),
    "cli": frozenset(
        {*PEERS, "storage", "output", "viewing", "running", "config", "yaml_file", "demo", "deduplication", "datasets"}
        | {
            "evaluation",
            "exporting",
            "ingest",
            "map_page",
            "mining",
            "predict",
            "serving",
            "setting_errors",
            "summarizing",
            "training",
        }
    ),
}


def imports(path: Path) -> set[str]:
    """Full names of every module a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, room
    return found


def module_graph() -> dict[str, set[str]]:
    """Every module of geosod and the modules of geosod that it imports, anywhere in the file."""
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for name, path in names.items():
        found = imports(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                submodules = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
                found |= submodules
                if len(submodules) == len(node.names):
                    found.discard(node.module)
        graph[name] = (found & names.keys()) - {name}
    return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of an import cycle, the first one again at the end; empty if there is none."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for target in sorted(graph[module]):
                if cycle := search(target, [*path, module]):
                    return cycle
            done.add(module)
        return []

    return next((cycle for module in graph if (cycle := search(module, []))), [])


def test_no_module_is_in_an_import_cycle() -> None:
    """Imports for type checkers and imports inside functions count, too."""
    cycle = cycle_in(module_graph())
    assert not cycle, "import cycle: " + " imports ".join(cycle)


def test_the_search_for_cycles_finds_one() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("room", ALLOWED)
def test_no_arrow_runs_back_up(room: str) -> None:
    for path in files(room):
        for name in imports(path):
            if not name.startswith("geosod."):
                continue
            target = name.removeprefix("geosod.")
            inside = target.split(".")[0] in {room, *NOUNS}
            allowed = any(target == a or target.startswith(f"{a}.") for a in ALLOWED[room])
            assert inside or allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("framework", "doors"),
    [
        ("ray", {"running/ray_engine", "serving/ray_serve", "training/ray_train.py"}),
        ("rasterio", {"scenes", "storage", "georeference", "demo/cog.py", "array_scene.py", "datasets/tile_files.py"}),
        ("torch", {"detectors", "training", "testing.py"}),
        ("torchvision", {"detectors", "training"}),
        ("PIL", {"viewing", "training"}),
        ("typer", {"cli"}),
        ("fastapi", {"serving"}),
        ("uvicorn", {"serving"}),
        ("sqlalchemy", {"ingest"}),
    ],
)
def test_each_framework_has_one_door(framework: str, doors: set[str]) -> None:
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if any(name.split(".")[0] == framework for name in imports(path)):
            assert any(place == door or place.startswith(f"{door}/") for door in doors), f"{place} imports {framework}"


def test_importing_geosod_is_light() -> None:
    heavy = "[m for m in ('torch', 'ray', 'rasterio', 'geopandas', 'numba', 'pyarrow') if m in sys.modules]"
    script = f"import sys, geosod; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_command_line_is_light() -> None:
    """What `geosod --help` waits for."""
    heavy = "('torch', 'ray', 'rasterio', 'pyproj', 'geopandas', 'numba', 'pyarrow', 'onnx', 'openvino', 'sqlalchemy')"
    script = f"import sys, geosod.cli.main; found = [m for m in {heavy} if m in sys.modules]; assert not found, found"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_scene_that_is_not_there_is_reported_without_waiting_for_torch(tmp_path: Path, earlier: bool) -> None:
    """In an output that holds scenes of the same model, too."""
    if earlier:
        scene = write_tif(tmp_path / "scene.tif", np.zeros((3, 64, 64), np.uint8))
        geosod.detect(scene, model="demo-harbour", out=tmp_path / "out", tile=64, overlap=0)
    script = (
        "import sys; sys.modules['torch'] = None  # an import fails, and says where\n"
        "import geosod\n"
        "result = geosod.detect('none.tif', model='demo-harbour', out='out', tile=64, overlap=0)\n"
        "assert [scene.status for scene in result.scenes] == ['failed'], result"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_reading_does_not_load_torch() -> None:
    """Readers are many; torch in each would cost more memory than their tiles."""
    script = "import sys, geosod.running.ray_engine; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
