"""Scheduled ingestion: what is new, changed or withdrawn at a source, taken into one dataset unattended."""
