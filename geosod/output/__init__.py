"""Detections → files: GeoParquet, coverage, STAC items, commits."""
