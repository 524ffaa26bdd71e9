"""Ingestion with the Ray engine: workers ask the ledger before they commit."""

from __future__ import annotations

import pytest

from tests.ingest.conftest import image
from tests.ingest.test_api import items


@pytest.mark.slow
def test_ray_ingests_and_replaces(cluster, api, files, ingester, tmp_path) -> None:
    for i in range(2):
        api.put("c", f"i{i}", image(files, f"i{i}.tif", seed=i))
    one = ingester(api.url, hosts=(files.url,), engine="ray", workers=1)
    assert one.once().committed == 2
    api.put("c", "i1", image(files, "new.tif", seed=9), datetime="2024-05-02T00:00:00Z")
    result = one.once()
    assert (result.committed, result.problems) == (1, []) and len(items(tmp_path / "out")) == 2
    assert len(list((tmp_path / "out" / "detections").rglob("i1-*.parquet"))) == 1
