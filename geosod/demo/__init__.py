"""A harbour that never was: scene, truth and score for `geosod demo`."""
