"""A drawn harbour for `geosod demo`: scene, ground truth and score."""
