"""Outputs of overlapping scenes → one dataset in which each object occurs once."""
