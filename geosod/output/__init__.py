"""From boxes to files on a map."""
