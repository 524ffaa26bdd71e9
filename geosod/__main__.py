"""`python -m geosod` is `geosod`."""

from geosod.cli.main import app

app(prog_name="geosod")
