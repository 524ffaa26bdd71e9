"""Networks of geosod's own."""
