"""A static STAC catalogue or collection, walked from its root along its links; or an item collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from geosod.errors import ConfigError, GeosodError, SceneError, SourceError
from geosod.ingest.config import IngestConfig
from geosod.ingest.found import Found
from geosod.ingest.sources.source import Poll
from geosod.ingest.sources.stac_items import found_of, hosts_of, scene_ref
from geosod.scene import SceneRef
from geosod.scenes.stac import load, resolved_link
from geosod.storage.retry import http_status

#: Documents of one catalogue.
MAX_DOCUMENTS = 200_000


class Catalog:
    """A static catalogue, see `geosod.ingest.sources.source.Source`. It has no search, so all of it is read."""

    lists_all = True

    def __init__(self, config: IngestConfig, *, asset: str | None) -> None:
        self._config, self._asset = config, asset
        self._root, self._hosts = str(config.source), hosts_of(config)

    def poll(self, poll: Poll) -> Iterator[Found]:
        """See `Source`. A branch that cannot be read ends the poll, as what is below it would seem to be gone."""
        waiting, seen = [self._root], {self._root}
        while waiting:
            address = waiting.pop()
            document = self._load(address)
            kind = document["type"]
            if kind == "Feature":
                yield from self._wanted(address, document, poll)
                continue
            if kind not in ("Catalog", "Collection"):
                raise SourceError(f"{address}: is of type {str(kind)[:60]!r}; expected a catalogue, collection or item")
            for href in _links(document):
                try:
                    target = resolved_link(address, href)
                except SceneError as error:
                    poll.say(str(error))
                    continue
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
            if len(seen) > MAX_DOCUMENTS:
                raise SourceError(f"{self._root}: links to more than {MAX_DOCUMENTS} documents; give a part of it")

    def cursor(self) -> None:
        """All is read each time."""

    def current(self, found: Found) -> tuple[Found, SceneRef] | None:
        """See `Source`."""
        try:
            item = load(found.address)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(f"{found.address}: cannot be read: {error.strerror or error}") from error
        except SceneError as error:
            if _is_missing(error):
                return None
            raise SourceError(str(error)) from error
        if item["type"] != "Feature":
            raise SceneError(f"{found.address}: is no STAC item any more")
        one = found_of(item, found.collection, found.address)
        return one, scene_ref(found.address, item, one, asset=self._asset, config=self._config, hosts=self._hosts)

    def _wanted(self, address: str, item: Mapping[str, Any], poll: Poll) -> Iterator[Found]:
        collection = item.get("collection")
        name = collection if isinstance(collection, str) and collection else self._root
        if not isinstance(item.get("id"), str) or not item["id"]:
            poll.say(f"{address}: this item has no id; it is left out")
            return
        if self._config.collections and name not in self._config.collections:
            return
        one = found_of(item, name, address)
        bounds = item.get("bbox")
        if self._config.bbox is not None and not _touch(bounds, self._config.bbox):
            return
        since, acquired = self._config.since, one.acquired or ""
        if since is not None and (one.updated or acquired) < since:
            return
        if (poll.start and acquired < poll.start) or (poll.end and acquired > poll.end):
            return
        yield one

    def _load(self, address: str) -> Mapping[str, Any]:
        try:
            return load(address)
        except (GeosodError, OSError) as error:
            if isinstance(error, ConfigError):
                raise
            raise SourceError(f"{address}: this part of the catalogue cannot be read: {error}") from error


def _links(document: Mapping[str, Any]) -> Iterator[str]:
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("rel") in ("item", "child") and isinstance(link.get("href"), str):
            yield link["href"]


def _touch(bounds: Any, wanted: tuple[float, float, float, float]) -> bool:
    """Whether two boxes in degrees touch, either of which may cross the antimeridian; True where one is not known."""
    if not isinstance(bounds, list) or len(bounds) not in (4, 6) or not all(isinstance(v, int | float) for v in bounds):
        return True
    west, south, east, north = bounds[0], bounds[1], bounds[len(bounds) // 2], bounds[len(bounds) // 2 + 1]
    if south > wanted[3] or north < wanted[1]:
        return False
    return any(a[0] <= b[1] and b[0] <= a[1] for a in _spans(west, east) for b in _spans(wanted[0], wanted[2]))


def _spans(west: float, east: float) -> list[tuple[float, float]]:
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]


def _is_missing(error: BaseException | None) -> bool:
    """Whether an error of `load` says that there is no such document."""
    while error is not None:
        if http_status(error) in (404, 410) or "HTTP response code: 404" in str(error) or "NoSuchKey" in str(error):
            return True
        error = error.__cause__
    return False
