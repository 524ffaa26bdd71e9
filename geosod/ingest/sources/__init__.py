"""What scenes are ingested from: STAC APIs, static STAC catalogues, prefixes of object stores, and folders."""
