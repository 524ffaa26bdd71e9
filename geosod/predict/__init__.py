"""PaddleX's way of using a detector: a pipeline by name or YAML file, and results that print and save themselves."""
