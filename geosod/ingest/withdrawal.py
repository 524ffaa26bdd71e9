"""Items that are gone from their source: their scenes are kept, and marked."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Collection

from geosod.errors import GeosodError, OutputError
from geosod.ingest.lease import Lease
from geosod.ingest.ledger import Ledger
from geosod.ingest.sources.source import Source
from geosod.ingest.tables import BACK, MARKED, THERE
from geosod.output.folder import OutputFolder, parse_item
from geosod.output.stac_item import timestamp

#: Where more than this share of the scenes seems to be gone, and more than MIN_GONE, the source is not believed.
MAX_SHARE, MIN_GONE = 0.5, 10


def mark_withdrawn(
    ledger: Ledger,
    folder: OutputFolder,
    source: Source,
    name: str,
    seen: Collection[tuple[str, str]],
    say: Callable[[str], None],
) -> int:
    """Mark the scenes whose items a complete listing does not have, and which the source does not have by name either.

    Args:
        ledger, folder: of the dataset.
        source: is asked for each of them.
        name: digest of the source.
        seen: collection and identifier of every item of the listing.
        say: called with what is worth reporting.

    Returns:
        Number of scenes that were marked.

    Raises:
        SourceError: the source cannot be asked.
        OutputError: an item cannot be written.
    """
    present = ledger.upkeep.present(name)
    absent = [one for one in present if (one.found.collection, one.found.item) not in seen]
    gone = [one for one in absent if _is_gone(source, one, say)]
    if len(gone) > max(MIN_GONE, MAX_SHARE * len(present)):
        say(
            f"{len(gone)} of {len(present)} items seem to be gone from the source; none is marked, as more than half "
            "at once is most likely an error there"
        )
        return 0
    for one in gone:
        change_mark(folder, one, timestamp(dt.datetime.now(dt.UTC)))
        ledger.upkeep.set_withdrawn(one.id, MARKED)
    return len(gone)


def unmark_returned(ledger: Ledger, folder: OutputFolder, name: str) -> None:
    """Remove the marks of scenes whose items have come back as they were."""
    for one in ledger.upkeep.present(name, BACK):
        change_mark(folder, one, None)
        ledger.upkeep.set_withdrawn(one.id, THERE)


def _is_gone(source: Source, one: Lease, say: Callable[[str], None]) -> bool:
    try:
        return source.current(one.found) is None
    except GeosodError as error:
        say(f"{one.scene_id}: not known whether it is gone: {error}")
        return False


def change_mark(folder: OutputFolder, one: Lease, moment: str | None) -> None:
    """Set or remove the mark in the item of a scene, where it is still that version's.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder.item(one.scene_id)

    def changed(content: bytes | None) -> bytes | None:
        item = parse_item(content)
        if item is None or item["properties"].get("geosod:ingest_key") != one.key:
            return content
        properties = item["properties"]
        for mark in ("geosod:withdrawn", "deprecated"):
            properties.pop(mark, None)
        if moment is not None:
            properties |= {"geosod:withdrawn": moment, "deprecated": True}
        return (json.dumps(item, indent=1, ensure_ascii=False) + "\n").encode()

    try:
        folder.place.change(path, changed)
    except OSError as error:
        raise OutputError(f"{folder.place.at(path)}: cannot be written ({error}); {folder.place.remedy}") from error
