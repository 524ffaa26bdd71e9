"""From tiles to boxes."""
