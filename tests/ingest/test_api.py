"""A STAC API as a source: what is new is taken once, what changes replaces, what goes is marked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ingest.conftest import image


def items(out: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "items").glob("*.json"))}


def by_item(out: Path) -> dict[tuple[str, str], dict]:
    found = {}
    for item in items(out).values():
        p = item["properties"]
        assert (p["geosod:ingest_collection"], p["geosod:ingest_item"]) not in found
        found[p["geosod:ingest_collection"], p["geosod:ingest_item"]] = item
    return found


@pytest.mark.parametrize("filters", [True, False])
def test_items_are_taken_once_and_again_when_they_change(filters, api, files, ingester, tmp_path) -> None:
    api.filters = filters
    recent = "2026-11-20T00:00:00Z" if not filters else "2024-05-01T10:00:00Z"
    for i in range(5):
        api.put("a", f"s{i}", image(files, f"s{i}.tif", seed=i), datetime=recent)
    api.put("b", "s0", image(files, "b0.tif", seed=9), datetime=recent)
    one = ingester(api.url, hosts=(files.url,), page_size=2, lookback_days=36500)
    result = one.once()
    assert (result.discovered, result.committed, result.exit_code) == (6, 6, 0), result
    assert set(by_item(tmp_path / "out")) == {("a", f"s{i}") for i in range(5)} | {("b", "s0")}
    assert one.once().discovered == 0
    before = items(tmp_path / "out")
    api.put("a", "s3", image(files, "new.tif", seed=30), datetime="2024-05-02T00:00:00Z" if filters else recent)
    result = one.once()
    assert (result.discovered, result.committed) == (1, 1)
    after = items(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = [name for name in after if after[name] != before[name]]
    assert len(changed) == 1 and changed[0].startswith("s3-")
    # Its files of the earlier date are gone.
    assert len(list((tmp_path / "out" / "detections").rglob("s3-*.parquet"))) == 1
