"""Every setting of an ingestion that `geosod detect` does not have."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from geosod.config import RunConfig, config_of, digest
from geosod.errors import ConfigError, identity
from geosod.ingest.found import instant
from geosod.setting_errors import error_text

Kind = Literal["auto", "api", "catalog", "prefix", "folder"]
_SWITCHES = ("verify_checksums", "mark_withdrawn", "requester_pays")


class IngestConfig(BaseModel):
    """Settings of `geosod ingest`, each a flag and a key of the YAML file, which also holds those of detection."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str | None = Field(
        None, description="STAC API (its landing page), STAC catalogue or collection, s3://BUCKET/PREFIX/ or folder"
    )
    source_kind: Kind = Field("auto", description="what the source is; default: recognised")
    collections: tuple[str, ...] = Field((), description="collections of a STAC API; default: all")
    bbox: tuple[float, float, float, float] | None = Field(
        None, description="west,south,east,north in degrees that items must touch"
    )
    filter: str | None = Field(None, description="CQL2 text that items of a STAC API must fulfil")
    since: str | None = Field(
        None, description="RFC 3339 time from which on items are taken: by updated, else by acquisition; default: all"
    )
    asset_hosts: tuple[str, ...] = Field(
        (),
        description="hosts and buckets other than the source's that items may refer to, as https://HOST,s3://BUCKET",
    )
    requester_pays: bool = Field(
        False, description="pay for requests to buckets on S3 whose reader pays; on a cluster set AWS_REQUEST_PAYER"
    )
    verify_checksums: bool = Field(
        False, description="read every asset whole first, and compare it with file:checksum where the item states it"
    )
    poll_overlap: float = Field(
        3600, ge=0, le=31e6, description="seconds before the latest updated that are asked for again"
    )
    lookback_days: float = Field(
        30, gt=0, le=36500, description="days of acquisition that are listed where the API cannot filter by updated"
    )
    list_hours: float = Field(24, gt=0, description="hours after which all of a STAC API is listed again")
    page_size: int = Field(200, ge=1, le=10_000, description="items of a page")
    settle: float = Field(10, ge=0, le=86400, description="seconds for which a file must not change before it is taken")
    mark_withdrawn: bool | None = Field(
        None, description="mark scenes whose item is gone; default: for STAC, not for files"
    )
    ledger: str | None = Field(
        None,
        description="path of a file on a local disk, or postgresql://USER@HOST/DATABASE; default: "
        ".ingest/ledger.sqlite in the output folder",
    )
    interval: float = Field(300, gt=0, le=604800, description="seconds between polls with --follow")
    at_once: int = Field(8, ge=1, le=1000, description="scenes that one ingester leases at a time")
    lease: float = Field(120, ge=1, le=86400, description="seconds after which the scenes of a dead ingester are free")
    attempts: int = Field(5, ge=1, le=100, description="failures after which a scene is dead until it is replayed")
    retry_seconds: float = Field(
        60, ge=0, le=86400, description="wait after the first failure of a scene; doubled by each further one"
    )
    collection_id: str = Field(
        "detections", pattern=r"^[A-Za-z0-9._-]{1,100}$", description="identifier of the STAC collection that is made"
    )
    notify_url: str | None = Field(None, description="https address that each committed scene is posted to")
    notify_command: str | None = Field(None, description="command that gets each committed scene on standard input")
    notify_key_file: Path | None = Field(None, description="file with the key that notifications are signed with")

    @model_validator(mode="before")
    @classmethod
    def _no_booleans(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, bool) and name not in _SWITCHES:
                raise ValueError(f"{name} is {value}, which is no value for it")
        return values

    @field_validator("collections", "asset_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("bbox", mode="before")
    @classmethod
    def _bbox(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        if parts is not None and len(parts) != 4:
            raise ValueError("must be west,south,east,north")
        return parts

    @field_validator("since", mode="before")
    @classmethod
    def _since(cls, value: Any) -> str | None:
        # YAML makes times of some texts.
        value = value.isoformat() if isinstance(value, dt.date) else value
        if value is not None and instant(value) is None:
            raise ValueError("is no time in RFC 3339, such as 2024-05-01T00:00:00Z")
        return None if value is None else instant(value)

    @field_validator("notify_url")
    @classmethod
    def _web(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("must be an http or https address")
        return value

    @property
    def source_digest(self) -> str:
        """What makes a source another one: a cursor belongs to it."""
        names = {"source", "source_kind", "collections", "bbox", "filter", "since"}
        values = self.model_dump(mode="json", include=names)
        return digest(values | {"source": identity(self.source or "")})


def split_config(values: dict[str, Any], file: str | None, **given: Any) -> tuple[IngestConfig, RunConfig]:
    """The settings of ingestion and of detection from those of one file, with keywords that are not None on top.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    given = {name: value for name, value in given.items() if value is not None}
    own = {n: v for n, v in values.items() if n in IngestConfig.model_fields}
    own_given = {n: v for n, v in given.items() if n in IngestConfig.model_fields}
    run = config_of(
        {n: v for n, v in values.items() if n not in own},
        file,
        **{n: v for n, v in given.items() if n not in own_given},
    )
    try:
        return IngestConfig(**(own | own_given)), run
    except ValidationError as error:
        text = error_text(error, own | own_given, known=IngestConfig.model_fields)
        raise ConfigError(f"config {file}: {text}" if file is not None else text) from None
