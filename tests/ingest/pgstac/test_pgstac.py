"""Ingestion from stac-fastapi with pgstac: what people run, rather than what we believe that they do."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.ingest.conftest import image
from tests.ingest.killed import run_with_kills
from tests.ingest.pgstac.server import Pgstac, serving_pgstac
from tests.ingest.test_api import by_item

#: 500 items take some minutes.
ITEMS = int(os.environ.get("GEOSOD_INGEST_ITEMS", "12"))


@pytest.fixture
def api(postgres, postgres_programs, tmp_path) -> Iterator[Pgstac]:
    with serving_pgstac(postgres, postgres_programs, tmp_path / "pgstac.log") as api:
        yield api


def test_items_are_taken_changed_and_withdrawn(api, files, ingester, tmp_path) -> None:
    """With pages, a filter of its own, and a space, a slash and a plus in an identifier of a collection."""
    for i in range(5):
        api.put("c", f"s{i}", image(files, f"s{i}.tif", seed=i), **{"eo:cloud_cover": i * 10})
    api.put("d", "s0", image(files, "d0.tif", seed=9))
    one = ingester(
        api.url, hosts=(files.url,), collections=("c",), page_size=2, filter='"eo:cloud_cover" < 35', list_hours=1e-9,
        bbox=(3, 51, 6, 54),
    )  # fmt: skip
    result = one.once()
    assert (result.discovered, result.committed, result.exit_code) == (4, 4, 0), result
    one.config = one.config.model_copy(update={"list_hours": 24})
    assert one.once().discovered == 0
    api.put("c", "s3", image(files, "new.tif", seed=30), datetime="2024-05-02T00:00:00Z", **{"eo:cloud_cover": 1})
    assert one.once().committed == 1
    one.config = one.config.model_copy(update={"list_hours": 1e-9})
    api.remove("c", "s1")
    assert one.once().withdrawn == 1
    found = by_item(tmp_path / "out")
    assert found["c", "s3"]["properties"]["datetime"] == "2024-05-02T00:00:00Z"
    assert "geosod:withdrawn" in found["c", "s1"]["properties"] and len(found) == 4


@pytest.mark.slow
def test_items_come_change_and_go_while_ingesters_are_killed(ledger_at, api, files, tiny_bundle, tmp_path) -> None:
    """Each version is committed once, and whoever reads sees a dataset that fits together."""
    quick = {"list_hours": 2 / 3600, "poll_overlap": 5, "page_size": 50}
    run_with_kills(api, files, tmp_path, bundle=tiny_bundle, items=ITEMS, settings={"ledger": ledger_at} | quick)
