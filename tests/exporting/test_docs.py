"""What the pages about outputs show is run, where the programs are installed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import numpy as np
import pytest
import shapely
from typer.testing import CliRunner

import geosod
from geosod.cli.main import app
from tests.deduplication.outputs import ORIGIN, commit, lattice, seen, utm_scene

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.M | re.S)
#: Programs of other languages.
_PROGRAMS = {"r": ["Rscript", "-e"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages suppose."""
    path, objects = tmp_path_factory.mktemp("docs"), lattice(ORIGIN, (44, 34), 20.0)
    rng, scene = np.random.default_rng(0), utm_scene("a")
    scores, labels = rng.random(len(objects)), rng.integers(0, 2, len(objects))
    commit(path / "out", scene, seen(scene, objects, scores=scores, labels=labels))
    box = shapely.box(ORIGIN[0], ORIGIN[1] - 300, ORIGIN[0] + 300, ORIGIN[1])
    districts = geopandas.GeoDataFrame({"name": ["port"]}, geometry=[box], crs="EPSG:32631")
    districts.to_file(path / "districts.gpkg", layer="districts")
    return path


def run_line(line: str) -> str | None:
    """Run a command of a page; why it cannot be run here."""
    words = shlex.split(line)
    if words[0] == "geosod":
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{line}: {result.output}"
        return None
    if shutil.which(words[0]) is None:
        return words[0]
    subprocess.run(line, shell=True, check=True)
    return None


@pytest.mark.parametrize(("page", "least"), [("export.md", 15), ("summarize.md", 6), ("view.md", 4)])
def test_the_page_is_true(page: str, least: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"geosod": geosod, "geopandas": geopandas}
    ran, missing = 0, []
    for language, note, text in _BLOCK.findall((DOCS / page).read_text()):
        if note.strip():
            assert re.fullmatch(r" no-run: .{5,}", note), note
            continue
        if language == "sh":
            results = [run_line(line) for line in text.splitlines()]
            missing += [name for name in results if name]
            ran += results.count(None)
        elif language == "sql":
            assert duckdb.sql(text).fetchall()
            ran += 1
        elif language == "python":
            exec(compile(text, page, "exec"), names)
            ran += 1
        elif shutil.which(_PROGRAMS[language][0]):
            subprocess.run([*_PROGRAMS[language], text], check=True)
            ran += 1
        else:
            missing.append(_PROGRAMS[language][0])
    assert ran >= least
    print(f"{page}: {ran} ran, not installed: {missing or 'none'}")
