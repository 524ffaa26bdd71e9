"""Retrieves images to label next: those a model is unsure of, and those in which it finds what is not there."""
