"""Which source an address means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from geosod.errors import ConfigError, SceneError, SourceError
from geosod.ingest.config import IngestConfig
from geosod.ingest.sources.catalog import Catalog
from geosod.ingest.sources.listing import Folder, Prefix
from geosod.ingest.sources.source import Source
from geosod.ingest.sources.stac_api import StacApi
from geosod.storage.api import ask
from geosod.storage.uris import is_s3, is_web, normalized


def open_source(config: IngestConfig, *, asset: str | None) -> Source:
    """The source that the settings name.

    Args:
        config: the settings.
        asset: asset of STAC items to read.

    Raises:
        ConfigError: none is named, or it is of another kind.
        SourceError: it cannot be asked what it is.
    """
    if not config.source:
        raise ConfigError("no source is given: add --source, or `source: ADDRESS` to the configuration")
    config = config.model_copy(update={"source": normalized(config.source)})
    kind = _kind(config)
    if kind not in ("api", "catalog") and (config.collections or config.bbox or config.filter or config.since):
        raise ConfigError(f"{config.source}: collections, bbox, filter and since are of STAC; files have none of them")
    if kind != "api" and config.filter:
        raise ConfigError(f"{config.source}: filter is of STAC APIs; this is a static catalogue")
    match kind:
        case "api":
            return StacApi(config, asset=asset, landing=_landing(str(config.source)))
        case "catalog":
            return Catalog(config, asset=asset)
        case "prefix":
            return Prefix(config)
        case _:
            return Folder(config)


def _kind(config: IngestConfig) -> str:
    """The kind of a source: as stated, else by its address and what is there."""
    source = str(config.source)
    if config.source_kind != "auto":
        wanted = {"api": is_web(source), "prefix": is_s3(source), "folder": "://" not in source}
        if not wanted.get(config.source_kind, True):
            raise ConfigError(f"{source}: cannot be of the kind {config.source_kind}; leave out --source-kind")
        return config.source_kind
    if is_web(source):
        landing = _landing(source)
        links = landing.get("links")
        is_api = isinstance(links, list) and any(isinstance(x, Mapping) and x.get("rel") == "search" for x in links)
        return "api" if is_api or "conformsTo" in landing else "catalog"
    if source.endswith((".json", ".geojson")):
        return "catalog"
    if is_s3(source):
        return "prefix"
    if not Path(source).expanduser().is_dir():
        raise ConfigError(f"{source}: is neither a folder nor a STAC document nor an address; check the source")
    return "folder"


def _landing(address: str) -> Mapping[str, object]:
    try:
        found = ask(address).value
    except SceneError as error:
        raise SourceError(f"{error}; check the source") from error
    if not isinstance(found, Mapping):
        raise SourceError(f"{address}: answers with no STAC document; give the landing page of an API, or a catalogue")
    return found
