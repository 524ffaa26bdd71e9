"""Outputs of geosod in the formats of other programs."""
