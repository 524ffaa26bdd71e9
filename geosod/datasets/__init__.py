"""Labels in and out: reading, checking, splitting, slicing, scaling and writing labelled images."""
