"""What every source can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from geosod.ingest.found import Found
from geosod.scene import SceneRef


@dataclass(frozen=True, slots=True)
class Poll:
    """What to ask a source for.

    Attributes:
        cursor: latest `updated` that was seen; None asks from the beginning.
        everything: list all that there is, whatever the cursor.
        start, end: acquisition times (RFC 3339) to list between, instead of asking for what is new.
        is_known: whether a version was discovered before; a source may do less for these.
        say: called with what is worth reporting.
    """

    cursor: str | None = None
    everything: bool = False
    start: str | None = None
    end: str | None = None
    is_known: Callable[[Found], bool] = lambda _: False
    say: Callable[[str], None] = lambda _: None


class Source(Protocol):
    """A source of versions of items."""

    @property
    def lists_all(self) -> bool:
        """Whether every poll lists everything."""
        ...

    def poll(self, poll: Poll) -> Iterator[Found]:
        """The versions that are there, in any order.

        Raises:
            SourceError: it cannot be asked; what came before stays valid, but is not all.
        """
        ...

    def cursor(self) -> str | None:
        """After a poll that ended: what the next one may start from; None without `updated`."""
        ...

    def current(self, found: Found) -> tuple[Found, SceneRef] | None:
        """The item as it is now, with its scene; None where it is gone.

        Raises:
            SourceError: the source cannot be asked.
            SceneError: the item is unusable.
        """
        ...
