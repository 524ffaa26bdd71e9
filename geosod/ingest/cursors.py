"""How far sources were asked, as the ledger has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from geosod.ingest.database import Database
from geosod.ingest.tables import cursors


@dataclass(frozen=True, slots=True)
class Cursors:
    """The cursors of the sources of a dataset.

    Attributes:
        database, dataset: of the ledger.
    """

    database: Database
    dataset: str

    def get(self, source: str) -> tuple[str | None, float | None]:
        """How far a source was asked, and seconds since all of it was listed; None where it never was."""

        def action(connection: Connection, now: float) -> tuple[str | None, float | None]:
            row = connection.execute(select(cursors).where(*_cursor(self.dataset, source))).first()
            if row is None:
                return None, None
            return row.cursor, None if row.listed_at is None else now - row.listed_at

        return self.database.read(action)

    def polled(self, source: str, *, cursor: str | None = None, listed: bool = False, error: str | None = None) -> None:
        """Record that a source was asked; a cursor never goes back."""

        def action(connection: Connection, now: float) -> None:
            row = connection.execute(select(cursors).where(*_cursor(self.dataset, source))).first()
            new = max(filter(None, (cursor, row.cursor if row else None)), default=None)
            values: dict[str, Any] = {"cursor": new, "error": error}
            values |= {} if error else {"polled_at": now}
            values |= {"listed_at": now} if listed else {}
            if row is None:
                connection.execute(insert(cursors).values(dataset=self.dataset, source=source, **values))
            else:
                connection.execute(update(cursors).where(*_cursor(self.dataset, source)).values(values))

        self.database.change(action)


def _cursor(dataset: str, source: str) -> tuple[Any, ...]:
    return cursors.c.dataset == dataset, cursors.c.source == source
