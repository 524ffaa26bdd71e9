"""Vector tiles of boxes, in a PMTiles archive."""
