"""Boxes across tile borders: which stand for one object."""
