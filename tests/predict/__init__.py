"""Pipelines as PaddleX has them."""
