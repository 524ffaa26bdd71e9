"""`python -m geosod` is `geosod`."""

from geosod.cli.main import run

run()
