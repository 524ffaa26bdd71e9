"""Where bytes come from and go to: addresses, buckets, retries, and GDAL over all of them."""
