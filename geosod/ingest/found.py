"""What a source has: one version of an item, and the keys by which it is known."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geosod.config import digest
from geosod.errors import identity


@dataclass(frozen=True, slots=True)
class Found:
    """A version of an item.

    Attributes:
        collection: the collection of the item; for files the folder or prefix.
        item: identifier of the item; for files the path below the folder or prefix.
        version: its `updated` and checksums, or a digest of what it says.
        address: where the item is read again before it is processed; without credentials and query.
        updated: instant of `updated` as UTC text of fixed width, which sorts by time; None without.
        acquired: `datetime` of the item as such text; None without.
    """

    collection: str
    item: str
    version: str
    address: str
    updated: str | None = None
    acquired: str | None = None

    @property
    def scene_id(self) -> str:
        """Identifier of the scene in the dataset: that of the item, and a digest, as collections may share names."""
        from geosod.scenes.sources import safe_id

        text = json.dumps([self.collection, self.item])
        return f"{safe_id(self.item)}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    def key(self, model_digest: str, config_digest: str) -> str:
        """What makes a result this and no other: item, version, model and settings."""
        return digest(
            {
                "collection": self.collection,
                "item": self.item,
                "version": self.version,
                "model": model_digest,
                "settings": config_digest,
            }
        )


def instant(text: object) -> str | None:
    """A time in RFC 3339 as UTC text of fixed width, which sorts by time; None where it is none."""
    try:
        time = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    time = time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ").zfill(27)


def version_of(item: Mapping[str, Any]) -> str:
    """The version of a STAC item: `updated` and its checksums, where it has them; else a digest of what it says.

    Some catalogues replace a file without changing `updated`, which then shows by its checksum. Signatures of links
    change with every answer, so queries of links do not count.
    """
    properties = item.get("properties")
    updated = instant(properties.get("updated")) if isinstance(properties, Mapping) else None
    assets = item.get("assets")
    values = assets.values() if isinstance(assets, Mapping) else ()
    sums = sorted(str(a["file:checksum"]) for a in values if isinstance(a, Mapping) and a.get("file:checksum"))
    checksum = [f"checksum {digest({'sums': sums})[:32]}"] if sums else []
    if updated is not None or checksum:
        return " ".join([*([updated] if updated is not None else []), *checksum])
    said = {name: _plain(item.get(name)) for name in ("geometry", "properties", "assets")}
    return f"content {digest(said)[:32]}"


def _plain(value: Any) -> Any:
    """A JSON value whose links have no query."""
    if isinstance(value, Mapping):
        return {str(k): identity(v) if k == "href" and isinstance(v, str) else _plain(v) for k, v in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
