"""Pixels to ground and back: transforms, coordinate reference systems, true sizes."""
