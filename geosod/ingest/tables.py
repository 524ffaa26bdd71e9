"""The tables of a ledger."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

#: States of a version. Those after "leased" are final, but for "failed", which is tried again.
STATES = ("discovered", "leased", "failed", "committed", "dead", "superseded")
#: How a notification stands.
NOT_ASKED, TO_SEND, SENT, GIVEN_UP = 0, 1, 2, 3

metadata = MetaData()

#: Whether an item is gone from its source: the scene is to be marked, is marked, or has come back since.
THERE, MARKED, BACK = 0, 1, 2

#: One row for each version of an item, model and settings. Times are seconds by the ledger's own clock.
versions = Table(
    "geosod_ingest_versions",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("dataset", String(1024), nullable=False),
    Column("key", String(64), nullable=False),
    Column("source", String(64), nullable=False),
    Column("collection", Text, nullable=False),
    Column("item", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("scene_id", String(160), nullable=False),
    Column("address", Text, nullable=False),
    Column("updated", String(27)),
    Column("acquired", String(27)),
    Column("state", String(16), nullable=False),
    Column("withdrawn", Integer, nullable=False, default=0),
    Column("priority", Integer, nullable=False, default=0),
    Column("attempts", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    Column("not_before", Double, nullable=False, default=0.0),
    Column("error", Text),
    Column("token", String(64)),
    Column("lease_until", Double),
    Column("lease_seconds", Double),
    Column("discovered_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("indexed", Integer, nullable=False, default=1),
    Column("notice", Integer, nullable=False, default=NOT_ASKED),
    Column("notice_attempts", Integer, nullable=False, default=0),
    UniqueConstraint("dataset", "key"),
    Index("geosod_ingest_by_state", "dataset", "state", "priority", "crashes", "id"),
    Index("geosod_ingest_by_item", "dataset", "item"),
    Index("geosod_ingest_by_notice", "dataset", "notice"),
)

#: How far each source was asked.
cursors = Table(
    "geosod_ingest_cursors",
    metadata,
    Column("dataset", String(1024), primary_key=True),
    Column("source", String(64), primary_key=True),
    Column("cursor", Text),
    Column("polled_at", Double),
    Column("listed_at", Double),
    Column("error", Text),
)
