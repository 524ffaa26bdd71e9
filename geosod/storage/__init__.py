"""Reading bytes: addresses of files, S3 and HTTP access, retries, and GDAL on top of them."""
