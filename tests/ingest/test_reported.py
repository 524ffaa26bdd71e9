"""What users of clients, services and pipelines for STAC have reported as bugs, tried on ours."""

from __future__ import annotations

from typing import Any

import pytest

from geosod.errors import SourceError
from geosod.ingest.config import IngestConfig
from geosod.ingest.sources.stac_api import StacApi
from geosod.running.events import Note
from tests.ingest.api_server import ApiFault
from tests.ingest.conftest import image
from tests.ingest.test_faults import fill
from tests.remote.conftest import aws, s3, s3_service

assert aws and s3 and s3_service


def made(source: str, search: str) -> StacApi:
    landing = {"links": [{"rel": "search", "href": search}], "conformsTo": []}
    return StacApi(IngestConfig(source=source), asset=None, landing=landing)


def test_an_api_behind_a_proxy_that_calls_itself_http_is_asked_by_https() -> None:
    """stac-fastapi-pgstac 87, stac-fastapi 301: links are http behind a proxy with https."""
    api = made("https://stac.example.org/v1/", "http://stac.example.org/v1/search")
    assert api._search == "https://stac.example.org/v1/search"
    page = {"links": [{"rel": "next", "href": "http://stac.example.org/v1/search?token=2"}]}
    assert api._next(page, api._search, None) == ("https://stac.example.org/v1/search?token=2", None)


def test_a_next_link_to_an_inner_host_is_named() -> None:
    """pystac-client 850, stac4s 334: the next link has the name of a machine behind the proxy."""
    api = made("https://stac.example.org/v1", "https://stac.example.org/v1/search")
    with pytest.raises(SourceError, match="another host, http://stac-app:8082"):
        api._next({"links": [{"rel": "next", "href": "http://stac-app:8082/search?token=2"}]}, api._search, None)


def test_pages_that_a_service_cannot_answer_are_made_smaller(api, files, ingester, monkeypatch) -> None:
    """earth-search 17: answers over 6 MB are a 502 for ever, however often they are asked for."""
    monkeypatch.setattr("geosod.storage.api.backoff", lambda _: 0.0)
    fill(api, files, 3)
    notes: list[str] = []
    one = ingester(
        api.url,
        hosts=(files.url,),
        page_size=200,
        on_event=lambda e: notes.append(e.text) if isinstance(e, Note) else 0,
    )
    api.fault = lambda _, path: ApiFault(502) if path == "/search" and int(api.requests[-1][2]["limit"]) > 20 else None
    assert one.discover().new == 3 and "pages of 12 items" in notes[-1]
    api.fault = lambda _, path: ApiFault(502) if path == "/search" else None
    with pytest.raises(SourceError, match="status 502"):
        one.discover()


def test_next_links_that_never_end_are_stopped(api, files, ingester) -> None:
    """pystac-client 334: a next link on an empty last page, each with another token."""
    one = ingester(api.url, hosts=(files.url,))
    tokens = iter(range(10_000))
    api.page = lambda page: page | {
        "features": [], "links": [{"rel": "next", "href": f"/search?token=0&n={next(tokens)}"}]
    }  # fmt: skip
    with pytest.raises(SourceError, match="pages without an item"):
        one.discover()


def test_items_that_move_between_pages_while_they_are_read_are_found(api, files, ingester) -> None:
    """stac-server 117: pages by position repeat an item when one comes before them, and skip one when one goes."""
    fill(api, files, 5)
    one = ingester(api.url, hosts=(files.url,), page_size=2)
    first, kept = iter([True]), dict(api.items)

    def page(found: dict[str, Any]) -> dict[str, Any]:
        if next(first, False):  # the item that the second page would begin with moves to the first
            del api.items["c", "i0"]
        return found

    api.page = page
    assert one.once().committed == 3, "i0 is gone by then, and i2 was skipped"
    api.items = {("c", "late"): kept["c", "i4"] | {"id": "late"}} | kept
    assert one.once().committed == 3 and one.once().discovered == 0


def test_an_item_that_is_listed_several_times_is_processed_once(api, files, ingester) -> None:
    """dagster 26753: requests of the same key in one evaluation of a sensor each start a run."""
    fill(api, files, 2)
    one = ingester(api.url, hosts=(files.url,))
    api.page = lambda page: page | {"features": page["features"] * 3}
    result = one.once()
    assert (result.discovered, result.committed) == (2, 2) and one.once().discovered == 0


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"datetime": None, "start_datetime": "2024-05-03T00:00:00Z", "end_datetime": "2024-05-04T00:00:00Z"}, "05-03"),
        ({"start_datetime": "2024-05-03T00:00:00Z", "end_datetime": "2024-05-04T00:00:00Z"}, "05-03"),
        ({"datetime": "2024-05-03T10:00:00"}, "05-03"),
        ({}, "unknown"),
    ],
    ids=["range", "no-datetime", "no-zone", "nothing"],
)
def test_times_that_are_ranges_or_incomplete_are_taken(properties, expected, api, files, ingester, tmp_path) -> None:
    """pgstac 425, stac-server 608, rustac 837 and DroneDB Registry 328: only some items have a datetime with a zone."""
    api.put("c", "a", image(files, "a.tif"))
    about = api.items["c", "a"]["properties"]
    del about["datetime"]
    about |= properties
    api.items["c", "a"]["bbox"] = [[4, 52, 0], [5, 53, 0]]
    result = ingester(api.url, hosts=(files.url,)).once()
    assert result.committed == 1, result
    (file,) = (tmp_path / "out" / "detections").rglob("*.parquet")
    assert file.parent.name.endswith(expected)


def test_an_api_that_takes_no_post_is_asked_by_get(api, files, ingester) -> None:
    """pystac-client 846: after the first page a client goes on by POST, which the service answers with 405."""
    fill(api, files, 5)
    api.fault = lambda method, _: ApiFault(405) if method == "POST" else None
    assert ingester(api.url, hosts=(files.url,), page_size=2).once().committed == 5


def test_a_service_that_calls_throttling_forbidden_is_asked_again_in_the_next_round(api, files, ingester) -> None:
    """earth-search 19: a 403 for some of many requests."""
    fill(api, files, 3)
    one = ingester(api.url, hosts=(files.url,), page_size=2)
    answers = iter([ApiFault(), ApiFault(403)])
    api.fault = lambda _, path: next(answers, None) if path == "/search" else None
    result = one.once()
    assert result.exit_code == 3 and result.committed == 2 and "403" in result.problems[0]
    assert one.once().committed == 1


def test_who_pays_is_named_where_a_bucket_refuses(s3, ingester, monkeypatch) -> None:
    """stactools 267, sentinelhub-py 43: a requester-pays bucket says no more than that access is denied."""
    from botocore.exceptions import ClientError

    from geosod.storage import files as storage

    def refused() -> Any:
        raise ClientError({"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "ListObjectsV2")

    monkeypatch.setattr(storage, "access", refused)
    result = ingester("s3://images/in/").once()
    assert "AWS_REQUEST_PAYER=requester" in result.problems[0]
