"""Where tiles lie, and how they are grouped into units of work."""
