"""The page about output files has every column, and is the one that is made from the schemas."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from geosod.output.columns import FILES, page
from tests.rasters import noise, write_tif
from tests.running.helpers import detect

PAGE = Path(__file__).parents[2] / "docs" / "output.md"


def test_the_page_is_made_from_the_schemas() -> None:
    assert PAGE.read_text() == page(), "python -m geosod.output.columns docs/output.md"
    for _, schema, meanings in FILES.values():
        assert list(meanings) == schema.names


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_its_query_reads_scenes_with_and_without_georeference(tmp_path, rgb_bundle, monkeypatch) -> None:
    scenes = [
        write_tif(tmp_path / "map.tif", noise(3, 200, 200)),
        write_tif(tmp_path / "p.tif", noise(3, 200, 200), crs=None),
    ]
    result = detect(scenes, rgb_bundle, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    code = next(part for part in PAGE.read_text().split("```python\n") if part.startswith("both ="))
    names: dict[str, object] = {"duckdb": duckdb}
    exec(code.partition("```")[0].replace("duckdb.sql", "rows = duckdb.sql"), names)
    rows: object = names["rows"]
    assert len(rows.fetchall()) == result.detections > 50  # type: ignore[attr-defined]
