"""Outputs as one HTML page with a map, which needs no network."""
