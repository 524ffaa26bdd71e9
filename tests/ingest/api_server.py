"""A small STAC API on loopback, in memory: item search with paging and a filter on `updated`, items, and faults.

It implements the part of STAC API 1.0 that an ingestion uses, and is no implementation of the specification.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from tests.loopback import listening

_SINCE = re.compile(r"updated >= (TIMESTAMP\()?'([^']+)'")


@dataclass(frozen=True)
class ApiFault:
    """What happens to a request instead of its answer: a status, an answer cut in half, a wait, or other bytes."""

    status: int = 200
    half: bool = False
    delay: float = 0.0
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def stac_item(collection: str, item: str, href: str, *, asset: dict[str, Any] | None = None, **properties: Any) -> Any:
    """An item with one image; `asset`: further members of that."""
    image = {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"]}
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": item, "collection": collection, "geometry": None,
        "properties": {"datetime": "2024-05-01T10:00:00Z"} | properties, "links": [],
        "assets": {"image": image | (asset or {})},
    }  # fmt: skip


@dataclass
class Api:
    """The items, what was asked for, and faults. `fault` is called with method and path of each request."""

    filters: bool = True
    #: Whether `updated` is compared with times, else with text.
    typed: bool = False
    items: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    fault: Callable[[str, str], ApiFault | None] = lambda *_: None
    #: Changes an item on its way out, such as to sign its links.
    outgoing: Callable[[dict[str, Any]], dict[str, Any]] = lambda item: item
    #: Changes a page on its way out.
    page: Callable[[dict[str, Any]], dict[str, Any]] = lambda page: page
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    ticks: int = 0

    def put(self, collection: str, item: str, href: str, *, updated: bool | str = True, **properties: Any) -> None:
        """Add or change an item; `updated` grows with every change."""
        with self.lock:
            self.ticks += 1
            if updated:
                clock = f"2024-06-01T{self.ticks // 3600:02}:{self.ticks // 60 % 60:02}:{self.ticks % 60:02}Z"
                properties |= {"updated": clock if updated is True else updated}
            self.items[collection, item] = stac_item(collection, item, href, **properties)

    def remove(self, collection: str, item: str) -> None:
        with self.lock:
            del self.items[collection, item]

    def searches(self) -> list[dict[str, Any]]:
        return [body for _, path, body in self.requests if path == "/search"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle("GET", dict(parse_qsl(urlsplit(self.path).query)))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._handle("POST", body)

    def _handle(self, method: str, query: dict[str, Any]) -> None:
        api, path = self.api, urlsplit(self.path).path.rstrip("/") or "/"
        with api.lock:
            api.requests.append((method, path, query))
            fault = api.fault(method, path)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.status >= 300 or fault.body is not None:
                self._send(fault.status, fault.body or b"{}", fault.headers)
                return
        value = self._value(path, query)
        if method == "POST" and query.get("filter-lang", "cql2-json") != "cql2-json":
            self._send(400, b'{"detail": "filter-lang must be cql2-json"}', {})
            return
        if path == "/search" and (literal := _SINCE.search(query.get("filter", ""))) and bool(literal[1]) != api.typed:
            self._send(500, b'{"detail": "operator does not exist: text >= timestamp"}', {})
            return
        content = json.dumps(value if value is not None else {"code": "NotFound"}).encode()
        self._send(200 if value is not None else 404, content, {}, half=fault is not None and fault.half)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, half: bool = False) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/geo+json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if half else content)
            self.close_connection = half
        except (BrokenPipeError, ConnectionError):
            self.close_connection = True

    def _value(self, path: str, query: dict[str, Any]) -> Any:
        api = self.api
        if path == "/":
            links = [{"rel": "search", "href": f"{api.url}/search", "method": m} for m in ("GET", "POST")]
            classes = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
            classes += ["https://api.stacspec.org/v1.0.0/item-search#filter"] if api.filters else []
            return {"type": "Catalog", "id": "api", "stac_version": "1.0.0", "conformsTo": classes, "links": links}
        if path == "/search":
            return api.page(self._search(query))
        match = re.fullmatch(r"/collections/([^/]+)/items/([^/]+)", path)
        with api.lock:
            item = api.items.get((unquote(match[1]), unquote(match[2]))) if match else None
        return None if item is None else api.outgoing(json.loads(json.dumps(item)))

    def _search(self, query: dict[str, Any]) -> dict[str, Any]:
        api = self.api
        with api.lock:
            found = [json.loads(json.dumps(item)) for item in api.items.values()]
        collections = query.get("collections")
        wanted = collections.split(",") if isinstance(collections, str) else collections
        since = _SINCE.search(query.get("filter", ""))
        start, _, end = query.get("datetime", "../..").partition("/")
        found = [
            item for item in found
            if (not wanted or item["collection"] in wanted)
            and (since is None or _normal(item["properties"].get("updated", "")) >= since[2])
            and (start == ".." or _normal(item["properties"]["datetime"]) >= _normal(start))
            and (end in ("..", "") or _normal(item["properties"]["datetime"]) <= _normal(end))
        ]  # fmt: skip
        at, limit = int(query.get("token", 0)), int(query.get("limit", 10))
        links = []
        if at + limit < len(found):
            link: dict[str, Any] = {"rel": "next", "href": f"{api.url}/search"}
            if self.command == "POST":
                link |= {"method": "POST", "merge": True, "body": {"token": at + limit}}
            else:
                link["href"] += "?" + urlencode(query | {"token": at + limit})
            links.append(link)
        return {
            "type": "FeatureCollection", "links": links,
            "features": [api.outgoing(item) for item in found[at : at + limit]],
        }  # fmt: skip


def _normal(text: str) -> str:
    return text.replace("Z", ".000000Z") if "." not in text else text


@contextmanager
def serving_api(**settings: Any) -> Iterator[Api]:
    """Serve an API on a free port of loopback."""
    api = Api(**settings)
    with listening(_Handler, api=api) as api.url:
        yield api
