"""geosod: small-object detection in scenes far larger than memory."""

__version__ = "0.1.0.dev0"
