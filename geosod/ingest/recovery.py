"""A ledger that was lost, made again from the dataset."""

from __future__ import annotations

from typing import Any

from geosod.ingest.ledger import Ledger
from geosod.ingest.tables import MARKED, THERE
from geosod.output.folder import OutputFolder, read_items


def recover(ledger: Ledger, folder: OutputFolder, *, source: str) -> int:
    """Enter the committed scenes of a dataset into a ledger that does not know them; the number of them.

    What waited or was dead is not in a dataset; it is discovered again, as the cursors are lost, too.

    Args:
        ledger: of the dataset.
        folder: the dataset.
        source: digest of the source that they are counted to.

    Raises:
        LedgerError: the ledger cannot be used.
    """
    rows = [row for item in read_items(folder) if (row := _row(item, source)) is not None]
    return ledger.record(rows)


def _row(item: dict[str, Any], source: str) -> dict[str, Any] | None:
    properties = item["properties"]
    if not isinstance(properties.get("geosod:ingest_key"), str):
        return None
    return {
        "key": properties["geosod:ingest_key"],
        "source": source,
        "collection": str(properties.get("geosod:ingest_collection")),
        "item": str(properties.get("geosod:ingest_item")),
        "version": str(properties.get("geosod:ingest_version")),
        "scene_id": str(item["id"]),
        "address": str(properties.get("geosod:ingest_address")),
        "updated": properties.get("geosod:ingest_updated"),
        "acquired": None,
        "withdrawn": MARKED if properties.get("geosod:withdrawn") else THERE,
        "indexed": 1,
    }
