"""Merging of boxes that show the same object, within and across tiles."""
