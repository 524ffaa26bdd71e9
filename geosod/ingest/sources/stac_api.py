"""A STAC API: asked for items whose `updated` is new, or where it cannot filter, for windows of `datetime`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit, urlunsplit

from geosod.errors import SceneError, SourceError
from geosod.ingest.config import IngestConfig
from geosod.ingest.found import Found, instant
from geosod.ingest.sources.source import Poll
from geosod.ingest.sources.stac_items import found_of, hosts_of, scene_ref
from geosod.scene import SceneRef
from geosod.storage.api import ServiceError, ask
from geosod.storage.uris import origin

#: Pages of one poll; a service that never ends is stopped.
MAX_PAGES = 100_000
#: Pages without an item that are followed one after the other.
MAX_EMPTY_PAGES = 20
#: How a time is compared, in the order in which it is tried. Some services keep `updated` as text, others as a time.
_LITERALS = ("updated >= '{}'", "updated >= TIMESTAMP('{}')")
#: What services say to a comparison that they cannot make.
_REFUSALS = (400, 422, 500, 501)
#: What services say where a page is larger than they, or what they run in, can answer.
_TOO_LARGE = (413, 502, 504)
#: Pages are not made smaller than this.
MIN_PAGE = 10
_FILTERS = ("/item-search#filter", "/conf/filter", "/ogcapi-features-3/")


class StacApi:
    """A STAC API, see `geosod.ingest.sources.source.Source`.

    Args:
        config: the settings; `source` is the landing page.
        asset: asset of items to read.
        landing: its document.
    """

    lists_all = False

    def __init__(self, config: IngestConfig, *, asset: str | None, landing: Mapping[str, Any]) -> None:
        self._config, self._asset = config, asset
        self._root = str(config.source).rstrip("/")
        self._hosts = hosts_of(config)
        conforms = landing.get("conformsTo")
        classes = [str(one) for one in conforms] if isinstance(conforms, list) else []
        self.filters = any(name in one for one in classes for name in _FILTERS)
        links = landing.get("links")
        search = [x for x in links if isinstance(x, Mapping) and x.get("rel") == "search"] if links else []
        href = str(search[0].get("href")) if search else f"{self._root}/search"
        self._search = self._own(urljoin(f"{self._root}/", href))
        self._literal, self._literal_works = _LITERALS[0], False
        self._limit = config.page_size
        self._latest: str | None = None
        self._date: str | None = None

    def poll(self, poll: Poll) -> Iterator[Found]:
        """See `Source`."""
        self._latest = self._date = None
        self._choose_literal(poll)
        for feature in self._features(self._query(poll), poll):
            one = self._found(feature, poll)
            if one is None:
                continue
            self._latest = max(filter(None, (self._latest, one.updated)), default=None)
            yield one

    def cursor(self) -> str | None:
        """The latest `updated`, but no later than the service's own clock: one that lies in the future is a slip."""
        if self._latest is None or self._date is None:
            return self._latest
        return min(self._latest, self._date)

    def current(self, found: Found) -> tuple[Found, SceneRef] | None:
        """See `Source`. Links are signed anew with every answer."""
        try:
            item = ask(found.address).value
        except ServiceError as error:
            if error.http_status in (404, 410):
                return None
            raise SourceError(str(error)) from error
        if not isinstance(item, Mapping) or item.get("type") != "Feature":
            raise SceneError(f"{found.address}: answers with no STAC item; see what the API gives there")
        one = found_of(item, found.collection, found.address)
        return one, scene_ref(found.address, item, one, asset=self._asset, config=self._config, hosts=self._hosts)

    # --- the request

    def _query(self, poll: Poll) -> dict[str, Any]:
        config = self._config
        query: dict[str, Any] = {"limit": self._limit}
        if config.collections:
            query["collections"] = list(config.collections)
        if config.bbox is not None:
            query["bbox"] = list(config.bbox)
        clauses = [f"({config.filter})"] if config.filter else []
        if clauses and not self.filters:
            raise SourceError(f"{self._root}: cannot filter (its conformsTo says so); remove --filter")
        if poll.start or poll.end:
            query["datetime"] = f"{poll.start or '..'}/{poll.end or '..'}"
        elif not poll.everything and self.filters:
            start = _earlier(poll.cursor, config.poll_overlap) or config.since
            clauses += [self._literal.format(start)] if start else []
        elif not poll.everything or config.since:
            query["datetime"] = f"{self._window(poll)}/.."
        if clauses:
            query |= {"filter": " AND ".join(clauses), "filter-lang": "cql2-text"}
        return query

    def _window(self, poll: Poll) -> str:
        """The start of the acquisitions that are listed without a filter."""
        since = self._config.since
        if poll.cursor is None and since is not None:
            return since
        # The clock of this machine: an error of hours is small against days.
        start = dt.datetime.now(dt.UTC) - dt.timedelta(days=self._config.lookback_days)
        return max(instant(start.isoformat()) or "", since or "")

    def _choose_literal(self, poll: Poll) -> None:
        """Compare times as the service can, which the first comparison shows."""
        if self._literal_works or "updated >=" not in str(self._query(poll).get("filter", "")):
            return
        for literal in _LITERALS:
            self._literal = literal
            try:
                ask(_with_query(self._search, self._query(poll) | {"limit": 1}), attempts=1)
            except ServiceError as error:
                if error.http_status in _REFUSALS:
                    continue
                break  # an outage, which the poll itself waits for
            else:
                self._literal_works = True
                return
        self._literal = _LITERALS[0]

    # --- the pages

    def _features(self, query: dict[str, Any], poll: Poll) -> Iterator[Mapping[str, Any]]:
        """The items of all pages. Where a service cannot answer the first page, smaller ones are asked for."""
        begun = False
        while True:
            try:
                for feature in self._pages(query | {"limit": self._limit}, poll):
                    begun = True
                    yield feature
                return
            except SourceError as error:
                too_large = getattr(error.__cause__, "http_status", None) in _TOO_LARGE
                if begun or not too_large or self._limit <= MIN_PAGE:
                    raise
            self._limit = max(MIN_PAGE, self._limit // 4)
            poll.say(f"{self._root}: cannot answer a page of this size; pages of {self._limit} items are asked for")

    def _pages(self, query: dict[str, Any], poll: Poll) -> Iterator[Mapping[str, Any]]:
        # By GET, which takes filters as text everywhere; by POST many services take them as JSON only.
        url: str = _with_query(self._search, query)
        body: dict[str, Any] | None = None
        seen: set[str] = set()
        empty = 0
        for _ in range(MAX_PAGES):
            mark = json.dumps([url, body], sort_keys=True)
            if mark in seen:
                raise SourceError(f"{self._root}: its link to the next page leads back to an earlier one; report that")
            seen.add(mark)
            page = self._page(url, body)
            features = page["features"]
            empty = 0 if features else empty + 1
            for feature in features:
                if isinstance(feature, Mapping):
                    yield feature
                else:
                    poll.say(f"{self._root}: an entry of a page is no item; it is left out")
            following = self._next(page, url, body)
            if following is None:
                return
            if empty > MAX_EMPTY_PAGES:
                raise SourceError(f"{self._root}: {empty} pages without an item, each with a next one; report that")
            url, body = following
        raise SourceError(f"{self._root}: more than {MAX_PAGES} pages; narrow the search, or raise --page-size")

    def _page(self, url: str, body: dict[str, Any] | None) -> Mapping[str, Any]:
        try:
            answer = ask(url, body)
        except SceneError as error:
            raise SourceError(f"{error}; what is known already is processed, and the rest asked for again") from error
        page = answer.value
        if not isinstance(page, Mapping) or not isinstance(page.get("features"), list):
            raise SourceError(f"{self._root}: a search answers with no item collection; check the address of the API")
        if self._date is None and answer.date is not None:
            self._date = instant(dt.datetime.fromtimestamp(answer.date, dt.UTC).isoformat())
        return page

    def _next(
        self, page: Mapping[str, Any], url: str, body: dict[str, Any] | None
    ) -> tuple[str, dict[str, Any] | None] | None:
        """The request for the next page, as the link states it: method, body, and whether that is merged."""
        links = page.get("links")
        found = (
            [x for x in links if isinstance(x, Mapping) and x.get("rel") == "next"] if isinstance(links, list) else []
        )
        if not found or not isinstance(found[0].get("href"), str):
            return None
        link = found[0]
        target = self._own(urljoin(url, link["href"]))
        if str(link.get("method", "GET")).upper() != "POST":
            return target, None
        more = link.get("body")
        merged = (dict(body or {}) if link.get("merge") else {}) | (dict(more) if isinstance(more, Mapping) else {})
        return target, merged or dict(body or {})

    def _own(self, target: str) -> str:
        """An address of the API. Behind a proxy many an API calls itself http; other hosts are not asked."""
        parts, root = urlsplit(target), urlsplit(self._root)
        if parts.hostname == root.hostname and parts.scheme == "http" and root.scheme == "https":
            target = urlunsplit(parts._replace(scheme=root.scheme, netloc=root.netloc))
        if origin(target) != origin(self._root):
            raise SourceError(f"{self._root}: links to a page on another host, {target[:200]}; give that as the source")
        return target

    def _found(self, feature: Mapping[str, Any], poll: Poll) -> Found | None:
        item, collection = feature.get("id"), feature.get("collection")
        if not isinstance(item, str) or not item or not isinstance(collection, str) or not collection:
            poll.say(f"{self._root}: an item without id or collection is left out: {str(item)[:100]!r}")
            return None
        # Not its own link: that may lead to another host, and APIs behind proxies get it wrong.
        address = f"{self._root}/collections/{quote(collection, safe='')}/items/{quote(item, safe='')}"
        return found_of(feature, collection, address)


def _earlier(cursor: str | None, seconds: float) -> str | None:
    if cursor is None:
        return None
    return instant((dt.datetime.fromisoformat(cursor) - dt.timedelta(seconds=seconds)).isoformat())


def _with_query(url: str, query: Mapping[str, Any]) -> str:
    parts = urlsplit(url)
    flat = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in query.items()}
    return urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), *flat.items()])))
