"""What the ledger hands out: leases of versions, and counts of what was new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geosod.ingest.found import Found


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to process a version and to commit it, until it ends.

    Attributes:
        id: of its row.
        key: of the version, see `Found.key`.
        found: the version.
        scene_id: identifier of its scene in the dataset.
        attempts: how often it has failed.
        token: what proves the lease.
    """

    id: int
    key: str
    found: Found
    scene_id: str
    attempts: int
    token: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """What of the versions that a source has was new: numbers of versions."""

    new: int = 0
    known: int = 0
    outdated: int = 0

    def __add__(self, other: Discovery) -> Discovery:
        return Discovery(self.new + other.new, self.known + other.known, self.outdated + other.outdated)


def found_of_row(row: Any) -> Found:
    """The version of a row of the ledger."""
    return Found(row.collection, row.item, row.version, row.address, row.updated, row.acquired)
