"""Pages about geosod; `docs.builder` makes a site of them."""
