"""Scenes: find them, open them, and read their pixels as tiles."""
