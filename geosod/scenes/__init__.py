"""From files to tiles; the only room that knows rasterio."""
