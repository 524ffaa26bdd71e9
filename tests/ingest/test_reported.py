"""What users of clients, services and pipelines for STAC have reported as bugs, tried on ours."""

from __future__ import annotations

import pytest

from geosod.errors import SourceError
from geosod.ingest.config import IngestConfig
from geosod.ingest.sources.stac_api import StacApi
from geosod.running.events import Note
from tests.ingest.api_server import ApiFault
from tests.ingest.test_faults import fill


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
